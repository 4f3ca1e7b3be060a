"""`channel keygen`, `sign` and `verify` as they are typed."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import cattrs
import jsonschema
import pytest
from signed_site import Site

from vllm_conda.builder.store import Entry
from vllm_conda.channel.folder import ChannelFolder, Publication
from vllm_conda.cli import main
from vllm_conda.signing import bundle, keys, repository, statement

# What CEP 27 asks of a statement.
CEP_27 = {
    "type": "object",
    "required": ["_type", "subject", "predicateType"],
    "properties": {
        "_type": {"const": "https://in-toto.io/Statement/v1"},
        "predicateType": {"const": "https://schemas.conda.org/attestations-publish-1.schema.json"},
        "subject": {
            "minItems": 1,
            "maxItems": 1,
            "items": {
                "required": ["name", "digest"],
                "properties": {
                    "name": {"pattern": r"^[^/A-Z]+-[^-/]+-[^-/]+\.conda$"},
                    "digest": {
                        "required": ["sha256"],
                        "additionalProperties": False,
                        "properties": {"sha256": {"pattern": "^[0-9a-f]{64}$"}},
                    },
                },
            },
        },
        "predicate": {
            "required": ["targetChannel"],
            "properties": {"targetChannel": {"pattern": "^https?://.*[^/]$"}},
        },
    },
}


def payloads(package: Path) -> list[dict[str, object]]:
    return [
        json.loads(base64.b64decode(one["dsseEnvelope"]["payload"]))
        for one in bundle.load(bundle.sidecar(package))
    ]


@pytest.fixture
def unsigned(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "channel"))


def test_from_a_new_key_to_a_verified_channel(
    unsigned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, state = tmp_path / "key.pem", tmp_path / "state"
    assert main(["channel", "keygen", str(key)]) == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert (
        main(["channel", "sign", str(unsigned), "--key", str(key), "--url", "https://x.org/c/"])
        == 0
    )
    text = capsys.readouterr().out
    assert "3 packages, 3 newly attested (0 with provenance)" in text
    trusted = shutil.copy(unsigned / "metadata/root.json", tmp_path)
    words = ["channel", "verify", str(unsigned), "--root", str(trusted), "--state", str(state)]
    assert main(words) == 0
    assert "signing 1" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["packages"] == 3
    (package,) = unsigned.glob("*/alpha-*.conda")
    package.write_bytes(package.read_bytes()[:-1])
    assert main(words) == 7
    error = capsys.readouterr().err
    assert error.startswith("error: linux-64/alpha-1.0-external_1_0.conda has ")
    assert "Traceback" not in error


def test_statements_are_those_of_cep_27(signed: Site) -> None:
    (made,) = payloads(signed.package())
    jsonschema.validate(made, CEP_27)


def test_an_index_advertises_the_sidecars(signed: Site) -> None:
    """CEP 50: under the plain name and the hash's, and a changed sidecar keeps the old one."""
    package = signed.package()
    plain = bundle.sidecar(package)
    digest = hashlib.sha256(plain.read_bytes()).hexdigest()
    assert plain.with_name(f"{plain.name}.{digest}").read_bytes() == plain.read_bytes()


def test_provenance_names_commit_job_and_inputs(built: Path, tmp_path: Path) -> None:
    (package,) = built.glob("*/alpha-*.conda")
    entry = cattrs.structure(
        {
            "jobs": ["linux-64-cpu-x86-64-v3"],
            "fingerprint": "f" * 64,
            "sha256": "",
            "size": 0,
            "mtime_ns": 0,
            "tested": "passed",
            "commit": "c" * 40 + "+",
        },
        Entry,
    )
    made = json.loads(
        statement.provenance(statement.Subject(package.name, "a" * 64), package, entry)
    )
    definition = made["predicate"]["buildDefinition"]
    assert made["predicateType"] == "https://slsa.dev/provenance/v1"
    assert definition["externalParameters"]["jobs"] == ["linux-64-cpu-x86-64-v3"]
    source, *_ = definition["resolvedDependencies"]
    assert source["digest"] == {"gitCommit": "c" * 40}
    assert source["annotations"] == {"changedAfterCommit": True}
    assert made["predicate"]["runDetails"]["metadata"]["invocationId"] == "f" * 64
    assert statement.tested(json.dumps(made).encode()) == "passed"
    assert statement.tested(statement.release(statement.Subject("a", "a" * 64))) == ""


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["sign", "{channel}"], 2, "Name what to sign with"),
        (["sign", "{channel}", "--key", "{key}", "--identity", "me"], 2, "Name what to sign with"),
        (["sign", "{channel}", "--identity", "me"], 2, "Name what to sign with"),
        (["sign", "{channel}", "--key", "nowhere.pem"], 3, "cannot be read: No such file"),
        (["sign", "{channel}", "--key", "{root}"], 3, "is no private key in PEM"),
        (["sign", "{empty}", "--key", "{key}"], 2, "is no channel"),
        (["sign", "{channel}", "--key", "{key}", "--build-state", "x.json"], 3, "does not exist"),
        (["keygen", "{key}"], 2, "a key is never overwritten"),
        (["verify", "{channel}"], 2, "Missing option '--root'"),
        (["verify", "{channel}", "--root", "nowhere.json"], 7, "nowhere.json is damaged"),
    ],
)
def test_each_refusal(
    site: Site,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    part: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "channel": site.channel,
        "key": site.key,
        "root": site.trusted,
        "empty": tmp_path / "empty",
    }
    assert main(["channel", *(word.format(**places) for word in words)]) == code
    assert part in capsys.readouterr().err


