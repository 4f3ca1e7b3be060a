"""Kernels whose indices lie on the device, on an emulated GPU: those that name nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_indices_that_name_nothing(tmp_path: Path) -> None:
    program = compile_emulation("moe_indices", tmp_path)
    for seed in range(2):
        check_emulation(program, seed, 40)


@pytest.mark.parametrize(
    ("header", "right", "wrong"),
    [
        ("table.cuh", "id >= 0 && id < problem.table_rows", "id >= 0"),
        ("rows.cuh", "*reduce.end < end", "true"),
        ("rows.cuh", "source < 0 || source >= copy.input_rows", "source < 0"),
        ("batched_align.cuh", "min(max(align.counts[expert], 0), align.max_tokens)",
         "align.counts[expert]"),
    ],
    ids=["table", "sums", "copies", "counts"],
)  # fmt: skip
def test_planted_faults_are_found(tmp_path: Path, header: str, right: str, wrong: str) -> None:
    fault = (f"moe_routing/{header}", right, wrong)
    program = compile_emulation("moe_indices", tmp_path, fault=fault)
    assert run_emulation(program, 0, 40).returncode != 0
