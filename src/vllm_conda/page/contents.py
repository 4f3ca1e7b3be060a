"""What the page of a channel says, before it is HTML."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import cattrs
from tuf.api.metadata import Timestamp

from vllm_conda import packages
from vllm_conda.channel.folder import PUBLICATION, ChannelFolder
from vllm_conda.signing import bundle, content, repository
from vllm_conda.site.channels import Channels
from vllm_conda.site.model import Site
from vllm_conda.site.overrides import advise
from vllm_conda.site.preflight import OWN_PREFIX, Answer, NodeResult, check_site, spec_name
from vllm_conda.structure import load_json

SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """What a node type gets for a package: a ``build``, or the ``refusal``'s reason."""

    package: str
    build: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Row:
    """A node type with a cell for each package, and ``notes`` on them."""

    node: str
    platform: str
    role: str
    needs: str
    cells: tuple[Cell, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Login:
    """Variables under which an install on ``login`` is right for ``compute`` node types."""

    login: str
    compute: tuple[str, ...]
    line: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class File:
    """A package file.

    Attributes:
        yanked: Why solvers are not offered it, if so.
        tested: ``passed``, or why its own tests did not run where it was built; empty where nothing
            that is signed says so.
    """

    path: str
    sha256: str
    size: int
    yanked: str = ""
    tested: str = ""


@dataclass(frozen=True)
class Changes:
    """Paths that differ from what the page before showed; ``since`` is empty for the first."""

    since: str = ""
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    yanked: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.yanked or self.restored)


@dataclass(frozen=True)
class Contents:
    """All of a page."""

    title: str
    url: str
    others: tuple[str, ...]
    spec: str
    published: str
    serial: int
    signed_until: str
    rows: tuple[Row, ...]
    logins: tuple[Login, ...]
    files: tuple[File, ...]
    changes: Changes = field(default_factory=Changes)

    @property
    def where(self) -> str:
        """The channels as options that every client takes."""
        return shlex.join(word for one in (self.url, *self.others) for word in ("-c", one))

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(cell.package for row in self.rows for cell in row.cells))

    @property
    def total(self) -> int:
        """Bytes of all packages."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Record:
    """What is kept beside the page, for the next one to say what changed."""

    schema: int
    published: str
    files: tuple[File, ...]
    changes: Changes


def collect(
    folder: Path,
    site: Site,
    others: Sequence[str] = (),
    specs: Sequence[str] = (),
    url: str = "",
) -> Contents:
    """Solve every node type of ``site`` for every package, and list the files of the channel.

    Args:
        folder: The channel.
        others: Channels that its packages need besides, the first preferred.
        specs: What to ask for; by default each of the project's own packages in the channel.
        url: Where readers find the channel, if not in this folder.

    Raises:
        UsageError: No channel.
        IntegrityError: Its index is damaged.
        NetworkError: Another channel cannot be read.
    """
    listed = content.records(folder)
    names = list(specs) or _own_names(record.name for record in listed.values())
    channels = Channels([folder.resolve().as_uri(), *others])
    results = check_site(site, channels, names, each=True)
    # Advice is about what one installs, not about each package by itself.
    wanted = check_site(site, channels)
    return Contents(
        title=site.site,
        url=url or folder.resolve().as_uri(),
        others=tuple(others),
        spec=shlex.join(site.specs),
        published=_published(folder),
        serial=_serial(folder),
        signed_until=_signed_until(folder),
        rows=tuple(_row(result) for result in results),
        logins=tuple(
            Login(one.login, one.compute, one.line, one.warnings)
            for one in advise(wanted, channels)
            if one.line
        ),
        files=tuple(_files(folder, listed)),
    )


def record_of(contents: Contents) -> Record:
    return Record(SCHEMA, contents.published, contents.files, contents.changes)


def dump(record: Record) -> str:
    return json.dumps(asdict(record), indent=1) + "\n"


def load(path: Path) -> Record | None:
    """What the page before showed; None where there is none that can be read."""
    try:
        record = cattrs.structure(load_json(path.read_bytes()), Record)
    except (OSError, ValueError, KeyError, TypeError, cattrs.BaseValidationError):
        return None
    return record if record.schema == SCHEMA else None


def changes(before: Record | None, files: Sequence[File]) -> Changes:
    """What changed since ``before``; where nothing did, what had changed then."""
    if before is None:
        return Changes()
    old = {file.path: file for file in before.files}
    new = {file.path: file for file in files}
    both = sorted(old.keys() & new.keys())
    found = Changes(
        since=before.published,
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        yanked=tuple(path for path in both if new[path].yanked and not old[path].yanked),
        restored=tuple(path for path in both if old[path].yanked and not new[path].yanked),
    )
    return found if found else before.changes


def _own_names(names: Iterable[str]) -> list[str]:
    """The project's packages in the recipe's order, then the others with its prefix."""
    found = {name for name in names if name.startswith(OWN_PREFIX)}
    first = [name for name in packages.table() if name in found]
    return [*first, *sorted(found - set(first))]


def _row(result: NodeResult) -> Row:
    return Row(
        node=result.name,
        platform=result.node.platform,
        role=result.node.role,
        needs=_machine(result.machine),
        cells=tuple(_cell(answer) for answer in result.answers),
        notes=result.notes,
    )


def _machine(machine: Mapping[str, str]) -> str:
    names = {
        "__glibc": "glibc",
        "__archspec": "",
        "__cuda": "CUDA",
        "__cuda_arch": "GPU",
        "__amdgpu_arch": "AMD GPU",
    }
    words = [f"{names[key]} {value}".strip() for key, value in machine.items() if key in names]
    return ", ".join(words)


def _cell(answer: Answer) -> Cell:
    (spec,) = answer.specs
    name = spec_name(spec)
    if answer.refusal:
        return Cell(name, refusal=answer.refusal.text)
    return Cell(name, build=answer.builds[name])


def _files(folder: Path, listed: Mapping[str, content.Record]) -> list[File]:
    found = [
        File(path, one.sha256, one.size, tested=bundle.tested(bundle.sidecar(folder / path)))
        for path, one in listed.items()
    ]
    for path, mark in ChannelFolder(folder).marks(repository.YANKED).items():
        file = folder / path
        if path not in listed and file.is_file():
            found.append(File(path, content.sha256(file), file.stat().st_size, mark.reason))
    return sorted(found, key=lambda file: file.path)


def _published(folder: Path) -> str:
    """Time of the last publication, in UTC."""
    if (folder / PUBLICATION).is_file():
        seconds = ChannelFolder(folder).publication().time
    else:
        seconds = max(one.stat().st_mtime for one in folder.glob(f"*/{content.INDEX}"))
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M} UTC"


def _serial(folder: Path) -> int:
    managed = (folder / PUBLICATION).is_file()
    return ChannelFolder(folder).publication().serial if managed else 0


def _signed_until(folder: Path) -> str:
    file = folder / repository.METADATA / "timestamp.json"
    if not file.is_file():
        return ""
    return f"{repository.read(file, Timestamp).signed.expires:%Y-%m-%d}"
