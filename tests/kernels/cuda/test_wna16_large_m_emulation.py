"""The kernel for many tokens and packed weights on an emulated GPU: indices and waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

KERNELS = ROOT / "csrc" / "cuda" / "wna16" / "large_m"


def test_products(tmp_path: Path) -> None:
    program = compile_emulation("wna16_large_m", tmp_path, sources=(KERNELS / "plan.cc",))
    done = run_emulation(program)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """Sums read before the products have ended."""
    right = "ptx::wgmma_wait_group<0>();"
    text = (KERNELS / "mainloop.cuh").read_text()
    assert right in text
    planted = tmp_path / "cuda" / "wna16" / "large_m" / "mainloop.cuh"
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, "ptx::wgmma_fence();"))
    program = compile_emulation(
        "wna16_large_m",
        tmp_path,
        first=(tmp_path,),
        sources=(KERNELS / "plan.cc",),
        defines=("VK_ONE_TYPE",),
    )
    assert run_emulation(program).returncode != 0
