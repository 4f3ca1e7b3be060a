"""FP4 weights as 16-bit floats on an emulated GPU: every weight with every scale."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_every_weight(tmp_path: Path) -> None:
    check_emulation(compile_emulation("wna16_fp4", tmp_path))


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("common/dequant.cuh", "kSigns | 0x01c001c0", "kSigns | 0x01c00180"),
        ("common/dequant.cuh", "0x6a806a80", "0x6a806a00"),
        ("common/dequant.cuh", "bytes >> 4, kHalfFix", "bytes >> 4, 0x77007700"),
        (
            "common/fragments.cuh",
            "i % 2 == 0 ? words[i / 2] << 8",
            "i % 2 != 0 ? words[i / 2] << 8",
        ),
    ],
    ids=["mantissa", "high half", "exponent", "tile"],
)
def test_planted_faults_are_found(tmp_path: Path, name: str, right: str, wrong: str) -> None:
    program = compile_emulation("wna16_fp4", tmp_path, fault=(f"wna16/{name}", right, wrong))
    assert run_emulation(program).returncode != 0
