"""What a package was built for, written into it: the audit needs no checkout, nor the right one.

``info/built_for.json`` holds what the table said of the package's job when it was made. A package
is held to that, whichever ``targets.toml`` is at hand: a tier that was added later is none of an
older package's, and one that was removed is still its own.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cattrs

from vllm_conda.structure import GROUPS, load_json
from vllm_conda.targets import Targets
from vllm_cuda_plan.plan import plan_family, read_request

FILE = "info/built_for.json"
# What a package's GPU code is: one file a component of the build, of which a package holds one.
SUMMARY = "cuda*.json"
ROCM_SUMMARY = "rocm.json"
SCHEMA = 1


@dataclass(frozen=True)
class GpuCode:
    """Architectures of one family's library (``9.0a``), and those with PTX."""

    archs: tuple[str, ...]
    ptx: tuple[str, ...]


@dataclass(frozen=True)
class BuiltFor:
    """What the table promises of one package.

    Attributes:
        platform: conda's name; empty where a table of a checkout stands in, for all platforms.
        glibc: The oldest C library that it runs on.
        libstdcxx: The oldest GCC release whose run-time libraries suffice.
        tiers: Compiler options of each tier that is chosen at run time; none without CPU kernels.
        cuda: GPU code by kernel family; None without GPU code.
        rocm: gfx targets of every library; None without code for AMD GPUs.
    """

    platform: str
    glibc: str
    libstdcxx: int
    tiers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cuda: Mapping[str, GpuCode] | None = None
    rocm: tuple[str, ...] | None = None


def tiers_of(targets: Targets, family: str, level: int | None) -> dict[str, tuple[str, ...]]:
    """Tiers of a CPU level and their options; none for code that every CPU of the family runs."""
    entry = targets.levels.get(family, {}).get(str(level))
    return {name: tuple(targets.tiers[family][name].flags) for name in entry.tiers} if entry else {}


def gpu_code(targets: Targets, summary: Mapping[str, Any], platform: str) -> dict[str, GpuCode]:
    """What the table makes of the request that ``cuda.json`` records.

    Raises:
        ConfigError, KeyError, TypeError: It records none that the table knows.
    """
    table = targets.cuda
    request = read_request(table, summary["cuda"], summary["request"], platform)
    found = {}
    for family, entry in summary["families"].items():
        if family in table.families and (entry["archs"] or entry["ptx"]):
            parts = [*entry["parts"], *entry["parts_left_out"]]
            plan = plan_family(table, summary["cuda"], family, request, parts)
            found[family] = GpuCode(tuple(map(str, plan.all_codes)), tuple(plan.ptx))
    return found


def describe(targets: Targets, platform: str, level: int | None, content: Path) -> BuiltFor:
    """What an unpacked package is for.

    Args:
        level: The CPU level of a package with CPU kernels.
    """
    entry = targets.platforms[platform]
    folder = content / "lib" / "vllm_kernels"
    cuda: dict[str, GpuCode] | None = None
    for summary in sorted(folder.glob(SUMMARY)):
        cuda = (cuda or {}) | gpu_code(targets, load_json(summary.read_bytes()), platform)
    tiers = tiers_of(targets, entry.family, level)
    rocm = targets.rocm.archs if (folder / ROCM_SUMMARY).is_file() else None
    return BuiltFor(platform, entry.glibc, entry.libstdcxx, tiers, cuda, rocm)


def write(content: Path, built_for: BuiltFor) -> None:
    """Put it into an unpacked package."""
    document = {"schema": SCHEMA, **dataclasses.asdict(built_for)}
    (content / FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read(data: bytes) -> BuiltFor:
    """Read the file.

    Raises:
        ValueError: It is damaged, or of a newer toolkit.
    """
    document = load_json(data)
    try:
        if document.pop("schema") != SCHEMA:
            raise ValueError("it is of another version of this toolkit")
        return cattrs.structure(document, BuiltFor)
    except (KeyError, TypeError, AttributeError, *GROUPS) as error:
        raise ValueError(f"it is malformed: {type(error).__name__}") from None
