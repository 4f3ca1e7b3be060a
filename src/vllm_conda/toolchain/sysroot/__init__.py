"""The C library that packages are linked with: headers and link files of one glibc version.

No registry offers an old glibc for long, and the machine's own is too new. Zig's wheel holds what
every glibc since 2.2.5 exports, its headers and its start files, for every platform; Zig makes link
files of a version out of it. GCC compiles and links with them as with a real C library's.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from vllm_conda import platforms
from vllm_conda.downloads.store import disk_errors, disk_failed, remove
from vllm_conda.elf_tables import DAMAGED
from vllm_conda.errors import BuildFailure, reason
from vllm_conda.processes import run
from vllm_conda.toolchain.sysroot import abilist, headers
from vllm_conda.toolchain.sysroot.abilist import Version

# Shared libraries of glibc that Zig makes: soname -> what `-l` looks for. libc.so is a script.
LIBRARIES = {
    "libm.so.6": "libm.so",
    "libpthread.so.0": "libpthread.so",
    "libdl.so.2": "libdl.so",
    "librt.so.1": "librt.so",
    "libutil.so.1": "libutil.so",
    "libresolv.so.2": "libresolv.so",
    "libc.so.6": "",
}
STATIC = "libc_nonshared.a"
# Zig's parts by what is compiled: option -> file of glibc in its cache.
_PARTS = {"-fPIE": ("Scrt1.o",), "-fno-PIE": ("crt1.o",), "-dynamic": (*LIBRARIES, STATIC)}
ABILISTS = "ziglang/lib/libc/glibc/abilists"  # in the wheel
_ARCHIVE = b"!<arch>\n"
# The wheel's folders of headers, one an architecture: `x86` of x86_64.
_HEADERS = re.compile(r"ziglang/lib/libc/include/(\w+)-linux-gnu/")
# What Zig reads of itself to make a C library: a tenth of the files.
_NEEDED = r"ziglang/(zig$|lib/(std/std\.zig$|include/|libc/(glibc|include/({folders}))/))"


@dataclass(frozen=True)
class Zig:
    """Zig in a folder, with what it needs of its library to make a C library.

    Attributes:
        folder: Of the unpacked part of the wheel.
        target: GNU triplet.
        machine: Zig's name of its architecture, as its folders of headers have it.
    """

    folder: Path
    target: str
    machine: str

    @classmethod
    def of_wheel(cls, wheel: Path, folder: Path, target: str) -> Zig:
        """Unpack what of it is needed for ``target``.

        Raises:
            BuildFailure: The wheel does not hold it.
        """
        with ZipFile(wheel) as archive:
            machines = {m[1] for name in archive.namelist() if (m := _HEADERS.match(name))}
        fits = [name for name in machines if target.startswith(name)]
        zig = cls(folder, target, max(fits, key=len, default=""))
        folders = "|".join(re.escape(name) for name in (*zig.glibc_folders, *zig.kernel_folders))
        needed = re.compile(_NEEDED.format(folders=folders))
        with ZipFile(wheel) as archive:
            archive.extractall(folder, [name for name in archive.namelist() if needed.match(name)])
        if not zig.program.is_file() or not (folder / ABILISTS).is_file():
            raise BuildFailure(f"{wheel.name} does not hold Zig with its C libraries.")
        zig.program.chmod(0o755)
        return zig

    @property
    def glibc_folders(self) -> tuple[str, ...]:
        """Folders of glibc's headers; what the first has goes before what the others have."""
        return (f"{self.machine}-linux-gnu", "generic-glibc")

    @property
    def kernel_folders(self) -> tuple[str, ...]:
        """The same of Linux's headers."""
        return (f"{self.machine}-linux-any", "any-linux-any")

    @property
    def program(self) -> Path:
        return self.folder / "ziglang/zig"

    @property
    def libc(self) -> Path:
        return self.folder / "ziglang/lib/libc"

    def parts(self, version: str, option: str, names: Collection[str]) -> dict[str, Path]:
        """Make what Zig links a program or library with, and find it in a cache of its own.

        Args:
            version: Of glibc.
            option: The kind of program or library.
            names: The files.

        Raises:
            BuildFailure: Zig failed, or made something else.
        """
        folder = self.folder / f"work{option}"
        folder.mkdir()
        (folder / "empty.c").write_text("int main(void) { return 0; }\n", encoding="utf-8")
        command = [
            str(self.program), "build-lib" if option == "-dynamic" else "build-exe", option, "-lc",
            "-target", f"{self.target}.{version}", "-fno-compiler-rt", "-fno-ubsan-rt",
            "-O", "ReleaseSmall", "-femit-bin=empty", "empty.c",
        ]  # fmt: skip
        caches = {f"ZIG_{kind}_CACHE_DIR": str(folder / kind) for kind in ("LOCAL", "GLOBAL")}
        done = run(
            command,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": str(folder), **caches},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            if (full := disk_failed(done.stderr, folder)) is not None:
                raise full
            reason = done.stderr.strip().splitlines()[:1] or ["no output"]
            raise BuildFailure(f"zig could not make the C library of {self.target}: {reason[0]}.")
        made = {}
        for name in names:
            found = list(folder.glob(f"GLOBAL/o/*/{name}"))
            if len(found) != 1:
                raise BuildFailure(
                    f"zig made {len(found)} files {name} for {self.target}, not one."
                )
            made[name] = found[0]
        return made


def glibc_symbols(wheel: Path, target: str) -> Mapping[str, Version]:
    """Each symbol of glibc for ``target`` (a GNU triplet) with the first version that has it.

    Raises:
        BuildFailure: The wheel is not what this module knows.
    """
    with ZipFile(wheel) as archive:
        return abilist.first_versions(archive.read(ABILISTS), target)


def make(wheel: Path, platform: str, version: str, root: Path, scratch: Path) -> None:
    """Write headers and link files of glibc ``version`` into ``root``: ``include`` and ``lib``.

    Args:
        wheel: File of the wheel ``ziglang``.
        platform: conda subdir.
        scratch: An empty folder for Zig and its cache; it is removed.

    Raises:
        BuildFailure: The wheel is not what this module knows.
        DiskError: The disk is full.
    """
    entry = platforms.table()[platform]
    target = entry.triplet
    floor = _numbers(version)
    with disk_errors(root):
        zig = Zig.of_wheel(wheel, scratch, target)
        made: dict[str, Path] = {}
        for option, names in _PARTS.items():
            made |= zig.parts(version, option, names)
        _libraries(made, entry.loader, root / "lib")
        known = glibc_symbols(wheel, target)
        there = set().union(*(exported(made[name]) for name in (*LIBRARIES, STATIC)))
        there |= exported(_loader(made))
        absent = {name: since for name, since in known.items() if name not in there}
        early = {name: since for name, since in absent.items() if since <= floor}
        if early:
            raise BuildFailure(
                f"zig's glibc {version} for {target} lacks {min(early)}, which it should have."
            )
        (root / "lib/libc.so").write_text(script(entry.loader, absent, version), encoding="utf-8")
        _headers(zig, floor, absent, root / "include")
        remove(scratch)


def _numbers(version: str) -> Version:
    major, minor = version.split(".")
    return int(major), int(minor)


def _loader(made: Mapping[str, Path]) -> Path:
    return made["libc.so.6"].with_name("libld.so.2")  # Zig's name of it


def _libraries(made: Mapping[str, Path], loader: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, path in (*made.items(), (loader, _loader(made))):
        (folder / name).write_bytes(path.read_bytes())
    for soname, name in LIBRARIES.items():
        if name:
            (folder / name).symlink_to(soname)


def script(loader: str, absent: Mapping[str, Version], version: str) -> str:
    """``libc.so``: what ``-lc`` links, and the symbols that it must not be asked for.

    A shared library may be linked with symbols missing, so a call of a function that only newer
    versions have would be noticed on the node. PROVIDE acts on a symbol that is needed and that
    nothing before defines: it makes the linker ask for another that cannot exist, whose name says
    why.
    """
    rows = [
        f"GROUP ( libc.so.6 {STATIC} AS_NEEDED ( {loader} ) )",
        *(
            f'PROVIDE ("{name}" = "{name} of glibc {since[0]}.{since[1]}, linked for {version}");'
            for name, since in sorted(absent.items())
        ),
    ]
    return "\n".join(("/* GNU ld script */", *rows, ""))


def exported(path: Path) -> set[str]:
    """Global symbols that a shared library or the objects of a static one define."""
    data = path.read_bytes()
    if not data.startswith(_ARCHIVE):
        return _defined(path)
    return _index(data)


def _defined(path: Path) -> set[str]:
    try:
        with path.open("rb") as file:
            table = ELFFile(file).get_section_by_name(".dynsym")
            if not isinstance(table, SymbolTableSection):
                raise BuildFailure(f"{path.name} has no dynamic symbols.")
            return {one.name for one in table.iter_symbols() if one["st_shndx"] != "SHN_UNDEF"}
    except DAMAGED as error:
        raise BuildFailure(f"{path.name} is not a readable ELF file: {reason(error)}.") from error


def _index(data: bytes) -> set[str]:
    """The symbols that an archive's own index names."""
    size = int(data[len(_ARCHIVE) + 48 : len(_ARCHIVE) + 58])
    start = len(_ARCHIVE) + 60
    count = int.from_bytes(data[start : start + 4], "big")
    names = data[start + 4 + 4 * count : start + size]
    return {name.decode() for name in names.split(b"\0") if re.match(rb"\w", name)}


def _headers(zig: Zig, floor: Version, absent: Collection[str], folder: Path) -> None:
    include = zig.libc / "include"
    kernel = headers.read([include / name for name in zig.kernel_folders])
    glibc = headers.read([include / name for name in zig.glibc_folders])
    glibc |= {place: include / zig.glibc_folders[-1] / place for place in headers.GENERIC}
    for place, path in {**kernel, **glibc}.items():
        text: str | None = path.read_text(encoding="utf-8", errors="surrogateescape")
        if text is not None and place in glibc:
            text = headers.of_version(place, text, floor, absent)
        if text is not None:
            goal = folder / place
            goal.parent.mkdir(parents=True, exist_ok=True)
            goal.write_text(text, encoding="utf-8", errors="surrogateescape")
