"""What of FlashInfer is used: what is compiled, or can be."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

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


def test_delta_nets_where_nothing_may_be_compiled(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(packages, "flashinfer")
    package(package(packages, "cutlass"), "cute")
    monkeypatch.setenv("FLASHINFER_DISABLE_JIT", "1")
    config: dict[str, object] = {}
    flashinfer.leave_out_delta_net(config)
    assert config == {"gdn_prefill_backend": "triton"}
    with pytest.raises(PluginError, match="compiled at their first call, and FLASHINFER_DISABLE"):
        flashinfer.leave_out_delta_net({"gdn_prefill_backend": "flashinfer"})


@pytest.mark.parametrize("value", ["1", "0", "no"])
def test_any_value_forbids_compiling(
    packages: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """As FlashInfer reads the variable."""
    package(packages, "flashinfer")
    monkeypatch.setenv("FLASHINFER_DISABLE_JIT", value)
    problem = flashinfer.module_problem("page")
    assert problem == (
        f"FlashInfer's module page is not compiled, and FLASHINFER_DISABLE_JIT is {value}"
    )


KEPT = ("FLASHINFER_DISABLE_JIT", "FLASHINFER_CUBINS_REPOSITORY", "TRTLLM_DG_ENABLED")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in KEPT:
        # Set first, so that what the plugin sets is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def ahead_of_time(packages: Path) -> Path:
    aot = package(packages, "flashinfer") / "data" / "aot"
    module(aot)
    (aot / "modules.json").write_text("{}")
    return aot


def test_nothing_is_compiled_beside_our_modules(
    packages: Path, variables: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    aot = ahead_of_time(packages)
    variables.setenv("TRTLLM_DG_ENABLED", "1")
    with caplog.at_level(logging.INFO):
        flashinfer.keep_from_compiling(logging.getLogger("test"))
    assert [os.environ.get(name) for name in KEPT] == ["1", str(aot), "1"]
    assert caplog.messages == [
        "FlashInfer is kept from compiling and downloading, with FLASHINFER_DISABLE_JIT=1, "
        f"FLASHINFER_CUBINS_REPOSITORY={aot}"
    ]
    caplog.clear()
    flashinfer.keep_from_compiling(logging.getLogger("test"))
    assert not caplog.messages


def test_others_packages_may_compile(packages: Path, variables: pytest.MonkeyPatch) -> None:
    module(package(packages, "flashinfer") / "data" / "aot")
    flashinfer.keep_from_compiling(logging.getLogger("test"))
    assert not set(KEPT) & set(os.environ)


def test_a_module_that_ours_lacks(packages: Path, variables: pytest.MonkeyPatch) -> None:
    ahead_of_time(packages)
    flashinfer.keep_from_compiling(logging.getLogger("test"))
    assert flashinfer.module_problem("sampling") is None
    assert flashinfer.module_problem("rope") == (
        "FlashInfer's module rope is not in vllm-flashinfer, and FLASHINFER_DISABLE_JIT is 1"
    )


def test_attention(packages: Path) -> None:
    """The backend FLASHINFER is refused with the module that it lacks."""
    aot = ahead_of_time(packages)
    arguments = (128, torch.bfloat16, "auto", True)
    first, second = flashinfer.attention_modules(*arguments)
    assert first == f"{second}_sm90"
    for name in (first, second):
        problem = flashinfer.attention_problem(*arguments)
        assert problem is not None
        assert problem.startswith(f"FlashInfer's module {name} is not compiled, and there is no")
        (aot / name).mkdir()
        (aot / name / f"{name}.so").touch()
    assert flashinfer.attention_problem(*arguments) is None
    assert flashinfer.attention_problem(64, torch.bfloat16, "auto", True) is not None
    assert flashinfer.attention_problem(128, torch.float16, None, True) is not None
    (name,) = flashinfer.attention_modules(128, torch.bfloat16, "fp8", True)
    assert "dtype_q_e4m3_dtype_kv_e4m3_dtype_o_bf16" in name
    assert flashinfer.attention_modules(128, torch.bfloat16, "auto", False) == [second]
