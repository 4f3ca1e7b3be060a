"""Installations that cannot serve: one sentence, which the engine's start ends with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Engine

torch = pytest.importorskip("torch")

COMPILER = os.environ.get("CC", "gcc")

pytestmark = pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"needs {COMPILER}")

START = """
from vllm_kernels_plugin import platform
import importlib
module, name = platform().rsplit(".", 1)
getattr(importlib.import_module(module), name)()
"""


def compile_library(path: Path, code: str, *flags: str) -> None:
    command = [COMPILER, "-shared", "-fPIC", "-x", "c", "-", "-o", str(path), *flags]
    subprocess.run(command, input=code, text=True, check=True)


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """A copy of the libraries that this run tests."""
    from vllm_kernels import engine_api

    core = engine_api.find_library(engine_api.CORE_LIBRARY)
    if core is None or engine_api.find_library(engine_api.CPU_LIBRARY) is None:
        pytest.skip("vllm-kernels-cpu is not installed")
    folder = tmp_path / "libraries"
    folder.mkdir()
    for path in core.parent.glob("libvllm_kernels_*.so"):
        shutil.copy2(path, folder)
    return folder


def older_torch(folder: Path) -> None:
    """Ops that want what this PyTorch lacks, as it lacks what a newer one has."""
    compile_library(
        folder / "libvllm_kernels_ops.so",
        "void torch_library_of_the_future(void);"
        "__attribute__((constructor)) void start(void) { torch_library_of_the_future(); }",
        "-Wl,-z,now",
    )


def other_core(folder: Path) -> None:
    """Kernels made for another version of vllm-core."""
    compile_library(
        folder / "libvllm_kernels_cpu.so",
        'int vk_abi_version(void) { return 99; } const char* vk_last_error(void) { return ""; }'
        "const char* vk_cpu_isa(void) { return 0; }"
        "const char* vk_cpu_tier(int i, int* r) { return 0; }"
        "int vk_cpu_set_isa(const char* n) { return 1; }",
    )


def no_binding(folder: Path) -> None:
    (folder / "libvllm_kernels_ops.so").unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (older_torch, f"needs torch >= 2.11, found {torch.__version__}"),
        (other_core, "wants 1: install vllm-core and vllm-kernels-cpu of one version"),
        (no_binding, "reinstall vllm-core"),
    ],
)
def test_libraries_that_do_not_fit(
    engine: Engine, libraries: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(libraries)
    refused(engine, sentence, VLLM_KERNELS_LIBRARY_DIR=str(libraries))


def test_cpu_below_the_floor(engine: Engine, tmp_path: Path) -> None:
    """The real kernels, told that this CPU has no feature at all."""
    nothing = tmp_path / "libnothing.so"
    compile_library(nothing, "unsigned long vk_cpu_features(void) { return 0; }")
    done = refused(
        engine,
        "install the one of a lower level, which `conda install vllm-kernels-cpu` chooses",
        LD_PRELOAD=str(nothing),
    )
    assert "which this CPU or its operating system lacks" in done


def refused(engine: Engine, sentence: str, **variables: str) -> str:
    """What the start said: one error line, and the same as the reason of the exception."""
    done = engine.run(START, **variables)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1, done.stderr
    assert sentence in errors[0]
    assert sentence in done.stderr.splitlines()[-1]
    return errors[0]
