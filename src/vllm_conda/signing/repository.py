"""Signing a channel: statements beside its packages, and TUF metadata in `metadata/`.

One signer holds all four TUF roles: sites have one key. Files get their final names whole, the
timestamp last, so a reader finds the old signatures or the new ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TypeVar

from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from vllm_conda.builder.store import STATE_FILE, Entry, read_state
from vllm_conda.channel.folder import PUBLICATION, ChannelFolder
from vllm_conda.channel.publish import locked
from vllm_conda.errors import ConfigError, FreshnessError, IntegrityError, SignatureError, reason
from vllm_conda.paths import private_folder, write_atomic
from vllm_conda.signing import bundle, content, keys, statement

METADATA = "metadata"
ROOT_FILE = "root.json"
SIGNED_AT = "x-signed-at"
UNLISTED = "unlisted"
YANKED, REMOVED = "yanked", "removed"
ROLES = (Root.type, Timestamp.type, Snapshot.type, Targets.type)
# Clocks of machines that are kept in time differ by less.
SKEW = timedelta(minutes=10)
# What a reader that began before the last few signings still needs.
_KEPT = 5

AnySigned = TypeVar("AnySigned", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class Signing:
    """What to sign with, and for how long.

    Attributes:
        url: Address of the channel for CEP 27's statements; may be empty.
        days: How long readers accept this index.
        key_days: How long they accept the key; None keeps what was said before, or a year.
        previous: Signer that ``signer`` takes over from.
        states: Build records of the machines that the packages come from.
    """

    signer: Signer
    url: str = ""
    days: int = 365
    key_days: int | None = None
    previous: Signer | None = None
    states: tuple[Path, ...] = ()
    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


@dataclass(frozen=True)
class Signed:
    """What was signed: ``version`` counts the signings of a channel, ``attested`` this one's."""

    version: int
    root: Path
    files: int
    packages: int
    attested: int
    with_provenance: int
    expires: datetime
    key_expires: datetime


def sign_channel(folder: Path, how: Signing) -> Signed:
    """Attest what is not attested yet, and sign the channel as it is now.

    Raises:
        UsageError: No channel.
        IntegrityError: A package is not what the index says; nothing is signed then.
        SignatureError: The channel is another signer's.
        FreshnessError: The clock is before the last signing.
        BusyError: Another process publishes into the channel without end.
    """
    with _held(folder):
        return _sign(folder, how)


def _sign(folder: Path, how: Signing) -> Signed:
    listed = _checked(folder)
    metadata = folder / METADATA
    root = _root(metadata, how)
    version = _check_clock(metadata, how) + 1
    attested, built = _attest(folder, listed, how)
    lists = write_lists(folder, metadata, version, how)
    return Signed(
        version=version,
        root=metadata / ROOT_FILE,
        files=len(lists.targets),
        packages=len(listed),
        attested=attested,
        with_provenance=built,
        expires=lists.expires,
        key_expires=root.expires,
    )


def _held(folder: Path) -> AbstractContextManager[None]:
    """Keep publishers out while the channel is signed; a build's output has none."""
    managed = (folder / PUBLICATION).is_file()
    return locked(ChannelFolder(folder)) if managed else nullcontext()


def write_lists(folder: Path, metadata: Path, version: int, how: Signing) -> Targets:
    """Sign the list of all files as it is now; the timestamp that names it comes last."""
    now = how.now.replace(microsecond=0)
    expires = now + timedelta(days=how.days)
    targets = Targets(version, expires=expires, targets=_targets(folder))
    snapshot = Snapshot(version, expires=expires, meta={"targets.json": MetaFile(version)})
    timestamp = Timestamp(
        version,
        expires=expires,
        snapshot_meta=MetaFile(version),
        unrecognized_fields={SIGNED_AT: now.isoformat()},
    )
    _write(metadata / f"{version}.targets.json", targets, [how.signer])
    _write(metadata / f"{version}.snapshot.json", snapshot, [how.signer])
    _write(metadata / "timestamp.json", timestamp, [how.signer])
    _tidy(metadata, version)
    return targets


