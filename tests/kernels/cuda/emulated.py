"""Compiles kernels for the host: emulation/cuda/ptx stands for csrc/cuda/ptx."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CUDA = ROOT / "csrc" / "cuda"
FOLDER = Path(__file__).parent / "emulation"
COMPILER = os.environ.get("CXX") or shutil.which("g++")


def _cuda_headers() -> Path | None:
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    if prefix := os.environ.get("CONDA_PREFIX"):
        homes += [f"{prefix}/targets/x86_64-linux", f"{prefix}/targets/sbsa-linux"]
    for home in (*homes, "/usr/local/cuda"):
        if home and (Path(home) / "include" / "cuda_fp8.h").is_file():
            return Path(home) / "include"
    return None


def compile_emulation(
    name: str,
    folder: Path,
    *,
    sources: tuple[str, ...] = (),
    defines: tuple[str, ...] = (),
    fault: tuple[str, str, str] | None = None,
) -> Path:
    """emulation/NAME_emulation.cc and ``sources`` of csrc/cuda as a program in ``folder``.

    With a ``fault`` it has another copy of a header of csrc/cuda, with one text in another's place.
    """
    if not CUDA.is_dir():
        pytest.skip("needs the kernels' sources, which packages lack")
    headers = _cuda_headers()
    if COMPILER is None or headers is None:
        pytest.skip("needs a C++ compiler and CUDA's headers (set CXX, CUDA_HOME)")
    planted = () if fault is None else (_plant(folder / "planted", *fault),)
    binary = folder / name
    # Device code reads registers as other types, as nvcc lets it, and leaves those alone that the
    # problem does not need. -Wno-psabi: kernel arguments of 128-byte alignment, which no host code
    # is linked with.
    command = [COMPILER, "-std=c++20", "-O2", "-fno-strict-aliasing", "-Wall", "-Werror"]
    command += ["-Wno-maybe-uninitialized", "-Wno-unknown-pragmas", "-Wno-psabi"]
    command += [f"-D{one}" for one in defines]
    command += [f"-I{one}" for one in (*planted, FOLDER, ROOT / "csrc")]
    command += ["-isystem", str(headers)]
    command += [str(FOLDER / f"{name}_emulation.cc"), *(str(CUDA / one) for one in sources)]
    subprocess.run([*command, "-o", binary], check=True)
    return binary


def _plant(folder: Path, header: str, right: str, wrong: str) -> Path:
    text = (CUDA / header).read_text()
    assert right in text
    copy = folder / "cuda" / header
    copy.parent.mkdir(parents=True)
    copy.write_text(text.replace(right, wrong))
    return folder


def run_emulation(program: Path, *arguments: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def check_emulation(program: Path, *arguments: int) -> None:
    """Fails with what the program says where it finds something wrong."""
    done = run_emulation(program, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
