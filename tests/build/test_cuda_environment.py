"""vllm-kernels-cuda installs from the local channels and says what it would load; on request.

Several GB are fetched, packed and installed.

VLLM_CONDA_TEST_CUDA=1 runs it, on a machine with or without a GPU, where output/ holds a
vllm-kernels-cuda for CUDA 13: `vllm-conda build --device cuda --cuda 13.0 --slice sm90`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from support import ROOT

BUILT = sorted((ROOT / "output" / "linux-64").glob("vllm-kernels-cuda-*-cuda13*.conda"))

pytestmark = [
    pytest.mark.skipif(
        os.environ.get("VLLM_CONDA_TEST_CUDA") != "1",
        reason="installs several GB; VLLM_CONDA_TEST_CUDA=1 runs it",
    ),
    pytest.mark.skipif(not BUILT, reason="output/ holds no vllm-kernels-cuda for CUDA 13"),
]
VIRTUAL = ["--virtual", "__cuda=13.0", "--virtual", "__cuda_arch=9.0"]
# Where the process has the CUDA run time from, once a CUDA library of PyTorch is in it.
MAPS = """
import ctypes, json, sys, torch
from pathlib import Path
prefix = Path(sys.prefix)
ctypes.CDLL(prefix / "lib" / "libtorch_cuda.so")
ours = sorted(prefix.glob("lib/vllm_kernels/libvllm_kernels_cuda_*.so"))
[ctypes.CDLL(path) for path in ours]
maps = Path("/proc/self/maps").read_text().splitlines()
names = ("libcudart", "libcublas", "libcudnn", "libnccl", "libnvrtc", "libcufft", "libcusparse")
used = sorted({line.split()[-1] for line in maps if any(f"/{name}" in line for name in names)})
print(json.dumps({"cuda": torch.version.cuda, "used": used, "ours": len(ours),
                  "prefix": str(prefix), "gpu": torch.cuda.is_available()}))
"""


def execute(*command: str) -> subprocess.CompletedProcess[str]:
    spec = f"vllm-kernels-cuda[build={BUILT[-1].stem.split('-')[3]}]"
    words = [sys.executable, "-m", "vllm_conda", "exec", "--with", spec, *VIRTUAL, "--", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)


def last_json(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found


def test_report_of_an_installed_environment() -> None:
    """Every family of the package is named with its code, and why it is not loaded here."""
    done = execute("python", "-m", "vllm_kernels", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    report = last_json(done.stdout)
    text = json.dumps(report)
    for family in ("norm", "attention", "wna16"):
        assert f"libvllm_kernels_cuda_{family}.so" in text or f'"{family}"' in text
    assert "9.0a" in text


def test_one_cuda_run_time() -> None:
    done = execute("python", "-c", MAPS)
    assert done.returncode == 0, done.stderr
    found = last_json(done.stdout)
    assert found["cuda"].startswith("13.")
    assert found["ours"] >= 10
    # Not the machine's own toolkit's, which the loader's cache may name.
    assert all(path.startswith(f"{found['prefix']}/lib/") for path in found["used"]), found["used"]
    assert sum("libcudart" in path for path in found["used"]) == 1
    assert len(found["used"]) >= 7
