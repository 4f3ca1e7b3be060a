"""The names that serve, from conda-forge and one more channel: what comes, and what cannot.

Ours are the packages as rendered, the engine's too. conda-forge's are records of the same shape,
with its own `vllm`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import site_channel
from support import ROOT, VERSION, plan

from vllm_conda.engine import channel as channel_module
from vllm_conda.engine.channel import FORGE_LACKS
from vllm_conda.engine.package import NAME, NAMES
from vllm_conda.errors import SolveError
from vllm_conda.site.channels import Channels
from vllm_conda.site.model import parse_site
from vllm_conda.site.preflight import check_site
from vllm_conda.targets import load_targets
from vllm_conda.toolchain import wheels

TARGETS = load_targets(ROOT)
ENGINE = TARGETS.engine.release
PLATFORM, POWER = "linux-64", "linux-ppc64le"
JOBS = (
    f"{PLATFORM}-cpu-x86-64-v3",
    f"{PLATFORM}-cpu-x86-64-v4",
    f"{PLATFORM}-cuda-12.4-all",
    f"{PLATFORM}-cuda-13.0-all",
    f"{PLATFORM}-cuda-13.0-sm90",
    f"{POWER}-cpu-power9",
    f"{POWER}-cuda-12.4-all",
)
OLD_CORE = f"vllm-core =={VERSION} h1111111_0"
OLD_BUILDS = (
    ("vllm-cpu", "h2222222_400", 400),
    ("vllm-cuda", "cuda130_all_h3333333_113000", 113000),
)
MACHINE = {"__unix": "0", "__linux": "6.1", "__glibc": "2.39", "__archspec": "zen4"}
GPU = {**MACHINE, "__cuda": "13.0", "__cuda_arch": "9.0"}


def test_what_the_engine_recipe_makes() -> None:
    assert tuple(name for name, *_ in site_channel.engine_records()) == NAMES


def names(specs: Sequence[str]) -> set[str]:
    return {spec.split()[0] for spec in specs}


def conda_forge(folder: Path) -> str:
    """Besides the libraries: every dependency of the engine, its own vllm, and what needs one."""
    channel = site_channel.Channel(folder)
    ((_, _, needs, _),) = (record for record in site_channel.engine_records() if record[0] == NAME)
    for name in sorted(names(needs) - {"python", "pytorch", *FORGE_LACKS}):
        versions = [spec.split()[1] for spec in needs if spec.split()[0] == name and " " in spec]
        text = versions[0].split(",")[0].strip("=><!*.") if versions else "1.0"
        channel.add("noarch", name, text, "h0_0")
    for version, build in itertools.product(
        (ENGINE, "0.32.0"), ("cpu_py312_h0_0", "cuda129_py_h0_0")
    ):
        depends = ["pytorch * cpu*" if build.startswith("cpu") else "pytorch * cuda*"]
        channel.add(PLATFORM, "vllm", version, build, depends)
    channel.add("noarch", "agent", "1.0", "h0_0", ["vllm >=0.20"])
    for version in ("12.4", "13.0"):
        channel.add(PLATFORM, "cuda-cudart", version, "h0_0", [f"cuda-version {version}.*"])
    return channel.write()


@pytest.fixture(scope="module")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Channels:
    folder = tmp_path_factory.mktemp("serving")
    channel = site_channel.Channel(folder / "own")
    for output in plan(ROOT, JOBS).distinct():
        channel.add(
            output.job.platform, output.name, output.version, output.build_string, output.run,
            output.constraints, output.build_number,
        )  # fmt: skip
    for name, build, depends, constrains in site_channel.engine_records():
        channel.add("noarch", name, ENGINE, build, depends, constrains)
    # What the engine's channel holds besides, of the version that is pinned.
    pins = wheels.parse(channel_module.wheels_text()).pins
    for name in FORGE_LACKS:
        channel.add("noarch", name, pins[name][0].partition("==")[2], "external_0")
    # What the names held before: kernels.
    channel.add(PLATFORM, "vllm-core", VERSION, "h1111111_0", ["pytorch >=2.11", "python"])
    for name, build, number in OLD_BUILDS:
        gpu = ["__cuda >=13"] if "cuda" in name else []
        channel.add(PLATFORM, name, VERSION, build, [OLD_CORE, *gpu], (), number)
    libraries = site_channel.library_channel(folder / "libraries")
    return Channels([channel.write(), conda_forge(folder / "forge"), libraries])


def solved(channels: Channels, *specs: str, machine: dict[str, str] = MACHINE) -> dict[str, str]:
    """Builds by package."""
    records = channels.solve(list(specs), PLATFORM, machine)
    return {record.name.normalized: str(record.build) for record in records}


def ours(found: dict[str, str]) -> set[str]:
    return {name for name in found if name.startswith("vllm")}


@pytest.mark.parametrize("machine", [MACHINE, GPU], ids=["no GPU", "GPU"])
def test_the_name_for_cpus_brings_what_serves(channels: Channels, machine: dict[str, str]) -> None:
    found = solved(channels, "vllm-cpu", machine=machine)
    assert ours(found) == {"vllm-cpu", "vllm-core", "vllm-kernels-cpu", NAME}
    assert found["vllm-cpu"].startswith("serve_h")
    assert found["vllm-kernels-cpu"].endswith("_400")
    assert found["pytorch"].startswith("cpu")


def test_the_name_for_gpus_brings_what_serves(channels: Channels) -> None:
    found = solved(channels, "vllm-cuda", machine=GPU)
    assert ours(found) == {"vllm-cuda", "vllm-core", "vllm-kernels-cuda", NAME}
    assert found["vllm-cuda"].startswith("serve_cuda130_h")
    assert found["vllm-kernels-cuda"].startswith("cuda130_all_")
    assert found["pytorch"].startswith("cuda130")
    older = solved(channels, "vllm-cuda", machine={**GPU, "__cuda": "12.6"})
    assert older["vllm-cuda"].startswith("serve_cuda124_h")
    assert older["vllm-kernels-cuda"].startswith("cuda124_all_")
    with pytest.raises(SolveError, match="__cuda"):
        solved(channels, "vllm-cuda")


def test_a_slice_and_the_kernels_of_both_devices_by_choice(channels: Channels) -> None:
    found = solved(channels, "vllm-cuda", "vllm-kernels-cuda * *_sm90_*", machine=GPU)
    assert found["vllm-kernels-cuda"].startswith("cuda130_sm90_")
    found = solved(channels, "vllm-cuda", "vllm-kernels-cpu", machine=GPU)
    assert {"vllm-kernels-cpu", "vllm-kernels-cuda"} <= found.keys()


@pytest.mark.parametrize(("name", "build", "number"), OLD_BUILDS)
def test_no_file_has_two_owners(channels: Channels, name: str, build: str, number: int) -> None:
    kernels = name.replace("vllm-", "vllm-kernels-")
    old = f"{name} =={VERSION} {build}"
    assert solved(channels, old, machine=GPU)[name] == build
    for wanted in (kernels, "vllm-kernels"):
        with pytest.raises(SolveError):
            solved(channels, old, wanted, OLD_CORE, machine=GPU)
    # An update takes what serves, though the old build's number is high.
    assert number < 200000
    assert solved(channels, name, machine=GPU)[name].startswith("serve_")


def test_kernels_alone_bring_no_engine(channels: Channels) -> None:
    found = solved(channels, "vllm-kernels", machine=GPU)
    assert NAME not in found
    assert "vllm" not in found


def test_what_depends_on_vllm_is_satisfied(channels: Channels) -> None:
    found = solved(channels, "agent", "vllm-cpu", machine=GPU)
    assert found["vllm"].startswith("engine_")
    assert found["pytorch"].startswith("cpu")
    found = solved(channels, "agent", "vllm-cuda", machine=GPU)
    assert found["vllm"].startswith("engine_")
    assert found["vllm-kernels-cuda"].startswith("cuda130_all_")
    found = solved(channels, "vllm", machine=GPU)
    assert {NAME, "vllm-kernels-cuda"} <= found.keys()
    found = solved(channels, "vllm")
    assert {NAME, "vllm-kernels-cpu"} <= found.keys()


def test_the_other_vllm_is_refused_beside_the_engine(channels: Channels) -> None:
    addresses = list(channels.addresses)
    # Its channel first, as of a user who wants that one; conda's priority is strict there.
    theirs = Channels([*addresses[1:], addresses[0]])
    assert solved(theirs, "vllm")["vllm"].startswith("cpu_py312")
    for build in ("cpu_*", "cuda129_*"):
        with pytest.raises(SolveError, match="vllm"):
            solved(theirs, NAME, f"vllm * {build}", machine=GPU)
        with pytest.raises(SolveError, match="vllm"):
            solved(theirs, "vllm-cpu * serve_*", f"vllm * {build}", machine=GPU)


def test_power_gets_kernels_alone_and_is_told_so(channels: Channels) -> None:
    assert not TARGETS.platforms[POWER].engine
    text = (
        f"schema: 1\nsite: test\nnodes:\n  a: {{platform: {POWER}, glibc: 2.28, "
        "archspec: power9le, cuda: 12.4, cuda_arch: [7.0]}\n"
    )
    for name in ("vllm-cpu", "vllm-cuda"):
        (result,) = check_site(parse_site(text, "site.yaml"), channels, [name])
        refusal = result.answers[0].refusal
        assert refusal is not None
        kernels = name.replace("vllm-", "vllm-kernels-")
        assert refusal.text == (
            f"no package {name} for {POWER}, where what the engine depends on does not exist; "
            f"{kernels} has the kernels alone"
        )
