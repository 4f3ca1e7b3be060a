"""Tables of ELF files that name their own length, walked no further than the file goes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from elftools.common.exceptions import ELFError
from elftools.elf.gnuversions import GNUVerNeedSection

# A damaged table makes pyelftools raise all kinds of exceptions.
DAMAGED = (
    ELFError, LookupError, ValueError, TypeError, AttributeError, OverflowError, AssertionError,
    struct.error, OSError, MemoryError, RecursionError,
)  # fmt: skip
_RECORD = 16  # bytes of that of a library (verneed) and of a version (vernaux)


def asked_versions(section: GNUVerNeedSection) -> Iterator[Any]:
    """The records of the symbol versions that a library asks others for.

    pyelftools believes a count of 2**32 libraries, and follows records that lead to themselves.

    Raises:
        ELFError: There are more than fit into the file.
    """
    section.stream.seek(0, 2)
    left = section.stream.tell() // _RECORD

    def counted() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ELFError("its version needs never end")

    for library, versions in section.iter_versions():
        counted()
        for version in versions:
            counted()
            yield version
            if version["vna_next"] == 0:
                break
        if library["vn_next"] == 0:
            break
