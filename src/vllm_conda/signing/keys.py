"""Signers: a site's own key in a file, or an identity that sigstore vouches for."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import (
    KEY_FOR_TYPE_AND_SCHEME,
    CryptoSigner,
    Key,
    Signer,
    SigstoreKey,
    SigstoreSigner,
)

from vllm_conda.errors import ConfigError, MissingToolError, SignatureError, UsageError, reason
from vllm_conda.paths import disk_errors

PASSPHRASE_VARIABLE = "VLLM_CONDA_KEY_PASSPHRASE"  # noqa: S105 - a name
KEYLESS_EXTRA = "pip install 'vllm-conda[keyless]'"


def generate(path: Path) -> Key:
    """Write a new Ed25519 private key (PKCS #8, PEM, mode 0600) and return its public half.

    It is encrypted where ``$VLLM_CONDA_KEY_PASSPHRASE`` is set.

    Raises:
        UsageError: Something is there already; a key is never overwritten.
        DiskError: The file cannot be written.
    """
    signer = CryptoSigner.generate_ed25519()
    private = load_pem_private_key(signer.private_bytes, None)
    passphrase = _passphrase()
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    )
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    with disk_errors("the key", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise UsageError(
                f"{path} is there already, and a key is never overwritten.", "Name another file."
            ) from None
        with os.fdopen(handle, "wb") as stream:
            stream.write(pem)
            os.fsync(stream.fileno())
    return signer.public_key


def load(path: Path) -> Signer:
    """A signer of a private key in PEM: Ed25519, ECDSA or RSA.

    Raises:
        ConfigError: The file is no private key, or is encrypted otherwise.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The key {path} cannot be read: {error.strerror}.",
            "Make one with `vllm-conda channel keygen`.",
        ) from None
    try:
        return CryptoSigner(load_pem_private_key(pem, _passphrase()))
    except TypeError:  # encrypted and no passphrase, or the other way round
        needs = "does not need" if _passphrase() else "needs"
        raise ConfigError(
            f"The key {path} {needs} a passphrase.", f"See to {PASSPHRASE_VARIABLE}."
        ) from None
    except (ValueError, UnsupportedAlgorithm, InternalError):
        raise ConfigError(
            f"{path} is no private key in PEM, is damaged, or its passphrase is another one.",
            f"See to {PASSPHRASE_VARIABLE}, or name the file of `vllm-conda channel keygen`.",
        ) from None


def load_identity(identity: str, issuer: str) -> Signer:
    """A signer without a key: the identity provider of this machine vouches for ``identity``.

    Args:
        identity: As the certificate names it, such as a workflow's address.
        issuer: Address of the identity provider.

    Raises:
        MissingToolError: sigstore is not installed.
        SignatureError: There is no identity here, or another one.
    """
    require_sigstore()
    _, key = SigstoreSigner.import_(identity, issuer)
    try:
        return SigstoreSigner.from_priv_key_uri("sigstore:", key)
    except Exception as error:  # whatever the identity provider's client raises
        raise SignatureError(
            f"No identity provider vouches for {identity} here: {reason(error)}.",
            "Run it where one does, such as a CI job with an OIDC token, or sign with --key.",
        ) from None


def require_sigstore() -> None:
    """Raise a MissingToolError where sigstore is not installed."""
    try:
        import sigstore  # noqa: F401
    except ImportError:
        raise MissingToolError(
            "Signing and verifying without a key needs the Python package sigstore.",
            f"{KEYLESS_EXTRA}, or sign with --key.",
        ) from None


def describe(key: Key) -> str:
    """A key for people: the identity, or the start of the key's id."""
    if isinstance(key, SigstoreKey):
        return str(key.keyval["identity"])
    return key.keyid[:16]


def _passphrase() -> bytes | None:
    value = os.environ.get(PASSPHRASE_VARIABLE)
    return value.encode() if value else None


# securesystemslib leaves it to its users whether identities count as keys.
KEY_FOR_TYPE_AND_SCHEME[SigstoreKey.DEFAULT_KEY_TYPE, SigstoreKey.DEFAULT_SCHEME] = SigstoreKey
