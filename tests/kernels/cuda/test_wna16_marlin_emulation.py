"""Marlin's kernel on an emulated GPU: indices and waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_products(tmp_path: Path) -> None:
    program = compile_emulation("wna16_marlin", tmp_path, sources=("wna16/marlin/plan.cc",))
    check_emulation(program)


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """A stage read before its copies have arrived."""
    program = compile_emulation(
        "wna16_marlin",
        tmp_path,
        fault=("wna16/marlin/kernel.cuh", "loader.Wait();", ""),
        sources=("wna16/marlin/plan.cc",),
        defines=("VK_ONE_TYPE=kU4",),
    )
    assert run_emulation(program).returncode != 0
