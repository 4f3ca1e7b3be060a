"""Does a library hold only instructions that its level and its tiers allow?

Every instruction of every executable section is decoded and its CPUID features compared with what
the section may use: a tier's own section (``.tier.<name>``, cmake/Tiers.cmake) the tier's flags,
everything else the package's floor. Features that are not listed here are refused, so a new
extension cannot slip through. The sections survive stripping.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from iced_x86 import Code, Code_, CpuidFeature, Decoder, Formatter, FormatterSyntax, Instruction

from vllm_conda.audit.code import (
    TIER_PREFIX,
    Excess,
    Functions,
    executable_sections,
    open_code,
    tier_of,
)
from vllm_conda.errors import ConfigError, did_you_mean

MACHINE = "EM_X86_64"

_NAMES: Mapping[int, str] = {
    value: name for name, value in vars(CpuidFeature).items() if isinstance(value, int)
}

# x86-64 psABI, table 3.1 (micro-architecture levels), each in addition to the one before. Level 1
# also lists what needs no feature bit, and the hints that older CPUs execute as no-ops.
_LEVELS: tuple[frozenset[str], ...] = (
    frozenset(
        {"INTEL8086", "INTEL186", "INTEL286", "INTEL386", "INTEL486", "X64", "CPUID", "TSC"}
        | {"MULTIBYTENOP", "CET_IBT", "PAUSE", "SYSCALL"}
        | {"CMOV", "CX8", "FPU", "FPU287", "FPU387", "FXSR", "MMX", "SSE", "SSE2"}
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
# GCC writes `rep bsf`, which has the same bytes, for every CPU: a CPU without BMI1 ignores the
# prefix, and GCC never uses it where the results differ (for zero).
_AS_BSF = frozenset({Code.TZCNT_R16_RM16, Code.TZCNT_R32_RM32, Code.TZCNT_R64_RM64})


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
                "Add the flag to vllm_conda/audit/isa_x86_64.py.",
            )
    return found


def survey(path: Path, allowed: Mapping[str, frozenset[str]]) -> list[Excess]:
    """Instructions outside ``allowed``, counted by section and features.

    Args:
        allowed: What each section may use: ``""`` for common code, else a tier's section.

    Raises:
        AuditFailure: Not an x86-64 ELF file.
    """
    with open_code(path, MACHINE) as elf:
        found: list[Excess] = []
        functions: Functions | None = None
        for section in executable_sections(elf):
            permitted = allowed.get(tier_of(section), frozenset())
            # Most sections hold nothing too new, as one quick pass over the opcodes shows.
            data, start = section.data(), section["sh_addr"]
            codes = {one.code for one in Decoder(64, data, ip=start)} - _CHECKED_AT_RUN_TIME
            refused = {code for code in codes if not _features(code) <= permitted}
            if not refused:
                continue
            functions = functions or Functions(elf)
            found += _count(section.name, Decoder(64, data, ip=start), refused, functions)
        return found


def _count(
    section: str, decoder: Decoder, refused: set[Code_], functions: Functions
) -> Iterator[Excess]:
    counts: Counter[frozenset[str]] = Counter()
    first: dict[frozenset[str], tuple[int, str]] = {}
    formatter = Formatter(FormatterSyntax.GAS)
    for instruction in decoder:
        if instruction.code in refused:
            features = _features(instruction.code)
            counts[features] += 1
            if features not in first:
                first[features] = (instruction.ip, formatter.format(instruction))
    for features, count in counts.items():
        address, text = first[features]
        names = tuple(sorted(features))
        yield Excess(section, names, count, address, text, functions.at(address))


def tier_initialisers(path: Path) -> list[str]:
    """Tier sections that code run at load time (``.init_array``) enters: must be empty.

    Such code would run on every CPU, before the dispatcher can choose.
    """
    with open_code(path, MACHINE) as elf:
        sections = [s for s in executable_sections(elf) if s.name.startswith(TIER_PREFIX)]
        found = set()
        for target in _load_time_calls(elf):
            for section in sections:
                begin = section["sh_addr"]
                if begin <= target < begin + section["sh_size"]:
                    found.add(section.name)
        return sorted(found)


@cache
def _features(code: Code_) -> frozenset[str]:
    """Features of an opcode; bytes that decode to nothing are refused everywhere."""
    if code == Code.INVALID:
        return frozenset({"INVALID"})
    if code in _AS_BSF:
        return frozenset()
    instruction = Instruction()
    instruction.code = code
    return frozenset(_NAMES[feature] for feature in instruction.cpuid_features())


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
