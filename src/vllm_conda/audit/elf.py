"""What the checks need to know of an ELF file, read once."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection
from elftools.elf.sections import NoteSection, Section, SymbolTableSection

from vllm_conda.elf_tables import DAMAGED, asked_versions
from vllm_conda.errors import AuditFailure

Version = tuple[int, ...]

MAGIC = b"\x7fELF"
_VERSION = re.compile(r"^([A-Z_]+?)_(\d+(?:\.\d+)*)$")
_SHSTK = 0x2  # in GNU_PROPERTY_X86_FEATURE_1_AND
_FLAGS_NOW, _FLAGS_1_NOW, _EXECUTE = 0x8, 0x1, 0x1
_OBJECTS = ("ET_DYN", "ET_EXEC")


@dataclass(frozen=True)
class Library:
    """A shared library or program.

    ``file`` is its path inside the package, ``path`` on disk. ``versions`` holds, for each name of
    symbol versions (``GLIBC``), the versions that it asks other libraries for and one symbol of
    each; ``imports`` and ``exports`` are the dynamic symbols, ``unversioned`` the imports that must
    be found, in any version.
    """

    file: str
    path: Path
    machine: str
    big_endian: bool
    soname: str
    needed: tuple[str, ...]
    rpaths: tuple[str, ...]
    versions: Mapping[str, Mapping[Version, str]]
    imports: frozenset[str]
    exports: frozenset[str]
    unversioned: frozenset[str]
    executable_stack: bool
    shadow_stack: bool
    relro: bool
    bind_now: bool
    dynamic: bool
    sections: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.file.rpartition("/")[2]


def is_elf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def read_library(path: Path, file: str) -> Library | None:
    """Read a library or program; None for other ELF files, such as objects.

    Raises:
        AuditFailure: The file is damaged.
    """
    with path.open("rb") as stream:
        try:
            elf = ELFFile(stream)
            return _read(elf, path, file) if elf["e_type"] in _OBJECTS else None
        except DAMAGED as error:
            reason = str(error) or type(error).__name__
            raise AuditFailure(f"{file} is not an ELF file that can be read: {reason}.") from None


def _read(elf: ELFFile, path: Path, file: str) -> Library:
    needed: list[str] = []
    rpaths: list[str] = []
    soname = ""
    now = False
    dynamic = next((s for s in elf.iter_segments() if isinstance(s, DynamicSegment)), None)
    for tag in dynamic.iter_tags() if dynamic is not None else ():
        kind, text = tag.entry.d_tag, vars(tag)
        if kind == "DT_NEEDED":
            needed.append(text["needed"])
        elif kind in ("DT_RPATH", "DT_RUNPATH"):
            rpaths += text[kind.removeprefix("DT_").lower()].split(":")
        elif kind == "DT_SONAME":
            soname = text["soname"]
        elif kind == "DT_BIND_NOW":
            now = True
        elif kind in ("DT_FLAGS", "DT_FLAGS_1"):
            now |= bool(tag.entry.d_val & (_FLAGS_NOW if kind == "DT_FLAGS" else _FLAGS_1_NOW))
    segments = [(segment["p_type"], segment["p_flags"]) for segment in elf.iter_segments()]
    # Without the header the kernel makes the stack executable, on machines that can.
    stacks = [flags for kind, flags in segments if kind == "PT_GNU_STACK"]
    sections = list(elf.iter_sections())
    imports, exports, unversioned, versions = _symbols(sections, elf.little_endian)
    return Library(
        file=file,
        path=path,
        machine=elf["e_machine"],
        big_endian=not elf.little_endian,
        soname=soname,
        needed=tuple(needed),
        rpaths=tuple(rpaths),
        versions=versions,
        imports=imports,
        exports=exports,
        unversioned=unversioned,
        shadow_stack=_shadow_stack(sections),
        executable_stack=not stacks or any(flags & _EXECUTE for flags in stacks),
        relro=any(kind == "PT_GNU_RELRO" for kind, _ in segments),
        bind_now=now,
        dynamic=dynamic is not None,
        sections=tuple(section.name for section in sections),
    )


def _shadow_stack(sections: Sequence[Section]) -> bool:
    """Whether the linker marked x86-64 code as fit for shadow stacks (CET)."""
    properties = [
        entry
        for section in sections
        if isinstance(section, NoteSection) and section.name == ".note.gnu.property"
        for note in section.iter_notes()
        if note["n_type"] == "NT_GNU_PROPERTY_TYPE_0"
        for entry in note["n_desc"]
    ]
    return any(
        entry["pr_type"] == "GNU_PROPERTY_X86_FEATURE_1_AND" and entry["pr_data"] & _SHSTK
        for entry in properties
    )


def _symbols(
    sections: list[Section], little: bool
) -> tuple[frozenset[str], frozenset[str], frozenset[str], dict[str, dict[Version, str]]]:
    table = next((s for s in sections if _is_dynamic_table(s)), None)
    if not isinstance(table, SymbolTableSection):
        return frozenset(), frozenset(), frozenset(), {}
    asked = _asked(sections)
    known = frozenset(asked)
    indices: tuple[int, ...] = ()
    version_table = next((s for s in sections if isinstance(s, GNUVerSymSection)), None)
    if version_table is not None:
        data = version_table.data()
        indices = struct.unpack(f"{'<' if little else '>'}{len(data) // 2}H", data)
    imports, exports, unversioned = set(), set(), set()
    versions: dict[str, dict[Version, str]] = {}
    for index, symbol in enumerate(table.iter_symbols()):
        if not symbol.name:
            continue
        if symbol["st_shndx"] != "SHN_UNDEF":
            exports.add(symbol.name)
            continue
        imports.add(symbol.name)
        version = indices[index] & 0x7FFF if index < len(indices) else 0
        if version not in known and symbol["st_info"]["bind"] != "STB_WEAK":
            unversioned.add(symbol.name)
        name = asked.pop(version, None)
        if name:
            _record(versions, name, symbol.name)
    for name in asked.values():  # asked for, but by no symbol (GLIBC_ABI_DT_RELR)
        _record(versions, name, "")
    return frozenset(imports), frozenset(exports), frozenset(unversioned), versions


def _is_dynamic_table(section: Section) -> bool:
    return isinstance(section, SymbolTableSection) and section["sh_type"] == "SHT_DYNSYM"


def _asked(sections: list[Section]) -> dict[int, str]:
    """Symbol versions of other libraries by their index."""
    found = {}
    for section in sections:
        if isinstance(section, GNUVerNeedSection):
            for version in asked_versions(section):
                found[version["vna_other"]] = version.name
    return found


def _record(versions: dict[str, dict[Version, str]], name: str, symbol: str) -> None:
    if name == "GLIBC_ABI_DT_RELR":  # relative relocations in short form, since glibc 2.36
        name, symbol = "GLIBC_2.36", "DT_RELR"
    match = _VERSION.match(name)
    if match:
        number = tuple(int(part) for part in match[2].split("."))
        versions.setdefault(match[1], {}).setdefault(number, symbol)
