"""The attention kernels on an emulated GPU: index arithmetic and synchronisation without a device.

The kernels' own source is compiled for the host; emulation/attention stands for the few headers
that hold instructions. Their copies and products happen as late as the source allows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_gpu

ROOT = Path(__file__).resolve().parents[3]
EMULATION = Path(__file__).parent / "emulation" / "attention"
COMPILER = os.environ.get("CXX") or shutil.which("g++")


def _cuda_headers() -> Path | None:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    if prefix := os.environ.get("CONDA_PREFIX"):
        homes += [f"{prefix}/targets/x86_64-linux", f"{prefix}/targets/sbsa-linux"]
    for home in (*homes, "/usr/local/cuda"):
        if home and (Path(home) / "include" / "cuda_fp8.h").is_file():
            return Path(home) / "include"
    return None


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The emulation, compiled."""
    headers = _cuda_headers()
    if COMPILER is None or headers is None:
        pytest.skip("needs a C++ compiler and CUDA's headers (set CXX, CUDA_HOME)")
    binary = tmp_path_factory.mktemp("emulation") / "attention"
    command = [COMPILER, "-std=c++20", "-O2", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    # Its own headers come first: they stand for those of csrc.
    command += [f"-I{EMULATION}", f"-I{ROOT / 'csrc'}", "-isystem", str(headers)]
    subprocess.run([*command, EMULATION / "attention_emulation.cc", "-o", binary], check=True)
    return binary


@pytest.mark.parametrize("seed", range(2))
def test_random_batches(program: Path, seed: int) -> None:
    run = subprocess.run([program, str(seed), "1"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
