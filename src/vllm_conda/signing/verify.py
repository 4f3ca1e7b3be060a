"""Whether a channel is what its signer made: the first thing that is wrong, in one sentence.

python-tuf's client checks signatures, expiry and versions, and remembers the newest index that it
has seen; what it remembers is kept for each trusted root. The files come after, so that every
sentence rests on lists that are known to be genuine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from tuf.api import exceptions
from tuf.api.metadata import Metadata, Root, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from vllm_conda.errors import FreshnessError, IntegrityError, SignatureError, VllmError, reason
from vllm_conda.paths import disk_errors, state_root
from vllm_conda.signing import bundle, content, keys, repository, statement

FETCH_AGAIN = "Fetch the channel again from where it is made."


@dataclass(frozen=True)
class Verified:
    """What was found to be in order; ``provenance`` counts packages that say how they were made."""

    version: int
    files: int
    packages: int
    provenance: int
    signers: tuple[str, ...]
    signed_at: datetime | None
    expires: datetime


def verify_channel(
    folder: Path, trusted: Path, state: Path | None = None, now: datetime | None = None
) -> Verified:
    """Check every file of a channel against ``trusted``, the signer's `root.json`.

    Args:
        state: Where the newest index seen is remembered; by default below ``$XDG_STATE_HOME``.
        now: For tests; the clock otherwise. It is not what expiry is measured by.

    Raises:
        IntegrityError: A file is missing, changed, or not listed.
        SignatureError: Somebody else signed, or nobody.
        FreshnessError: Expired, older than an index seen before, or the clock is wrong.
    """
    root = repository.read(trusted, Root)
    content.subdirs(folder)
    place = state or state_root() / "channels" / _identity(root)
    with disk_errors("what is remembered of the channel", place):
        place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock"):
        timestamp, targets, used = _refresh(folder, trusted, place)
    _check_lists(folder / repository.METADATA, timestamp, used)
    at = repository.signed_at(timestamp)
    _check_clock(at, now or datetime.now(timezone.utc))
    _check_files(folder, targets)
    listed = _check_index(folder, targets)
    provenance = sum(_check_statements(folder, record, used) for record in listed.values())
    return Verified(
        version=timestamp.version,
        files=len(targets.targets),
        packages=len(listed),
        provenance=provenance,
        signers=tuple(keys.describe(key) for key in repository.trusted_keys(used)),
        signed_at=at,
        expires=min(timestamp.expires, used.expires),
    )


class _Folder(FetcherInterface):
    """Reads metadata out of a folder, as if from a server."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(unquote(urlsplit(url).path))
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise exceptions.DownloadHTTPError(str(path), 404) from None
        return iter((data,))


def _identity(root: Metadata[Root]) -> str:
    """What is remembered belongs to a key, wherever the channel lies."""
    ids = "\n".join(sorted(root.signed.roles[Root.type].keyids))
    return hashlib.sha256(ids.encode()).hexdigest()[:24]


def _refresh(folder: Path, trusted: Path, place: Path) -> tuple[Timestamp, Targets, Root]:
    """Follow the signatures from the trusted root to the list of files."""
    metadata = folder / repository.METADATA
    if not (metadata / "timestamp.json").is_file():
        raise SignatureError(
            f"{folder} is not signed: {repository.METADATA}/timestamp.json is missing.",
            "Sign it with `vllm-conda channel sign` where it is made.",
        )
    seen = place / "timestamp.json"
    before = _remembered(seen)
    try:
        updater = Updater(
            str(place),
            f"{metadata.resolve().as_uri()}/",
            fetcher=_Folder(),
            config=UpdaterConfig(prefix_targets_with_hash=False),
            bootstrap=trusted.read_bytes(),
        )
        updater.refresh()
    except (exceptions.RepositoryError, exceptions.DownloadError, OSError, ValueError) as error:
        raise _explain(error, folder, before, place) from None
    targets = repository.read(place / "targets.json", Targets).signed
    root = repository.read(place / "root.json", Root).signed
    return repository.read(seen, Timestamp).signed, targets, root


def _remembered(seen: Path) -> Timestamp | None:
    """The newest timestamp seen. A damaged one is no reason to trust an older index."""
    if not seen.is_file():
        return None
    try:
        return repository.read(seen, Timestamp).signed
    except IntegrityError:
        raise IntegrityError(
            f"What was remembered of the channel in {seen} is damaged.",
            "Remove it if you can tell otherwise that the channel is not an old copy.",
        ) from None


def _explain(error: Exception, folder: Path, before: Timestamp | None, place: Path) -> VllmError:
    """One sentence for what python-tuf stopped at."""
    metadata = folder / repository.METADATA
    if isinstance(error, exceptions.ExpiredMetadataError):
        return _expired(error, metadata, place)
    found = _timestamp(metadata)
    if before and found and found.signed.version < before.version and _genuine(found, place):
        at = repository.signed_at(before)
        return FreshnessError(
            f"The index of {folder} is signing {found.signed.version}, older than signing "
            f"{before.version} seen before{f', of {at:%Y-%m-%d %H:%M} UTC' if at else ''}.",
            f"Somebody put an old copy there; {_lower(FETCH_AGAIN)}",
        )
    if isinstance(error, exceptions.DownloadHTTPError):
        name = Path(str(error)).name
        return IntegrityError(f"{metadata / name} is missing.", FETCH_AGAIN)
    if isinstance(error, exceptions.UnsignedMetadataError):
        if not (place / "root.json").is_file():
            return SignatureError(
                "The trusted root.json is not signed by its own keys.",
                "Ask the channel's owner for it once more.",
            )
        trusted = repository.read(place / "root.json", Root).signed
        owners = ", ".join(keys.describe(key) for key in repository.trusted_keys(trusted))
        return SignatureError(
            f"The signatures in {metadata} are not those of {owners}, which is trusted.",
            "If the channel's key has changed, ask its owner for the new root.json; else fetch "
            "the channel again.",
        )
    text = f"The signatures in {metadata} are damaged: {reason(error)}."
    return IntegrityError(text, FETCH_AGAIN)


