"""How the engine's test judges tokens, without a model."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

INSIDE = Path(__file__).parents[2] / "src" / "vllm_conda" / "engine" / "inside"


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, where transformers need not be installed."""
    stand_in = ModuleType("transformers")
    stand_in.DynamicCache = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    monkeypatch.syspath_prepend(INSIDE)
    for name in ("reference", "quantise"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("reference")
    for name in ("reference", "quantise"):
        sys.modules.pop(name, None)


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
