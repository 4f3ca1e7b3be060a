"""The sample of emulated cases has every value of every parameter, and is small."""

from __future__ import annotations

from itertools import product

import pytest
from sample import keep, spread

DTYPES, SHAPES = range(3), range(10)
CASES = [
    {"dtype": dtype, "shape": shape, "bias": bias}
    for dtype, shape, bias in product(DTYPES, SHAPES, range(2))
]


def values(chosen: list[int], name: str) -> list[int]:
    return [CASES[case][name] for case in chosen]


@pytest.mark.parametrize("seed", ["", "power9", "neon", "sve_256"])
def test_every_value_is_there_evenly(seed: str) -> None:
    chosen = spread(CASES, seed)
    assert len(chosen) == len(SHAPES)
    assert sorted(values(chosen, "shape")) == list(SHAPES)
    for name, choices in (("dtype", DTYPES), ("bias", range(2))):
        counts = [values(chosen, name).count(value) for value in choices]
        assert max(counts) - min(counts) <= 1, (name, counts)


def test_another_seed_meets_others() -> None:
    pairs = [{(CASES[i]["dtype"], CASES[i]["shape"]) for i in spread(CASES, s)} for s in "abcd"]
    assert len(set.union(*pairs)) > 2 * len(SHAPES)


def test_the_same_seed_gives_the_same() -> None:
    assert spread(CASES, "power10") == spread(CASES, "power10")


def test_a_test_without_parameters_runs() -> None:
    assert keep([{}], 1000) == {0}
    assert keep([{}, {}], 1000, "x") in ({0}, {1})
    assert keep([], 5) == set()


def test_one_is_the_whole_and_larger_steps_are_parts() -> None:
    assert keep(CASES, 1) == set(range(len(CASES)))
    assert keep(CASES, 1000, whole=True) == set(range(len(CASES)))
    sizes = [len(keep(CASES, step)) for step in (2, 5, 1000)]
    assert sizes == [len(SHAPES) + 25, len(SHAPES) + 10, len(SHAPES)]
    assert set(spread(CASES)) <= keep(CASES, 5)
