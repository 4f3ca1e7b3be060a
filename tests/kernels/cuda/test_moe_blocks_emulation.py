"""The grouped GEMM with scales of blocks on an emulated GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_problems(tmp_path: Path) -> None:
    program = compile_emulation("moe_blocks", tmp_path)
    for seed in range(3):
        check_emulation(program, seed, 2)


@pytest.mark.parametrize(
    ("header", "right", "wrong"),
    [
        ("blocks", "wgmma_wait_group<0>();", "wgmma_fence();"),  # sums that are not there yet
        ("blocks", "kClearSums || k > 0", "true"),  # products of the chunk before
        (
            "blocks_loader",
            "ptx::cp_async_mbarrier_arrive_noinc(pipeline_.full(at.stage))",
            "ptx::mbarrier_arrive(pipeline_.full(at.stage))",
        ),
        ("blocks_rows", "wgmma_wait_group<0>();", "wgmma_fence();"),
        ("blocks_rows", "kClearSums || k > 0", "true"),
        ("blocks_rows", "high = scales.tokens[token + 8]", "high = scales.tokens[token]"),
        ("blocks_rows", "pipeline_.ConsumerTest(at)", "true"),
        ("blocks_rows", "rank_ * each : 0", "0 : 0"),  # k of the first block twice
        ("blocks", "kWaves == 1 ? 0 : group", "0"),  # scales of the first weights alone
        # Rows of nobody, but within the tensors: results differ, and nothing crashes.
        (
            "blocks_works",
            "32 * i + 32 - __clz(static_cast<int>(used))",
            "min(kTokens, b_.rows - tile.first_row)",
        ),
    ],
    ids=[
        "wait",
        "sums",
        "scales",
        "rows-wait",
        "rows-sums",
        "rows-scales",
        "rows-ready",
        "split",
        "turned",
        "labels",
    ],
)
def test_planted_faults_are_found(tmp_path: Path, header: str, right: str, wrong: str) -> None:
    fault = (f"moe_gemm/{header}.cuh", right, wrong)
    program = compile_emulation("moe_blocks", tmp_path, fault=fault)
    assert run_emulation(program, 2, 3).returncode != 0
