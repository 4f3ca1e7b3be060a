"""Node types of many kinds get the right build, with conda-forge assumed for all else.

The packages are those of every job as rendered, with the C library that the sysroot of
``c_stdlib_version`` makes them require. What each node type is to get was worked out by hand: of
CUDA 12.4, 12.9, 13.0 and 13.4 the newest that the driver was made for, with code for the GPU.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import site_channel
from node_types import ARM, POWER, X86, Case, got
from support import VERSION

from vllm_conda import platforms
from vllm_conda.paths import CACHE_VARIABLE, private_folder
from vllm_conda.site import assumed, preflight
from vllm_conda.site.channels import Channels, default_channels
from vllm_conda.site.examples import example_names, example_path
from vllm_conda.site.model import load_site, parse_site

OLD = "needs glibc >= 2.28"


CASES = [
    Case("RHEL 8", X86, "2.28", "icelake", "level 4"),
    Case("RHEL 8", X86, "2.28", "haswell", "level 3"),
    Case("RHEL 8", X86, "2.28", "sandybridge", "needs x86_64 level 3"),
    Case("RHEL 8", X86, "2.28", "icelake", "12.4", "12.2", ("8.0",)),
    Case("RHEL 8", X86, "2.28", "cascadelake", "level 4", "12.4", ("7.0",)),
    Case("RHEL 8", X86, "2.28", "zen2", "level 3", "11.8", ("8.0",)),
    Case("RHEL 8", X86, "2.28", "zen3", "13.0", "13.0", ("9.0",)),
    Case("RHEL 8", X86, "2.28", "zen3", "13.0", "13.1", ("8.0",)),
    Case("Debian 10", X86, "2.28", "zen2", "level 3"),
    Case("SLES 15", X86, "2.31", "zen3", "level 3"),
    Case("SLES 15", X86, "2.31", "zen3", "12.4", "12.4", ("8.0",)),
    Case("Debian 11", X86, "2.31", "skylake_avx512", "12.4", "12.0", ("7.5",)),
    Case("Ubuntu 20.04", X86, "2.31", "zen2", "level 3", "11.7", ("8.6",)),
    Case("Ubuntu 20.04", X86, "2.31", "zen2", "12.4", "12.0", ("8.6",)),
    Case("Rocky 9", X86, "2.34", "zen4", "12.9", "12.8", ("9.0",)),
    Case("RHEL 9", X86, "2.34", "sapphirerapids", "13.0", "13.0", ("9.0",)),
    Case("RHEL 9", X86, "2.34", "zen4", "12.9", "12.8", ("8.9", "9.0")),
    Case("RHEL 9", X86, "2.34", "zen4", "level 4", "12.8", ("7.0", "8.0")),
    Case("Ubuntu 22.04", X86, "2.35", "sapphirerapids", "12.4", "12.2", ("9.0",)),
    Case("Ubuntu 22.04", X86, "2.35", "zen3", "13.0", "13.0", ("8.6",)),
    Case("Debian 12", X86, "2.36", "icelake", "12.4", "12.2", ("8.9",)),
    Case("RHEL 10", X86, "2.39", "sapphirerapids", "13.0", "13.0", ("10.0",)),
    Case("Ubuntu 24.04", X86, "2.39", "zen5", "13.0", "13.1", ("12.0",)),
    Case("Ubuntu 24.04", X86, "2.39", "sapphirerapids", "13.0", "13.0", ("10.3",)),
    Case("Ubuntu 24.04", X86, "2.39", "zen4", "12.9", "12.9", ("12.0",)),
    Case("Fedora 43", X86, "2.42", "zen4", "13.4", "13.4", ("8.9",)),
    Case("CentOS 7", X86, "2.17", "broadwell", OLD),
    Case("SLES 12", X86, "2.22", "broadwell", OLD),
    Case("Amazon Linux 2", X86, "2.26", "icelake", OLD, "12.2", ("8.0",)),
    Case("Ubuntu 18.04", X86, "2.27", "icelake", OLD, "12.2", ("8.0",)),
    Case("RHEL 8", ARM, "2.28", "a64fx", "level 2"),
    Case("RHEL 8", ARM, "2.28", "thunderx2", "needs Armv8.2-A"),
    Case("RHEL 8", ARM, "2.28", "neoverse_v2", "12.4", "12.4", ("9.0",)),
    Case("SLES 15", ARM, "2.31", "neoverse_v2", "12.4", "12.4", ("9.0",)),
    Case("Amazon Linux 2023", ARM, "2.34", "neoverse_n1", "level 2"),
    Case("Amazon Linux 2023", ARM, "2.34", "neoverse_v1", "level 2"),
    Case("RHEL 9", ARM, "2.34", "neoverse_v2", "13.0", "13.1", ("9.0",)),
    Case("Ubuntu 22.04", ARM, "2.35", "neoverse_n1", "12.4", "12.2", ("8.0",)),
    Case("JetPack 6", ARM, "2.35", "cortex_a72", "needs __cuda >= 13", "12.6", ("8.7",)),
    Case("JetPack 7", ARM, "2.39", "neoverse_n1", "13.0", "13.0", ("8.7",)),
    Case("JetPack 7", ARM, "2.39", "neoverse_v2", "13.0", "13.0", ("11.0",)),
    Case("Ubuntu 24.04", ARM, "2.39", "neoverse_v2", "13.0", "13.0", ("10.0",)),
    Case("DGX OS 7", ARM, "2.39", "neoverse_v2", "13.0", "13.0", ("12.1",)),
    Case("RHEL 7", POWER, "2.17", "power9le", OLD),
    Case("RHEL 8", POWER, "2.28", "power9le", "level 9"),
    Case("RHEL 8", POWER, "2.28", "power8le", "needs ppc64le level 9"),
    Case("RHEL 8", POWER, "2.28", "power9le", "12.4", "12.4", ("7.0",)),
    Case("RHEL 9", POWER, "2.34", "power10le", "level 10"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_node_type_gets_the_right_build(every_job: Channels, case: Case) -> None:
    (result,) = preflight.check_site(parse_site(case.site(), "cases"), every_job)
    assert got(result).startswith(case.build), got(result)


@pytest.mark.parametrize("name", example_names())
def test_every_example_is_served(every_job: Channels, name: str) -> None:
    site = load_site(example_path(name))
    for result in preflight.check_site(site, every_job):
        if any(spec.startswith("vllm-kernels-rocm") for spec in site.specs):
            assert result.served == (result.node.amdgpu is not None)
            assert result.served or got(result).startswith("needs __amdgpu")
            continue
        assert result.served == (result.node.glibc != "2.17"), got(result)
        assert result.served or got(result).startswith(OLD)
        no_code = result.node.platform == X86 and "7.0" in result.node.cuda_arch
        if result.served and result.node.cuda and not no_code:
            assert not got(result).startswith("level"), result.name


def test_a_checkout_built_with_the_embedded_toolchain(
    tmp_path: Path, every_job: Channels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own Python is for this machine's C library: it serves no older node, which is said."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    embedded = site_channel.Channel(tmp_path / "cache/channels/0123")
    versions = {"python": "3.12", "libtorch": "2.13", "pytorch": "2.13", "onednn": "3.2"}
    for name in (*versions, "libgcc", "libstdcxx", "libgomp"):
        floor = ["__glibc >=2.36,<3.0.a0"]
        embedded.add(X86, name, versions.get(name, "12.2"), "external_0", floor)
    for level in ("3", "4"):
        embedded.add("noarch", "_x86_64-microarch-level", level, "external_0")
    address = embedded.write()
    checkout = tmp_path / "checkout"
    state = private_folder(checkout / "output") / "build-state.json"
    state.parent.mkdir(parents=True)
    state.write_text(json.dumps({"channels": [address]}))
    found = default_channels(checkout)
    assert found.embedded
    assert found.built_against == (address,)
    own = every_job.addresses[0]
    site = load_site(example_path("h200"))
    results = preflight.check_site(
        site, every_job, ["vllm-kernels-cpu"], alone=Channels([own, address])
    )
    assert [result.served for result in results] == [True, True]
    for result in results:
        (note,) = [text for text in result.notes if "without conda-forge" in text]
        assert note == (
            f"without conda-forge: needs glibc >= 2.36, the node has {result.node.glibc}"
        )
    # A mirror that a site built against is taken as it is.
    state.write_text(json.dumps({"channels": ["conda-forge"]}))
    assert not default_channels(checkout).embedded


def test_assumed_channel_is_the_same_every_time(tmp_path: Path) -> None:
    first = assumed.ensure_channel(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("repodata.json")}
    assert len(before) == 1 + len(platforms.table())
    assert assumed.ensure_channel(tmp_path) == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("repodata.json")} == before


def test_cuda_versions_of_the_assumed_channel() -> None:
    assert assumed.cuda_versions(X86) == ["12.9", "13.4"]
    assert assumed.cuda_versions(POWER) == ["12.4"]
    assert VERSION
