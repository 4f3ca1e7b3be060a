"""The CUDA toolkits of the embedded channel: what is offered, what is refused, what they hold."""

from __future__ import annotations

import dataclasses
from io import StringIO
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support import ROOT

from vllm_conda import platforms
from vllm_conda.builder.channel import Toolchain
from vllm_conda.downloads.store import Store
from vllm_conda.errors import ConfigError, MissingToolError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.targets import load_targets
from vllm_conda.toolchain import cuda, pip_client
from vllm_conda.toolchain.apt_client import AptClient
from vllm_conda.toolchain.host import detect
from vllm_conda.toolchain.model import AptSet
from vllm_conda.toolchain.pip_client import PipClient
from vllm_cuda_plan.arch import parse_version

# What the recipe asks for, by conda-forge's names, and what that needs: of the machine, of the
# platform, and beside each other for both.
COMPILER = {"cuda-nvcc-impl", "cuda-nvcc-tools", "cuda-nvvm-impl", "cuda-nvvm-tools"}
RUN_TIME = {"cuda-cudart", "cuda-cudart-dev"}
FOR_PLATFORM = ("cuda-crt-dev", "cuda-cudart-dev", "cuda-cudart", "cuda-cccl")
NOARCH = {"cuda-version", "cutlass"}
OFFERED = [
    (version, platform) for platform in platforms.table() for version in cuda.offered(platform)
]


def test_table_and_channel_agree() -> None:
    """A toolkit of targets.toml is offered here, or marked as conda-forge's alone."""
    toolkits = load_targets(ROOT).cuda.toolkits
    assert [name for name, entry in toolkits.items() if not entry.feedstock] == sorted(
        cuda.offered(), key=parse_version
    )


def test_platforms_agree() -> None:
    """The embedded channel makes every toolkit for the platforms that the table names."""
    for version, toolkit in load_targets(ROOT).cuda.toolkits.items():
        if not toolkit.feedstock:
            found = [name for name in platforms.table() if version in cuda.offered(name)]
            assert sorted(toolkit.platforms) == sorted(found), version


@pytest.mark.parametrize(("version", "platform"), OFFERED)
def test_catalog(version: str, platform: str) -> None:
    catalog, foreign = cuda.load(version, cuda.host_for(platform))
    packages = {package.name: package for package in catalog.packages}
    compiler = {*COMPILER, f"cuda-nvcc_{platform}"}
    for_platform = {f"{name}_{platform}" for name in FOR_PLATFORM}
    assert set(packages) >= compiler | RUN_TIME | NOARCH | for_platform
    # The compiler runs here, whatever it compiles for; only what is linked is the platform's.
    assert {packages[name].subdir for name in compiler} == {"linux-64"}
    assert {packages[name].subdir or packages[name].noarch for name in RUN_TIME} == {""}
    assert all(packages[name].noarch for name in NOARCH | for_platform)
    run_time = set(packages["cuda-cudart"].sources())
    assert run_time == ({"apt:cudart"} if version.startswith("12") else {"pip:cudart"})
    assert foreign == [row[0] for name, row in catalog.pip.items() if f"pip:{name}" in run_time]
    assert packages["cuda-version"].version == version
    assert f"__cuda >={version.split('.')[0]}" in packages["cuda-version"].constrains
    exported = packages[f"cuda-nvcc_{platform}"].run_exports["strong"]
    major = int(version.split(".")[0])
    assert exported == (f"cuda-version >={version},<{major + 1}",)
    for rows in catalog.pip.values():
        (specifier,) = Requirement(rows[0]).specifier
        assert specifier.operator == "=="
    text = cuda.catalog_text(version, cuda.host_for(platform))
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for word in ("cuda", "cuda_major", "cuda_next", "platform", "target", "build_platform"):
        assert f"{{{word}}}" not in text


def test_toolkit_that_the_platform_lacks() -> None:
    with pytest.raises(ConfigError, match=r"no CUDA 13\.0 for linux-ppc64le: .* offer 12\.4 for"):
        cuda.check_offered("13.0", "linux-ppc64le")


def test_wheels_of_the_platform_are_kept_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    reporter = Reporter(Mode.PLAIN, StringIO())
    rows = ("nvidia-cuda-runtime==13.0.96", "nvidia-cuda-nvcc==13.0.88")
    own = PipClient(store, cuda.host_for("linux-64"), reporter, rows[:1])
    other = PipClient(store, cuda.host_for("linux-aarch64"), reporter, rows[:1])
    assert own._key(rows[0]) != other._key(rows[0])
    assert own._key(rows[1]) == other._key(rows[1])


def test_wheels_of_another_platform_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip gets its words for the one wheel, and is run without them for the rest."""
    store = Store(tmp_path)
    store.prepare()
    calls: list[list[str]] = []

    def run_client(command: list[str], env: object, folder: Path) -> tuple[int, str]:
        calls.append(command)
        rows = [word for word in command if "==" in word]
        for row in rows:
            name, _, number = row.replace("-", "_").partition("==")
            (folder / "dl" / f"{name}-{number}-py3-none-any.whl").write_bytes(row.encode())
        return 0, ""

    monkeypatch.setattr(pip_client.downloads, "run_client", run_client)
    rows = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-nvcc==13.0.88"]
    host = cuda.host_for("linux-aarch64")
    client = PipClient(store, host, Reporter(Mode.PLAIN, StringIO()), rows[:1])
    assert set(client.fetch(rows)) == set(rows)
    assert all(client.cached(row) for row in rows)
    by_row = {command[-1]: command for command in calls}
    assert "manylinux_2_28_aarch64" in by_row[rows[0]]
    assert "--platform" not in by_row[rows[1]]


@pytest.mark.parametrize("version", ["12.9", "11.8", "13.9", "14.0"])
def test_toolkit_that_no_registry_offers(version: str) -> None:
    with pytest.raises(ConfigError, match=rf"has no CUDA {version}: .*12\.4.*13\.0") as failure:
        cuda.check_offered(version, "linux-64")
    assert "--channel conda-forge" in failure.value.hint


def test_newer_glibc_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    host = cuda.host_for("linux-64")
    monkeypatch.setattr(cuda.os, "confstr", lambda name: "glibc 2.41")
    with pytest.raises(MissingToolError, match=r"glibc 2\.41, and its headers need one before"):
        cuda._check_glibc("12.4", cuda.load("12.4", host)[0])
    cuda._check_glibc("13.0", cuda.load("13.0", host)[0])
    monkeypatch.setattr(cuda.os, "confstr", lambda name: "glibc 2.36")
    cuda._check_glibc("12.4", cuda.load("12.4", host)[0])


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
    toolchain = Toolchain(("file:///base",), "0", toolkits=both)
    assert toolchain.channels_for("") == ("file:///base",)
    assert toolchain.channels_for("13.0") == ("file:///base", "file:///b")
    assert toolchain.toolkit_fingerprint("12.4") == "1"
    forge = Toolchain(("conda-forge",), "0")
    assert forge.channels_for("13.0") == ("conda-forge",)
    assert forge.toolkit_fingerprint("13.0") == ""
