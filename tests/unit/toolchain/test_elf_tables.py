"""Tables of damaged ELF files that pyelftools would walk for ever: an answer or one sentence."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import pytest
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from vllm_conda.audit.elf import read_library
from vllm_conda.elf_tables import asked_versions
from vllm_conda.toolchain import elf

LIBRARY = Path(find_spec("_ctypes").origin)  # type: ignore[union-attr,arg-type]


def _header(name: str) -> int:
    """Where a section's header lies."""
    with LIBRARY.open("rb") as stream:
        read = ELFFile(stream)
        index = read.get_section_index(name)
        return int(read["e_shoff"] + index * read["e_shentsize"])


def test_more_libraries_are_named_than_there_are(tmp_path: Path) -> None:
    header = _header(".gnu.version_r")
    data = bytearray(LIBRARY.read_bytes())
    struct.pack_into("<I", data, header + 44, 2**32 - 1)  # sh_info
    file = tmp_path / "library.so"
    file.write_bytes(data)
    found, right = read_library(file, "library.so"), read_library(LIBRARY, "library.so")
    assert found is not None
    assert right is not None
    assert found.versions == right.versions
    assert elf.read(file) == elf.read(LIBRARY)


class Overlapping:
    """Version needs in 160 bytes that lie over each other: none is the last."""

    def __init__(self, versions: int) -> None:
        self.stream, self.versions, self.libraries = BytesIO(bytes(160)), versions, 0

    def iter_versions(self) -> Iterator[tuple[dict[str, int], Iterator[dict[str, int]]]]:
        while True:
            self.libraries += 1
            yield {"vn_next": 1}, iter([{"vna_next": 1}] * self.versions)


@pytest.mark.parametrize("versions", [3, 0])
def test_versions_that_lie_over_each_other(versions: int) -> None:
    section = Overlapping(versions)
    with pytest.raises(ELFError, match="never end"):
        list(asked_versions(section))  # type: ignore[arg-type]
    assert section.libraries * (1 + versions) <= 12
