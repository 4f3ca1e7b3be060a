"""Finding and loading libraries; every failure is one sentence that names the remedy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from built import require_kernels

require_kernels()

import torch

from vllm_kernels import _libraries

Build = Callable[..., Path]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc on PATH")

ABI = 'int vk_abi_version(void) { return %d; } const char* vk_last_error(void) { return ""; }'
TIERS = (
    " const char* vk_cpu_isa(void) { return 0; }"
    " const char* vk_cpu_tier(int i, int* r) { return 0; }"
    " int vk_cpu_set_isa(const char* n) { return 1; }"
)
FEATURES = (
    " unsigned long vk_cpu_features(void) { return 2; }"
    ' const char* vk_cpu_feature_name(int b) { return b == 0 ? "a" : b == 1 ? "b" : 0; }'
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The only place where libraries are looked for."""
    lib = tmp_path / "lib"
    lib.mkdir()
    monkeypatch.setattr(_libraries, "library_dirs", lambda: [lib])
    for cached in (_libraries.core, _libraries.cpu_kernels):
        cached.cache_clear()
    yield lib
    for cached in (_libraries.core, _libraries.cpu_kernels):
        cached.cache_clear()


def test_search_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_libraries.LIBRARY_DIR_VARIABLE, "/somewhere")
    first, wheel, conda = _libraries.library_dirs()
    assert first == Path("/somewhere")
    assert wheel == Path(_libraries.__file__).parent / "lib"
    assert conda.name == "vllm_kernels"
    monkeypatch.delenv(_libraries.LIBRARY_DIR_VARIABLE)
    assert _libraries.library_dirs() == [wheel, conda]


def test_conda_layout_is_found_from_site_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "lib/python3.12/site-packages/vllm_kernels/_libraries.py"
    module.parent.mkdir(parents=True)
    module.touch()
    monkeypatch.setattr(_libraries, "__file__", str(module))
    assert _libraries.library_dirs()[-1] == tmp_path / "lib/vllm_kernels"


def test_core_is_absent(folder: Path) -> None:
    with pytest.raises(_libraries.LoadError, match=r"is in none of .*: install vllm-core, or"):
        _libraries.core()


def test_no_cpu_package(folder: Path) -> None:
    assert _libraries.cpu_kernels() is None
    assert _libraries.load_ops(_libraries.CPU_BINDING) is False


def test_abi_versions_differ(folder: Path, fake_library: Build) -> None:
    fake_library("vllm_kernels_core", ABI % 1 + FEATURES)
    fake_library("vllm_kernels_cpu", ABI % 7 + TIERS)
    with pytest.raises(
        _libraries.LoadError,
        match=r"cpu\.so speaks version 7 of the kernels' C ABI, .*core\.so wants 1: install",
    ):
        _libraries.cpu_kernels()


def test_features(folder: Path, fake_library: Build) -> None:
    fake_library("vllm_kernels_core", ABI % 1 + FEATURES)
    assert _libraries.core().features() == {"a": False, "b": True}


def test_foreign_library(folder: Path, fake_library: Build) -> None:
    fake_library("vllm_kernels_core", "int unrelated;")
    with pytest.raises(_libraries.LoadError, match="is not a library of vllm_kernels"):
        _libraries.core()


def test_not_a_library(folder: Path) -> None:
    (folder / "libvllm_kernels_core.so").write_text("hello")
    with pytest.raises(_libraries.LoadError, match=r"core\.so cannot be loaded: file too short$"):
        _libraries.core()


def test_torch_too_old(folder: Path, fake_library: Build) -> None:
    fake_library(
        "vllm_kernels_ops",
        "void torch_library_of_the_future(void);"
        "__attribute__((constructor)) void start(void) { torch_library_of_the_future(); }",
        "-Wl,-z,now",
    )
    with pytest.raises(
        _libraries.LoadError, match=rf"needs torch >= [\d.]+, found {torch.__version__[:4]}"
    ):
        _libraries.load_ops("vllm_kernels_ops")


def test_missing_dependency(folder: Path, fake_library: Build) -> None:
    gone = fake_library("dnnl_of_tests", "int gone(void) { return 1; }")
    fake_library(
        "vllm_kernels_core",
        "int gone(void); int call(void) { return gone(); }" + ABI % 1,
        f"-L{folder}",
        "-ldnnl_of_tests",
    )
    gone.unlink()
    with pytest.raises(_libraries.LoadError, match=r"needs libdnnl_of_tests\.so, which is not in"):
        _libraries.core()


def test_old_glibc() -> None:
    cause = OSError("/lib/libc.so.6: version `GLIBC_2.99' not found (required by /x/y.so)")
    assert "needs GLIBC_2.99, which this system's" in str(
        _libraries.load_error(Path("/x/y.so"), cause)
    )
