"""How the engine's test judges tokens, without a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch


@pytest.fixture
def reference(inside: Callable[[str], Any]) -> Any:
    return inside("reference")


def judged(reference: Any, expected: list[list[float]], logprobs: list[float]) -> tuple[Any, bool]:
    class Known(reference.Reference):  # type: ignore[misc]
        def __init__(self) -> None:
            pass

        def continuation(self, *_: object) -> list[int]:
            return [0] * len(expected)

        def log_probabilities(self, *_: object) -> torch.Tensor:
            return torch.tensor(expected)

    verdict, allowed = reference.Verdict(), reference.Tolerance(0.01, 0.01, 0.0)
    Known().judge(verdict, allowed, [1], [0] * len(expected), logprobs)
    return verdict, verdict.right(allowed)


def test_near_tokens_are_right(reference: Any) -> None:
    verdict, right = judged(reference, [[-0.1, -3.0], [-0.7, -0.695]], [-0.1, -0.705])
    assert right
    assert (verdict.chosen, verdict.near_ties, verdict.misses) == (1, 1, 0)


@pytest.mark.parametrize(
    ("expected", "logprob"),
    [(-0.1, math.nan), (math.nan, -0.1), (math.nan, math.nan), (-0.1, -math.inf)],
)
def test_what_is_no_number_is_a_miss(reference: Any, expected: float, logprob: float) -> None:
    verdict, right = judged(reference, [[expected, -3.0]], [logprob])
    assert not right
    assert verdict.worst_logprob == math.inf


def test_many_small_differences_are_not_right(reference: Any) -> None:
    """Of E4M3: no token is far off, but all of them lean."""
    allowed = reference.tolerance("bfloat16", False, "cuda", "float8")
    verdict = reference.Verdict(tokens=100, differences=[0.1] * 100)
    assert verdict.right(allowed)
    verdict.differences = [0.2] * 100
    assert not verdict.right(allowed)


def test_penalties_are_on_what_stands_before_each_token(reference: Any) -> None:
    """Of three tokens the model likes the second most, again and again."""

    class Known(reference.Reference):  # type: ignore[misc]
        def __init__(self) -> None:
            self.device = "cpu"
            self._rounded_cache = False

        def model(self, tokens: torch.Tensor) -> Any:
            return SimpleNamespace(
                logits=torch.tensor([1.0, 2.0, 0.5]).expand(1, *tokens.shape[1:], 3).clone()
            )

    known = Known()
    penalties = reference.Penalties(repetition=1.0, presence=0.6, frequency=0.6)
    assert known.continuation([2], 4, penalties) == [1, 0, 1, 2]
    row = known.log_probabilities([2], [1, 1], penalties)[1]
    assert torch.equal(row, torch.log_softmax(torch.tensor([1.0, 0.8, 0.5]), 0))
    verdict = reference.Verdict()
    known.judge(verdict, reference.Tolerance(0.01, 0.01, 0.0), [2], [1, 1], None, penalties)
    assert (verdict.chosen, verdict.misses) == (1, 1)
