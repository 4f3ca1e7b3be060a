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
from rattler import Version, VersionSpec
from support import ROOT, plan

from vllm_conda.choice import GpuNode, drivers, gpu_nodes
from vllm_conda.errors import SolveError
from vllm_conda.feedstock.support import configurations
from vllm_conda.jobs import jobs
from vllm_conda.recipe import load_recipe
from vllm_conda.render import Output, render
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
        if TARGETS.platforms[platform].engine:
            channel.add(platform, "vllm-engine", TARGETS.engine.release, "py_0")
            for name, build, needs, constrains in site_channel.engine_records():
                if name != "vllm-engine":
                    channel.add(platform, name, TARGETS.engine.release, build, needs, constrains)
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
            text = rf"\g<1>{number if ascending else 0xFFFFFFF - number:07x}_"
            build = re.sub(r"(\bh|_h)[0-9a-f]{7}_", text, output.build_string)
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


def build_of(
    channels: Channels,
    spec: str,
    node: GpuNode,
    knows_gpus: bool = True,
    package: str = "vllm-kernels-cuda",
) -> str:
    """The build of ``package`` that ``spec`` brings, up to its hash; empty without one."""
    try:
        records = channels.solve([spec], node.platform, machine(node, knows_gpus))
    except SolveError:
        return ""
    builds = {record.name.normalized: str(record.build) for record in records}
    return builds.get(package, "").rpartition("_h")[0]


def order(node: GpuNode) -> list[str]:
    """Toolkits of the platform that the driver runs, in the order in which a node shall get them.

    First those that are made for the driver, the newest first. Then, by minor-version
    compatibility, newer ones of the driver's major version, the oldest first.
    """
    driver = parse_version(node.cuda)
    offered = [v for v, toolkit in CUDA.toolkits.items() if node.platform in toolkit.platforms]
    runs = [version for version in offered if parse_version(version)[0] <= driver[0]]
    own = [version for version in runs if made_for(version, node, offered)]
    newer = [version for version in runs if version not in own]
    return [*sorted(own, key=parse_version, reverse=True), *sorted(newer, key=parse_version)]


def made_for(version: str, node: GpuNode, offered: list[str]) -> bool:
    """Whether the toolkit is not newer than the driver, or the oldest with code for a GPU that
    came with the driver: 12.9 for the driver for 12.8, the first for Blackwell."""
    if parse_version(version) <= parse_version(node.cuda):
        return True

    def codes(one: str) -> set[str]:
        archs = CUDA.default_archs(one, node.platform)
        gpus = (GpuNode(node.platform, node.cuda, gpu) for gpu in CUDA.gpus(node.platform))
        return {gpu.gpu for gpu in gpus if known(gpu) and CUDA.has_code(archs, gpu.gpu)}

    major = parse_version(version)[0]
    older = [o for o in offered if (major, 0) <= parse_version(o) < parse_version(version)]
    return bool(older) and bool(codes(version) - set().union(*map(codes, older)))


def known(node: GpuNode) -> bool:
    """Whether a driver of that version knows the GPU at all."""
    return parse_version(CUDA.archs[node.gpu].since) <= parse_version(node.cuda)


def right(node: GpuNode) -> set[str]:
    """The first with machine code for the GPU, else the first with PTX that the driver takes."""
    if not known(node):  # no such node; but what a client does with it shall not be wrong either
        return {"", *(f"cuda{v.replace('.', '')}_all" for v in order(node))}
    every = [(v, CUDA.default_archs(v, node.platform)) for v in order(node)]
    for fits in (CUDA.has_code, CUDA.serves):
        for version, archs in every:
            lowest = min(archs, key=lambda arch: parse_version(arch.removesuffix("+PTX")))
            reached = parse_version(lowest.removesuffix("+PTX")) <= parse_version(node.gpu)
            if reached and fits(archs, node.gpu):
                return {f"cuda{version.replace('.', '')}_all"}
    return {""}


def between(drivers_of_table: list[str]) -> list[str]:
    """Drivers of other versions than any toolkit, between and above those of the table."""
    found = {parse_version(version) for version in drivers_of_table}
    newest = max(found)
    found |= {(major, minor + 1) for major, minor in found} | {(newest[0] + 1, 0)}
    sinces = {parse_version(arch.since) for arch in CUDA.archs.values()}
    found |= {since for since in sinces if since > min(found)}
    return [f"{major}.{minor}" for major, minor in sorted(found)]


ALL_JOBS = jobs(TARGETS)
DRIVERS = between(drivers(TARGETS))
NODES = [
    GpuNode(platform, cuda, gpu)
    for platform in CPUS
    for cuda, gpu in itertools.product(DRIVERS, CUDA.gpus(platform))
]


@pytest.mark.parametrize("spec", ["vllm-kernels", "vllm-kernels-cuda", "vllm-cuda", "vllm"])
def test_newest_cuda_of_the_driver_with_code_for_the_gpu(channels: Channels, spec: str) -> None:
    assert {node.platform for node in NODES} == set(TARGETS.platforms)
    assert set(gpu_nodes(TARGETS, "linux-64")) < set(NODES)
    wrong = {}
    kernels = spec.startswith("vllm-kernels")
    nodes = [n for n in NODES if kernels or TARGETS.platforms[n.platform].engine]
    for node in nodes:
        build = build_of(channels, spec, node)
        if build not in right(node):
            wrong[str(node)] = build, right(node)
    assert not wrong