def test_a_key_under_a_passphrase(
    unsigned: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(keys.PASSPHRASE_VARIABLE, "right")
    key = tmp_path / "key.pem"
    assert main(["channel", "keygen", str(key)]) == 0
    words = ["channel", "sign", str(unsigned), "--key", str(key)]
    monkeypatch.setenv(keys.PASSPHRASE_VARIABLE, "wrong")
    assert main(words) == 3
    monkeypatch.delenv(keys.PASSPHRASE_VARIABLE)
    assert main(words) == 3
    assert "needs a passphrase" in capsys.readouterr().err
    monkeypatch.setenv(keys.PASSPHRASE_VARIABLE, "right")
    assert main(words) == 0


@pytest.mark.parametrize("algorithm", [["RSA"], ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]])
def test_keys_of_openssl_serve(unsigned: Path, tmp_path: Path, algorithm: list[str]) -> None:
    key = tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "genpkey", "-algorithm", *algorithm, "-out", str(key)],
        check=True,
        capture_output=True,
    )
    site = Site(unsigned, key, unsigned / "metadata/root.json", tmp_path / "state")
    site.sign()
    assert site.verify().packages == 3


def test_without_sigstore_it_says_what_to_install(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sigstore", None)
    words = ["channel", "sign", str(site.channel), "--identity", "me", "--issuer", "https://x.org"]
    assert main(words) == 5
    error = capsys.readouterr().err
    assert "needs the Python package sigstore" in error
    assert "vllm-conda[keyless]" in error


def test_what_the_index_does_not_say_is_not_signed(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    package = site.package()
    extra = package.with_name("x-1-0.conda")
    whole = package.read_bytes()
    for change, part in (
        (lambda: package.write_bytes(whole[:-1]), "is not the file that the index lists"),
        (package.unlink, "is in the index but not in the channel"),
        (lambda: (package.write_bytes(whole), shutil.copy(package, extra)),
         "is in the channel but not in its index"),
    ):  # fmt: skip
        change()
        assert main(["channel", "sign", str(site.channel), "--key", str(site.key)]) == 7
        assert part in capsys.readouterr().err
    assert not (site.channel / "metadata/2.targets.json").exists()


def test_a_file_is_signed_and_verified(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle for an air gap, under the root.json of the channel."""
    file = tmp_path / "site.tar"
    file.write_bytes(b"a bundle" * 1000)
    verify = ["channel", "verify", str(file), "--root", str(site.trusted)]
    assert main(verify) == 16
    assert "is not signed: site.tar.sigs is missing" in capsys.readouterr().err
    assert main(["channel", "sign", str(file), "--key", str(site.key)]) == 0
    assert main(verify) == 0
    assert "site.tar is as " in capsys.readouterr().out
    whole = file.read_bytes()
    for number in range(0, 8000, 500):
        flipped = bytearray(whole)
        flipped[number] ^= 1
        file.write_bytes(flipped)
        assert main(verify) == 16
        assert "a statement on site.tar with SHA-256" in capsys.readouterr().err
    file.write_bytes(whole)
    mallory = tmp_path / "mallory.pem"
    keys.generate(mallory)
    assert main(["channel", "sign", str(file), "--key", str(mallory)]) == 0
    assert main(verify) == 16
    assert "is attested by the key" in capsys.readouterr().err
    bundle.sidecar(file).write_text("[{]")
    assert main(verify) == 7


def test_a_file_under_an_expired_key(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "site.tar"
    file.write_bytes(b"a bundle")
    shutil.rmtree(site.channel / "metadata")
    site.sign(now=datetime.now(timezone.utc) - timedelta(days=9), key_days=5)
    assert main(["channel", "sign", str(file), "--key", str(site.key)]) == 0
    root = site.channel / "metadata/root.json"
    assert main(["channel", "verify", str(file), "--root", str(root)]) == 17


def test_publishers_wait_while_a_channel_is_signed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Path] = []

    @contextmanager
    def locked(folder: ChannelFolder) -> Iterator[None]:
        held.append(folder.path)
        yield

    monkeypatch.setattr(repository, "locked", locked)
    site.sign()
    assert held == [], "a build's output has no publishers"
    ChannelFolder(site.channel).write_publication(Publication())
    site.sign()
    assert held == [site.channel]
    assert site.verify().version == 3
