"""The grouped product's kernel on an emulated GPU: index arithmetic and waits without a device.

Its own source is compiled for the host; emulation/moe_gemm stands for the header that holds
instructions.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from .test_attention_emulation import COMPILER, ROOT, _cuda_headers

pytestmark = pytest.mark.no_gpu

FOLDER = Path(__file__).parent / "emulation"
KERNEL = ROOT / "csrc" / "cuda" / "moe_gemm" / "grouped.cuh"


def compiled(folder: Path, *first: Path) -> Path:
    """The emulation, compiled; headers of ``first`` come before all others."""
    headers = _cuda_headers()
    if COMPILER is None or headers is None:
        pytest.skip("needs a C++ compiler and CUDA's headers (set CXX, CUDA_HOME)")
    binary = folder / "moe_gemm"
    # -Wno-psabi: kernel arguments of 128-byte alignment, which no host code is linked with.
    command = [COMPILER, "-std=c++20", "-O2", "-Wall", "-Werror"]
    command += ["-Wno-unknown-pragmas", "-Wno-psabi"]
    folders = (*first, FOLDER / "moe_gemm", FOLDER / "attention", ROOT / "csrc")
    command += [*(f"-I{one}" for one in folders), "-isystem", str(headers)]
    source = FOLDER / "moe_gemm" / "moe_gemm_emulation.cc"
    subprocess.run([*command, source, "-o", binary], check=True)
    return binary


def run(program: Path, seed: int, count: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, str(seed), str(count)], capture_output=True, text=True, check=False
    )


def test_random_problems(tmp_path: Path) -> None:
    program = compiled(tmp_path)
    for seed in range(2):
        done = run(program, seed, 1)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("WgmmaWait<1>();", ";"),  # a stage given back before it is read
        ("i > 0 || k > 0", "true"),  # sums that start from the tile before
    ],
    ids=["wait", "sums"],
)
def test_planted_faults_are_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = KERNEL.read_text()
    assert right in text
    planted = tmp_path / "cuda" / "moe_gemm" / KERNEL.name
    planted.parent.mkdir(parents=True)
    planted.write_text(text.replace(right, wrong))
    assert run(compiled(tmp_path, tmp_path), 2, 2).returncode != 0
