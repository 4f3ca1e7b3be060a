"""POWER: which level each instruction came with, from the table of scripts/power_levels.py."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path

from elftools.elf.sections import Section

from vllm_conda.audit.code import Excess, Functions, executable_sections, open_code, tier_of
from vllm_conda.errors import ConfigError

MACHINE = "EM_PPC64"
# ppc64le begins with POWER8.
BASELINE = 8
LEVELS = (8, 9, 10)

_PREFIX, _LOW, _FIELD = 1, 0x7FF, 16
_NOT_EXTENDED = 0
_MCPU = ("-mcpu=power", "-mcpu=pwr")


def level_features(level: int) -> frozenset[str]:
    """Names of the levels up to ``level``."""
    return frozenset(f"POWER{one}" for one in LEVELS if one <= level)


def flag_features(flags: Iterable[str]) -> frozenset[str]:
    """Features that compiler flags of targets.toml turn on.

    Raises:
        ConfigError: A flag that names no level.
    """
    found = level_features(BASELINE)
    for flag in flags:
        number = next((flag[len(p) :] for p in _MCPU if flag.startswith(p)), None)
        if number is None or not number.isdigit():
            if flag.startswith(("-mtune=", "-m64", "-mabi=", "-mvsx", "-maltivec")):
                continue
            raise ConfigError(
                f"The instruction audit knows no features of {flag}.",
                "Add the flag to vllm_conda/audit/isa_ppc64le.py.",
            )
        found |= level_features(int(number))
    return found


@cache
def _forms() -> Mapping[int, Mapping[int, int | Mapping[int, int]]]:
    text = resources.files("vllm_conda.audit").joinpath("data/power.json").read_text("utf-8")
    forms: dict[int, dict[int, int | Mapping[int, int]]] = {}
    for opcode, entries in json.loads(text)["forms"].items():
        forms[int(opcode)] = {
            int(low): value
            if isinstance(value, int)
            else {int(field): level for field, level in value.items()}
            for low, value in entries.items()
        }
    return forms


def level_of(word: int) -> int:
    """The oldest POWER level with the instruction ``word``; 8 for all older ones."""
    opcode = word >> 26
    if opcode == _PREFIX:
        return LEVELS[-1]
    entries = _forms().get(opcode)
    if entries is None:
        return BASELINE
    entry = entries.get(word & _LOW if _extended(opcode) else _NOT_EXTENDED, BASELINE)
    return entry if isinstance(entry, int) else entry.get(word >> _FIELD & 31, BASELINE)


@cache
def _extended(opcode: int) -> bool:
    return set(_forms()[opcode]) != {_NOT_EXTENDED}


def survey(path: Path, allowed: Mapping[str, frozenset[str]]) -> list[Excess]:
    """Instructions outside ``allowed``, counted by section and level.

    Raises:
        AuditFailure: Not a POWER ELF file.
    """
    with open_code(path, MACHINE) as elf:
        functions = Functions(elf)
        order = "<" if elf.little_endian else ">"
        found: list[Excess] = []
        for section in executable_sections(elf):
            permitted = allowed.get(tier_of(section), frozenset())
            found += _section(section, order, permitted, functions)
        return found


def _section(
    section: Section, order: str, permitted: frozenset[str], functions: Functions
) -> Iterator[Excess]:
    data = section.data()
    words = struct.unpack(f"{order}{len(data) // 4}I", data[: len(data) // 4 * 4])
    levels = {word: level_of(word) for word in set(words)}
    counts: Counter[str] = Counter()
    first: dict[str, int] = {}
    suffix = False  # the second half of a prefixed instruction is not an instruction of its own
    for index, word in enumerate(words):
        if suffix:
            suffix = False
            continue
        suffix = word >> 26 == _PREFIX
        name = f"POWER{levels[word]}"
        if name not in permitted:
            counts[name] += 1
            first.setdefault(name, index)
    for name, count in counts.items():
        index = first[name]
        address = section["sh_addr"] + 4 * index
        text = f".long {words[index]:#010x}"
        yield Excess(section.name, (name,), count, address, text, functions.at(address))
