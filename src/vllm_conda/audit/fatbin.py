"""Which GPU code a library holds, read from its ``.nv_fatbin`` section.

The section is a row of containers, each a header and entries; NVIDIA documents neither, so what
follows was read off nvcc's own output (12.4 to 13.4) and is compared with cuobjdump in the tests:

    container  u32 magic 0xBA55ED50, u16 version, u16 header bytes, u64 bytes of entries
    entry      u16 kind (1 PTX, 2 machine code), u16, u32 header bytes, u64 payload bytes,
               u32 compressed bytes, u32, u16 minor, u16 major, u32 capability (90 for 9.0),
               u32, u32, u64 flags (0x100000: `a` code, 0x200000: `f` code), ...

Headers are never compressed, and no CUDA tool is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from vllm_conda.errors import AuditFailure
from vllm_cuda_plan.arch import Code

SECTION = ".nv_fatbin"
_MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")
_ENTRY = struct.Struct("<HHIQIIHHIIIQ")
_PTX, _MACHINE = 1, 2
_SPECIFIC, _FAMILY = 0x100000, 0x200000


@dataclass(frozen=True)
class GpuCode:
    """Machine code and PTX of one library."""

    machine: frozenset[Code]
    ptx: frozenset[Code]


def read_gpu_code(path: Path) -> GpuCode | None:
    """The GPU code in an ELF file, or None where it has no such section.

    Raises:
        AuditFailure: The section is not what nvcc writes.
    """
    try:
        with path.open("rb") as stream:
            section = ELFFile(stream).get_section_by_name(SECTION)
            data = section.data() if section is not None else None
    except (ELFError, OSError) as error:
        raise AuditFailure(f"{path.name} cannot be read: {error}.") from None
    return None if data is None else parse_fatbin(data, path.name)


def parse_fatbin(data: bytes, name: str) -> GpuCode:
    """Read the content of the section; errors as :func:`read_gpu_code`."""
    machine: set[Code] = set()
    ptx: set[Code] = set()
    try:
        for kind, code in _entries(data):
            (ptx if kind == _PTX else machine).add(code)
    except (struct.error, ValueError) as error:
        raise AuditFailure(f"{name}: {SECTION} is damaged: {error}.") from None
    return GpuCode(frozenset(machine), frozenset(ptx))


def _entries(data: bytes) -> Iterator[tuple[int, Code]]:
    offset = 0
    while offset < len(data):
        if not any(data[offset : offset + 8]):  # padding between containers
            offset += 8
            continue
        magic, _, header, size = _CONTAINER.unpack_from(data, offset)
        if magic != _MAGIC or header < _CONTAINER.size:
            raise ValueError(f"no container at byte {offset}")
        start, end = offset + header, offset + header + size
        if end > len(data):
            raise ValueError(f"a container ends at byte {end} of {len(data)}")
        while start < end:
            fields = _ENTRY.unpack_from(data, start)
            kind, entry_header, payload, capability, flags = (fields[i] for i in (0, 2, 3, 8, 11))
            if entry_header < _ENTRY.size or kind not in (_PTX, _MACHINE):
                raise ValueError(f"an entry of kind {kind} at byte {start}")
            suffix = "a" if flags & _SPECIFIC else "f" if flags & _FAMILY else ""
            yield kind, Code(f"{capability // 10}.{capability % 10}", suffix)
            start += entry_header + payload
        offset = end
