"""Does a library hold only instructions that its level and its tiers allow?

Every instruction of every executable section is decoded and its CPUID features compared with what
the section may use: a tier's own section (``.tier.<name>``, cmake/Tiers.cmake) the tier's flags,
everything else the package's floor. Features that are not listed here are refused, so a new
extension cannot slip through. The sections survive stripping.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection
from iced_x86 import Code, CpuidFeature, Decoder, Formatter, FormatterSyntax, Instruction

from vllm_conda.errors import AuditFailure, ConfigError, did_you_mean
from vllm_conda.targets import Targets

TIER_PREFIX = ".tier."

_NAMES: Mapping[int, str] = {
    value: name for name, value in vars(CpuidFeature).items() if isinstance(value, int)
}

# x86-64 psABI, table 3.1 (micro-architecture levels), each in addition to the one before. Level 1
# also lists what needs no feature bit, and the hints that older CPUs execute as no-ops.
_LEVELS: tuple[frozenset[str], ...] = (
    frozenset(
        {"INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "CPUID", "TSC"}
        | {"MULTIBYTENOP", "CET_IBT", "PAUSE", "SYSCALL"}
        | {"CMOV", "CX8", "FPU", "FXSR", "MMX", "SSE", "SSE2"}
    ),
    frozenset({"CMPXCHG16B", "POPCNT", "SSE3", "SSE4_1", "SSE4_2", "SSSE3"}),
    frozenset({"AVX", "AVX2", "BMI1", "BMI2", "F16C", "FMA", "LZCNT", "MOVBE"}),
    frozenset({"AVX512F", "AVX512BW", "AVX512CD", "AVX512DQ", "AVX512VL"}),
)
_MARCH = "-march=x86-64"
_FLAGS: Mapping[str, frozenset[str]] = {
    "-mavx512bf16": frozenset({"AVX512_BF16"}),
    "-mavx512vnni": frozenset({"AVX512_VNNI"}),
    "-mavx512fp16": frozenset({"AVX512_FP16"}),
    "-mamx-tile": frozenset({"AMX_TILE"}),
    "-mamx-bf16": frozenset({"AMX_BF16"}),
    "-mamx-int8": frozenset({"AMX_INT8"}),
}
# Executed only after CPUID said that they are there (csrc/core/cpu_features.cc).
_CHECKED_AT_RUN_TIME = frozenset({Code.XGETBV})


@dataclass(frozen=True)
class Leak:
    """An instruction that its section may not hold."""

    section: str
    address: int
    instruction: str
    features: tuple[str, ...]
    function: str | None

    def __str__(self) -> str:
        where = f" in {self.function}" if self.function else ""
        features = "+".join(self.features)
        return f"{self.section} {self.address:#x}{where}: {self.instruction} ({features})"


def level_features(level: int) -> frozenset[str]:
    """Features of an x86-64 microarchitecture level, those below included."""
    return frozenset().union(*_LEVELS[:level])


def flag_features(flags: Iterable[str]) -> frozenset[str]:
    """Features that compiler flags of targets.toml turn on.

    Raises:
        ConfigError: A flag whose features are not recorded here.
    """
    found: frozenset[str] = frozenset()
    for flag in flags:
        if flag.startswith(_MARCH):
            found |= level_features(int(flag.removeprefix(_MARCH).removeprefix("-v") or 1))
        elif flag in _FLAGS:
            found |= _FLAGS[flag]
        elif not flag.startswith("-mprefer-"):  # a preference turns nothing on
            raise ConfigError(
                f"The instruction audit knows no features of {flag}.{did_you_mean(flag, _FLAGS)}",
                "Add the flag to vllm_conda/audit/isa.py.",
            )
    return found


def allowed_features(targets: Targets, family: str, level: int) -> dict[str, frozenset[str]]:
    """What each section may use: ``""`` for common code, else a tier's section name."""
    entry = targets.level(family, level)
    tiers = {
        f"{TIER_PREFIX}{name}": flag_features(targets.tiers[family][name].flags)
        for name in entry.tiers
    }
    return {"": flag_features([f"-march={entry.march}"]), **tiers}


def find_leaks(path: Path, allowed: Mapping[str, frozenset[str]]) -> list[Leak]:
    """Every instruction of ``path`` outside ``allowed`` (see :func:`allowed_features`).

    Raises:
        AuditFailure: Not an x86-64 ELF file, or a tier's section that ``allowed`` does not name.
    """
    with _open(path) as elf:
        functions = _Functions(elf)
        leaks: list[Leak] = []
        for section in _executable(elf):
            name = section.name if section.name.startswith(TIER_PREFIX) else ""
            if name not in allowed:
                raise AuditFailure(
                    f"{path}: section {name} belongs to no tier of this level.",
                    f"Tiers of the level: {', '.join(filter(None, allowed)) or 'none'}.",
                )
            leaks += _section_leaks(section, allowed[name], functions)
        return leaks


