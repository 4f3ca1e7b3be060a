"""Tokens drawn at random, and what draws them, for features.py."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from feature_run import Found, Run

DRAWS = 2000
# By chance so many draws are 0.02 to 0.04 from their distribution.
DISTANCE = 0.06
# In 16 bits probabilities may be wrong by a tenth of themselves, and what is cut by a token.
ROUNDED_DISTANCE = 0.12
SETTINGS: tuple[Mapping[str, Any], ...] = (
    {"top_k": 5},
    {"top_p": 0.6},
    {"top_k": 20, "top_p": 0.8},
)


def allowed(probabilities: torch.Tensor, top_k: int = 0, top_p: float = 1.0) -> torch.Tensor:
    """The distribution cut to its ``top_k`` likeliest tokens, then to the fewest of them that have
    ``top_p`` of what is left."""
    values, places = probabilities.sort(descending=True)
    if top_k:
        values[top_k:] = 0
        values /= values.sum()
    values[values.cumsum(0) - values >= top_p] = 0
    found = torch.zeros_like(probabilities)
    found[places] = values / values.sum()
    return found


def distance(drawn: Mapping[int, int], expected: torch.Tensor) -> float:
    """Total variation between how often each token was drawn and its probability."""
    found = torch.zeros_like(expected)
    for token, count in drawn.items():
        found[token] = count
    return float((found / found.sum() - expected).abs().sum() / 2)


def _count_calls() -> Counter[str]:
    """Calls of FlashInfer's functions that draw, from now on; none where it is not installed."""
    found: Counter[str] = Counter()
    try:
        sampling = importlib.import_module("flashinfer").sampling
    except ImportError:
        return found
    for name in [name for name in vars(sampling) if name.startswith("top_") and "sampling" in name]:
        draw = getattr(sampling, name)

        def counted(*rest: Any, draw: Any = draw, name: str = name, **more: Any) -> Any:
            found[name] += 1
            return draw(*rest, **more)

        setattr(sampling, name, counted)
    return found


def drawn_tokens(run: Run) -> Found:
    """One token after one prompt, many times, with each of the settings."""
    from vllm import SamplingParams

    llm = run.engine(max_num_seqs=256)
    calls = _count_calls()
    prompt = run.prompt(40)
    plain = run.reference.log_probabilities(prompt, [0])[0].exp()
    worst, kept, outside = 0.0, [], 0
    for settings in SETTINGS:
        sampling = SamplingParams(temperature=1.0, max_tokens=1, ignore_eos=True, **settings)
        requests = [{"prompt_token_ids": prompt}] * DRAWS
        answers = llm.generate(requests, sampling, use_tqdm=False)
        tokens = Counter(answer.outputs[0].token_ids[0] for answer in answers)
        expected = allowed(plain.clone(), **settings)
        kept.append(int((expected > 0).sum()))
        worst = max(worst, distance(tokens, expected))
        outside += sum(count for token, count in tokens.items() if expected[token] == 0)
    exact = run.allowed.exact
    near = worst < (DISTANCE if exact else ROUNDED_DISTANCE) and not (exact and outside)
    by_flashinfer = sum(calls.values()) > 0
    return {
        "drawn": DRAWS * len(SETTINGS),
        "of": kept,
        "distance": round(worst, 3),
        "by": "FlashInfer" if by_flashinfer else "the engine",
        "right": near and min(kept) > 1 and by_flashinfer == _flashinfer_wanted(run),
    }


def _flashinfer_wanted(run: Run) -> bool:
    """Whether FlashInfer has to draw: its module is there, compiled."""
    if run.options.device == "cpu":
        return False
    from vllm_kernels_plugin import flashinfer

    return flashinfer.module_problem("sampling") is None
