"""``conda_build_config.yaml``: the axes, in the form that merges with conda-forge's global pins.

conda-build replaces a zipped key only together with its whole group (or by as many values), and a
key stands in one group. So conda-forge's compiler group is restated whole, in its own order, with
one row a CUDA version; so is the group of Python versions, of which one is enough for
version-independent packages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vllm_conda.errors import ConfigError
from vllm_conda.jobs import (
    ALL_SLICE,
    CUDA,
    ENGINE_KEY,
    NO_CUDA,
    ROCM,
    Job,
    arch_range,
    bound_key,
    jobs,
    unserved_gpus,
    variant_keys,
)
from vllm_conda.platforms import Platform
from vllm_conda.targets import Targets
from vllm_cuda_plan.arch import parse_version

# conda-forge's groups, keys in its order: groups are merged by equality.
COMPILER_GROUP = (
    "c_compiler_version",
    "cxx_compiler_version",
    "fortran_compiler_version",
    "c_stdlib_version",
    "cuda_compiler_version",
)
PYTHON_GROUP = ("python", "is_python_min")
# conda-smithy sets it where a recipe uses the CUDA compiler; conda-forge's own files test it.
_CUDA_ENABLED = 'os.environ.get("CF_CUDA_ENABLED", "False") == "True"'


@dataclass(frozen=True)
class Row:
    """One row of the compiler group; ``compiler`` empty: conda-forge's own."""

    compiler: str
    c_stdlib_version: str
    cuda: str

    def value(self, key: str) -> str:
        if key == "c_stdlib_version":
            return self.c_stdlib_version
        return self.cuda if key == "cuda_compiler_version" else self.compiler


def feedstock_jobs(targets: Targets) -> list[Job]:
    """What conda-forge builds: no slice that one asks for, no CUDA version without its nvcc, and
    nothing for ROCm, which it has no PyTorch for."""
    return [job for job in jobs(targets) if not job.opt_in and _offered(targets, job)]


def _offered(targets: Targets, job: Job) -> bool:
    if job.device == ROCM:
        return False
    return job.device != CUDA or bool(targets.cuda.toolkits[job.cuda].conda_forge)


def rows(targets: Targets, platform: str) -> list[Row]:
    """The compiler group on one platform: no CUDA first, then each CUDA version.

    All rows have one compiler, that of the CUDA version that takes the oldest, and one C library,
    or vllm-core, which uses both, would be a different package from each job and no environment
    could hold CPU and CUDA packages. Platforms without CUDA here restate the group too:
    conda-forge's may have CUDA versions there.
    """
    stdlib = targets.platforms[platform].variant.c_stdlib_version
    versions = list(
        dict.fromkeys(
            job.cuda
            for job in feedstock_jobs(targets)
            if job.platform == platform and job.device == CUDA
        )
    )
    toolkits = targets.cuda.toolkits.values()
    newest = [toolkit.gcc[1] for toolkit in toolkits if toolkit.conda_forge]
    compiler = str(min(newest)) if newest else ""
    return [Row(compiler, stdlib, version) for version in (NO_CUDA, *versions)]


