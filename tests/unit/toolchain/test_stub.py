"""Libraries without content: tools read them, and the loader takes the machine's own."""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from vllm_conda.toolchain import elf, stub


@pytest.mark.parametrize(
    ("family", "machine"),
    [("x86_64", "x64"), ("aarch64", "AArch64"), ("ppc64le", "64-bit PowerPC")],
)
def test_tools_read_soname_and_machine(tmp_path: Path, family: str, machine: str) -> None:
    path = tmp_path / "libtorch.so"
    path.write_bytes(stub.library("libtorch.so", family))
    with path.open("rb") as file:
        parsed = ELFFile(file)
        assert parsed.get_machine_arch() == machine
        assert parsed.little_endian
        tags = {tag.entry.d_tag: tag for tag in parsed.get_section_by_name(".dynamic").iter_tags()}
        assert tags["DT_SONAME"].soname == "libtorch.so"
        assert parsed.get_section_by_name(".dynsym").num_symbols() == 1
        assert [segment["p_type"] for segment in parsed.iter_segments()] == [
            "PT_LOAD",
            "PT_DYNAMIC",
            "PT_GNU_STACK",
        ]
    assert elf.read(path).needed == ()
    assert elf.read(path).glibc is None


def test_the_loader_takes_one_of_this_machine(tmp_path: Path) -> None:
    path = tmp_path / "libnothing.so"
    path.write_bytes(stub.library("libnothing.so", platform.machine()))
    assert not hasattr(ctypes.CDLL(str(path)), "anything")


def test_the_same_input_gives_the_same_file() -> None:
    assert stub.library("a.so", "aarch64") == stub.library("a.so", "aarch64")
