"""Finding and loading libraries; every failure is one sentence that names the remedy."""

from __future__ import annotations

import shutil
import sys
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
    monkeypatch.setattr(_libraries, "__file__", "/p/lib/python3.12/site-packages/vllm_kernels/x.py")
    wheel = Path("/p/lib/python3.12/site-packages/vllm_kernels/lib")
    conda = Path("/p/lib/vllm_kernels")
    monkeypatch.setattr(sys, "path", [])
    assert _libraries.library_dirs() == [Path("/somewhere"), wheel, conda]
    monkeypatch.delenv(_libraries.LIBRARY_DIR_VARIABLE)
    assert _libraries.library_dirs() == [wheel, conda]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as a checkout has it, before an installed one on the import path."""
    package = tmp_path / "checkout/src/vllm_kernels"
    package.mkdir(parents=True)
    (tmp_path / "site-packages/vllm_kernels/lib").mkdir(parents=True)
    monkeypatch.setattr(_libraries, "__file__", str(package / "_libraries.py"))
    monkeypatch.setattr(sys, "path", [str(package.parent), str(tmp_path / "site-packages")])
    monkeypatch.delenv(_libraries.LIBRARY_DIR_VARIABLE, raising=False)
    return package


def test_an_editable_installation_has_its_libraries_in_site_packages(
    sources: Path, tmp_path: Path
) -> None:
    installed = tmp_path / "site-packages/vllm_kernels/lib"
    assert _libraries.library_dirs() == [sources / "lib", installed]


def test_sources_that_hide_an_installed_package_are_named(sources: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site-packages/vllm_kernels"
    (installed / "__init__.py").touch()
    assert _libraries.library_dirs() == [sources / "lib"]
    _libraries.core.cache_clear()
    with pytest.raises(_libraries.LoadError, match="PYTHONPATH") as caught:
        _libraries.core()
    assert f"{sources} is imported and hides {installed}" in str(caught.value)
    _libraries.core.cache_clear()


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


class _Kernels:
    """Kernels of two tiers, of which the CPU runs those named."""

    def __init__(self, *runnable: str) -> None:
        self.runnable = runnable

    def tiers(self) -> dict[str, bool]:
        return {name: name in self.runnable for name in ("avx512", "avx512_bf16")}

    def set_isa(self, name: str | None) -> None:
        if name not in self.runnable:
            raise RuntimeError(f"tier {name} needs avx512f, which this CPU lacks")


def test_kernels_above_the_cpu_end_in_a_sentence() -> None:
    _libraries.check_cpu(_Kernels("avx512"))  # type: ignore[arg-type]
    with pytest.raises(_libraries.LoadError) as caught:
        _libraries.check_cpu(_Kernels())  # type: ignore[arg-type]
    assert "cannot run on this CPU: tier avx512 needs avx512f" in str(caught.value)
    assert "conda install vllm-kernels-cpu" in str(caught.value)