def conda_build_config(targets: Targets) -> str:
    """The file's text, below its header."""
    text = "# Axes. A job with CUDA takes the lowest level: the recipe skips the rest.\n"
    text += _per_platform(targets, "microarch_level", lambda p: [str(n) for n in p.levels])
    text += _per_platform(targets, "microarch_floor", lambda p: [str(p.levels[0])])
    text += f"cuda_slice:\n  - {ALL_SLICE}\ncuda_arch_bound:\n"
    for platform in targets.platforms:
        if bound := feedstock_bound(targets, platform):
            text += f'  - "{bound}"  # [{_selector(targets, platform)}]\n'
    for key, bounds in slice_bounds(targets).items():
        text += f"{key}:\n" + "".join(
            f'  - "{bound}"  # [{_selector(targets, platform)}]\n'
            for platform, bound in bounds.items()
        )
    without = [p for p, entry in targets.platforms.items() if not entry.engine]
    if without:
        text += f"{ENGINE_KEY}:\n"
        text += "".join(f"  - none  # [{_selector(targets, platform)}]\n" for platform in without)
    text += (
        "# conda-forge's own group, whole: one compiler and one C library for all CUDA versions\n"
        "# keep vllm-core one package a platform. A new CUDA version is an entry of targets.toml.\n"
    )
    for key in COMPILER_GROUP:
        lines = ""
        for platform in targets.platforms:
            for row in rows(targets, platform):
                if value := row.value(key):
                    written = value if value == NO_CUDA else f'"{value}"'
                    lines += f"  - {written}  # [{_condition(targets, platform, row)}]\n"
        if lines:
            text += f"{key}:\n{lines}"
    text += (
        "# The packages hold for every Python from this one on, so one is enough to build with.\n"
        f'python:\n  - "{python_spec(targets)}"\nis_python_min:\n  - true\n'
        "zip_keys:\n"
    )
    enabled = f"linux and {_CUDA_ENABLED}"
    for number, key in enumerate(COMPILER_GROUP):
        condition = enabled if key in ("c_stdlib_version", "cuda_compiler_version") else "linux"
        text += f"  {'-' if number == 0 else ' '} - {key}  # [{condition}]\n"
    text += f"  - - {PYTHON_GROUP[0]}\n    - {PYTHON_GROUP[1]}\n"
    return text


def python_spec(targets: Targets) -> str:
    """conda-forge's spelling of the oldest Python."""
    minor = parse_version(targets.project.python_min)[1]
    suffix = "cpython" if minor <= 12 else f"cp3{minor}"
    return f"{targets.project.python_min}.* *_{suffix}"


def slice_bounds(targets: Targets) -> dict[str, dict[str, str]]:
    """The ``__cuda_arch`` of each package for one kind of GPU: by variant key, then platform."""
    found: dict[str, dict[str, str]] = {}
    for name in (name for name, package in targets.packages.items() if package.slice):
        key = bound_key(name)
        for job in feedstock_jobs(targets):
            if bound := variant_keys(targets, job).get(key):
                found.setdefault(key, {})[job.platform] = bound
    return found


def feedstock_bound(targets: Targets, platform: str) -> str:
    """The one ``__cuda_arch`` bound of a platform's CUDA packages; empty without any.

    The key cannot differ by CUDA version, whose group is conda-forge's. So it leaves out what any
    of the versions has no code for.
    """
    chosen = [
        job for job in feedstock_jobs(targets) if (job.platform, job.device) == (platform, CUDA)
    ]
    ranges = {arch_range(targets, job) for job in chosen}
    if len(ranges) > 1:
        raise ConfigError(
            f"targets.toml: [cuda.toolkits]: the feedstock's toolkits begin at different "
            f"architectures ({', '.join(sorted(ranges))}), which one key cannot say.",
            "Give them the same lowest architecture.",
        )
    lacking = {gpu for job in chosen for gpu in unserved_gpus(targets, job)}
    return ",".join([*ranges, *(f"!={gpu}" for gpu in sorted(lacking, key=parse_version))])


def _per_platform(targets: Targets, key: str, values: Callable[[Platform], list[str]]) -> str:
    lines = f"{key}:\n"
    for name, platform in targets.platforms.items():
        for value in values(platform):
            lines += f'  - "{value}"  # [{_selector(targets, name)}]\n'
    return lines


def _condition(targets: Targets, platform: str, row: Row) -> str:
    selector = _selector(targets, platform)
    return selector if row.cuda == NO_CUDA else f"{selector} and {_CUDA_ENABLED}"


def _selector(targets: Targets, subdir: str) -> str:
    return f"{subdir.partition('-')[0]} and {targets.platforms[subdir].machine}"
