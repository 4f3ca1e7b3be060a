"""What scripts/test_userland.py does to a copy of the machine's libstdc++."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection, GNUVerSymSection

from scripts.test_userland import OLDEST, WEAK, take_from_the_oldest

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or platform.machine() != "x86_64", reason="needs gcc on x86-64"
)

# pthread_create has another version since 2.34; memcpy and malloc have the ones of old.
CODE = """
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
void *copy(void *to, const void *from, unsigned long size) { return memcpy(to, from, size); }
int start(pthread_t *thread, void *(*run)(void *)) {
  return pthread_create(thread, 0, run, malloc(1));
}
"""


def read(library: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Version of each symbol that is taken from elsewhere, and flags of each such version."""
    with library.open("rb") as stream:
        elf = ELFFile(stream)
        needs = elf.get_section_by_name(".gnu.version_r")
        versions = elf.get_section_by_name(".gnu.version")
        symbols = elf.get_section_by_name(".dynsym")
        assert isinstance(needs, GNUVerNeedSection)
        assert isinstance(versions, GNUVerSymSection)
        assert symbols is not None
        entries = [one for _, aux in needs.iter_versions() for one in aux]
        names = {one["vna_other"]: one.name for one in entries}
        found = {
            symbol.name: names[versions.get_symbol(index)["ndx"]]
            for index, symbol in enumerate(symbols.iter_symbols())
            if versions.get_symbol(index)["ndx"] in names
        }
        return found, {one.name: one["vna_flags"] for one in entries}


def test_newer_versions_name_the_oldest(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-fno-builtin", "-x", "c", "-", "-o", str(library)]
    subprocess.run([*command, "-pthread"], input=CODE, text=True, check=True)
    before, flags = read(library)
    if before["pthread_create"] == OLDEST:
        pytest.skip("this machine's C library is as old")
    assert flags[before["pthread_create"]] == 0
    take_from_the_oldest(library)
    after, weak = read(library)
    assert after == {**before, "pthread_create": OLDEST}
    assert weak == {**flags, before["pthread_create"]: WEAK}
    # It still loads here, where both versions are.
    subprocess.run(
        [sys.executable, "-c", f"import ctypes; ctypes.CDLL({str(library)!r})"], check=True
    )
