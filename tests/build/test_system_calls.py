"""Killed at a system call that changes a file, a build leaves the old channel or the new one."""

from __future__ import annotations

from pathlib import Path

import products
import pytest
import system_calls
from support import SLOW, SLOW_VARIABLE


@pytest.mark.parametrize("name", ["publish", "toolchain", "engine"])
def test_a_kill_at_every_call(name: str, dummies: str, tmp_path: Path) -> None:
    if not SLOW and name != "publish":
        pytest.skip(f"minutes; {SLOW_VARIABLE}=1 runs it")
    product = products.PRODUCTS[name](tmp_path / name, dummies)
    assert system_calls.kill_at_every_call(product, few=6)
