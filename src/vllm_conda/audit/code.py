"""Machine code of an ELF file, whatever the machine: sections, function names, what is too new."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section, SymbolTableSection

from vllm_conda.errors import AuditFailure

TIER_PREFIX = ".tier."


@dataclass(frozen=True)
class Excess:
    """Instructions of one section that need the same features beyond what the section may use.

    ``first`` is the text of the one at ``address``; ``function`` holds it, None where the library
    has no symbol for it.
    """

    section: str
    features: tuple[str, ...]
    count: int
    address: int
    first: str
    function: str | None

    def __str__(self) -> str:
        where = f" in {self.function}" if self.function else ""
        return (
            f"{self.section}: {self.count} instructions need {'+'.join(self.features)}, "
            f"first {self.first} at {self.address:#x}{where}"
        )


@contextmanager
def open_code(path: Path, machine: str) -> Iterator[ELFFile]:
    """Open an ELF file of ``machine`` (``EM_…``).

    Raises:
        AuditFailure: Not an ELF file, or for another machine.
    """
    with path.open("rb") as stream:
        try:
            elf = ELFFile(stream)
        except ELFError as error:
            raise AuditFailure(f"{path} is not an ELF file: {error}.") from None
        if elf["e_machine"] != machine:
            raise AuditFailure(f"{path} is for {elf['e_machine']}, expected {machine}.")
        yield elf


def executable_sections(elf: ELFFile) -> Iterator[Section]:
    """Sections whose bytes are instructions (SHF_EXECINSTR, with contents)."""
    for section in elf.iter_sections():
        if section["sh_flags"] & 0x4 and section["sh_type"] == "SHT_PROGBITS":
            yield section


def tier_of(section: Section) -> str:
    """Name of a tier's section, empty for common code."""
    name: str = section.name
    return name if name.startswith(TIER_PREFIX) else ""


class Functions:
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
