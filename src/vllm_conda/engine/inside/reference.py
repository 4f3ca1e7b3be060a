"""What transformers says: the tokens that greedy decoding should give, and how close a miss is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import transformers
from products import make_exact
from quantise import DEQUANTISED, rounded_activations, rounded_in_experts


@dataclass(frozen=True)
class Tolerance:
    """When a token that is not transformers' choice counts as right.

    Attributes:
        gap: Nats below the largest log-probability at which two tokens are a near tie.
        logprob: Largest difference of a token's log-probability.
        outliers: Share of tokens that may miss both.
        mean: Largest mean difference of log-probabilities.
        exact: Alone and in a batch a prompt gives the same tokens.
    """

    gap: float
    logprob: float
    outliers: float
    mean: float = math.inf
    exact: bool = False


def tolerance(dtype: str, experts: bool, device: str, rounded: str = "") -> Tolerance:
    """In float32 the tokens are the same. In 16 bits rounding decides near ties, and of a router
    with random weights also which expert is taken, which changes a token entirely.

    On a GPU the engine's Triton kernels multiply float32 with 10 bits of mantissa (TF32).

    Activations in int8, and keys and values of 8 bits, round as coarsely as bfloat16, whatever type
    they come from: a difference in the last bit moves one by 1/127 of the largest, or by 1/16. In
    float32 few are so near to the middle between two numbers.

    Activations in E4M3 move by 1/16 of themselves in every product, and a difference in the last
    bit of bfloat16 moves one in thirty. Single tokens say little then, the mean over all a lot: of
    three times 192 tokens by the same rounded products, but another order of rounding in attention
    and activation, it was 0.12 nats, with 2 to 4 tokens beyond 0.4. With scales that are powers of
    two it was 0.20, with rounding towards zero, E5M2, or scales that are 6 % off 0.33 to 0.41. With
    experts: 0.13, 0.29 to 0.42, and 0.47. With experts of 4 bits in the last layer alone 0.14 to
    0.16, 0.21, and 0.30 to 0.33 (docs/users/engine.md says why not in both layers).

    Args:
        rounded: What is rounded to 8 bits: activations, as their scheme says, or the ``cache``."""
    float8 = rounded in ("float8", "float8_token")
    if float8 and experts:
        return Tolerance(gap=0.4, logprob=0.5, outliers=0.08, mean=0.22)
    if float8:
        return Tolerance(gap=0.4, logprob=0.5, outliers=0.05, mean=0.18)
    if dtype == "float32" and device == "cuda":
        return Tolerance(gap=0.05, logprob=0.05, outliers=0.01)
    if dtype == "float32":
        if rounded:
            return Tolerance(gap=0.01, logprob=0.02, outliers=0.03)
        return Tolerance(gap=1e-3, logprob=2e-3, outliers=0.0, exact=True)
    if dtype == "float16" and not rounded:  # three bits more than bfloat16
        return Tolerance(gap=0.05, logprob=0.06, outliers=0.08 if experts else 0.03)
    return Tolerance(gap=0.2, logprob=0.25, outliers=0.08 if experts else 0.03)


@dataclass(frozen=True)
class Penalties:
    """Of the OpenAI interface and, for repetition, of the engine's own."""

    repetition: float
    presence: float
    frequency: float

    def apply(self, logits: torch.Tensor, prompt: Sequence[int], tokens: Sequence[int]) -> None:
        """Change the next token's logits, ``[vocabulary]``."""
        for token in {*prompt, *tokens}:
            value = float(logits[token])
            logits[token] = value / self.repetition if value > 0 else value * self.repetition
        for token in set(tokens):
            logits[token] -= self.frequency * list(tokens).count(token) + self.presence


@dataclass
class Verdict:
    """What comparing a run's tokens found."""

    prompts: int = 0
    exact: int = 0
    tokens: int = 0
    chosen: int = 0
    near_ties: int = 0
    misses: int = 0
    worst_gap: float = 0.0
    worst_logprob: float = 0.0
    differences: list[float] = field(default_factory=list)

    def right(self, allowed: Tolerance) -> bool:
        """Whether the misses, in tokens and in log-probabilities, are few enough."""
        if self.misses > allowed.outliers * self.tokens:
            return False
        if self.differences and fmean(self.differences) > allowed.mean:
            return False
        far = sum(difference > allowed.logprob for difference in self.differences)
        return far <= allowed.outliers * len(self.differences)


def _distance(one: torch.Tensor, other: torch.Tensor | float) -> float:
    """How far two numbers are apart; NaN, which every comparison refuses, infinitely far."""
    distance = abs(float(one) - float(other))
    return math.inf if math.isnan(distance) else distance


