"""Sparse multi-head latent attention on an emulated GPU: indices and waits without a device."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

FOLDER = ROOT / "csrc" / "cuda" / "mla"


def test_random_problems(tmp_path: Path) -> None:
    program = compile_emulation("mla", tmp_path)
    for seed in range(2):
        done = run_emulation(program, seed, 1)
        assert done.returncode == 0, done.stdout + done.stderr


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
    text = (FOLDER / file).read_text()
    assert right in text
    planted = tmp_path / "cuda" / "mla" / file
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    program = compile_emulation("mla", tmp_path, first=(tmp_path,))
    assert any(run_emulation(program, seed, 1).returncode != 0 for seed in range(6))