def _checked(folder: Path) -> dict[str, content.Record]:
    """The index's packages, each there and as listed, and no other."""
    listed = content.records(folder)
    for path, record in listed.items():
        file = folder / path
        if not file.is_file():
            raise IntegrityError(
                f"{path} is in the index but not in the channel, so nothing was signed.",
                "Run `vllm-conda channel index`.",
            )
        if content.sha256(file) != record.sha256:
            raise IntegrityError(
                f"{path} is not the file that the index lists, so nothing was signed.",
                "Add the package again, or run `vllm-conda channel index` if it is right.",
            )
    kept = unlisted(folder)
    for file in content.files(folder):
        path = file.relative_to(folder).as_posix()
        if content.is_package(path) and path not in listed and path not in kept:
            raise IntegrityError(
                f"{path} is in the channel but not in its index, so nothing was signed.",
                "Run `vllm-conda channel index`.",
            )
    return listed


def _root(metadata: Path, how: Signing) -> Root:
    """The root that is in force, written anew where this signing changes it."""
    file = metadata / ROOT_FILE
    key = how.signer.public_key
    if not file.is_file():
        root = Root(expires=_key_expiry(how), consistent_snapshot=True)
        for role in ROLES:
            root.add_key(key, role)
        _write_root(metadata, root, [how.signer])
        return root
    root = read(file, Root).signed
    signers = [how.signer]
    changed = False
    if key.keyid not in root.roles[Root.type].keyids:
        previous = how.previous
        if previous is None or previous.public_key.keyid not in root.roles[Root.type].keyids:
            owners = ", ".join(keys.describe(one) for one in trusted_keys(root))
            given = keys.describe(key if previous is None else previous.public_key)
            raise SignatureError(
                f"The channel is signed by {owners}, and not by {given}.",
                "Sign with that key, or name it with --previous-key to hand over to the new one.",
            )
        for role in ROLES:
            root.add_key(key, role)
            for old in [one for one in root.roles[role].keyids if one != key.keyid]:
                root.revoke_key(old, role)
        signers, changed = [how.signer, previous], True
    if how.key_days is not None or changed:
        root.expires = _key_expiry(how)
        changed = True
    if root.is_expired(how.now):
        raise FreshnessError(
            f"The key expired on {root.expires:%Y-%m-%d}, so readers would refuse what it signs.",
            "Prolong it with --key-days, or hand over to a new one with --previous-key.",
        )
    if changed:
        root.version += 1
        _write_root(metadata, root, signers)
    return root


def _key_expiry(how: Signing) -> datetime:
    days = 365 if how.key_days is None else how.key_days
    return how.now.replace(microsecond=0) + timedelta(days=days)


def _check_clock(metadata: Path, how: Signing) -> int:
    """Version of the last signing; 0 without one."""
    file = metadata / "timestamp.json"
    if not file.is_file():
        return 0
    last = read(file, Timestamp).signed
    at = signed_at(last)
    if at is not None and how.now + SKEW < at:
        raise FreshnessError(
            f"This machine's clock says {how.now:%Y-%m-%d %H:%M} UTC, but the channel was last "
            f"signed at {at:%Y-%m-%d %H:%M} UTC.",
            "Set the clock, then sign again.",
        )
    return last.version


def _attest(folder: Path, listed: dict[str, content.Record], how: Signing) -> tuple[int, int]:
    """Add this signer's statements where they are missing; returns how many packages, and how
    many with provenance."""
    entries = _entries(folder, how.states)
    attested = built = 0
    for path, record in listed.items():
        package = folder / path
        subject = statement.Subject(package.name, record.sha256)
        bundles = bundle.load(bundle.sidecar(package))
        wanted: dict[str, Entry | None] = {statement.PUBLISH: None}
        entry = entries.get(package.name)
        if entry is not None and entry.sha256 == record.sha256:
            wanted[statement.PROVENANCE] = entry
        there = _made(bundles, how.signer.public_key, subject)
        missing = {kind: one for kind, one in wanted.items() if kind not in there}
        for one in missing.values():
            payload = (
                statement.publish(subject, how.url)
                if one is None
                else statement.provenance(subject, package, one)
            )
            bundles.append(bundle.sign(payload, how.signer))
        if missing:
            bundle.write(package, bundles)
            attested += 1
            built += statement.PROVENANCE in missing
    return attested, built


