"""A few hundred fuzzed calls of every family, and the batches that once found a fault.

``python -m tests.fuzz`` makes as many as wanted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="the fuzzer draws its calls with hypothesis")

ROOT = Path(__file__).parents[3]
# Family and seed. quant 12: rows without values were given scales, which the reference does not.
SEEDS = [("quant", 12)]
FAMILIES = ["activation", "attention", "cache", "gemm", "moe_gemm", "norm", "quant", "rope"]
FAMILIES += ["packed", "runtime", "sampling", "wna16"]


def fuzz(*options: str) -> None:
    command = [sys.executable, "-m", "tests.fuzz", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_of_a_family(family: str) -> None:
    fuzz("--family", family, "--calls", "100")


@pytest.mark.parametrize(("family", "seed"), SEEDS)
def test_seed_that_failed(family: str, seed: int) -> None:
    fuzz("--family", family, "--seed", str(seed), "--calls", "1500")
