"""How work is cut for GPUs of several generations: plain C++, compiled here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_gpu
ROOT = Path(__file__).parents[3]


def test_plans(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler (c++)")
    program = tmp_path / "plans"
    test = Path(__file__).parent / "emulation/plans.cc"
    sources = [ROOT / "csrc/cuda" / name for name in ("attention/split.cc", "gemm/few_rows.cc")]
    subprocess.run(
        [compiler, "-std=c++17", f"-I{ROOT / 'csrc'}", test, *sources, "-o", program], check=True
    )
    finished = subprocess.run([program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    assert int(finished.stdout.split(" checks")[0].splitlines()[-1]) > 500
