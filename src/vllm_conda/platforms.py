"""What is known of each platform: the ``[platforms]`` tables of ``targets.toml``.

Commands that run without a checkout need them too. So the tables travel with the package as a file
that `vllm-conda generate` writes.
"""

from __future__ import annotations

import platform as machine_facts
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import cattrs

from vllm_conda import generated

_NUMBER = "*"


@dataclass(frozen=True)
class CompilerKeys:
    """Variant keys that choose compiler and C library, by conda-forge's names."""

    c_compiler: str
    cxx_compiler: str
    c_stdlib: str
    c_stdlib_version: str


@dataclass(frozen=True)
class CpuLevel:
    """Names of CPU levels, with ``*`` for the number; a name without it is that of one level.

    Attributes:
        archspec: The CPU name that stands for the level.
        words: The level in messages.
        compiler: Its name for GCC and Clang; empty: another entry has it.
        level: The level of a name without a number, else what is added to the number.
    """

    archspec: str
    words: str
    compiler: str = ""
    level: int = 0

    @property
    def numbered(self) -> bool:
        return _NUMBER in self.archspec

    def number(self, name: str) -> str | None:
        """What stands for ``*`` in a CPU name; None where it is not a name of this form."""
        if not self.numbered:
            return "" if name == self.archspec else None
        before, _, after = self.archspec.partition(_NUMBER)
        digits = name[len(before) : len(name) - len(after)]
        matches = name.startswith(before) and name.endswith(after) and digits.isdigit()
        return digits if matches else None


@dataclass(frozen=True)
class Platform:
    """A conda subdir that gets packages.

    Attributes:
        family: The CPU family, by archspec's name.
        levels: CPU microarchitecture levels with a package each; the lowest is the floor.
        machines: What people and programs call the machine, the name of ``uname -m`` first.
        triplet: Of Debian's tools and libraries.
        deb_arch: Debian's name of the architecture.
        libstdcxx: GCC release whose libstdc++ and libgcc suffice for the packages.
        cuda_target: Where a CUDA toolkit keeps headers and libraries: ``targets/NAME``.
        loader: glibc's dynamic loader.
        elf_machine: ``e_machine`` of its ELF files, by pyelftools' name.
        macro: What compilers define for the family.
        level_option: The compiler option that takes a level's name.
        cpu_levels: What the family's levels are called.
        variant: Compiler keys of every variant file of the platform.
        cross_from: The platform whose machines build for this one; empty: its own.
        elf_flags: ``e_flags`` of its ELF files.
        gcc_options: Options that work around faults of GCC.
        hardening: Compiler options for what the CPU checks of calls, jumps and returns.
        hardening_link: Options of the linking compiler for the same.
        onednn: Matrix products use oneDNN unless asked otherwise.
        engine: What the engine depends on exists, so there are packages that serve.
    """

    family: str
    levels: tuple[int, ...]
    machines: tuple[str, ...]
    triplet: str
    deb_arch: str
    libstdcxx: int
    cuda_target: str
    loader: str
    elf_machine: str
    macro: str
    level_option: str
    cpu_levels: tuple[CpuLevel, ...]
    variant: CompilerKeys
    cross_from: str = ""
    elf_flags: int = 0
    gcc_options: tuple[str, ...] = ()
    hardening: tuple[str, ...] = ()
    hardening_link: tuple[str, ...] = ()
    onednn: bool = False
    engine: bool = True

    @property
    def machine(self) -> str:
        """``uname -m``, which CMake, qemu and conda-forge's images take as well."""
        return self.machines[0]

    @property
    def conda_triplet(self) -> str:
        """Triplet in conda-forge's tool names."""
        machine, _, rest = self.triplet.partition("-")
        return f"{machine}-conda-{rest}"

    @property
    def glibc(self) -> str:
        """The C library that the packages are linked for, and run on from then on."""
        return self.variant.c_stdlib_version

    @property
    def emulator(self) -> str:
        """The program that runs the platform's programs elsewhere."""
        return f"qemu-{self.machine}"

    @property
    def baseline(self) -> int:
        """The level of every CPU of the family."""
        return next(entry.level for entry in self.cpu_levels if not entry.numbered)

    def compiler_name(self, level: int) -> str:
        """What compilers call a level: ``x86-64-v3``."""
        named = [entry for entry in self.cpu_levels if entry.compiler]
        for entry in named:
            if not entry.numbered and entry.level == level:
                return entry.compiler
        return next(
            entry.compiler.replace(_NUMBER, str(level - entry.level))
            for entry in named
            if entry.numbered
        )

    def level_flag(self, level: int) -> str:
        """The option of GCC and Clang that compiles for a CPU of ``level``."""
        return f"{self.level_option}={self.compiler_name(level)}"

    def level_of(self, name: str) -> int | None:
        """The level that a CPU name of archspec stands for; None: for none."""
        for entry in self.cpu_levels:
            if (number := entry.number(name)) is not None:
                return entry.level + int(number or 0)
        return None

    def level_words(self, name: str) -> str:
        """``x86_64_v3`` -> ``x86_64 level 3``.

        Raises:
            ValueError: The name stands for no level.
        """
        for entry in self.cpu_levels:
            if (number := entry.number(name)) is not None:
                return entry.words.replace(_NUMBER, number)
        raise ValueError(f"{name!r} is no level of {self.family}")


@cache
def table() -> Mapping[str, Platform]:
    """Every platform by its conda subdir."""
    # Read here, not on import: the generator, which writes the file, imports this module.
    return cattrs.structure(generated.read("platforms"), dict[str, Platform])


@cache
def families() -> Mapping[str, Platform]:
    """The platform of each CPU family."""
    return {entry.family: entry for entry in table().values()}


@cache
def native() -> tuple[str, ...]:
    """Platforms whose machines build, for themselves and for the others."""
    return tuple(name for name, entry in table().items() if not entry.cross_from)


@cache
def cross() -> tuple[str, ...]:
    """Platforms that the embedded toolchain channel cross compiles to."""
    return tuple(name for name, entry in table().items() if entry.cross_from)


def of_machine(word: str) -> str | None:
    """The platform of a machine by any of its names, with ``linux-`` or without."""
    word = word.lower().removeprefix("linux-")
    return next((name for name, entry in table().items() if word in entry.machines), None)


def host_platform() -> str:
    """The conda subdir of this machine."""
    system, machine = machine_facts.system().lower(), machine_facts.machine().lower()
    if system == "linux" and (found := of_machine(machine)) is not None:
        return found
    machine = "64" if machine in ("x86_64", "amd64") else machine
    return f"{'osx' if system == 'darwin' else system}-{machine}"
