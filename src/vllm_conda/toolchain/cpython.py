"""The running CPython as a tree that works in any prefix.

Packages of the host's site-packages stay behind. Every text file that names the old
prefix names :data:`PREFIX_TOKEN` instead, which the package build turns into conda's
prefix placeholder. Shared libraries that the interpreter needs outside glibc come along.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from vllm_conda.errors import MissingToolError
from vllm_conda.toolchain import elf
from vllm_conda.toolchain.host import Host

PREFIX_TOKEN = "@VLLM_CONDA_PREFIX@"  # noqa: S105 - a placeholder, not a secret

# Not part of what conda-forge's python offers a build either, or not relocatable:
# test suites, Tk (needs X11 libraries), NIS (needs Kerberos), generated caches.
_DROPPED = re.compile(
    r"(^|/)(__pycache__|site-packages|dist-packages|test|tests|idle_test|turtledemo|"
    r"EXTERNALLY-MANAGED|sitecustomize\.py|config-[^/]*/(libpython[^/]*\.a|python\.o))(/|$)|"
    r"/lib-dynload/(_tkinter|nis|_test\w*|_ctypes_test|_xx\w+|xx\w+)\."
)
# Provided by the libgcc, libstdcxx and libzlib packages, which other packages need as well.
_FROM_PACKAGES = ("libgcc_s.so.1", "libstdc++.so.6", "libz.so.1")


def _folder_files(top: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(top):
        inside = Path(base)
        folders[:] = [
            name for name in folders if not _DROPPED.search(f"/{(inside / name).relative_to(top)}/")
        ]
        for name in names:
            path = inside / name
            if not _DROPPED.search(f"/{path.relative_to(top)}"):
                yield path


def _layout(py: str, triplet: str) -> list[tuple[Path, str]]:
    """(host file or folder, place in the prefix) pairs of the running interpreter."""
    variables = sysconfig.get_config_vars()
    home = Path(variables["installed_base"])
    library = Path(variables["LIBDIR"])
    pairs = [
        (Path(sysconfig.get_path("stdlib")), f"lib/python{py}"),
        (Path(sysconfig.get_path("include")), f"include/python{py}"),
        # Debian keeps pyconfig.h in a folder for each architecture.
        (home / "include" / triplet / f"python{py}", f"include/{triplet}/python{py}"),
        (home / "bin" / f"python{py}", f"bin/python{py}"),
    ]
    for name in (f"python{py}-config", f"pydoc{py}", f"2to3-{py}", f"idle{py}"):
        pairs.append((home / "bin" / name, f"bin/{name}"))
    for name in sorted({variables.get("INSTSONAME", ""), variables.get("LDLIBRARY", "")}):
        if name.startswith("libpython") and ".so" in name:
            pairs.append((library / name, f"lib/{name}"))
    for name in (f"python-{py}.pc", f"python-{py}-embed.pc"):
        pairs.append((library / "pkgconfig" / name, f"lib/pkgconfig/{name}"))
    return pairs


def _links(py: str) -> dict[str, str]:
    major = py.split(".")[0]
    links = {f"bin/{name}": f"python{py}" for name in ("python", f"python{major}")}
    for name in ("python-config", f"python{major}-config"):
        links[f"bin/{name}"] = f"python{py}-config"
    for name in ("pydoc", f"pydoc{major}"):
        links[f"bin/{name}"] = f"pydoc{py}"
    links["lib/pkgconfig/python3.pc"] = f"python-{py}.pc"
    links["lib/pkgconfig/python3-embed.pc"] = f"python-{py}-embed.pc"
    return links


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink() and not source.readlink().is_absolute():
        target.symlink_to(source.readlink())
    else:
        shutil.copy2(source, target)


def _undo_debian_layout(stdlib: Path) -> None:
    """Debian's Python looks for packages in dist-packages; a conda prefix has site-packages.

    Does nothing for a CPython without Debian's patches.
    """
    if "deb_system" not in sysconfig.get_scheme_names():
        return
    for path in (stdlib / "sysconfig.py", stdlib / "sysconfig" / "__init__.py"):
        if path.is_file():
            changed = path.read_bytes().replace(b"= 'posix_local'", b"= 'posix_prefix'")
            path.write_bytes(changed)
    # The site module is frozen into the executable, so that its text cannot be changed.
    packages = stdlib / "site-packages"
    bridge = stdlib / "dist-packages" / "site-packages.pth"
    bridge.parent.mkdir()
    place = f"lib/{stdlib.name}/{packages.name}"
    bridge.write_text(
        f"import os, site, sys; site.addsitedir(os.path.join(sys.prefix, {place!r}))\n",
        encoding="utf-8",
    )


def _built_prefix() -> str:
    """The prefix that the interpreter was configured with; a moved one keeps naming it."""
    module = importlib.import_module(sysconfig._get_sysconfigdata_name())  # type: ignore[attr-defined]
    return str(module.build_time_vars["prefix"])


def _tokenize(root: Path, py: str, homes: set[str]) -> None:
    """Put the token where scripts and build settings name the host's prefix."""
    library = sysconfig.get_config_var("LIBDIR")
    names = "|".join(re.escape(home) for home in sorted(homes, key=len, reverse=True))
    # A prefix ends where its path component ends: /usr must not match in /usr2.
    end = r"(?![\w.-])"
    pattern = re.compile(f"(?P<library>{re.escape(library)}){end}|(?:{names}){end}".encode())
    token = PREFIX_TOKEN.encode()

    def place_of(match: re.Match[bytes]) -> bytes:
        return token + b"/lib" if match["library"] else token

    places = ("bin", "lib/pkgconfig", f"lib/python{py}/config-*", f"lib/python{py}")
    for path in (path for place in places for path in sorted(root.glob(f"{place}/*"))):
        if path.is_symlink() or not path.is_file():
            continue
        if path.parent.name == f"python{py}" and not path.name.startswith("_sysconfigdata"):
            continue
        content = path.read_bytes()
        if b"\0" in content or not pattern.search(content):
            continue
        mode = path.stat().st_mode
        path.write_bytes(pattern.sub(place_of, content))
        path.chmod(mode)


