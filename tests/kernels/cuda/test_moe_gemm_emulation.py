"""The grouped GEMM's kernel on an emulated GPU: index arithmetic and waits without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

KERNEL = ROOT / "csrc" / "cuda" / "moe_gemm" / "grouped.cuh"


def test_random_problems(tmp_path: Path) -> None:
    program = compile_emulation("moe_gemm", tmp_path)
    for seed in range(2):
        done = run_emulation(program, seed, 1)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("wgmma_wait_group<1>();", "wgmma_fence();"),  # a stage given back before it is read
        ("i > 0 || k > 0", "true"),  # sums that start from the tile before
    ],
    ids=["wait", "sums"],
)
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = KERNEL.read_text()
    assert right in text
    planted = tmp_path / "cuda" / "moe_gemm" / KERNEL.name
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    program = compile_emulation("moe_gemm", tmp_path, first=(tmp_path,))
    assert run_emulation(program, 2, 2).returncode != 0
