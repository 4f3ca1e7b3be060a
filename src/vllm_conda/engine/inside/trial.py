"""Runs one model through the engine's `LLM.generate` and compares it with transformers.

Runs in the engine's environment: `python trial.py MODEL --models DIR --result FILE`.
Writes one JSON object; exit status 0 says that it was written, not that the tokens are right.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

# Shorter and longer than a window and a cache block, and one token more or less than both.
PROMPT_LENGTHS = (5, 17, 31, 33, 64, 100, 127, 129, 200, 3)
TOKENS = 32
MODEL_LENGTH = 512


def prompts(vocabulary: int, count: int) -> list[list[int]]:
    """Random prompts that start like a text."""
    draw = random.Random(7)  # noqa: S311 - test data
    return [
        [1, *(draw.randrange(4, vocabulary) for _ in range(length - 1))]
        for length in PROMPT_LENGTHS[:count]
    ]


def generate(path: Path, dtype: str, eager: bool, count: int) -> dict[str, Any]:
    """Tokens and log-probabilities of every prompt, all in one batch and the last one alone."""
    from vllm import LLM, SamplingParams
    from vllm.config import CompilationMode
    from vllm.platforms import current_platform

    llm = LLM(
        model=str(path),
        dtype=dtype,
        max_model_len=MODEL_LENGTH,
        max_num_seqs=16,
        seed=0,
        enforce_eager=eager,
        disable_log_stats=True,
    )
    compilation = llm.llm_engine.vllm_config.compilation_config
    chosen = prompts(llm.get_tokenizer().vocab_size, count)
    sampling = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=0)
    requests = [{"prompt_token_ids": prompt} for prompt in chosen]
    outputs = [result.outputs[0] for result in llm.generate(requests, sampling, use_tqdm=False)]
    (alone,) = llm.generate(requests[-1:], sampling, use_tqdm=False)
    return {
        "platform": type(current_platform).__name__,
        # Without a compiler the plugin makes a compiled run an eager one.
        "mode": "eager" if compilation.mode == CompilationMode.NONE else "compiled",
        "prompts": chosen,
        "tokens": [list(output.token_ids) for output in outputs],
        "logprobs": [
            [entry[token].logprob for entry, token in zip(rows, output.token_ids, strict=True)]
            for output in outputs
            if (rows := output.logprobs) is not None
        ],
        "alone": list(alone.outputs[0].token_ids),
    }


def compare(path: Path, dtype: str, experts: bool, found: dict[str, Any]) -> dict[str, Any]:
    """The verdict on ``found``."""
    from reference import Reference, Verdict, tolerance

    allowed = tolerance(dtype, experts)
    reference, verdict = Reference(path, dtype), Verdict()
    for prompt, tokens, logprobs in zip(
        found["prompts"], found["tokens"], found["logprobs"], strict=True
    ):
        reference.judge(verdict, allowed, prompt, tokens, logprobs)
    batching = found["alone"] == found["tokens"][-1]
    row = asdict(verdict)
    del row["differences"]
    return {
        **row,
        "allowed": asdict(allowed),
        "same_alone": batching,
        # In 16 bits a batch's sums may round otherwise than a single prompt's.
        "right": verdict.right(allowed) and (batching or dtype != "float32"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--prompts", type=int, default=6)
    options = parser.parse_args()
    # Read by the engine's modules when they are imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from models import MODELS, make

    path = make(options.model, options.models)
    found = generate(path, options.dtype, options.eager, options.prompts)
    row = {
        "model": options.model,
        "dtype": options.dtype,
        "mode": found["mode"],
        "platform": found["platform"],
        **compare(path, options.dtype, MODELS[options.model].experts, found),
    }
    options.result.write_text(json.dumps(row) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
