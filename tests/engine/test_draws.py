"""What the engine's test expects of tokens that are drawn at random."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"top_k": 2}, [0.0, 0.4, 0.6, 0.0]),
        # The token with which so much is reached stays.
        ({"top_p": 0.5}, [0.0, 0.4, 0.6, 0.0]),
        ({"top_p": 0.44}, [0.0, 0.0, 1.0, 0.0]),
        # Of what top-k leaves: 0.45, 0.3 and 0.2 of 0.95.
        ({"top_k": 3, "top_p": 0.8}, [4 / 19, 6 / 19, 9 / 19, 0.0]),
        ({"top_k": 3, "top_p": 0.78}, [0.0, 0.4, 0.6, 0.0]),
    ],
)
def test_what_is_left_to_draw(
    inside: Callable[[str], Any], settings: dict[str, Any], expected: list[float]
) -> None:
    found = inside("draws").allowed(torch.tensor([0.2, 0.3, 0.45, 0.05]), **settings)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_how_far_draws_are_from_a_distribution(inside: Callable[[str], Any]) -> None:
    distance = inside("draws").distance
    expected = torch.tensor([0.5, 0.5, 0.0])
    assert distance({0: 5, 1: 5}, expected) == pytest.approx(0)
    assert distance({0: 6, 1: 4}, expected) == pytest.approx(0.1)
    assert distance({2: 1}, expected) == pytest.approx(1)
