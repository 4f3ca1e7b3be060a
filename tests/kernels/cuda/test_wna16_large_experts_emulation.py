"""The kernel for experts with packed weights on an emulated GPU: indices and waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

KERNELS = ROOT / "csrc" / "cuda" / "wna16" / "large_experts"


def test_products(tmp_path: Path) -> None:
    program = compile_emulation("wna16_large_experts", tmp_path, sources=(KERNELS / "plan.cc",))
    done = run_emulation(program)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("loader.cuh", "pipeline_.ProducerAcquire(at_);", ""),  # a stage filled while it is read
        ("tile.cuh", "row < p.experts.rows ? row : -1", "row < p.experts.rows ? row : 0"),
    ],
    ids=["wait", "padding"],
)
def test_planted_faults_are_found(tmp_path: Path, name: str, right: str, wrong: str) -> None:
    text = (KERNELS / name).read_text()
    assert right in text
    planted = tmp_path / "cuda" / "wna16" / "large_experts" / name
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    program = compile_emulation(
        "wna16_large_experts", tmp_path, first=(tmp_path,), sources=(KERNELS / "plan.cc",)
    )
    assert run_emulation(program).returncode != 0
