"""What a ROCm build compiles: ``python -m vllm_cuda_plan.rocm``, run by CMake.

The request, what the compiler knows and the families with ``rocm = true`` decide, as for CUDA; no
GPU of the build machine is asked here.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_cuda_plan.errors import ConfigError, VllmError, check_known, did_you_mean

TABLE = Path(__file__).with_name("table.json")
SUMMARY_SCHEMA = 1
NEVER_RUN = "never run on a GPU"
ADDRESS_VARIABLE = "VLLM_CONDA_ADDRESS"


@dataclass(frozen=True)
class Target:
    """One gfx target.

    Attributes:
        gpus: Devices of that target, for people.
        generation: AMD's name of the architecture.
        wave: Lanes of a wave, 32 or 64.
        since: First major version of clang that compiles it.
    """

    gpus: str
    generation: str
    wave: int
    since: str


@dataclass(frozen=True)
class Rocm:
    """The ``[rocm]`` tables.

    Attributes:
        hip: Major version of HIP, whose run time is linked.
        clang: Oldest major version of clang that compiles the sources.
        archs: What is compiled unless asked otherwise.
        platforms: Platforms with packages.
        targets: By the compiler's name, such as ``gfx942``.
    """

    hip: str
    clang: str
    archs: tuple[str, ...]
    platforms: tuple[str, ...]
    targets: dict[str, Target]


@dataclass(frozen=True)
class Compiler:
    """clang: its major version, the gfx targets it lists, and its path, for messages."""

    version: str
    targets: tuple[str, ...]
    path: str

    @property
    def words(self) -> str:
        """``clang 19.1.7 (/usr/bin/clang++-19)``."""
        return f"clang {self.version} ({self.path})"


def check_rocm_table(rocm: Rocm, where: str) -> None:
    """Refuse names that point nowhere and values that no GPU has.

    Raises:
        ConfigError: Names table and key.
    """
    for name in rocm.archs:
        check_known(f"{where}: [rocm]", "gfx target", name, rocm.targets)
    for name, target in rocm.targets.items():
        place = f"{where}: [rocm.targets.{name}]"
        if not is_gfx_target(name):
            raise ConfigError(f"{place}: {name!r} is no gfx target, such as gfx942.")
        if target.wave not in (32, 64):
            raise ConfigError(f"{place}: wave is {target.wave}, want 32 or 64.")
        if not target.since.isdigit():
            raise ConfigError(f"{place}: since is {target.since!r}, want a major version of clang.")


def is_gfx_target(name: str) -> bool:
    """Whether ``name`` is written as a gfx target; known or not."""
    return bool(re.fullmatch(r"gfx[1-9][0-9]?[0-9][0-9a-f]", name))


def arch_name(version: str) -> str:
    """The gfx target of an ``__amdgpu_arch``: ``9.0.10`` is ``gfx90a``."""
    major, minor, stepping = (int(part) for part in f"{version}.0.0".split(".")[:3])
    return f"gfx{major}{minor:x}{stepping:x}"


def arch_version(name: str) -> str:
    """``gfx90a`` as ``__amdgpu_arch`` has it, major.minor.stepping: ``9.0.10``."""
    digits = name.removeprefix("gfx")
    return f"{digits[:-2]}.{int(digits[-2], 16)}.{int(digits[-1], 16)}"


def read_request(rocm: Rocm, compiler: Compiler, text: str) -> tuple[str, ...]:
    """The gfx targets of a request, in the table's order.

    Args:
        text: Names separated by blanks, commas or semicolons; ``all``: the table's default.

    Raises:
        ConfigError: A compiler that is too old, a misspelt or unknown target, or one that the
            compiler does not know.
    """
    if int(compiler.version.split(".")[0]) < int(rocm.clang):
        raise ConfigError(
            f"{compiler.words} is too old for HIP; clang {rocm.clang} or newer is needed.",
            "Set HIPCXX to it (Debian: clang-19).",
        )
    words = [word for word in re.split(r"[\s,;]+", text) if word] or ["all"]
    wanted: set[str] = set()
    for word in words:
        wanted |= set(rocm.archs) if word == "all" else {_target(rocm, word)}
    for name in wanted:
        if name not in compiler.targets:
            entry = rocm.targets[name]
            raise ConfigError(
                f"{compiler.words} cannot compile for {name} ({entry.gpus}); clang {entry.since} "
                "is the oldest that can.",
                "Leave it out, or set HIPCXX to a newer one.",
            )
    return tuple(name for name in rocm.targets if name in wanted)


def _target(rocm: Rocm, word: str) -> str:
    name, _, features = word.partition(":")
    if features and name in rocm.targets:
        raise ConfigError(
            f"gfx target {word!r} names features; libraries are compiled for any of them.",
            f"Write {name}.",
        )
    if word not in rocm.targets:
        raise ConfigError(
            f"Unknown gfx target {word!r}.{did_you_mean(word, rocm.targets)}",
            f"Known: {', '.join(rocm.targets)}.",
        )
    return word


def choose_families(
    known: Collection[str], portable: Sequence[str], wanted: Sequence[str]
) -> tuple[str, ...]:
    """The families to build: those wanted, all portable ones if none is named.

    Raises:
        ConfigError: A family that does not exist, or is not compiled for AMD GPUs.
    """
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"VLLM_ROCM_FAMILIES: there is no family {name}.{did_you_mean(name, portable)}",
                f"Known: {', '.join(portable)}.",
            )
        if name not in portable:
            raise ConfigError(
                f"VLLM_ROCM_FAMILIES: {name} is made of NVIDIA's instructions; PyTorch reference "
                "code serves in its place.",
                f"Compiled for AMD GPUs: {', '.join(portable)}.",
            )
    return tuple(name for name in portable if not wanted or name in wanted)


def load_rocm() -> Rocm:
    """The ``[rocm]`` tables, as ``vllm-conda generate`` writes them for the build."""
    return _structure(_table()["rocm"])


def _table() -> Any:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def _structure(table: Any) -> Rocm:
    return Rocm(
        table["hip"],
        table["clang"],
        tuple(table["archs"]),
        tuple(table["platforms"]),
        {name: Target(**entry) for name, entry in table["targets"].items()},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Plan one build; 0, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m vllm_cuda_plan.rocm")
    parser.add_argument("--clang", required=True, help="version of the compiler")
    parser.add_argument("--compiler", required=True, help="its path, for errors")
    parser.add_argument("--hip", required=True, help="version of HIP")
    parser.add_argument("--known", required=True, help="gfx targets that it lists")
    parser.add_argument("--archs", default="", help="requested; empty: the table's own list")
    parser.add_argument("--archs-from", default="--archs", help="what requested them, for errors")
    parser.add_argument("--families", default="", help="wanted; empty: all")
    parser.add_argument("--cmake", type=Path, required=True, help="file to write")
    parser.add_argument("--summary", type=Path, required=True, help="file to write")
    arguments = parser.parse_args(argv)
    try:
        data = _table()
        rocm = _structure(data["rocm"])
        titles = {name: entry["title"] for name, entry in data["cuda"]["families"].items()}
        portable = [name for name, entry in data["cuda"]["families"].items() if entry["rocm"]]
        compiler = Compiler(arguments.clang, tuple(arguments.known.split()), arguments.compiler)
        try:
            archs = read_request(rocm, compiler, arguments.archs)
        except ConfigError as error:
            raise ConfigError(f"{arguments.archs_from}: {error.message}", error.hint) from error
        wanted = [word for word in re.split(r"[\s,;]+", arguments.families) if word]
        built = choose_families(titles, portable, wanted)
    except VllmError as error:
        print(error, file=sys.stderr)
        return 1
    arguments.cmake.write_text(
        f"set(VLLM_ROCM_BUILT {' '.join(built)})\nset(VLLM_ROCM_TARGETS {' '.join(archs)})\n",
        encoding="utf-8",
    )
    summary = {
        "schema": SUMMARY_SCHEMA,
        "compiler": f"clang {compiler.version}",
        "hip": arguments.hip,
        "state": NEVER_RUN,
        # Where users say how it went; the recipe sets it.
        "report": os.environ.get(ADDRESS_VARIABLE, ""),
        "targets": list(archs),
        "families": {
            name: {"title": titles[name], "library": f"libvllm_kernels_rocm_{name}.so"}
            for name in built
        },
    }
    arguments.summary.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{compiler.words}, for {' '.join(archs)} ({NEVER_RUN}): {' '.join(built)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
