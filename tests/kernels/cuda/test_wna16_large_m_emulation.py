"""The kernel for many tokens and packed weights on an emulated GPU: indices and waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import check_emulation, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu


def test_products(tmp_path: Path) -> None:
    program = compile_emulation("wna16_large_m", tmp_path, sources=("wna16/large_m/plan.cc",))
    check_emulation(program)


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """Sums read before the products have ended."""
    program = compile_emulation(
        "wna16_large_m",
        tmp_path,
        fault=("wna16/large_m/mainloop.cuh", "ptx::wgmma_wait_group<0>();", "ptx::wgmma_fence();"),
        sources=("wna16/large_m/plan.cc",),
        defines=("VK_ONE_TYPE=kU4",),
    )
    assert run_emulation(program).returncode != 0
