"""Whatever is killed: nothing lives on, every channel is whole, and the next run is right."""

from __future__ import annotations

import os
from pathlib import Path

import products
import pytest
import trials

SLOW_VARIABLE = "VLLM_CONDA_TEST_SLOW"
KILLS = 25


@pytest.mark.parametrize("name", products.PRODUCTS)
def test_kills(name: str, dummies: str, tmp_path: Path) -> None:
    """scripts/kill_trials.py does the same with more kills."""
    slow = os.environ.get(SLOW_VARIABLE) == "1"
    if not slow and name != "publish":
        pytest.skip(f"minutes of builds; {SLOW_VARIABLE}=1 runs it")
    product = products.PRODUCTS[name](tmp_path / name, dummies)
    kills = KILLS if slow else 2
    tally = trials.Trials(product, seed=0).run(kills)
    assert not tally.faults
    assert len(tally.kills) == kills
