"""No module whose tests run a tier at a time is left out of the emulated tiers by its name."""

from __future__ import annotations

from pathlib import Path

import modules
import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = sorted(path.name for path in (ROOT / "csrc" / "cpu").iterdir() if path.is_dir())
PER_TIER = sorted(
    path.stem
    for path in (ROOT / "tests" / "kernels" / "cpu").glob("test_*.py")
    if "(tier: str" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", PER_TIER)
def test_its_name_begins_with_a_family(module: str) -> None:
    assert module in modules.OF_THIS_PROCESS or modules.family_of(module, FAMILIES)


def test_the_longest_family_counts() -> None:
    assert modules.family_of("test_gemm_scaled", ["gemm", "gemm_scaled", "norm"]) == "gemm_scaled"
    assert modules.family_of("test_gemmish", ["gemm"]) == ""
