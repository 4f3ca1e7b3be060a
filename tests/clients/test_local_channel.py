"""output/local: what is printed at a build's end works from it alone, and the cache may go."""

from __future__ import annotations

import io
import shlex
import shutil
from pathlib import Path

import libsolv
import pytest
import support
from rattler import RepoDataRecord

from vllm_conda.builder import check, serve, whole
from vllm_conda.builder.channel import Toolchain
from vllm_conda.builder.pipeline import Options
from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import workspace_for
from vllm_conda.channel.files import listed
from vllm_conda.engine import package as package_module
from vllm_conda.engine.package import Engine
from vllm_conda.jobs import select
from vllm_conda.progress import Mode, Reporter
from vllm_conda.targets import load_targets

PLATFORM = "linux-64"
KERNELS, SERVING = "vllm-kernels-cpu", "vllm-cpu"
TARGETS = load_targets(support.ROOT)


def package(channel: Path, name: str, version: str, *run: str) -> None:
    support.build_dummy(channel, name, version, {"run": list(run)}, "")


class Site:
    """An output folder, the engine's channel in it, and a cache with what both run on."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.root, self.output, self.cache = folder, folder / "output", cache
        self.engine, self.libraries = self.output / "engine", cache / "channels/libraries"
        self.workspace = workspace_for(folder)

    def publish(self, version: str) -> Store:
        """Kernels and what serves, of one version, in the place of others."""
        made = self.cache / f"made-{version}"
        package(made, KERNELS, version, "library")
        package(made, SERVING, version, KERNELS, "vllm-engine")
        store = Store(self.output, PLATFORM, self.workspace)
        files = sorted((made / PLATFORM).glob("*.conda"))
        for file in files:
            store.publish(file, "job", file.name, "passed")
        store.settle({file.name: {"job"} for file in files}, {"job"})
        return store

    def solve(self, spec: str, *channels: Path) -> list[RepoDataRecord]:
        named = [channel.as_uri() for channel in channels]
        return check.installation(named, spec, PLATFORM, self.workspace.rattler)

    def local(self) -> set[str]:
        """What ``output/local`` holds, and lists, as ``NAME-VERSION``."""
        folder = self.output / "local"
        there = {path.name for path in folder.glob("*/*.conda")}
        assert there == {
            name for subdir in (PLATFORM, "noarch") for name in listed(folder / subdir)
        }
        return {name.rsplit("-external", 1)[0] for name in there}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))
    found = Site(tmp_path / "checkout", tmp_path / "cache")
    for version in ("1", "2"):
        package(found.libraries, "library", version)
    package(found.libraries, "wheel", "1")
    package(found.engine, "vllm-engine", "1", "wheel")
    return found


def test_kernels_and_what_serves_from_one_channel(site: Site) -> None:
    store = site.publish("1")
    whole.make_local(store, KERNELS, site.solve(KERNELS, site.output, site.libraries))
    first = {"vllm-kernels-cpu-1", "vllm-cpu-1", "library-2"}
    assert site.local() == first
    channels = (site.output, site.engine, site.libraries)
    whole.make_local(store, SERVING, site.solve(SERVING, *channels))
    assert site.local() == {*first, "vllm-engine-1", "wheel-1"}
    # New kernels: what serves stays whole, and nothing that neither needs stays.
    store = site.publish("2")
    package(site.libraries, "library", "3")
    whole.make_local(store, KERNELS, site.solve(KERNELS, *channels))
    kernels = {"vllm-kernels-cpu-2", "vllm-cpu-2", "library-3"}
    serving = {"vllm-engine-1", "wheel-1"}
    assert {r.name.normalized for r in site.solve(SERVING, site.output / "local")} >= {"wheel"}
    whole.make_local(store, SERVING, site.solve(SERVING, *channels))
    assert site.local() == kernels | serving
    # The cache may be cleared.
    shutil.rmtree(site.cache)
    for record in site.solve(SERVING, site.output / "local"):
        assert Path(str(record.url).removeprefix("file://")).stat().st_size > 0


def commands(
    site: Site, monkeypatch: pytest.MonkeyPatch, toolchain: Toolchain, *channels: str
) -> list[str]:
    """What the end of a build prints about serving."""
    engine = Engine(
        (), (site.engine.as_uri(), (site.cache / "wheels").as_uri(), *toolchain.channels)
    )
    monkeypatch.setattr(serve, "host_platform", lambda: PLATFORM)
    monkeypatch.setattr(serve, "toolchain_for", lambda *_: toolchain)
    monkeypatch.setattr(package_module, "ensure", lambda *_: engine)
    (job,) = select(TARGETS, ["linux-64-cpu-x86-64-v3"])
    options = Options(site.root, site.output, (job,), channels)
    return serve.serve(options, TARGETS, Reporter(Mode.JSON, io.StringIO()))


def named(line: str) -> list[str]:
    words = shlex.split(line)
    return [words[at + 1] for at, word in enumerate(words) if word == "-c"]


def test_the_line_of_the_embedded_toolchain_names_one_channel(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = site.publish("1")
    package(site.cache / "wheels", "wheel", "1")
    toolchain = Toolchain((site.libraries.as_uri(),), "x", glibc="2.36")
    # Without an installation of the kernels there is nothing to serve with, as was said there.
    assert commands(site, monkeypatch, toolchain) == []
    whole.make_local(store, KERNELS, site.solve(KERNELS, site.output, site.libraries))
    create, run = commands(site, monkeypatch, toolchain)
    (local,) = named(create)
    assert local == (site.output / "local").as_uri()
    assert create.endswith(f" {SERVING}")
    assert run.endswith("vllm serve MODEL")
    shutil.rmtree(site.cache / "channels")
    names = {r.name.normalized for r in site.solve(SERVING, site.output / "local")}
    assert names == {SERVING, KERNELS, "vllm-engine", "library", "wheel"}
    if not libsolv.missing():
        found = libsolv.solve(list(libsolv.files(local)), [SERVING], {}, tmp_path)
        assert {name.rsplit("-", 2)[0] for name in found} == names


def test_the_line_beside_other_channels_names_no_cache(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish("1")
    toolchain = Toolchain(("conda-forge",), "x")
    create, _ = commands(site, monkeypatch, toolchain, "conda-forge")
    assert named(create) == [site.output.as_uri(), site.engine.as_uri(), "conda-forge"]
    assert str(site.cache) not in create
