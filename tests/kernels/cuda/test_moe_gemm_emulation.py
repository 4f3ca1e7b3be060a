"""The grouped GEMM's kernel on an emulated GPU: index arithmetic and waits without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_problems(tmp_path: Path) -> None:
    program = compile_emulation("moe_gemm", tmp_path)
    for seed in range(2):
        check_emulation(program, seed, 1)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("wgmma_wait_group<1>();", "wgmma_fence();"),  # a stage given back before it is read
        ("i > 0 || k > 0", "true"),  # sums that start from the tile before
    ],
    ids=["wait", "sums"],
)
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    program = compile_emulation("moe_gemm", tmp_path, fault=("moe_gemm/grouped.cuh", right, wrong))
    assert run_emulation(program, 2, 2).returncode != 0