OPTIONAL = {name: package.slice for name, package in TARGETS.packages.items() if package.slice}


@pytest.mark.parametrize("name", list(OPTIONAL))
def test_packages_for_one_kind_of_gpu(channels: Channels, name: str) -> None:
    """Only those GPUs get it, and of the CUDA versions the one that the rest of the order says;
    beside the general kernels too, which take the same version."""
    piece = CUDA.slices[OPTIONAL[name]]
    wrong = {}
    for node in NODES:
        makes = any(
            job.platform == node.platform and job.slice == OPTIONAL[name] for job in ALL_JOBS
        )
        inside = parse_version(piece.lowest) <= parse_version(node.gpu) < parse_version(piece.below)
        versions = order(node) if makes and inside else []
        wanted = f"cuda{versions[0].replace('.', '')}" if versions else ""
        alone = build_of(channels, name, node, package=name)
        if alone.partition("_")[0] != wanted:
            wrong[str(node)] = alone, wanted
    assert not wrong


def test_nodes_of_real_sites(channels: Channels) -> None:
    for platform, cuda, gpu, wanted in (
        ("linux-64", "13.0", "9.0", "cuda130_all"),  # H200
        ("linux-64", "13.0", "12.0", "cuda130_all"),  # RTX 5090
        ("linux-64", "13.0", "10.0", "cuda130_all"),  # B200
        ("linux-64", "13.4", "9.0", "cuda134_all"),
        ("linux-64", "13.3", "9.0", "cuda130_all"),
        ("linux-64", "12.2", "8.0", "cuda124_all"),  # A100
        ("linux-64", "12.6", "8.0", "cuda124_all"),
        # The first driver for Blackwell: it runs 12.9 as well, which alone has code for it.
        ("linux-64", "12.8", "10.0", "cuda129_all"),
        ("linux-64", "12.8", "12.0", "cuda129_all"),
        ("linux-64", "12.9", "10.0", "cuda129_all"),
        ("linux-aarch64", "13.1", "9.0", "cuda130_all"),  # GH200
        ("linux-aarch64", "12.6", "8.7", ""),  # Jetson Orin
        ("linux-aarch64", "13.0", "8.7", "cuda130_all"),
        ("linux-ppc64le", "12.4", "7.0", "cuda124_all"),  # AC922
    ):
        node = GpuNode(platform, cuda, gpu)
        assert build_of(channels, "vllm-kernels", node) == wanted, node


def test_slices_take_the_cuda_of_the_driver_too(channels: Channels) -> None:
    for name, piece in CUDA.slices.items():
        for platform, cuda in itertools.product(CPUS, DRIVERS):
            node = GpuNode(platform, cuda, piece.lowest)
            if not piece.archs or not known(node):
                continue
            made = {
                job.cuda for job in jobs(TARGETS) if (job.platform, job.slice) == (platform, name)
            }
            wanted = next((v for v in order(node) if v in made), "")
            build = f"cuda{wanted.replace('.', '')}_{name}" if wanted else ""
            assert build_of(channels, f"vllm-kernels-cuda * *_{name}_*", node) == build, node


def test_client_that_does_not_know_the_gpu(channels: Channels) -> None:
    for platform, cuda in itertools.product(CPUS, DRIVERS):
        node = GpuNode(platform, cuda, "")
        fitting = [f"cuda{v.replace('.', '')}_all" for v in order(node)]
        build = build_of(channels, "vllm-kernels", node, knows_gpus=False)
        assert build == (fitting[0] if fitting else ""), node


def test_driver_older_than_every_toolkit_gets_the_cpu_build(channels: Channels) -> None:
    for platform in CPUS:
        node = GpuNode(platform, OLD_DRIVER, "8.0")
        assert build_of(channels, "vllm-kernels-cuda", node) == ""
        records = channels.solve(["vllm-kernels"], platform, machine(node))
        assert "vllm-kernels-cpu" in {record.name.normalized for record in records}


def test_dependency_that_a_client_without_constraints_applies() -> None:
    """conda's classic solver applies no constraint on virtual packages, so each CUDA package
    depends on the driver of its major version."""
    outputs = [output for output in rendered() if output.name == "vllm-kernels-cuda"]
    assert {o.job.cuda for o in outputs} == set(CUDA.toolkits)
    for output in outputs:
        drivers_asked = [spec for spec in output.run if spec.split()[0] == "__cuda"]
        assert len(drivers_asked) == 1
        bound = VersionSpec(drivers_asked[0].split()[1])
        assert bound.matches(Version(output.job.cuda))
        assert not bound.matches(Version(f"{int(output.job.cuda.partition('.')[0]) - 1}.9"))


def test_a_feedstock_with_one_toolkit_a_major_asks_for_the_major_alone() -> None:
    recipe = load_recipe(ROOT)
    made = [one for one in configurations(TARGETS, recipe) if one.job.cuda]
    majors = [(one.job.platform, one.job.cuda.partition(".")[0]) for one in made]
    assert len(set(majors)) == len(majors)
    for one in made:
        keys = {k: v for k, v in one.keys.items() if k not in ("zip_keys", "pin_run_as_build")}
        found = [o for o in render(recipe, one.job, keys) if o.name == "vllm-kernels-cuda"]
        assert [f"__cuda >={one.job.cuda.partition('.')[0]}" in o.run for o in found] == [True]
