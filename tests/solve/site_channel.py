"""Channels of the shape that the recipe's outputs have, written as repodata alone.

Solving needs no package files, so every platform, level and CUDA build can be there without having
been built. Names, dependencies and build numbers follow recipe/recipe.yaml and conda-forge:
`cuda-version` and `cuda-arch` only constrain the virtual packages, level packages match the
`__archspec` build against a list of names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import archspec.cpu
from rattler_build import Stage0Recipe, Stage1Recipe, VariantConfig
from support import ROOT, VERSION

from vllm_conda.engine.package import PACKAGE_HASH
from vllm_conda.recipe import ENGINE_RECIPE_FILE
from vllm_conda.render import Output

GLIBC = "__glibc >=2.28,<3.0.a0"
# platform: (level package, level -> the oldest CPU of it)
LEVELS: dict[str, tuple[str, dict[str, str]]] = {
    "linux-64": ("_x86_64-microarch-level", {"3": "x86_64_v3", "4": "x86_64_v4"}),
    "linux-aarch64": ("_aarch64-microarch-level", {"1": "armv8.2a"}),
    "linux-ppc64le": ("_ppc64le-microarch-level", {"9": "power9le", "10": "power10le"}),
}
CUDA = {"linux-64": ("12.4", "13.0"), "linux-aarch64": ("13.0",), "linux-ppc64le": ()}
ROCM = ("linux-64",)
ROCM_ARCHS = "==9.0.10|==9.4.2|==11.0.0|==12.0.1"
ARCHS = ("7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


class Channel:
    """Collects records and writes them as repodata."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, dict[str, dict[str, Any]]] = {"noarch": {}}

    def add(
        self,
        subdir: str,
        name: str,
        version: str,
        build: str,
        depends: Sequence[str] = (),
        constrains: Sequence[str] = (),
        number: int = 0,
    ) -> None:
        file = f"{name}-{version}-{build}.conda"
        self.records.setdefault(subdir, {})[file] = {
            "name": name,
            "version": version,
            "build": build,
            "build_number": number,
            "depends": list(depends),
            "constrains": list(constrains),
            "subdir": subdir,
            "md5": hashlib.md5(f"{subdir}/{file}".encode()).hexdigest(),  # noqa: S324
            "sha256": hashlib.sha256(f"{subdir}/{file}".encode()).hexdigest(),
            "size": 1,
            "timestamp": 1795468641324,
        }

    def write(self) -> str:
        """Write repodata for every subdir used; returns the channel's address."""
        for subdir, records in self.records.items():
            data = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": records}
            (self.folder / subdir).mkdir(parents=True, exist_ok=True)
            (self.folder / subdir / "repodata.json").write_text(json.dumps(data))
        return self.folder.as_uri()


def matcher(oldest: str) -> str:
    """CPU names that run what is compiled for ``oldest``."""
    targets = archspec.cpu.TARGETS
    names = sorted(name for name, cpu in targets.items() if cpu >= targets[oldest])
    return f'__archspec 1.*[build="^({"|".join(names)})$"]'


def rendered_channel(folder: Path, outputs: Iterable[Output]) -> str:
    """The metadata of packages as the recipe renders them."""
    channel = Channel(folder)
    for output in outputs:
        channel.add(
            output.job.platform, output.name, output.version, output.build_string, output.run,
            output.constraints, output.build_number,
        )  # fmt: skip
    return channel.write()


def engine_records() -> list[tuple[str, str, list[str], list[str]]]:
    """Name, build, dependencies and constraints of the engine recipe's packages."""
    recipe = Stage0Recipe.from_file(ROOT / ENGINE_RECIPE_FILE)
    found = []
    for rendered in recipe.render(VariantConfig({PACKAGE_HASH: ["0" * 16]})):
        one = rendered.recipe
        found.append((one.package.name, str(one.build.string), *needs_of(one)))
    return found


def needs_of(recipe: Stage1Recipe) -> tuple[list[str], list[str]]:
    """Dependencies and constraints of a rendered package."""
    found = recipe.requirements.to_dict()
    run, constraints = (
        [str(spec) for spec in found.get(key, ())] for key in ("run", "run_constraints")
    )
    return run, constraints


