"""A few hundred fuzzed calls of every family, and the batches that once found a fault.

``python -m tests.fuzz`` makes as many as wanted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_kernels import engine_api

pytest.importorskip("hypothesis", reason="the fuzzer draws its calls with hypothesis")

ROOT = Path(__file__).parents[3]
# Family and seed. quant 12: rows without values were given scales, which the reference does not.
SEEDS = [("quant", 12)]
FAMILIES = sorted(
    {engine_api.family_of(op) for op in engine_api.ops() if "cpu" in engine_api.devices_of(op)}
)


def fuzz(*options: str) -> str:
    command = [sys.executable, "-m", "tests.fuzz", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("family", FAMILIES)
def test_calls_of_a_family(family: str) -> None:
    fuzz("--family", family, "--calls", "100")


@pytest.mark.parametrize(("family", "seed"), SEEDS)
def test_seed_that_failed(family: str, seed: int) -> None:
    fuzz("--family", family, "--seed", str(seed), "--calls", "1500", "--batch", "1500")


def test_calls_from_a_file_under_a_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU machine without hypothesis; the tool stands for compute-sanitizer."""
    drawn = tmp_path / "calls.json"
    options = ("--family", "rope", "--calls", "60", "--batch", "30")
    fuzz(*options, "--write-calls", str(drawn))
    tool = tmp_path / "compute-sanitizer"
    tool.write_text('#!/bin/sh\nwhile [ "$1" != "$PYTHON" ]; do shift; done\nexec "$@"\n')
    tool.chmod(0o755)
    (tmp_path / "hypothesis.py").write_text("raise ImportError\n")
    direct = fuzz(*options)
    monkeypatch.setenv("PYTHON", sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    again = fuzz(*options, "--read-calls", str(drawn), "--sanitizer", "memcheck")
    assert "calls 60" in direct
    assert again == direct


def test_every_op_has_calls_to_start_from() -> None:
    """A new op is fuzzed once the self-test calls it; one left out is named with its reason."""
    # Not imported above: without hypothesis the module is skipped.
    from tests.fuzz import corpus
    from tests.fuzz.oracle import Oracle

    oracle = Oracle()
    fuzzed = {op for family in FAMILIES for op in corpus.bases(family, "cpu", oracle)}
    ops = {op for op in engine_api.ops() if "cpu" in engine_api.devices_of(op)}
    assert ops - fuzzed == set(corpus.LEFT_OUT) & ops