def make_tree(host: Host, root: Path) -> None:
    """Write the relocatable interpreter below the empty folder ``root``.

    Raises:
        MissingToolError: the interpreter lacks a part, as distribution builds do without
            their -dev packages, or uses a layout that cannot be relocated.
    """
    py = host.py
    for source, place in _layout(py, host.triplet):
        if source.is_dir():
            for file in _folder_files(source):
                _copy(file, root / place / file.relative_to(source))
        elif source.exists():
            # Only libpython's links have their goal in the tree.
            own = source if "libpython" in source.name else source.resolve()
            _copy(own, root / place)
    for required in (f"bin/python{py}", f"lib/python{py}/os.py", f"include/python{py}/Python.h"):
        if not (root / required).exists():
            raise MissingToolError(
                f"The running Python has no {required.rpartition('/')[2]} in {host.python_home}.",
                "Install its development files (Debian: python3-dev), or use another CPython.",
            )
    (root / f"lib/python{py}/site-packages").mkdir(exist_ok=True)
    for link, target in _links(py).items():
        if not (root / link).exists() and (root / link).parent.joinpath(target).exists():
            (root / link).symlink_to(target)
    _undo_debian_layout(root / f"lib/python{py}")
    _tokenize(root, py, {host.python_home, _built_prefix()})
    _take_libraries(root)


def _take_libraries(root: Path) -> None:
    """Copy the shared libraries outside glibc and point every run path to ``lib``."""
    files = [path for path in _folder_files(root) if not path.is_symlink() and elf.is_elf(path)]
    own = {path.name for path in files}
    found = elf.closure(files, [*own, *_FROM_PACKAGES])
    for soname, path in sorted(found.items()):
        target = root / "lib" / soname
        _copy(path, target)
        files.append(target)
    # A static interpreter has nothing to find, and patchelf may not change a static file.
    elf.set_rpath([path for path in files if elf.read(path).needed], root, "lib")