def _timestamp(metadata: Path) -> Metadata[Timestamp] | None:
    try:
        return repository.read(metadata / "timestamp.json", Timestamp)
    except IntegrityError:
        return None


def _genuine(timestamp: Metadata[Timestamp], place: Path) -> bool:
    """Whether this key or one before it signed, so that it is an old copy and no forgery."""
    for file in (place / "root_history").glob("*.json"):
        try:
            root = repository.read(file, Root).signed
            root.verify_delegate(Timestamp.type, timestamp.signed_bytes, timestamp.signatures)
        except (exceptions.RepositoryError, ValueError, IntegrityError):
            continue
        return True
    return False


def _expired(error: Exception, metadata: Path, place: Path) -> FreshnessError:
    if "root" in str(error):
        root = repository.read(place / "root.json", Root).signed
        return FreshnessError(
            f"The channel's key expired on {root.expires:%Y-%m-%d}.",
            "Its owner prolongs it with `vllm-conda channel sign --key-days`; then fetch the "
            "channel again.",
        )
    found = repository.read(metadata / "timestamp.json", Timestamp).signed
    return FreshnessError(
        f"The channel's signature expired on {found.expires:%Y-%m-%d}.",
        "Its owner renews it with `vllm-conda channel sign`; then fetch the channel again.",
    )


def _check_lists(metadata: Path, timestamp: Timestamp, root: Root) -> None:
    version = timestamp.version
    names = (
        f"{root.version}.{repository.ROOT_FILE}",
        "timestamp.json",
        f"{version}.snapshot.json",
        f"{version}.targets.json",
    )
    for file in (metadata / name for name in names):
        if not file.is_file():
            raise IntegrityError(f"{file} is missing.", FETCH_AGAIN)
        if not repository.is_as_written(file):
            raise IntegrityError(f"{file} was changed after it was signed.", FETCH_AGAIN)


def _check_clock(at: datetime | None, now: datetime) -> None:
    if at is not None and now + repository.SKEW < at:
        raise FreshnessError(
            f"This machine's clock says {now:%Y-%m-%d %H:%M} UTC, but the channel was signed at "
            f"{at:%Y-%m-%d %H:%M} UTC.",
            "Set the clock: with a wrong one an expired key looks valid.",
        )


def _check_files(folder: Path, targets: Targets) -> None:
    """Every listed file is there with its bytes, and no other file is; the index first."""
    order = sorted(targets.targets, key=lambda path: (content.is_package(path), path))
    for path in order:
        wanted = targets.targets[path]
        # A removed package's file goes when its readers have had their time.
        if repository.left_out(wanted) != repository.REMOVED or (folder / path).exists():
            _check_file(folder, path, wanted)
    for file in content.files(folder):
        path = file.relative_to(folder).as_posix()
        if path not in targets.targets:
            raise IntegrityError(
                f"{path} is in the channel but not in its signed list.",
                f"Sign the channel again if it is right; if not, {_lower(FETCH_AGAIN)}",
            )


def _check_file(folder: Path, path: str, wanted: TargetFile) -> None:
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(f"{path} leads out of the channel.", FETCH_AGAIN)
    try:
        size = file.stat().st_size
        if size != wanted.length:
            raise IntegrityError(
                f"{path} has {size} bytes, signed were {wanted.length}.", FETCH_AGAIN
            )
        found = content.sha256(file)
    except OSError as error:
        missing = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        reason = (
            "" if isinstance(error, FileNotFoundError) else f": {os.strerror(error.errno or 0)}"
        )
        raise IntegrityError(f"{path} {missing}{reason}.", FETCH_AGAIN) from None
    if found != wanted.hashes.get("sha256"):
        raise IntegrityError(
            f"{path} was changed after it was signed: its SHA-256 is {found[:16]}…, signed was "
            f"{wanted.hashes.get('sha256', 'none')[:16]}….",
            FETCH_AGAIN,
        )


def _check_index(folder: Path, targets: Targets) -> dict[str, content.Record]:
    """The index lists all packages, and as they are."""
    listed = content.records(folder)
    for path, file in targets.targets.items():
        if not content.is_package(path):
            continue
        if path not in listed and not repository.left_out(file):
            raise IntegrityError(
                f"The index lacks {path}, which is in the channel.",
                "Run `vllm-conda channel index` and sign again where the channel is made.",
            )
        if path in listed and listed[path].sha256 != file.hashes.get("sha256"):
            raise IntegrityError(f"The index lists {path} with another SHA-256.", FETCH_AGAIN)
    for path in listed:
        if path not in targets.targets:
            raise IntegrityError(f"{path} is in the index but not in the channel.", FETCH_AGAIN)
    return listed


def _check_statements(folder: Path, record: content.Record, root: Root) -> bool:
    """Whether the package's maker says how it was made; that it belongs here must be said."""
    package = folder / record.path
    subject = statement.Subject(package.name, record.sha256)
    bundles = bundle.load(bundle.sidecar(package))
    kinds = bundle.signed_by(bundles, repository.trusted_keys(root), subject)
    if statement.PUBLISH not in kinds:
        raise SignatureError(
            f"{record.path} is not attested.",
            "Sign the channel again where it is made: `vllm-conda channel sign`.",
        )
    return statement.PROVENANCE in kinds


def _lower(text: str) -> str:
    return text[0].lower() + text[1:]
