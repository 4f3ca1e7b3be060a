"""FP8 by blocks for few rows on an emulated GPU: index arithmetic and waits without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

KERNEL = ROOT / "csrc" / "cuda" / "gemm" / "few_rows.cuh"


def test_random_products(tmp_path: Path) -> None:
    program = compile_emulation("few_rows", tmp_path)
    for seed in range(2):
        done = run_emulation(program, seed, 2)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("pipeline_.ProducerAcquire(at);", ""),  # a stage filled while it is read
        ("p_.m_tiles * kFewRowsColumns", "p_.m_tiles * 128"),  # columns that nobody writes
        ("(rank_ * each + place) * 128", "place * 128"),  # blocks overwrite each other's sums
    ],
    ids=["wait", "columns", "sums"],
)
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = KERNEL.read_text()
    assert right in text
    planted = tmp_path / "cuda" / "gemm" / KERNEL.name
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    program = compile_emulation("few_rows", tmp_path, first=(tmp_path,))
    assert run_emulation(program, 2, 2).returncode != 0
