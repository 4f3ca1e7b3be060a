"""The sort of few entries by expert on an emulated GPU: indices and barriers."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_entries(tmp_path: Path) -> None:
    program = compile_emulation("moe_routing", tmp_path)
    for seed in range(2):
        check_emulation(program, seed, 8)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("int i = count + thread; i < rows", "int i = thread; i < rows"),  # entries filled over
        ("lane < warp ? other.entries : 0", "other.entries"),  # entries of the warps behind
    ],
    ids=["padding", "warps"],
)
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    program = compile_emulation(
        "moe_routing", tmp_path, fault=("moe_routing/sort_by_expert.cuh", right, wrong)
    )
    assert run_emulation(program, 2, 12).returncode != 0
