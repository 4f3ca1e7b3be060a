"""What CMake, the compiler and the toolkit read: tables as text that needs no TOML parser."""

from __future__ import annotations

import dataclasses
import json
import sys

from vllm_conda.generate.text import header
from vllm_conda.targets import TARGETS_FILE, Targets
from vllm_cuda_plan.table import family_file

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT_FILE = "pyproject.toml"


def project_cmake(targets: Targets, pyproject: str) -> str:
    """What CMake needs to know about the project, and the text of the package's entry_points.txt.

    Args:
        pyproject: Text of pyproject.toml, where a wheel's build reads the entry points.
    """
    groups: dict[str, dict[str, str]] = tomllib.loads(pyproject)["project"]["entry-points"]
    points = "".join(
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    )
    project = targets.project
    return (
        header("#", f"{TARGETS_FILE} and {PYPROJECT_FILE}")
        + f"set(VLLM_VERSION {targets.project.version})\n"
        + f"set(VLLM_TORCH_TARGET {project.torch_target})\n"
        + f"set(VLLM_PYTHON_MIN {project.python_min})\n"
        + f"set(VLLM_ENTRY_POINTS [=[\n{points}]=])\n"
    )


def tiers_cmake(targets: Targets) -> str:
    lines = [f"set(VLLM_CPU_KERNEL_FAMILIES {' '.join(targets.families)})"]
    for family, tiers in targets.tiers.items():
        lines.append(f"set(VLLM_TIERS_{family} {' '.join(tiers)})")
        for name, tier in tiers.items():
            lines.append(f"set(VLLM_TIER_FLAGS_{name} {' '.join(tier.flags)})")
            lines.append(f"set(VLLM_TIER_NEEDS_{name} {' '.join(targets.features(family, name))})")
            families = targets.kernel_families(tier)
            lines.append(f"set(VLLM_TIER_FAMILIES_{name} {' '.join(families)})")
            lines += _switches_cmake(targets, family, name)
        levels = targets.levels[family]
        lines.append(f"set(VLLM_LEVELS_{family} {' '.join(levels)})")
        for number, level in levels.items():
            flag = targets.platform_of(family).level_flag(int(number))
            lines.append(f"set(VLLM_LEVEL_FLAG_{family}_{number} {flag})")
            lines.append(f"set(VLLM_LEVEL_TIERS_{family}_{number} {' '.join(level.tiers)})")
    return header("#") + "\n".join(lines) + "\n"


def _switches_cmake(targets: Targets, family: str, name: str) -> list[str]:
    """What cmake/TierSwitches.cmake reads of one tier."""
    tier = targets.tiers[family][name]
    below = [targets.tiers[family][lower] for lower in targets.tiers_below(family, name)]
    flags = {
        switch: flag
        for one in (*below, tier)
        for switch, flag in one.flag_switches.items()
        if flag in tier.flags
    }
    values = {
        "SWITCH": [tier.switch],
        "LOWER_SWITCHES": [lower.switch for lower in below],
        "FLAG_SWITCHES": [f"{switch}={flag}" for switch, flag in flags.items()],
        "LOWER_FLAG_SWITCHES": [switch for lower in below for switch in lower.flag_switches],
    }
    return [
        f"set(VLLM_TIER_{key}_{name} {' '.join(filter(None, words))})"
        for key, words in values.items()
        if any(words)
    ]


def platforms_cmake(targets: Targets) -> str:
    lines = [f"set(VLLM_PLATFORMS {' '.join(targets.platforms)})"]
    for name, entry in targets.platforms.items():
        facts = {
            "FAMILY": entry.family,
            "MACHINES": " ".join(entry.machines),
            "GCC_OPTIONS": " ".join(entry.gcc_options),
            "HARDENING": " ".join(entry.hardening),
            "HARDENING_LINK": " ".join(entry.hardening_link),
            "ONEDNN": "ON" if entry.onednn else "OFF",
        }
        lines += [f"set(VLLM_{key}_{name} {value})" for key, value in facts.items() if value]
    return header("#") + "\n".join(lines) + "\n"


def cuda_json(targets: Targets) -> str:
    """The ``[cuda]`` and ``[rocm]`` tables for the build, whose Python may lack a TOML parser."""
    source = f"{TARGETS_FILE} and {family_file('*')}"
    return _json(
        source, cuda=dataclasses.asdict(targets.cuda), rocm=dataclasses.asdict(targets.rocm)
    )


def families_inc(targets: Targets) -> str:
    """X-macro rows of the CPU library's kernel families."""
    return header("//") + "".join(
        f"VK_CPU_FAMILY({name}, {kernel_table(name)})\n" for name in targets.families
    )


def kernel_table(family: str) -> str:
    """The name of a CPU family's table of kernels: ``MoeGemmTable``."""
    return "".join(word.capitalize() for word in family.split("_")) + "Table"


def tiers_inc(targets: Targets) -> str:
    """X-macro rows of each family, lowest tier first; a tier needs what those below it need."""
    lines: list[str] = []
    for family, tiers in targets.tiers.items():
        lines.append(f"#{'el' if lines else ''}if defined({targets.platform_of(family).macro})")
        for tier in tiers:
            needs = (f"VK_FEATURE_{n.upper()}" for n in targets.features(family, tier))
            lines.append(f"VK_CPU_TIER({tier}, {' | '.join(needs)})")
    return header("//") + "\n".join([*lines, "#endif"]) + "\n"


def version_py(targets: Targets) -> str:
    return f'{header("#")}__version__ = "{targets.project.version}"\n'


def targets_json(targets: Targets) -> str:
    """Tables for the commands that run without a checkout."""
    return _json(
        TARGETS_FILE,
        platforms={name: dataclasses.asdict(entry) for name, entry in targets.platforms.items()},
        packages={name: dataclasses.asdict(entry) for name, entry in targets.packages.items()},
    )


def _json(source: str, **tables: object) -> str:
    head = json.dumps(header("", source).strip())
    rows = (f'"{key}": {json.dumps(table, indent=1)}' for key, table in tables.items())
    return f'{{"generated": {head},\n' + ",\n".join(rows) + "}\n"