class RoundedCache(transformers.DynamicCache):  # type: ignore[misc]
    """Keys and values as a cache of 8 bits (float8_e4m3fn, scales of 1) gives them back."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *rest: Any, **more: Any
    ) -> Any:
        limit = torch.finfo(torch.float8_e4m3fn).max
        rounded = (
            x.clamp(-limit, limit).to(torch.float8_e4m3fn).to(x.dtype)
            for x in (key_states, value_states)
        )
        return super().update(*rounded, *rest, **more)


class Reference:
    """A model in transformers.

    Attributes:
        kind: The class that loads it.
        rounded: What is rounded to 8 bits, as :func:`tolerance` takes it.

    Args:
        path: The model's folder.
        dtype: Name of a type of PyTorch.
        device: ``cpu`` or ``cuda``.
        scheme: How its weights are stored, as ``models.Model`` says; a quantised model is compared
            with the plain one that its weights stand for.
        rounded_cache: Whether keys and values are kept in 8 bits.
        experts: Whether the model has any.
        attention: Its attention in transformers: the plainest, or one that needs less memory.
    """

    kind = "AutoModelForCausalLM"

    def __init__(
        self,
        path: Path,
        dtype: str,
        device: str = "cpu",
        scheme: str = "",
        rounded_cache: bool = False,
        experts: bool = False,
        attention: str = "eager",
    ) -> None:
        self.device = device
        self._rounded_cache = rounded_cache
        everywhere = rounded_activations(scheme, device)
        rounded = everywhere or (rounded_in_experts(scheme, device) if experts else "")
        self.rounded = rounded or ("cache" if rounded_cache else "")
        model = getattr(transformers, self.kind).from_pretrained(
            path / DEQUANTISED if scheme else path,
            dtype=torch.float32 if rounded else getattr(torch, dtype),
            attn_implementation=attention,
        )
        if rounded:
            make_exact(model, rounded, getattr(torch, dtype), experts_alone=not everywhere)
        self.model = model.to(device).eval()
        # The engine is told to ignore the end of the text.
        self.model.generation_config.eos_token_id = None
        self._continued: dict[tuple[tuple[int, ...], int], list[int]] = {}

    def continuation(
        self, prompt: Sequence[int], length: int, penalties: Penalties | None = None
    ) -> list[int]:
        """The tokens that greedy decoding appends to ``prompt``.

        Args:
            penalties: On what stands before each of them.
        """
        if penalties:
            return self._penalised(prompt, length, penalties)
        key = (tuple(prompt), length)
        if key not in self._continued:
            self._continued[key] = self._generate(prompt, length)
        return self._continued[key]

    def arguments(self, tokens: torch.Tensor) -> dict[str, Any]:
        """What the model is given besides ``tokens``."""
        return {"past_key_values": RoundedCache(), "use_cache": True} if self._rounded_cache else {}

    @torch.no_grad()
    def _generate(self, prompt: Sequence[int], length: int) -> list[int]:
        tokens = torch.tensor([list(prompt)], device=self.device)
        found = self.model.generate(
            tokens,
            max_new_tokens=length,
            do_sample=False,
            pad_token_id=0,
            **self.arguments(tokens),
        )
        return list(found[0, len(prompt) :].tolist())

    def _penalised(self, prompt: Sequence[int], length: int, penalties: Penalties) -> list[int]:
        tokens: list[int] = []
        for _ in range(length):
            # What the token that comes next will be is not read.
            logits = self._logits(prompt, [*tokens, 0], penalties)
            tokens.append(int(logits[-1].argmax()))
        return tokens

    def log_probabilities(
        self, prompt: Sequence[int], tokens: Sequence[int], penalties: Penalties | None = None
    ) -> torch.Tensor:
        """``[len(tokens), vocabulary]`` float32: before each of ``tokens``, given those before."""
        return torch.log_softmax(self._logits(prompt, tokens, penalties), dim=-1)

    @torch.no_grad()
    def _logits(
        self, prompt: Sequence[int], tokens: Sequence[int], penalties: Penalties | None
    ) -> torch.Tensor:
        both = torch.tensor([[*prompt, *tokens]], device=self.device)
        found = self.model(both, **self.arguments(both)).logits[0, len(prompt) - 1 : -1]
        logits: torch.Tensor = found.float().cpu()
        if penalties:
            for index, row in enumerate(logits):
                penalties.apply(row, prompt, tokens[:index])
        return logits

    def judge(
        self,
        verdict: Verdict,
        allowed: Tolerance,
        prompt: Sequence[int],
        tokens: Sequence[int],
        logprobs: Sequence[float] | None = None,
        penalties: Penalties | None = None,
    ) -> None:
        """Add one prompt's tokens to ``verdict``: each against the choice after the same prefix."""
        verdict.prompts += 1
        verdict.exact += self.continuation(prompt, len(tokens), penalties) == list(tokens)
        expected = self.log_probabilities(prompt, tokens, penalties)
        for index, token in enumerate(tokens):
            gap = _distance(expected[index].max(), expected[index, token])
            verdict.tokens += 1
            verdict.chosen += gap == 0
            verdict.near_ties += 0 < gap <= allowed.gap
            verdict.misses += gap > allowed.gap
            verdict.worst_gap = max(verdict.worst_gap, gap)
            if logprobs is not None:
                difference = _distance(expected[index, token], logprobs[index])
                verdict.differences.append(difference)
                verdict.worst_logprob = max(verdict.worst_logprob, difference)
