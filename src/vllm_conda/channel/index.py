"""The index of a channel: made by rattler in a draft folder, and compared with what is there."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import zstandard
from rattler.exceptions import CacheDirError, ExtractError, IoError
from rattler.index import index_fs
from rattler.package import IndexJson, RunExportsJson

from vllm_conda.channel.files import SHARDS, link_or_copy
from vllm_conda.channel.folder import NOARCH, Package
from vllm_conda.downloads.store import disk_failed
from vllm_conda.errors import IntegrityError, reason

# The indexer reports a package that it cannot open as CacheDirError.
_INDEX_ERRORS = (RuntimeError, OSError, ValueError, CacheDirError, ExtractError, IoError)
# Keys that rattler leaves out of a row where they are empty.
_EXPORTS = ("weak", "strong", "noarch", "weak_constrains", "strong_constrains")


def index_files(
    files: Sequence[tuple[str, Path]], draft: Path, subdirs: Iterable[str] = ()
) -> list[Package]:
    """Write every form of the index of package files below the folder ``draft``.

    Args:
        files: Subdir and path.
        subdirs: More of them, whose index is empty where no file is of them.

    Returns:
        What the index says of each.

    Raises:
        IntegrityError: A file that the indexer does not understand.
    """
    _empty(draft)
    every = {NOARCH, *subdirs, *(subdir for subdir, _ in files)}
    for subdir in every:
        (draft / subdir).mkdir(exist_ok=True)
    for subdir, path in files:
        _check_readable(path)
        link_or_copy(path, draft / subdir / path.name)
    _index(draft)
    found = []
    for subdir, path in files:
        row = _rows(draft / subdir / "repodata.json").get(path.name)
        if row is None:
            raise IntegrityError(f"{path.name} cannot be indexed.", "Build or fetch it again.")
        found.append(Package(subdir, path.name, row, run_exports(path)))
    _write_run_exports(draft, found, every)
    return found


def _check_readable(path: Path) -> None:
    """The indexer panics at what this reader, of the same library, refuses."""
    try:
        IndexJson.from_package_archive(path)
    except _INDEX_ERRORS as error:
        raise IntegrityError(
            f"{path.name} cannot be indexed: {reason(error)}.", "Build or fetch it again."
        ) from None


def run_exports(path: Path) -> dict[str, list[str]]:
    """The run exports of a package file, without those that are empty."""
    try:
        return export_row(RunExportsJson.from_package_archive(path))
    except _INDEX_ERRORS:
        return {}


def export_row(exports: RunExportsJson | None) -> dict[str, list[str]]:
    """As ``run_exports.json`` has them."""
    return {name: list(value) for name in _EXPORTS if (value := getattr(exports, name, None))}


def make_index(draft: Path, packages: Sequence[Package], subdirs: Iterable[str]) -> None:
    """Write every form of the index of ``packages`` below the folder ``draft``.

    rattler opens only packages that its last repodata.json does not have. So it is given one
    with all rows, and a name without content for each package.
    """
    _empty(draft)
    for subdir in {NOARCH, *subdirs}:
        (draft / subdir).mkdir(exist_ok=True)
        listed = [one for one in packages if one.subdir == subdir]
        for one in listed:
            (draft / subdir / one.file_name).touch()
        _write_json(draft / subdir / "repodata.json", _repodata(subdir, listed))
    _index(draft)
    _write_run_exports(draft, packages, {NOARCH, *subdirs})


def _index(draft: Path) -> None:
    try:
        asyncio.run(index_fs(draft))
    except _INDEX_ERRORS as error:
        if full := disk_failed(str(error), draft):
            raise full from None
        raise IntegrityError(
            f"The packages cannot be indexed: {reason(error)}.", "Build or fetch them again."
        ) from None


def _write_run_exports(draft: Path, packages: Sequence[Package], subdirs: Iterable[str]) -> None:
    """What rattler does not write itself."""
    for subdir in subdirs:
        listed = [one for one in packages if one.subdir == subdir]
        exports = draft / subdir / "run_exports.json"
        _write_json(exports, _run_exports(subdir, listed))
        packed = zstandard.ZstdCompressor(level=19).compress(exports.read_bytes())
        exports.with_name(f"{exports.name}.zst").write_bytes(packed)


def normalised(packages: Sequence[Package], draft: Path) -> list[Package]:
    """Packages whose rows come from another index, with rows as this one writes them."""
    make_index(draft, packages, {one.subdir for one in packages})
    rows = {one.subdir: _rows(draft / one.subdir / "repodata.json") for one in packages}
    return [
        Package(one.subdir, one.file_name, rows[one.subdir][one.file_name], one.run_exports)
        for one in packages
    ]


def stale(folder: Path, packages: Sequence[Package], subdirs: Iterable[str]) -> list[str]:
    """Those of ``subdirs`` whose index does not say in every form what ``packages`` say."""
    found = []
    for subdir in subdirs:
        listed = [one for one in packages if one.subdir == subdir]
        try:
            current = _current(folder / subdir, subdir, listed)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, zstandard.ZstdError):
            current = False
        if not current:
            found.append(subdir)
    return found


def shards(folder: Path) -> frozenset[str]:
    """The shard files that the index of a subdir's ``folder`` refers to."""
    try:
        names = _unpack(folder / "repodata_shards.msgpack.zst")["shards"].values()
        return frozenset(f"{name.hex()}.msgpack.zst" for name in names)
    except (OSError, ValueError, KeyError, AttributeError, zstandard.ZstdError):
        return frozenset()


