"""Opening what is audited: conda packages, wheels, folders and single libraries."""

from __future__ import annotations

import email.parser
import os
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from rattler.package_streaming import extract

from vllm_conda.archives import DAMAGED
from vllm_conda.audit import built_for
from vllm_conda.audit.built_for import BuiltFor
from vllm_conda.audit.elf import Library, is_elf, read_library
from vllm_conda.audit.finding import Finding, error
from vllm_conda.errors import AuditFailure, UsageError, reason
from vllm_conda.structure import load_json

CONDA = ("conda package", (".conda", ".tar.bz2"))
WHEEL = ("wheel", (".whl",))
FOLDER, LIBRARY = "folder", "library"

_NOARCH_PYTHON = "site-packages/"


@dataclass(frozen=True)
class Subject:
    """One opened package.

    ``files`` are the paths that it installs, ``root`` the folder that they lie in, ``metadata``
    the paths that describe it (``info/``, ``*.dist-info/``). ``size`` is the archive's in bytes,
    None for what is no archive. ``built_for`` is what our own packages say of their job.
    """

    label: str
    kind: str
    root: Path
    files: tuple[str, ...]
    metadata: tuple[str, ...] = ()
    package: str = ""
    subdir: str = ""
    depends: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    noarch_python: bool = False
    license: str = ""
    placeholders: Mapping[str, str] = field(default_factory=dict)
    size: int | None = None
    built_for: BuiltFor | None = None

    @property
    def installed_size(self) -> int:
        return sum((self.root / name).lstat().st_size for name in self.files)

    @cached_property
    def _elf(self) -> tuple[tuple[Library, ...], tuple[Finding, ...]]:
        libraries, damaged = [], []
        for name in self.files:
            path = self.root / name
            try:
                if path.is_symlink() or not path.is_file() or not is_elf(path):
                    continue
                library = read_library(path, name)
            except OSError as failure:
                text = failure.strerror or str(failure)
                damaged.append(error("archive", name, f"cannot be read: {text}"))
                continue
            except AuditFailure as failure:
                damaged.append(error("archive", "", failure.message))
                continue
            if library is not None:
                libraries.append(library)
        return tuple(libraries), tuple(damaged)

    @property
    def libraries(self) -> tuple[Library, ...]:
        return self._elf[0]

    @property
    def damaged(self) -> tuple[Finding, ...]:
        """ELF files that cannot be read."""
        return self._elf[1]

    @cached_property
    def exports(self) -> frozenset[str]:
        """Dynamic symbols that the package's own libraries define."""
        return frozenset().union(*(library.exports for library in self.libraries))

    def installed(self, name: str) -> str:
        """Where a file lies in the prefix; ``python3.N`` stands for the folder of any version."""
        if self.kind == WHEEL[0]:
            return f"lib/python3.N/site-packages/{name}"
        if self.noarch_python and name.startswith(_NOARCH_PYTHON):
            return f"lib/python3.N/{name}"
        return name