def _made(bundles: Sequence[bundle.Bundle], key: Key, subject: statement.Subject) -> set[str]:
    """The statements that ``key`` made already, none where others made theirs."""
    try:
        return bundle.signed_by(bundles, [key], subject)
    except SignatureError:
        return set()


def _entries(folder: Path, states: Iterable[Path]) -> dict[str, Entry]:
    own = private_folder(folder) / STATE_FILE
    found: dict[str, Entry] = {}
    for file in states:
        if not file.is_file():
            raise ConfigError(
                f"{file} does not exist.",
                f"Name the {STATE_FILE} in a build's output.build/.",
            )
    for file in (own, *states):
        found |= read_state(file).packages
    return found


def unlisted(folder: Path) -> dict[str, str]:
    """Packages that the index leaves out on purpose -> ``yanked`` or ``removed``."""
    channel = ChannelFolder(folder)
    return {path: kind for kind in (YANKED, REMOVED) for path in channel.marks(kind)}


def _targets(folder: Path) -> dict[str, TargetFile]:
    found = {}
    kept = unlisted(folder)
    for file in content.files(folder):
        path = file.relative_to(folder).as_posix()
        found[path] = TargetFile.from_file(path, str(file))
        kind = kept.get(path.partition(bundle.SUFFIX)[0])
        if kind:
            found[path].unrecognized_fields["custom"] = {UNLISTED: kind}
    return found


def left_out(target: TargetFile) -> str:
    """``yanked`` or ``removed`` for what the index leaves out on purpose, else empty."""
    custom = target.custom
    return str(custom.get(UNLISTED, "")) if isinstance(custom, dict) else ""


def read(file: Path, kind: type[AnySigned]) -> Metadata[AnySigned]:
    """A metadata file of the given role, signatures unchecked.

    Raises:
        IntegrityError: It cannot be read.
    """
    try:
        found: Metadata[AnySigned] = Metadata.from_file(str(file))
        if not isinstance(found.signed, kind):
            raise ValueError(f"it is no {kind.type} metadata")
    except Exception as error:  # python-tuf passes on whatever its parsers raise
        raise IntegrityError(
            f"{file} is damaged: {reason(error)}.", "Fetch the file again."
        ) from None
    return found


def trusted_keys(root: Root) -> list[Key]:
    """Who may sign a channel with this root."""
    return [root.keys[keyid] for keyid in root.roles[Targets.type].keyids]


def signed_at(timestamp: Timestamp) -> datetime | None:
    """When the channel was signed, by the signer's clock."""
    text = timestamp.unrecognized_fields.get(SIGNED_AT)
    try:
        return datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _write_root(metadata: Path, root: Root, signers: Sequence[Signer]) -> None:
    # The numbered one first: a reader goes from number to number.
    for name in (f"{root.version}.{ROOT_FILE}", ROOT_FILE):
        _write(metadata / name, root, signers)


def _write(file: Path, signed: AnySigned, signers: Sequence[Signer]) -> None:
    made = Metadata(signed)
    try:
        for signer in signers:
            made.sign(signer, append=True)
    except RepositoryError as error:
        raise SignatureError(f"{file.name} could not be signed: {error}.") from None
    write_atomic(file, _text(made))


def _text(metadata: Metadata[AnySigned]) -> str:
    return metadata.to_bytes(JSONSerializer(compact=False)).decode() + "\n"


def is_as_written(file: Path) -> bool:
    """Whether every byte is as :func:`sign_channel` wrote it.

    A signature is of the content alone, so it does not notice a blank.
    """
    try:
        made: Metadata[Root] = Metadata.from_file(str(file))
        return file.read_bytes() == _text(made).encode()
    except Exception:  # as in read()
        return False


def _tidy(metadata: Path, version: int) -> None:
    """Drop lists of earlier signings; all roots stay, readers need the chain of them."""
    for old in range(1, version - _KEPT + 1):
        for role in (Snapshot.type, Targets.type):
            (metadata / f"{old}.{role}.json").unlink(missing_ok=True)
