"""Whatever is killed: nothing lives on, every channel is whole, and the next run is right."""

from __future__ import annotations

from pathlib import Path

import products
import pytest
import trials
from support import SLOW, SLOW_VARIABLE

KILLS = 25


@pytest.mark.parametrize("name", products.PRODUCTS)
def test_kills(name: str, dummies: str, tmp_path: Path) -> None:
    """scripts/kill_trials.py does the same with more kills."""
    if not SLOW and name != "publish":
        pytest.skip(f"minutes of builds; {SLOW_VARIABLE}=1 runs it")
    product = products.PRODUCTS[name](tmp_path / name, dummies)
    kills = KILLS if SLOW else 2
    tally = trials.Trials(product, seed=0).run(kills)
    assert not tally.faults
    assert len(tally.kills) == kills
