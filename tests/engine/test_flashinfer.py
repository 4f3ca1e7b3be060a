"""What of FlashInfer is used: what is compiled, or can be."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vllm_kernels_plugin import flashinfer
from vllm_kernels_plugin.errors import PluginError


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages, in an environment without compilers."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    for variable in ("CUDA_PATH", "FLASHINFER_DISABLE_JIT", flashinfer.SAMPLER_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    yield folder
    sys.modules.pop("flashinfer_jit_cache", None)


def package(folder: Path, name: str, text: str = "") -> Path:
    made = folder / name
    made.mkdir()
    (made / "__init__.py").write_text(text)
    return made


def module(folder: Path) -> None:
    file = folder / "sampling" / "sampling.so"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")


def tool(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)


def test_not_installed(packages: Path) -> None:
    assert flashinfer.module_problem("sampling") == "FlashInfer is not installed"


def test_installed_but_not_compiled(packages: Path) -> None:
    package(packages, "flashinfer")
    assert flashinfer.module_problem("sampling") == (
        "FlashInfer's module sampling is not compiled, and there is no nvcc to do it"
    )


def test_compiled_in_the_package(packages: Path) -> None:
    module(package(packages, "flashinfer") / "data" / "aot")
    assert flashinfer.module_problem("sampling") is None
    assert flashinfer.module_problem("norm") is not None


@pytest.mark.parametrize(
    "text",
    [
        "def get_jit_cache_dir(): return {folder!r}",
        "from types import SimpleNamespace as N\n"
        "def get_jit_cache_providers(): return [N(jit_cache_dir={folder!r})]",
    ],
    ids=["0.6", "0.7"],
)
def test_compiled_in_the_package_of_modules(packages: Path, text: str) -> None:
    package(packages, "flashinfer")
    cache = packages / "modules"
    package(packages, "flashinfer_jit_cache", text.format(folder=str(cache)))
    assert flashinfer.module_problem("sampling") is not None
    module(cache)
    assert flashinfer.module_problem("sampling") is None


def test_a_compiler_at_hand(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(packages, "flashinfer")
    tool(tmp_path / "cuda" / "bin" / "nvcc")
    problem = flashinfer.module_problem("sampling")
    assert problem is not None
    assert problem.endswith("there is no ninja to do it")
    tool(tmp_path / "bin" / "ninja")
    assert flashinfer.module_problem("sampling") is None
    monkeypatch.setenv("FLASHINFER_DISABLE_JIT", "1")
    problem = flashinfer.module_problem("sampling")
    assert problem is not None
    assert problem.endswith("FLASHINFER_DISABLE_JIT is 1")


def test_the_sampler_is_left_out_and_said(packages: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test")
    package(packages, "flashinfer")
    with caplog.at_level(logging.INFO):
        flashinfer.leave_out_sampler(logger)
    assert os.environ.pop(flashinfer.SAMPLER_VARIABLE) == "0"
    assert "the engine samples without FlashInfer: FlashInfer's module sampling" in caplog.text
    module(packages / "flashinfer" / "data" / "aot")
    flashinfer.leave_out_sampler(logger)
    assert flashinfer.SAMPLER_VARIABLE not in os.environ


def test_what_the_user_set_stays(packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(flashinfer.SAMPLER_VARIABLE, "1")
    flashinfer.leave_out_sampler(logging.getLogger("test"))
    assert os.environ[flashinfer.SAMPLER_VARIABLE] == "1"


def test_delta_nets(packages: Path) -> None:
    config: dict[str, object] = {}
    flashinfer.leave_out_delta_net(config)
    assert config == {"gdn_prefill_backend": "triton"}
    package(packages, "flashinfer")
    with pytest.raises(PluginError, match="need nvidia-cutlass-dsl, which is not installed"):
        flashinfer.leave_out_delta_net({"gdn_prefill_backend": "FlashInfer"})
    package(package(packages, "cutlass"), "cute")
    config = {}
    flashinfer.leave_out_delta_net(config)
    assert config == {}
