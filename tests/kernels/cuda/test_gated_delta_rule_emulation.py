"""Drafted tokens through a gated delta net on an emulated GPU: indices and barriers."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_drafts(tmp_path: Path) -> None:
    program = compile_emulation("drafts", tmp_path)
    for seed in range(3):
        check_emulation(program, seed, 3)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("indices[accepted - 1]", "indices[0]"),  # the first state
        ("__syncthreads();\n    float key", "float key"),  # keys read before they are there
        ("(d.heads / d.key_heads)", "1"),  # the key's head
    ],
    ids=["state", "barrier", "head"],
)
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    fault = ("gated_delta_rule/drafts.cuh", right, wrong)
    program = compile_emulation("drafts", tmp_path, fault=fault)
    assert run_emulation(program, 1, 12).returncode != 0
