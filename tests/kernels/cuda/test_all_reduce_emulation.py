"""Collectives of 2 to 8 ranks on emulated GPUs: shares, meetings, memory that is used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_random_calls(tmp_path: Path) -> None:
    program = compile_emulation("all_reduce", tmp_path)
    for seed in range(2):
        check_emulation(program, seed, 6)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        # Nobody waits for a peer's input.
        ("  Meet<kRanks>(p);\n  const uint4* inputs[kRanks];\n  Inputs(p, 0, inputs);",
         "  const uint4* inputs[kRanks];\n  Inputs(p, 0, inputs);"),
        # Nobody waits for a peer's sums.
        ("share_of(p.rank));\n  Meet<kRanks>(p);", "share_of(p.rank));"),
        # Every rank sums the first share.
        ("Inputs(p, p.rank * share, inputs);", "Inputs(p, 0, inputs);"),
    ],
    ids=["inputs", "sums", "share"],
)  # fmt: skip
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    program = compile_emulation(
        "all_reduce", tmp_path, fault=("all_reduce/kernels.cuh", right, wrong)
    )
    assert any(run_emulation(program, seed, 6).returncode != 0 for seed in range(2))


def test_norms_over_ranks(tmp_path: Path) -> None:
    check_emulation(compile_emulation("rms_qk", tmp_path), 0, 5)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        # The area of the call before is not emptied: its sums are taken for new ones.
        ("i < last_bytes / int64_t{sizeof(uint64_t)};", "i < 0 * last_bytes;"),
        # Sums of other ranks are not waited for.
        ("while (static_cast<uint32_t>(both) == kNoSum || both >> 32 == kNoSum)", "while (false)"),
    ],
    ids=["emptying", "waiting"],
)
def test_planted_faults_in_norms_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    program = compile_emulation("rms_qk", tmp_path, fault=("all_reduce/rms_qk.cuh", right, wrong))
    assert run_emulation(program, 0, 5).returncode != 0
