"""The CUDA toolkits of the embedded channel: what is offered, what is refused, what they hold."""

from __future__ import annotations

import dataclasses
from io import StringIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support import ROOT

from vllm_conda.build.channel import Toolchain
from vllm_conda.cuda.arch import parse_version
from vllm_conda.errors import ConfigError, MissingToolError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.targets import load_targets
from vllm_conda.toolchain import cuda
from vllm_conda.toolchain.apt_client import AptClient
from vllm_conda.toolchain.host import detect
from vllm_conda.toolchain.model import AptSet
from vllm_conda.toolchain.store import Store

# What the recipe asks for, by conda-forge's names, and what that needs.
NEEDED = {
    "cuda-nvcc_linux-64", "cuda-nvcc-impl", "cuda-nvcc-tools", "cuda-nvvm-impl", "cuda-nvvm-tools",
    "cuda-crt-dev_linux-64", "cuda-version", "cuda-cudart", "cuda-cudart-dev", "cutlass",
    "cuda-cudart-dev_linux-64", "cuda-cudart_linux-64", "cuda-cccl_linux-64",
}  # fmt: skip


def test_table_and_channel_agree() -> None:
    """A toolkit of targets.toml is offered here, or marked as conda-forge's alone."""
    toolkits = load_targets(ROOT).cuda.toolkits
    assert [name for name, entry in toolkits.items() if not entry.feedstock] == sorted(
        cuda.offered(), key=parse_version
    )


@pytest.mark.parametrize("version", cuda.offered())
def test_catalog(version: str) -> None:
    catalog = cuda.load(version)
    packages = {package.name: package for package in catalog.packages}
    assert set(packages) >= NEEDED
    assert packages["cuda-version"].version == version
    assert f"__cuda >={version.split('.')[0]}" in packages["cuda-version"].constrains
    exported = packages["cuda-nvcc_linux-64"].run_exports["strong"]
    major = int(version.split(".")[0])
    assert exported == (f"cuda-version >={version},<{major + 1}",)
    for rows in catalog.pip.values():
        (specifier,) = Requirement(rows[0]).specifier
        assert specifier.operator == "=="
    text = cuda.catalog_text(version)
    for word in ("{cuda}", "{cuda_major}", "{cuda_next}"):
        assert word not in text


@pytest.mark.parametrize("version", ["12.9", "11.8", "13.9", "14.0"])
def test_toolkit_that_no_registry_offers(version: str) -> None:
    with pytest.raises(ConfigError, match=rf"has no CUDA {version}: .*12\.4.*13\.0") as failure:
        cuda.catalog_text(version)
    assert "--channel conda-forge" in failure.value.hint


def test_newer_glibc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda.os, "confstr", lambda name: "glibc 2.41")
    with pytest.raises(MissingToolError, match=r"glibc 2\.41, and its headers need one before"):
        cuda._check_glibc("12.4", cuda.load("12.4"))
    cuda._check_glibc("13.0", cuda.load("13.0"))
    monkeypatch.setattr(cuda.os, "confstr", lambda name: "glibc 2.36")
    cuda._check_glibc("12.4", cuda.load("12.4"))


def test_components_have_lists_of_their_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    host = dataclasses.replace(detect("linux-64"), suite="bookworm")
    client = AptClient(store, host, Reporter(Mode.PLAIN, StringIO()))
    main, other = AptSet("trixie", ("a",)), AptSet("trixie", ("a",), component="non-free")
    assert client._state(main) != client._state(other)
    assert client.manifest(main) != client.manifest(other)


def test_each_job_sees_its_own_toolkit() -> None:
    both = {"12.4": ("file:///a", "1"), "13.0": ("file:///b", "2")}
    toolchain = Toolchain(("file:///base",), "0", cuda=both)
    assert toolchain.channels_for("") == ("file:///base",)
    assert toolchain.channels_for("13.0") == ("file:///base", "file:///b")
    assert toolchain.cuda_fingerprint("12.4") == "1"
    forge = Toolchain(("conda-forge",), "0")
    assert forge.channels_for("13.0") == ("conda-forge",)
    assert forge.cuda_fingerprint("13.0") == ""