def _current(folder: Path, subdir: str, packages: Sequence[Package]) -> bool:
    rows = {one.file_name: dict(one.record) for one in packages}
    repodata = folder / "repodata.json"
    exports = folder / "run_exports.json"
    return (
        _rows(repodata) == rows
        and _same_packed(repodata)
        and json.loads(exports.read_bytes()) == _run_exports(subdir, packages)
        and _same_packed(exports)
        and _sharded(folder) == {name: row["sha256"] for name, row in rows.items()}
    )


def _same_packed(path: Path) -> bool:
    return _decompress(path.with_name(f"{path.name}.zst")) == path.read_bytes()


def _sharded(folder: Path) -> dict[str, str]:
    """File name -> SHA-256, as a client reads them that reads shards."""
    found: dict[str, str] = {}
    for name in shards(folder):
        path = folder / SHARDS / name
        if not name.startswith(sha256(path.read_bytes()).hexdigest()):
            raise ValueError(f"{path} is not what its name says")
        shard = _unpack(path)
        for kind in ("packages", "packages.conda"):
            found |= {file: row["sha256"].hex() for file, row in shard.get(kind, {}).items()}
    return found


def _rows(repodata: Path) -> dict[str, dict[str, Any]]:
    data = json.loads(repodata.read_bytes())
    return {**data["packages"], **data["packages.conda"]}


def _repodata(subdir: str, packages: Sequence[Package]) -> dict[str, Any]:
    tables = _by_kind({one.file_name: dict(one.record) for one in packages})
    return {"info": {"subdir": subdir}, **tables, "repodata_version": 1}


def _run_exports(subdir: str, packages: Sequence[Package]) -> dict[str, Any]:
    rows = {one.file_name: {"run_exports": dict(one.run_exports)} for one in packages}
    return {"info": {"subdir": subdir, "version": 1}, **_by_kind(rows)}


def _by_kind(rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    conda = {name: row for name, row in rows.items() if name.endswith(".conda")}
    others = {name: row for name, row in rows.items() if name not in conda}
    return {"packages": others, "packages.conda": conda}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _unpack(path: Path) -> Any:
    return msgpack.unpackb(_decompress(path))


def _decompress(path: Path) -> bytes:
    # rattler writes no content size into some of them, which the one-shot call would need.
    return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes())


def _empty(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    (draft / NOARCH).mkdir(parents=True)
