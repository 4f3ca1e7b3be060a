"""The emulation's tests fail where the layer is wrong: each fault is found by the test named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..common.sampled import SLOW_VARIABLE
from .emulated import CLANG, CSRC, LAYER_VARIABLE, ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(SLOW_VARIABLE) != "1", reason=f"slow ring: {SLOW_VARIABLE}=1"
    ),
    pytest.mark.skipif(CLANG is None, reason="needs clang++, which compiles the ROCm kernels"),
]
TESTS = Path(__file__).with_name("test_rocm_emulation.py")
FAULTS = {
    "the other half of a wave": (
        "warp.h",
        "const unsigned first = WaveLane() & ~(kWarpLanes - 1);",
        "const unsigned first = 0;",
        "test_top_k",
        "emulation: ",
    ),
    "a shuffle that gives a lane its own value": (
        "warp.h",
        "vk::rocm::WaveLane() ^ static_cast<unsigned>(mask)",
        "vk::rocm::WaveLane()",
        "test_norm_per_token",
        "not close",
    ),
    "a rounding of float8": (
        "cuda_fp8.h",
        "(1u << (shift - 1)) - 1 + (size >> shift & 1u)",
        "(1u << (shift - 1))",
        "test_float8_values_of_every_kind",
        "assert",
    ),
    "the tail of the normal distribution": (
        "numeric.h",
        "(1.0f - 0.5f * error)",
        "1.0f",
        "test_normal_distribution_of_float32_keeps_its_tail",
        "not close",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    header, old, new, test, said = FAULTS[fault]
    layer = tmp_path / "rocm"
    shutil.copytree(CSRC / "rocm", layer)
    text = (layer / header).read_text()
    assert old in text
    (layer / header).write_text(text.replace(old, new))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-s",  # the emulation ends the process
        "-p",
        "no:cacheprovider",
        TESTS,
        "-k",
        test,
    ]
    environment = {**os.environ, LAYER_VARIABLE: str(layer)}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode not in (0, 5), done.stdout
    assert said in done.stdout + done.stderr
