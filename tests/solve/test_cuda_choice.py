"""Each GPU of the table under each driver of the table gets the CUDA build that is right for it.

The packages are those of every job, as rendered; what is right follows from the table alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from functools import cache
from pathlib import Path

import pytest
import site_channel
from support import ROOT, plan

from vllm_conda.choice import GpuNode, drivers, gpu_nodes
from vllm_conda.errors import SolveError
from vllm_conda.jobs import jobs
from vllm_conda.recipe import Output
from vllm_conda.site.channels import Channels
from vllm_conda.targets import load_targets
from vllm_cuda_plan.arch import parse_version

TARGETS = load_targets(ROOT)
CUDA = TARGETS.cuda
CPUS = {"linux-64": "zen4", "linux-aarch64": "neoverse_v2", "linux-ppc64le": "power9le"}
OLD_DRIVER = f"{int(CUDA.minimum.partition('.')[0]) - 1}.4"


@cache
def rendered() -> list[Output]:
    return list(plan(ROOT, [job.name for job in jobs(TARGETS)]).distinct())


def library_channel(folder: Path) -> str:
    """PyTorch and CUDA's run time for each toolkit, and what the CPU packages need."""
    channel = site_channel.Channel(folder)
    for version in CUDA.toolkits:
        major = version.partition(".")[0]
        channel.add("noarch", "cuda-version", version, "h0_0", (), [f"__cuda >={major}"])
    for platform in CPUS:
        for name in ("python", "onednn", "libgomp"):
            channel.add(platform, name, "3.12", "h0_0")
        channel.add(platform, "libtorch", "2.13.0", "cpu_0")
        channel.add(platform, "pytorch", "2.13.0", "cpu_0", ["libtorch * cpu_0"])
        for version in CUDA.toolkits:
            needs = [f"cuda-version >={version},<{int(version.partition('.')[0]) + 1}"]
            build = f"cuda{version.replace('.', '')}_0"
            channel.add(platform, "cuda-cudart", version, "h0_0", needs)
            channel.add(platform, "libtorch", "2.13.0", build, needs)
            channel.add(platform, "pytorch", "2.13.0", build, [f"libtorch * {build}", *needs])
    for family in ("x86_64", "aarch64", "ppc64le"):
        channel.add("noarch", f"_{family}-microarch-level", "10", "h0_0")
    return channel.write()


def with_hashes(outputs: list[Output], ascending: bool) -> list[Output]:
    """CUDA packages with other hashes, as edited sources would give; nothing pins them."""
    found = []
    for number, output in enumerate(outputs):
        if output.job.cuda and output.name != "vllm-core":
            text = f"h{number if ascending else 0xFFFFFFF - number:07x}_"
            build = re.sub(r"h[0-9a-f]{7}_", text, output.build_string)
            output = dataclasses.replace(output, build_string=build)
        found.append(output)
    return found


@pytest.fixture(scope="module", params=["as rendered", "ascending hashes", "descending hashes"])
def channels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Channels:
    folder = tmp_path_factory.mktemp("choice")
    outputs = rendered()
    if "hashes" in request.param:
        outputs = with_hashes(outputs, request.param.startswith("ascending"))
    own = site_channel.rendered_channel(folder / "own", outputs)
    return Channels([own, library_channel(folder / "libraries")])


def machine(node: GpuNode, knows_gpus: bool = True) -> dict[str, str]:
    found = {"__unix": "0", "__linux": "6.1", "__glibc": "2.39", "__cuda": node.cuda}
    found["__archspec"] = CPUS[node.platform]
    return {**found, "__cuda_arch": node.gpu} if knows_gpus else found


def build_of(channels: Channels, spec: str, node: GpuNode, knows_gpus: bool = True) -> str:
    """The build of vllm-cuda that ``spec`` brings; empty without one."""
    try:
        records = channels.solve([spec], node.platform, machine(node, knows_gpus))
    except SolveError:
        return ""
    builds = {record.name.normalized: str(record.build) for record in records}
    return builds.get("vllm-cuda", "").rpartition("_h")[0]


