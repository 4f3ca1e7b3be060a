"""Collectives of 2 to 8 ranks on emulated GPUs: shares, meetings, memory that is used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

KERNELS = ROOT / "csrc" / "cuda" / "all_reduce" / "kernels.cuh"


def test_random_calls(tmp_path: Path) -> None:
    program = compile_emulation("all_reduce", tmp_path)
    for seed in range(2):
        done = run_emulation(program, seed, 6)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        # Nobody waits for a peer's input.
        ("  Meet<kRanks>(p);\n  const uint4* inputs[kRanks];\n  Inputs(p, 0, inputs);",
         "  const uint4* inputs[kRanks];\n  Inputs(p, 0, inputs);"),
        # Nobody waits for a peer's sums.
        ("share_of(p.rank));\n  Meet<kRanks>(p);", "share_of(p.rank));"),
        # Every rank sums the first share.
        ("Inputs(p, p.rank * share, inputs);", "Inputs(p, 0, inputs);"),
    ],
    ids=["inputs", "sums", "share"],
)  # fmt: skip
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = KERNELS.read_text()
    assert right in text
    planted = tmp_path / "cuda" / "all_reduce" / KERNELS.name
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    program = compile_emulation("all_reduce", tmp_path, first=(tmp_path,))
    assert any(run_emulation(program, seed, 6).returncode != 0 for seed in range(2))
