"""Multi-head latent attention on an emulated GPU: indices and waits without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_problems(tmp_path: Path) -> None:
    program = compile_emulation("mla", tmp_path)
    for seed in range(2):
        check_emulation(program, seed, 1)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        # Keys read before they are there.
        ("producer.cuh", "ptx::cp_async_wait_group<0>();", ""),
        # Weights that the other consumer has not written yet.
        ("consume.cuh", "consumer.WaitForOther(NamedBarrier::kWeights);", ""),
        # Maxima that the other consumer has not written yet.
        ("consume.cuh", "consumer.WaitForOther(NamedBarrier::kMaximum);", ""),
    ],
    ids=["keys", "weights", "maxima"],
)
def test_planted_faults_are_found(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    program = compile_emulation("mla", tmp_path, fault=(f"mla/{file}", right, wrong))
    assert any(run_emulation(program, seed, 1).returncode != 0 for seed in range(6))
