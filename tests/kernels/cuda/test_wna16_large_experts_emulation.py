"""The kernel for experts with packed weights on an emulated GPU: indices and waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_products(tmp_path: Path) -> None:
    program = compile_emulation(
        "wna16_large_experts", tmp_path, sources=("wna16/large_experts/plan.cc",)
    )
    check_emulation(program)


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("loader.cuh", "pipeline_.ProducerAcquire(at_);", ""),  # a stage filled while it is read
        ("tile.cuh", "row < p.experts.rows ? row : -1", "row < p.experts.rows ? row : 0"),
    ],
    ids=["wait", "padding"],
)
def test_planted_faults_are_found(tmp_path: Path, name: str, right: str, wrong: str) -> None:
    program = compile_emulation(
        "wna16_large_experts",
        tmp_path,
        fault=(f"wna16/large_experts/{name}", right, wrong),
        sources=("wna16/large_experts/plan.cc",),
    )
    assert run_emulation(program).returncode != 0
