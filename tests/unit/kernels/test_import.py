"""Importing: what is chosen, what is said, and how long it takes. Each in a process of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from built import require_kernels

require_kernels()


from vllm_kernels import _libraries, backends

Python = Callable[..., "subprocess.CompletedProcess[str]"]

needs_cpu = pytest.mark.skipif("cpu" not in backends(), reason="vllm-kernels-cpu is not built here")

CALL = """
import torch, vllm_kernels
x = torch.randn(2, 8)
for _ in range(2):
    out = torch.empty(2, 4)
    torch.ops.vllm_kernels.silu_and_mul(out, x)
torch.testing.assert_close(out, torch.nn.functional.silu(x[:, :4]) * x[:, 4:])
print(*vllm_kernels.backends(), vllm_kernels.cpu_isa())
"""


@pytest.fixture
def core_only(tmp_path: Path) -> dict[str, str]:
    """An environment with vllm-core's libraries alone."""
    folder = tmp_path / "core"
    folder.mkdir()
    for name in (_libraries.CORE, _libraries.OPS):
        path = _libraries.find_library(name)
        assert path
        shutil.copy(path, folder)
    return {_libraries.LIBRARY_DIR_VARIABLE: str(folder)}


def test_reference_serves_without_a_backend_and_says_so_once(
    python: Python, core_only: dict[str, str]
) -> None:
    result = python("-c", CALL, **core_only)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["reference", "None"]
    assert result.stderr.count("`conda install vllm-kernels-cpu`") == 1


def test_import_alone_says_nothing(python: Python, core_only: dict[str, str]) -> None:
    result = python("-W", "error", "-c", "import vllm_kernels", **core_only)
    assert (result.returncode, result.stdout) == (0, "")
    assert "vllm-kernels-cpu" not in result.stderr


@needs_cpu
def test_installed_backend_serves(python: Python) -> None:
    result = python("-c", CALL)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "cpu"
    assert "reference" not in result.stderr


@needs_cpu
def test_reference_on_request_is_not_warned_about(python: Python) -> None:
    result = python("-c", CALL, VLLM_KERNELS_BACKEND="reference")
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["reference", "None"]
    assert "reference" not in result.stderr


def test_unknown_backend(python: Python) -> None:
    result = python("-c", "import vllm_kernels", VLLM_KERNELS_BACKEND="cuda")
    assert result.returncode == 1
    assert "VLLM_KERNELS_BACKEND=cuda is not one of: auto, reference" in result.stderr


def test_without_libraries(python: Python, tmp_path: Path) -> None:
    # A copy, so that no library lies where the package itself would look.
    source = Path(_libraries.__file__).parent
    shutil.copytree(source, tmp_path / "src/vllm_kernels", ignore=shutil.ignore_patterns("lib"))
    shutil.copy(source.parents[1] / "targets.toml", tmp_path)
    environment = {"PYTHONPATH": str(tmp_path / "src"), _libraries.LIBRARY_DIR_VARIABLE: ""}
    result = python("-c", "import vllm_kernels", **environment)
    assert result.returncode == 1
    assert "install vllm-core, or build the checkout" in result.stderr.splitlines()[-1]

    doctor = python("-m", "vllm_kernels", "--json", **environment)
    assert doctor.returncode == 1, doctor.stderr
    report = json.loads(doctor.stdout)
    assert report["backends"] == []
    assert "install vllm-core" in report["problems"][0]


@needs_cpu
def test_broken_backend_is_an_error_not_a_slow_fallback(
    python: Python, core_only: dict[str, str]
) -> None:
    folder = Path(core_only[_libraries.LIBRARY_DIR_VARIABLE])
    (folder / "libvllm_kernels_cpu.so").write_text("not a library")
    result = python("-c", CALL, **core_only)
    assert result.returncode == 1
    assert "libvllm_kernels_cpu.so cannot be loaded: file too short" in result.stderr
    assert python("-c", CALL, VLLM_KERNELS_BACKEND="reference", **core_only).returncode == 0


def test_import_adds_little_to_torch(python: Python) -> None:
    """Nothing but our own modules and the standard library's comes beyond what torch imports."""
    script = (
        "import sys, torch; before = set(sys.modules); import vllm_kernels; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    packages = set(python("-c", script).stdout.split())
    assert "vllm_kernels" in packages
    assert packages - sys.stdlib_module_names == {"vllm_kernels"}


@needs_cpu
def test_isa_control(python: Python) -> None:
    script = """
import vllm_kernels
from vllm_kernels.selftest import runnable_tiers
best = vllm_kernels.cpu_isa()
for tier in runnable_tiers():
    vllm_kernels.set_cpu_isa(tier)
    assert vllm_kernels.cpu_isa() == tier
vllm_kernels.set_cpu_isa(None)
assert vllm_kernels.cpu_isa() == best
try:
    vllm_kernels.set_cpu_isa("sse9")
except RuntimeError as error:
    print(error)
"""
    result = python("-c", script)
    assert result.returncode == 0, result.stderr
    assert "unknown CPU tier 'sse9'; this build has" in result.stdout


def test_isa_control_without_kernels(python: Python, core_only: dict[str, str]) -> None:
    result = python("-c", "import vllm_kernels; vllm_kernels.set_cpu_isa('avx2')", **core_only)
    assert "RuntimeError: no CPU kernels are in use; install them with" in result.stderr
