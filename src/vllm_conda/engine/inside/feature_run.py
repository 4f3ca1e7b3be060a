"""One feature's model, its engine, and what transformers says, for features.py."""

from __future__ import annotations

import argparse
import gc
import random
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import program
import torch

if TYPE_CHECKING:
    from reference import Reference

LENGTH = 512
TOKENS = 24
Found = Mapping[str, Any]


class Run:
    """One feature's model, its engine, and what transformers says."""

    def __init__(self, model: str, path: Path, options: argparse.Namespace) -> None:
        from reference import Verdict, tolerance

        self.model, self.path, self.options = model, path, options
        self.allowed = tolerance(options.dtype, False, options.device)
        self.verdict = Verdict()
        self._made: list[Any] = []

    @cached_property
    def reference(self) -> Reference:
        """The plain model in transformers."""
        from reference import Reference

        # Beyond a few thousand tokens plain attention does not fit in memory.
        attention = "sdpa" if self.model == "llama_long" else "eager"
        return Reference(self.path, self.options.dtype, self.options.device, attention=attention)

    def plain(self, kind: str) -> Any:
        """The model in transformers as another class than the reference's."""
        import transformers

        return getattr(transformers, kind).from_pretrained(
            self.path, dtype=getattr(torch, self.options.dtype), attn_implementation="eager"
        )

    def engine(self, **arguments: Any) -> Any:
        """An engine of this model."""
        from vllm import LLM

        settings: dict[str, Any] = {
            "model": str(self.path),
            "dtype": self.options.dtype,
            "max_model_len": LENGTH,
            "max_num_seqs": 8,
            "seed": 0,
            "enforce_eager": True,
            "disable_log_stats": False,
            **program.memory(self.options.device),
        }
        self._made.append(LLM(**{**settings, **arguments}))
        return self._made[-1]

    def close_engines(self) -> None:
        """The next feature's workers start when these have ended."""
        while self._made:
            self._made.pop().llm_engine.engine_core.shutdown()
        gc.collect()

    def prompt(self, length: int, seed: int = 7) -> list[int]:
        """Random tokens that start like a text."""
        draw = random.Random(seed)  # noqa: S311 - test data
        return [1, *(draw.randrange(4, 512) for _ in range(length - 1))]

    def generate(self, llm: Any, prompts: Sequence[list[int]], **more: Any) -> list[Any]:
        """The engine's answers, greedy; ``tokens``, ``logprobs``: of `SamplingParams`."""
        return self.ask(llm, [{"prompt_token_ids": prompt} for prompt in prompts], **more)

    def ask(self, llm: Any, requests: Sequence[Mapping[str, Any]], **more: Any) -> list[Any]:
        """The same for requests that are more than tokens."""
        from vllm import SamplingParams

        sampling = SamplingParams(
            temperature=0,
            max_tokens=more.pop("tokens", TOKENS),
            ignore_eos=True,
            logprobs=more.pop("logprobs", 0),
            prompt_logprobs=more.pop("prompt_logprobs", None),
        )
        found: list[Any] = llm.generate(requests, sampling, use_tqdm=False, **more)
        return found

    def judge(
        self, prompts: Sequence[list[int]], answers: Sequence[Any], reference: Any = None
    ) -> None:
        """Compare the answers' tokens with transformers'."""
        for prompt, answer in zip(prompts, answers, strict=True):
            output = answer.outputs[0]
            chosen = [
                entry[token].logprob
                for entry, token in zip(output.logprobs, output.token_ids, strict=True)
            ]
            (reference or self.reference).judge(
                self.verdict, self.allowed, prompt, list(output.token_ids), chosen
            )

    def close(self, differences: Iterable[float], terms: float = 1.0) -> Found:
        """Whether numbers are as near to transformers' as log-probabilities have to be.

        Args:
            terms: How many times as far they may be.
        """
        found = list(differences)
        # Each by itself: `max` may pass over NaN.
        right = all(difference <= self.allowed.logprob * terms for difference in found)
        return {"worst_difference": round(max(found), 6), "right": right}