@contextmanager
def open_subject(path: Path) -> Iterator[Subject]:
    """Open a package for the audit; archives are unpacked into a temporary folder.

    Raises:
        UsageError: There is nothing at ``path``, or nothing that the audit reads.
        AuditFailure: The package is damaged.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist.", "Name a package, a folder or a library.")
    if path.is_dir():
        yield _folder(path)
    elif not path.is_file():
        raise UsageError(f"{path} is no file.", "Name a package, a folder or a library.")
    elif path.name.endswith(CONDA[1]):
        with tempfile.TemporaryDirectory(prefix="vllm-conda-audit-") as folder:
            yield _conda(path, Path(folder))
    elif path.name.endswith(WHEEL[1]):
        with tempfile.TemporaryDirectory(prefix="vllm-conda-audit-") as folder:
            yield _wheel(path, Path(folder))
    elif _is_elf(path):
        yield Subject(path.name, LIBRARY, path.parent, (path.name,))
    else:
        raise UsageError(
            f"{path} is no .conda, .tar.bz2 or .whl, no folder and no ELF file.",
            "Name a package, a folder or a library.",
        )


def _is_elf(path: Path) -> bool:
    try:
        return is_elf(path)
    except OSError as failure:
        raise AuditFailure(f"{path.name} cannot be read: {failure.strerror}.") from None


def _walk(root: Path) -> tuple[str, ...]:
    def refuse(failure: OSError) -> None:
        raise AuditFailure(f"{failure.filename} cannot be read: {failure.strerror}.")

    found = []
    for folder, _, names in os.walk(root, onerror=refuse):
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in names]
    return tuple(sorted(found))


def _folder(path: Path) -> Subject:
    return Subject(path.name or str(path), FOLDER, path, _walk(path))


def _conda(path: Path, folder: Path) -> Subject:
    try:
        extract(path, folder)
    except DAMAGED as failure:
        text = reason(failure).removeprefix("an io error occurred: ")
        raise AuditFailure(f"{path.name} is damaged: {text}.") from None
    index = _json(folder, "info/index.json", path.name)
    paths = _json(folder, "info/paths.json", path.name, required=False)
    every = _walk(folder)
    entries = paths.get("paths", [])
    try:
        return Subject(
            label=path.name,
            kind=CONDA[0],
            root=folder,
            files=tuple(name for name in every if not name.startswith("info/")),
            metadata=tuple(name for name in every if name.startswith("info/")),
            package=str(index["name"]),
            subdir=str(index.get("subdir", "")),
            depends=tuple(str(spec) for spec in index.get("depends", [])),
            noarch_python=index.get("noarch") == "python",
            license=str(index.get("license") or ""),
            placeholders={
                entry["_path"]: entry["prefix_placeholder"]
                for entry in entries
                if entry.get("prefix_placeholder")
            },
            size=path.stat().st_size,
            built_for=_built_for(folder, path.name),
        )
    except (KeyError, TypeError, AttributeError) as failure:
        raise AuditFailure(f"{path.name}: info/ is malformed: {failure!r}.") from None


def _built_for(folder: Path, label: str) -> BuiltFor | None:
    try:
        return built_for.read((folder / built_for.FILE).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as failure:
        raise AuditFailure(f"{label}: {built_for.FILE}: {failure}.") from None


def _json(folder: Path, name: str, label: str, required: bool = True) -> dict[str, Any]:
    try:
        value = load_json((folder / name).read_bytes())
    except FileNotFoundError:
        if not required:
            return {}
        raise AuditFailure(f"{label} is no conda package: it holds no {name}.") from None
    except ValueError as failure:
        raise AuditFailure(f"{label}: {name} is not JSON: {failure}.") from None
    if not isinstance(value, dict):
        raise AuditFailure(f"{label}: {name} is not a JSON object.")
    return value


def _wheel(path: Path, folder: Path) -> Subject:
    try:
        name, _, _, tags = parse_wheel_filename(path.name)
    except InvalidWheelFilename:
        raise AuditFailure(
            f"{path.name} is not named as wheels are: NAME-VERSION-PYTHON-ABI-PLATFORM.whl."
        ) from None
    try:
        with zipfile.ZipFile(path) as archive:
            # zipfile keeps names inside the folder: no `..`, no leading slash.
            archive.extractall(folder)
    except DAMAGED as failure:
        raise AuditFailure(f"{path.name} is damaged: {reason(failure)}.") from None
    every = _walk(folder)
    described = {part for n in every if (part := PurePosixPath(n).parts[0]).endswith(".dist-info")}
    about = next((n for n in every if n.endswith(".dist-info/METADATA")), None)
    if about is None:
        raise AuditFailure(f"{path.name} is no wheel: it holds no .dist-info/METADATA.")
    text = (folder / about).read_text(encoding="utf-8", errors="replace")
    metadata = email.parser.HeaderParser().parsestr(text)
    return Subject(
        label=path.name,
        kind=WHEEL[0],
        root=folder,
        files=tuple(n for n in every if n.split("/")[0] not in described),
        metadata=tuple(n for n in every if n.split("/")[0] in described),
        package=str(name),
        depends=tuple(metadata.get_all("Requires-Dist", [])),
        tags=tuple(sorted(str(tag) for tag in tags)),
        license=metadata.get("License-Expression") or metadata.get("License") or "",
        size=path.stat().st_size,
    )