def tiers_of(path: Path) -> list[str]:
    """Names of the tiers whose sections the library holds."""
    with _open(path) as elf:
        names = (section.name for section in _executable(elf))
        return [n.removeprefix(TIER_PREFIX) for n in names if n.startswith(TIER_PREFIX)]


def tier_initialisers(path: Path) -> list[str]:
    """Tier sections that code run at load time (``.init_array``) enters: must be empty.

    Such code would run on every CPU, before dispatch can choose.
    """
    with _open(path) as elf:
        sections = [s for s in _executable(elf) if s.name.startswith(TIER_PREFIX)]
        found = set()
        for target in _load_time_calls(elf):
            for section in sections:
                begin = section["sh_addr"]
                if begin <= target < begin + section["sh_size"]:
                    found.add(section.name)
        return sorted(found)


@contextmanager
def _open(path: Path) -> Iterator[ELFFile]:
    with path.open("rb") as stream:
        try:
            elf = ELFFile(stream)
        except ELFError as error:
            raise AuditFailure(f"{path} is not an ELF file: {error}.") from None
        if elf["e_machine"] != "EM_X86_64":
            raise AuditFailure(f"{path} is for {elf['e_machine']}; the audit reads x86-64 only.")
        yield elf


def _executable(elf: ELFFile) -> Iterator[Section]:
    """Sections whose bytes are instructions (SHF_EXECINSTR, with contents)."""
    for section in elf.iter_sections():
        if section["sh_flags"] & 0x4 and section["sh_type"] == "SHT_PROGBITS":
            yield section


def _section_leaks(
    section: Section, allowed: frozenset[str], functions: _Functions
) -> Iterator[Leak]:
    formatter = Formatter(FormatterSyntax.GAS)
    for instruction in Decoder(64, section.data(), ip=section["sh_addr"]):
        if not _permitted(instruction, allowed):
            yield Leak(
                section.name,
                instruction.ip,
                formatter.format(instruction),
                tuple(sorted(_features(instruction.code, instruction))),
                functions.at(instruction.ip),
            )


def _permitted(instruction: Instruction, allowed: frozenset[str]) -> bool:
    code = instruction.code
    return code in _CHECKED_AT_RUN_TIME or _features(code, instruction) <= allowed


_code_features: dict[int, frozenset[str]] = {}


def _features(code: int, instruction: Instruction) -> frozenset[str]:
    """Features of an opcode; bytes that decode to nothing are refused everywhere."""
    if code not in _code_features:
        names = (_NAMES[feature] for feature in instruction.cpuid_features())
        known = frozenset(names)
        _code_features[code] = frozenset({"INVALID"}) if code == Code.INVALID else known
    return _code_features[code]


class _Functions:
    """Names of functions by address, as far as the library still has a symbol table."""

    def __init__(self, elf: ELFFile) -> None:
        found: dict[int, tuple[int, str]] = {}
        for section in elf.iter_sections():
            if isinstance(section, SymbolTableSection):
                for symbol in section.iter_symbols():
                    if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_value"]:
                        found[symbol["st_value"]] = (symbol["st_size"], symbol.name)
        self._found = found
        self._starts = sorted(found)

    def at(self, address: int) -> str | None:
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        size, name = self._found[self._starts[index]]
        return name if address < self._starts[index] + size else None


def _load_time_calls(elf: ELFFile) -> Iterator[int]:
    """Addresses that the dynamic linker calls: .init_array's entries, and ifunc resolvers."""
    arrays = [s for s in elf.iter_sections() if s.name in (".init_array", ".preinit_array")]
    relative, indirect = 8, 37  # R_X86_64_RELATIVE, R_X86_64_IRELATIVE
    for section in elf.iter_sections():
        if not isinstance(section, RelocationSection):
            continue
        for relocation in section.iter_relocations():
            offset, kind = relocation["r_offset"], relocation["r_info_type"]
            inside = any(
                array["sh_addr"] <= offset < array["sh_addr"] + array["sh_size"] for array in arrays
            )
            if kind == indirect or (kind == relative and inside):
                yield relocation["r_addend"]


def promised_features(
    libraries: Iterable[Path], targets: Targets, family: str
) -> tuple[int, dict[str, frozenset[str]]]:
    """The level that one package's libraries were built for, and what that allows each of them.

    Their lowest tier tells the level. A package without tiers is the same for every CPU, so it
    may only use level 1.
    """
    tiers = {tier for path in libraries for tier in tiers_of(path)}
    if not tiers:
        return 1, {"": level_features(1)}
    for number, level in targets.levels[family].items():
        if level.tiers[0] in tiers:
            return int(number), allowed_features(targets, family, int(number))
    raise AuditFailure(f"No level of {family} begins with one of the tiers {', '.join(tiers)}.")
