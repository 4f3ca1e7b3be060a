"""Signed statements as Sigstore bundles, and the sidecar beside a package that holds them (CEP 50).

A bundle of a site's own key has the key's id in place of a certificate, and no entry of a
transparency log: what an air gap can check.
"""

from __future__ import annotations

import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import Key, Signer, SigstoreKey, SigstoreSigner

from vllm_conda.errors import IntegrityError, SignatureError, reason
from vllm_conda.paths import write_atomic
from vllm_conda.signing import keys, statement
from vllm_conda.signing.statement import Subject

SUFFIX = ".sigs"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
LARGEST = 16 << 20

Bundle = Mapping[str, Any]


def sidecar(package: Path) -> Path:
    """Where a package's bundles lie."""
    return package.with_name(package.name + SUFFIX)


def sign(payload: bytes, signer: Signer) -> Bundle:
    """Sign a statement."""
    if isinstance(signer, SigstoreSigner):
        return _sign_keyless(payload, signer)
    envelope = Envelope(payload, statement.STATEMENT, {})
    envelope.sign(signer)
    return {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": signer.public_key.keyid}},
        "dsseEnvelope": envelope.to_dict(),
    }


def dump(bundles: Iterable[Bundle]) -> str:
    return json.dumps(list(bundles), separators=(",", ":")) + "\n"


def write(package: Path, bundles: Sequence[Bundle]) -> None:
    """Write a package's sidecar: under the name that its content never changes, then the plain one.

    Indexers (rattler's too) take the hash of the plain one into the package's record.
    """
    text = dump(bundles)
    plain = sidecar(package)
    digest = hashlib.sha256(text.encode()).hexdigest()
    write_atomic(plain.with_name(f"{plain.name}.{digest}"), text)
    write_atomic(plain, text)


def load(path: Path) -> list[Bundle]:
    """The bundles of a sidecar; none where there is no sidecar.

    Raises:
        IntegrityError: The file is damaged.
    """
    if not path.is_file():
        return []
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MiB")
        found = json.loads(path.read_bytes())
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ValueError("it holds no list of bundles")
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{path} is damaged: {str(error).rstrip('.')}.", "Fetch the channel again."
        ) from None
    return found


def tested(path: Path) -> str:
    """What a sidecar says of its package's own tests, whoever signed it; empty: nothing.

    Raises:
        IntegrityError: The file is damaged.
    """
    for one in load(path):
        try:
            envelope = _envelope(one)
            if found := statement.tested(envelope.payload):
                return found
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error):
            continue  # verifying says so
    return ""


def signed_by(bundles: Iterable[Bundle], trusted: Sequence[Key], subject: Subject) -> set[str]:
    """The types of the statements about ``subject`` that a trusted signer made.

    Bundles of others may lie there too, and say nothing.

    Raises:
        SignatureError: A trusted signer's id stands on what that signer did not sign, or there are
            bundles and none is by a trusted signer.
        MissingToolError: A keyless bundle, and sigstore is not installed.
    """
    kinds: set[str] = set()
    others: list[str] = []
    for one in bundles:
        payload = _payload(one, trusted, subject, others)
        if payload is None:
            continue
        try:
            kind, about = statement.parse(payload)
        except ValueError as error:
            raise SignatureError(f"A statement on {subject.name} is unreadable: {error}.") from None
        if about == subject:
            kinds.add(kind)
        else:
            others.append(f"a statement on {about.name} with SHA-256 {about.sha256[:16]}…")
    if not kinds and others:
        wanted = ", ".join(keys.describe(key) for key in trusted)
        raise SignatureError(
            f"{subject.name} is attested by {others[0]}, and not by {wanted}, which is trusted.",
            "Somebody else put this package there; fetch the channel again from where it is made.",
        )
    return kinds


def _envelope(one: Bundle) -> Envelope:
    # from_dict() changes what it is given.
    envelope = Envelope.from_dict(json.loads(json.dumps(one["dsseEnvelope"])))
    if not isinstance(envelope.payload_type, str):
        raise TypeError("the type of its payload is no text")
    if not all(isinstance(keyid, str) for keyid in envelope.signatures):
        raise TypeError("the id of a key is no text")
    return envelope


def _payload(
    one: Bundle, trusted: Sequence[Key], subject: Subject, others: list[str]
) -> bytes | None:
    """The payload, if a trusted signer signed it."""
    material = one.get("verificationMaterial")
    if isinstance(material, dict) and "certificate" in material:
        return _payload_keyless(one, trusted, others)
    try:
        envelope = _envelope(one)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise SignatureError(
            f"A signature of {subject.name} is malformed: {type(error).__name__}.",
            "Fetch the channel again.",
        ) from None
    known = [key for key in trusted if key.keyid in envelope.signatures]
    if not known:
        others.extend(f"the key {keyid[:16]}" for keyid in envelope.signatures)
        return None
    try:
        envelope.verify(known, 1)
    except VerificationError:
        raise SignatureError(
            f"The signature of {keys.describe(known[0])} on {subject.name} is not genuine.",
            "Fetch the channel again.",
        ) from None
    return bytes(envelope.payload) if envelope.payload_type == statement.STATEMENT else None


def _sign_keyless(payload: bytes, signer: SigstoreSigner) -> Bundle:
    keys.require_sigstore()
    from sigstore.dsse import Statement
    from sigstore.models import ClientTrustConfig
    from sigstore.sign import SigningContext

    context = SigningContext.from_trust_config(ClientTrustConfig.production())
    with context.signer(signer._token) as session:
        made: Bundle = json.loads(session.sign_dsse(Statement(payload)).to_json())
    return made


def _payload_keyless(one: Bundle, trusted: Sequence[Key], others: list[str]) -> bytes | None:
    identities = [key for key in trusted if isinstance(key, SigstoreKey)]
    if not identities:
        others.append("an identity")
        return None
    keys.require_sigstore()
    from sigstore.errors import Error
    from sigstore.models import Bundle as SigstoreBundle
    from sigstore.verify.policy import AnyOf, Identity

    policy = AnyOf(
        [
            Identity(identity=key.keyval["identity"], issuer=key.keyval["issuer"])
            for key in identities
        ]
    )
    try:
        bundle = SigstoreBundle.from_json(json.dumps(one))
        kind, payload = _verifier().verify_dsse(bundle, policy)
    except Error as error:
        others.append(f"an identity that is not accepted ({reason(error)})")
        return None
    return bytes(payload) if kind == statement.STATEMENT else None


def _verifier() -> Any:
    """Sigstore's verifier; where its servers cannot be reached, with the keys that it knows."""
    from sigstore.errors import TUFError
    from sigstore.verify import Verifier

    try:
        return Verifier.production()
    except (TUFError, OSError):
        return Verifier.production(offline=True)
