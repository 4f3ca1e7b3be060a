"""From source trees to the exact files of one package."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vllm_conda.downloads.store import disk_errors, disk_failed
from vllm_conda.errors import BuildFailure, ConfigError
from vllm_conda.processes import run
from vllm_conda.toolchain import elf, stub
from vllm_conda.toolchain.activation import activate_script, deactivate_script
from vllm_conda.toolchain.cpython import PREFIX_TOKEN
from vllm_conda.toolchain.model import Package, Rule

_TEXT_LIMIT = 4 << 20


@dataclass(frozen=True)
class Staged:
    """A package's files on disk.

    Attributes:
        root: Folder that looks like the prefix.
        prefix_files: Files that hold the prefix token, relative to ``root``.
        glibc: Highest glibc version that an ELF file of the package requires, or None.
    """

    root: Path
    prefix_files: tuple[str, ...]
    glibc: tuple[int, int] | None


def _matches(path: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(path, glob) for glob in globs)


def walk(root: Path) -> Iterator[str]:
    """Every file and symbolic link below ``root``, relative, sorted within a folder."""
    for base, folders, names in os.walk(root):
        folders.sort()
        inside = os.path.relpath(base, root)
        links = [name for name in folders if Path(base, name).is_symlink()]
        for name in sorted([*names, *links]):
            yield name if inside == "." else f"{inside}/{name}"


def map_path(path: str, rule: Rule) -> str | None:
    """Where ``rule`` puts the source path, or None when it does not take it."""
    if not path.startswith(rule.base):
        return None
    if rule.only and not _matches(path, rule.only):
        return None
    if _matches(path, rule.drop):
        return None
    return rule.to + path[len(rule.base) :]


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        goal = source.readlink()
        # An absolute link points outside any prefix; it would be broken or wrong there.
        if not goal.is_absolute():
            target.symlink_to(goal)
    else:
        os.link(source, target)


def copy_rules(package: Package, trees: Mapping[str, Sequence[Path]], root: Path) -> None:
    """Hard-link what the package's rules select; the first rule that takes a path wins.

    Args:
        trees: Source -> its folders (one for a wheel, one for each Debian package, whose
            folder has the package's name).

    Raises:
        ConfigError: a rule that selects nothing, or two files for one place.
    """
    seen: set[tuple[str, str]] = set()
    rules = package.files or ((Rule(f"pip:{package.wheel}"),) if package.wheel else ())
    for index, rule in enumerate(rules):
        count = 0
        for tree in trees[rule.source]:
            if rule.debs and not _matches(tree.name, rule.debs):
                continue
            for path in walk(tree):
                place = map_path(path, rule)
                if place is None or (str(tree), path) in seen:
                    continue
                seen.add((str(tree), path))
                count += 1
                if os.path.lexists(root / place):
                    raise ConfigError(
                        f"packages.toml: {package.name}: two files would become {place}."
                    )
                _link(tree / path, root / place)
        if count == 0:
            raise ConfigError(
                f"packages.toml: {package.name}: rule {index + 1} ({rule.source}, "
                f"{', '.join(rule.only) or rule.base or 'everything'}) selects no file."
            )


def _write(package: Package, root: Path, family: str) -> None:
    texts = [(item.path, item.text, item.executable) for item in package.write]
    if package.activation is not None:
        stem = package.activation.file
        texts += [
            (f"etc/conda/activate.d/{stem}.sh", activate_script(package.activation), False),
            (f"etc/conda/deactivate.d/{stem}.sh", deactivate_script(package.activation), False),
        ]
    for place, text, executable in texts:
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755 if executable else 0o644)
    for item in package.append:
        path = root / item.path
        if not path.is_file():
            raise ConfigError(f"packages.toml: {package.name}: append finds no {item.path}.")
        text = path.read_text(encoding="utf-8") + item.text
        path.unlink()  # a hard link to the source, which stays as it is
        path.write_text(text, encoding="utf-8")
    for place, soname in package.stubs.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(stub.library(soname, family))
        path.chmod(0o755)
    for place, goal in package.links.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(goal)


def _compile(root: Path) -> None:
    """Bytecode that never looks at timestamps: installers change those."""
    command = [
        sys.executable, "-m", "compileall", "-q", "-j", "0",
        "--invalidation-mode", "unchecked-hash", "-s", str(root),
        # Text files whose prefix is replaced on installation would leave stale bytecode;
        # templates under lib2to3/tests and the like are not valid Python.
        "-x", r"_sysconfigdata|lib2to3/tests|bad_coding|badsyntax|/templates/", str(root / "lib"),
    ]  # fmt: skip
    done = run(command, capture_output=True, text=True)
    if (full := disk_failed(done.stdout + done.stderr, root)) is not None:
        raise full


def stage(package: Package, trees: Mapping[str, Sequence[Path]], root: Path, family: str) -> Staged:
    """Make the files of one package below the empty folder ``root``.

    Args:
        family: archspec family of the channel's platform.

    Raises:
        ConfigError: a mapping rule that does not fit its source.
        DiskError: the disk is full.
    """
    with disk_errors(root):
        copy_rules(package, trees, root)
        _write(package, root, family)
        if package.compile:
            _compile(root)
        return _finish(package, root)


def _finish(package: Package, root: Path) -> Staged:
    prefix_files, binaries = [], []
    token = PREFIX_TOKEN.encode()
    for place in walk(root):
        path = root / place
        if path.is_symlink():
            continue
        if elf.is_elf(path):
            binaries.append((place, path))
        elif (
            path.stat().st_size <= _TEXT_LIMIT
            and not place.endswith(".pyc")
            and token in path.read_bytes()
        ):
            prefix_files.append(place)
    done: set[str] = set()
    for row in package.rpath:
        chosen = [
            (place, path)
            for place, path in binaries
            if place not in done and _matches(place, row.only) and elf.read(path).needed
        ]
        if not chosen:
            raise BuildFailure(f"packages.toml: {package.name}: rpath {row.only} matches no file.")
        done.update(place for place, _ in chosen)
        elf.set_rpath([path for _, path in chosen], root, row.to, row.keep)
    # A noarch package is data for a build (headers, sysroot): nothing in it runs.
    shared = [] if package.noarch else [path for place, path in binaries if _is_dynamic(place)]
    return Staged(root, tuple(prefix_files), elf.glibc_floor(shared))


def _is_dynamic(place: str) -> bool:
    return not place.endswith((".o", ".a"))
