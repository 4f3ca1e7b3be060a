"""A signed statement beside one file, such as a bundle for an air gap."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from securesystemslib.signer import Signer
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root

from vllm_conda.errors import FreshnessError, SignatureError
from vllm_conda.paths import write_atomic
from vllm_conda.signing import bundle, content, keys, repository, statement

FETCH_AGAIN = "Copy the file and its .sigs again from where they are made."


@dataclass(frozen=True)
class VerifiedFile:
    """What was found to be in order."""

    sha256: str
    signers: tuple[str, ...]
    key_expires: datetime


def sign_file(file: Path, signer: Signer) -> Path:
    """Write the file's sidecar with a signed statement of its name and SHA-256; returns its path.

    Raises:
        DiskError: It cannot be written.
    """
    made = bundle.sign(statement.release(_subject(file)), signer)
    beside = bundle.sidecar(file)
    write_atomic(beside, bundle.dump([made]))
    return beside


def verify_file(file: Path, trusted: Path) -> VerifiedFile:
    """Check a file against the keys of ``trusted``, the signer's `root.json`.

    Raises:
        SignatureError: It is not signed, by somebody else, or is another file than was signed.
        FreshnessError: The key has expired.
        IntegrityError: The sidecar or root.json is damaged.
    """
    found = repository.read(trusted, Root)
    try:
        found.verify_delegate(Root.type, found)
    except (RepositoryError, ValueError):
        raise SignatureError(
            f"{trusted} is not signed by its own keys.", "Ask the signer for it once more."
        ) from None
    root = found.signed
    if root.is_expired(datetime.now(timezone.utc)):
        raise FreshnessError(
            f"The key expired on {root.expires:%Y-%m-%d}.", "Ask the signer for a new root.json."
        )
    bundles = bundle.load(bundle.sidecar(file))
    if not bundles:
        raise SignatureError(f"{file} is not signed: {file.name}.sigs is missing.", FETCH_AGAIN)
    subject = _subject(file)
    trusted_keys = repository.trusted_keys(root)
    # Of a package: that it belongs into a channel, which a mirror or a bundle carried on.
    if not bundle.signed_by(bundles, trusted_keys, subject) & {
        statement.RELEASE,
        statement.PUBLISH,
    }:
        raise SignatureError(f"No trusted signer says anything of {file}.", FETCH_AGAIN)
    signers = tuple(keys.describe(key) for key in trusted_keys)
    return VerifiedFile(subject.sha256, signers, root.expires)


def _subject(file: Path) -> statement.Subject:
    return statement.Subject(file.name, content.sha256(file))
