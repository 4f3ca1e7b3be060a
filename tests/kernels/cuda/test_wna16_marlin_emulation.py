"""Marlin's kernel on an emulated GPU: indices and waits."""

from __future__ import annotations

from pathlib import Path

import pytest

from .emulated import ROOT, compile_emulation, run_emulation

pytestmark = pytest.mark.no_gpu

KERNELS = ROOT / "csrc" / "cuda" / "wna16" / "marlin"


def test_products(tmp_path: Path) -> None:
    program = compile_emulation("wna16_marlin", tmp_path, sources=(KERNELS / "plan.cc",))
    done = run_emulation(program)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_planted_fault_is_found(tmp_path: Path) -> None:
    """A stage read before its copies have arrived."""
    right = "loader.Wait();"
    text = (KERNELS / "kernel.cuh").read_text()
    assert right in text
    planted = tmp_path / "cuda" / "wna16" / "marlin" / "kernel.cuh"
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, ""))
    program = compile_emulation(
        "wna16_marlin",
        tmp_path,
        first=(tmp_path,),
        sources=(KERNELS / "plan.cc",),
        defines=("VK_ONE_TYPE",),
    )
    assert run_emulation(program).returncode != 0
