"""The sort of few entries by expert on an emulated GPU: indices and barriers."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

KERNEL = ROOT / "csrc" / "cuda" / "moe_routing" / "sort_by_expert.cuh"


def test_random_entries(tmp_path: Path) -> None:
    program = compile_emulation("moe_routing", tmp_path)
    for seed in range(2):
        done = run_emulation(program, seed, 8)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("int i = count + thread; i < rows", "int i = thread; i < rows"),  # entries filled over
        ("lane < warp ? other.entries : 0", "other.entries"),  # entries of the warps behind
    ],
    ids=["padding", "warps"],
)
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = KERNEL.read_text()
    assert right in text
    planted = tmp_path / "cuda" / "moe_routing" / KERNEL.name
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    program = compile_emulation("moe_routing", tmp_path, first=(tmp_path,))
    assert run_emulation(program, 2, 12).returncode != 0
