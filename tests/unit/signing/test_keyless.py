"""Signing and verifying without a key, up to where sigstore's servers would answer.

sigstore is an extra, and no identity provider can be reached from here: stand-ins take the place of
its modules. What is tested is what this project makes of their answers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest
from securesystemslib.signer import SigstoreSigner

from vllm_conda.errors import SignatureError
from vllm_conda.signing import bundle, keys, statement

NAME, ISSUER = "https://ci.example.org/release.yml", "https://token.example.org"
SUBJECT = statement.Subject("alpha-1.0-0.conda", "a" * 64)
CERTIFICATE = {"verificationMaterial": {"certificate": {"rawBytes": ""}}}


class FakeError(Exception):
    """Stands for sigstore's base class of errors."""


class FakeTUFError(FakeError):
    """Stands for: sigstore's servers do not answer."""


@dataclass
class Identity:
    identity: str
    issuer: str


@dataclass
class AnyOf:
    children: list[Identity]


class Verifier:
    """Believes what a bundle says of its signer."""

    online = True

    @classmethod
    def production(cls, *, offline: bool = False) -> Verifier:
        if not (cls.online or offline):
            raise FakeTUFError("no network")
        return cls()

    def verify_dsse(self, one: dict[str, Any], policy: AnyOf) -> tuple[str, bytes]:
        if Identity(one["identity"], one["issuer"]) not in policy.children:
            raise FakeError("identity\n does not match")
        return statement.STATEMENT, one["payload"].encode()


@pytest.fixture
def sigstore(monkeypatch: pytest.MonkeyPatch) -> None:
    modules: dict[str, dict[str, Any]] = {
        "sigstore": {},
        "sigstore.errors": {"Error": FakeError, "TUFError": FakeTUFError},
        "sigstore.models": {"Bundle": type("Bundle", (), {"from_json": staticmethod(json.loads)})},
        "sigstore.verify": {"Verifier": Verifier},
        "sigstore.verify.policy": {"AnyOf": AnyOf, "Identity": Identity},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)


def made(identity: str = NAME, subject: statement.Subject = SUBJECT) -> dict[str, Any]:
    payload = statement.publish(subject, "https://example.org/c").decode()
    return {**CERTIFICATE, "identity": identity, "issuer": ISSUER, "payload": payload}


def trusted() -> Any:
    return SigstoreSigner.import_(NAME, ISSUER)[1]


@pytest.mark.usefixtures("sigstore")
@pytest.mark.parametrize("online", [True, False])
def test_the_trusted_identity_is_believed(monkeypatch: pytest.MonkeyPatch, online: bool) -> None:
    """Without network too, by the keys that sigstore's package brings."""
    monkeypatch.setattr(Verifier, "online", online)
    assert bundle.signed_by([made()], [trusted()], SUBJECT) == {statement.PUBLISH}


@pytest.mark.usefixtures("sigstore")
def test_another_identity_is_not() -> None:
    with pytest.raises(SignatureError, match=r"an identity that is not accepted \(identity does"):
        bundle.signed_by([made("https://evil.example.org")], [trusted()], SUBJECT)


@pytest.mark.usefixtures("sigstore")
def test_nor_a_statement_on_another_package() -> None:
    other = statement.Subject("beta-1.0-0.conda", "b" * 64)
    with pytest.raises(SignatureError, match="a statement on beta-1"):
        bundle.signed_by([made(subject=other)], [trusted()], SUBJECT)


def test_an_identity_is_nothing_where_a_key_is_trusted(tmp_path: Any) -> None:
    """No sigstore is needed to say so."""
    key = keys.generate(tmp_path / "key.pem")
    with pytest.raises(SignatureError, match="is attested by an identity, and not by"):
        bundle.signed_by([made()], [key], SUBJECT)


@pytest.mark.usefixtures("sigstore")
def test_no_identity_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("Failed to detect\n Sigstore credentials")

    monkeypatch.setattr(SigstoreSigner, "from_priv_key_uri", refuse)
    with pytest.raises(
        SignatureError, match="here: Failed to detect Sigstore credentials"
    ) as found:
        keys.load_identity(NAME, ISSUER)
    assert "--key" in found.value.hint