def own_channel(folder: Path) -> str:
    """What `./run build` makes, on every platform and with CUDA."""
    channel = Channel(folder)
    for platform, (level_package, levels) in LEVELS.items():
        core = f"vllm-core =={VERSION} h0_0"
        common = [core, "libtorch >=2.11", "libstdcxx >=12", "libgcc >=12"]
        needs = ["python >=3.10", "pytorch >=2.11", "libtorch >=2.11", GLIBC]
        channel.add(platform, "vllm-core", VERSION, "h0_0", needs)
        for level in levels:
            depends = [*common, "libgomp", "onednn >=3.2,<4", GLIBC, f"{level_package} >={level}"]
            number = 100 * int(level)
            channel.add(
                platform, "vllm-kernels-cpu", VERSION, f"h{level}_{number}", depends, (), number
            )
        channel.add(platform, "vllm-kernels", VERSION, "cpu_0", [f"vllm-kernels-cpu =={VERSION}"])
        if platform in ROCM:
            needs = ["pytorch * rocm*", "__amdgpu", f"__amdgpu_arch {ROCM_ARCHS}", GLIBC]
            channel.add(
                platform, "vllm-kernels-rocm", VERSION, "hip6_h0_5000", [*common, *needs], (), 5000
            )
        for cuda in CUDA[platform]:
            _cuda_packages(channel, platform, cuda, common)
    return channel.write()


def _cuda_packages(channel: Channel, platform: str, cuda: str, common: Sequence[str]) -> None:
    major = int(cuda.partition(".")[0])
    tag = f"cuda{cuda.replace('.', '')}"
    rank = 100 * int(cuda.replace(".", ""))
    number = 100000 + rank
    every = f"{tag}_all_h0_{number}"
    runtime = [f"__cuda >={major}", f"cuda-version >={cuda},<{major + 1}", "pytorch * cuda*"]
    channel.add(
        platform,
        "vllm-kernels-cuda",
        VERSION,
        every,
        [*common, *runtime, GLIBC, "cuda-arch >=7.5"],
        number=number,
    )
    # Code for one GPU generation: a bound from above too.
    channel.add(
        platform,
        "vllm-flashmla",
        VERSION,
        f"{tag}_sm90a_{number}",
        [*common, *runtime, GLIBC, "cuda-arch >=9.0"],
        ["__cuda_arch >=9.0,<10.0a0"],
        number,
    )
    meta = [f"vllm-kernels-cuda =={VERSION} {every}"]
    channel.add(platform, "vllm-kernels", VERSION, f"{tag}_h0_{rank}", meta, (), rank)


def library_channel(folder: Path, without: Sequence[tuple[str, str]] = ()) -> str:
    """What a build takes from conda-forge; ``without`` leaves out (platform, package)."""
    channel = Channel(folder)
    for level_package, levels in LEVELS.values():
        for level, oldest in levels.items():
            channel.add("noarch", level_package, level, f"level_{level}", [matcher(oldest)])
    for version in ("12.4", "13.0"):
        major = version.partition(".")[0]
        channel.add("noarch", "cuda-version", version, "h0_0", (), [f"__cuda >={major}"])
    for arch in ARCHS:
        channel.add("noarch", "cuda-arch", arch, "h0_0", (), [f"__cuda_arch >={arch}"])
    for platform in LEVELS:
        _libraries(channel, platform)
    for platform, name in without:
        records = channel.records[platform]
        for file in [file for file, record in records.items() if record["name"] == name]:
            del records[file]
    return channel.write()


def _libraries(channel: Channel, platform: str) -> None:
    glibc = "__glibc >=2.17,<3.0.a0"
    for name, version in (("python", "3.12.1"), ("libgcc", "15.2"), ("libstdcxx", "15.2")):
        channel.add(platform, name, version, "h0_0", [glibc])
    for name, version in (("libgomp", "15.2"), ("onednn", "3.7.2")):
        channel.add(platform, name, version, "h0_0", [glibc])
    for build, number, extra in (
        ("cpu", 1, []),
        *((("rocm", 0, []),) if platform in ROCM else ()),
        *((f"cuda{c.replace('.', '')}", 200, [c]) for c in CUDA[platform]),
    ):
        depends = [glibc, "python >=3.10"]
        for cuda in extra:
            depends += ["__cuda", f"cuda-version >={cuda},<{int(cuda.partition('.')[0]) + 1}"]
        channel.add(platform, "libtorch", "2.13.0", f"{build}_{number}", depends, (), number)
        exact = f"libtorch ==2.13.0 {build}_{number}"
        channel.add(platform, "pytorch", "2.13.0", f"{build}_{number}", [exact], (), number)