def runnable(node: GpuNode) -> list[str]:
    """Toolkits whose machine code the driver runs, the newest first."""
    major = parse_version(node.cuda)[0]
    found = [
        version
        for version, toolkit in CUDA.toolkits.items()
        if node.platform in toolkit.platforms and parse_version(version)[0] <= major
    ]
    return sorted(found, key=parse_version, reverse=True)


def right(node: GpuNode) -> str:
    """The newest with machine code, else the newest with PTX that the GPU may use."""
    every = [(v, CUDA.default_archs(v, node.platform)) for v in runnable(node)]
    for fits in (CUDA.has_code, CUDA.serves):
        for version, archs in every:
            lowest = min(archs, key=lambda arch: parse_version(arch.removesuffix("+PTX")))
            reached = parse_version(lowest.removesuffix("+PTX")) <= parse_version(node.gpu)
            if reached and fits(archs, node.gpu):
                return f"cuda{version.replace('.', '')}_all"
    return ""


NODES = [node for platform in CPUS for node in gpu_nodes(TARGETS, platform)]


@pytest.mark.parametrize("spec", ["vllm-kernels", "vllm-cuda"])
def test_newest_cuda_with_code_for_the_gpu(channels: Channels, spec: str) -> None:
    assert {node.platform for node in NODES} == set(TARGETS.platforms)
    found = {str(node): build_of(channels, spec, node) for node in NODES}
    assert found == {str(node): right(node) for node in NODES}


def test_what_was_wrong_is_right(channels: Channels) -> None:
    """Nodes of real sites, by hand: none of them gets the build with PTX alone any more."""
    for platform, cuda, gpu, wanted in (
        ("linux-64", "13.0", "9.0", "cuda134_all"),
        ("linux-64", "13.0", "12.0", "cuda134_all"),
        ("linux-64", "13.0", "10.0", "cuda134_all"),
        ("linux-64", "12.2", "8.0", "cuda129_all"),
        ("linux-aarch64", "13.1", "9.0", "cuda134_all"),
        ("linux-aarch64", "12.6", "8.7", ""),
        ("linux-aarch64", "13.0", "8.7", "cuda134_all"),
        ("linux-ppc64le", "12.4", "7.0", "cuda124_all"),
    ):
        node = GpuNode(platform, cuda, gpu)
        assert build_of(channels, "vllm-kernels", node) == wanted, node


def test_slices_take_the_newest_cuda_too(channels: Channels) -> None:
    for name, piece in CUDA.slices.items():
        for platform, cuda in itertools.product(CPUS, drivers(TARGETS)):
            node = GpuNode(platform, cuda, piece.lowest)
            made = {
                job.cuda for job in jobs(TARGETS) if (job.platform, job.slice) == (platform, name)
            }
            wanted = next((v for v in runnable(node) if v in made), "") if piece.archs else ""
            if not wanted:
                continue
            build = f"cuda{wanted.replace('.', '')}_{name}"
            assert build_of(channels, f"vllm-cuda * *_{name}_*", node) == build, node


def test_client_that_does_not_know_the_gpu(channels: Channels) -> None:
    for platform, cuda in itertools.product(CPUS, drivers(TARGETS)):
        node = GpuNode(platform, cuda, "")
        newest = f"cuda{runnable(node)[0].replace('.', '')}_all" if runnable(node) else ""
        assert build_of(channels, "vllm-kernels", node, knows_gpus=False) == newest, node


def test_driver_older_than_every_toolkit_gets_the_cpu_build(channels: Channels) -> None:
    for platform in CPUS:
        node = GpuNode(platform, OLD_DRIVER, "8.0")
        assert build_of(channels, "vllm-cuda", node) == ""
        records = channels.solve(["vllm-kernels"], platform, machine(node))
        assert "vllm-cpu" in {record.name.normalized for record in records}


def test_dependency_that_a_client_without_constraints_applies() -> None:
    """conda's classic solver applies no constraint on virtual packages, so each CUDA package
    depends on the driver of its major version."""
    outputs = [output for output in rendered() if output.name == "vllm-cuda"]
    assert {o.job.cuda for o in outputs} == set(CUDA.toolkits)
    for output in outputs:
        assert f"__cuda >={output.job.cuda.partition('.')[0]}" in output.run
