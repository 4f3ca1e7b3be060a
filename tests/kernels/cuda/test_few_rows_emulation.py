"""FP8 by blocks for few rows on an emulated GPU: index arithmetic and waits without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_products(tmp_path: Path) -> None:
    program = compile_emulation("few_rows", tmp_path)
    for seed in range(2):
        check_emulation(program, seed, 2)


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
    program = compile_emulation("few_rows", tmp_path, fault=("gemm/few_rows.cuh", right, wrong))
    assert run_emulation(program, 2, 2).returncode != 0
