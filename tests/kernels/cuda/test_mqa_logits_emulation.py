"""Logits of the indexer on an emulated GPU: indices and waits without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_problems(tmp_path: Path) -> None:
    program = compile_emulation("mqa_logits", tmp_path)
    for seed in range(3):
        check_emulation(program, seed, 1)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        # Sums that are read while they are computed.
        ("consumer.cuh", "ptx::wgmma_wait_group<0>();", ""),
        # Keys that are read before they are there.
        ("consumer.cuh", "keys_.ConsumerWait(at_);", ""),
        # Pages of the first 32 alone.
        ("paged.cuh", "index >= first_page_ + 32", "first_page_ < 0"),
        # Keys of the request in which a part ends: nobody's.
        ("paged.cuh", "next_ <= end_.entry", "next_ < end_.entry"),
    ],
    ids=["sums", "keys", "pages", "cuts"],
)
def test_planted_faults_are_found(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    program = compile_emulation("mqa_logits", tmp_path, fault=(f"mqa_logits/{file}", right, wrong))
    assert any(run_emulation(program, seed, 1).returncode != 0 for seed in range(6))
