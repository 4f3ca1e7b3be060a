"""Shared libraries without content: what a linker needs of a library that is not at hand.

Bindings must name ``libtorch.so`` as needed, and every symbol of it is looked up when the process
starts. So for a platform that no registry offers PyTorch for, a file with the right soname is
enough to link with. Written here byte by byte (System V ABI, gABI 4.1): no compiler is needed,
and the same input gives the same file.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from elftools.elf.enums import ENUM_E_MACHINE

from vllm_conda import platforms

_HEADER, _PROGRAM, _SECTION, _SYMBOL, _DYNAMIC = 64, 56, 64, 24, 16
_PAGE = 0x10000  # the largest page of the three families
_PT_LOAD, _PT_DYNAMIC, _PT_GNU_STACK = 1, 2, 0x6474E551
_DT_NULL, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = (
    0, 4, 5, 6, 10, 11, 14,
)  # fmt: skip
_SHT_STRTAB, _SHT_HASH, _SHT_DYNAMIC, _SHT_DYNSYM = 3, 5, 6, 11
_READ_WRITE = 6


@dataclass
class _Part:
    name: str
    kind: int
    content: bytes
    link: int = 0
    entry: int = 0
    info: int = 0
    offset: int = 0
    text: int = 0


def library(soname: str, family: str) -> bytes:
    """A little-endian ELF64 shared library with a soname and no symbol."""
    platform = platforms.families()[family]
    machine, flags = ENUM_E_MACHINE[platform.elf_machine], platform.elf_flags
    strings = b"\0" + soname.encode() + b"\0"
    parts = [
        # One bucket, one symbol: the undefined one that every table starts with.
        _Part(".hash", _SHT_HASH, struct.pack("<4I", 1, 1, 0, 0), link=2, entry=4),
        _Part(".dynsym", _SHT_DYNSYM, bytes(_SYMBOL), link=3, entry=_SYMBOL, info=1),
        _Part(".dynstr", _SHT_STRTAB, strings),
        _Part(".dynamic", _SHT_DYNAMIC, bytes(7 * _DYNAMIC), link=3, entry=_DYNAMIC),
    ]
    names = b"\0"
    for part in parts:
        part.text = len(names)
        names += part.name.encode() + b"\0"
    own_name = len(names)
    names += b".shstrtab\0"

    at = _HEADER + 3 * _PROGRAM
    for part in parts:
        part.offset = at
        at += (len(part.content) + 7) // 8 * 8
    loaded = at
    hash_table, symbols, text, dynamic = parts
    rows = [
        (_DT_SONAME, 1), (_DT_HASH, hash_table.offset), (_DT_STRTAB, text.offset),
        (_DT_SYMTAB, symbols.offset), (_DT_STRSZ, len(strings)), (_DT_SYMENT, _SYMBOL),
        (_DT_NULL, 0),
    ]  # fmt: skip
    dynamic.content = b"".join(struct.pack("<qQ", *row) for row in rows)

    sections = (loaded + len(names) + 7) // 8 * 8
    head = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, _HEADER, sections, flags,
        _HEADER, _PROGRAM, 3, _SECTION, len(parts) + 2, len(parts) + 1,
    )  # fmt: skip
    size = len(dynamic.content)
    programs = [
        (_PT_LOAD, _READ_WRITE, 0, 0, 0, loaded, loaded, _PAGE),
        (_PT_DYNAMIC, _READ_WRITE, dynamic.offset, dynamic.offset, dynamic.offset, size, size, 8),
        (_PT_GNU_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16),
    ]
    made = bytearray(head + b"".join(struct.pack("<IIQQQQQQ", *row) for row in programs))
    for part in parts:
        made += bytes(part.offset - len(made)) + part.content
    made += bytes(loaded - len(made)) + names
    made += bytes(sections - len(made)) + bytes(_SECTION)
    for part in parts:
        made += struct.pack(
            "<IIQQQQIIQQ", part.text, part.kind, 3 if part.kind == _SHT_DYNAMIC else 2,
            part.offset, part.offset, len(part.content), part.link, part.info, 8, part.entry,
        )  # fmt: skip
    made += struct.pack("<IIQQQQIIQQ", own_name, _SHT_STRTAB, 0, 0, loaded, len(names), 0, 0, 1, 0)
    return bytes(made)
