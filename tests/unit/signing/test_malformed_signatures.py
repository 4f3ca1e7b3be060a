"""Malformed statements, signed lists and keys: each is answered or refused by a sentence."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answers import answer, many
from hypothesis import given
from hypothesis import strategies as st
from mutations import as_json, contents, json_texts
from signed_site import Site

from vllm_conda.signing import bundle, keys, single


@pytest.fixture(scope="module")
def place(signed: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A copy for the module, put right after each try."""
    folder = tmp_path_factory.mktemp("malformed")
    shutil.copytree(signed.channel, folder / "channel")
    shutil.copy(signed.trusted, folder / "root.json")
    shutil.copy(signed.key, folder / "key.pem")
    return Site(folder / "channel", folder / "key.pem", folder / "root.json", folder / "state")


FOREIGN_KEY = b"""-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VvBCIEIOtSL5zXPfZIKdatH6bGUtSA0WfbJEsLxVXnD4frkfGS
-----END PRIVATE KEY-----
"""


def test_a_key_of_another_algorithms_length(place: Site) -> None:
    """OpenSSL fails otherwise than for all other damage."""
    _damaged(place, place.key, FOREIGN_KEY, lambda: keys.load(place.key))


@pytest.mark.parametrize(
    "change",
    [
        {"payloadType": ["x"]},
        {"signatures": [{"keyid": 5, "sig": "AAAA"}]},
        {"signatures": [{"keyid": "x", "sig": 5}]},
        {"signatures": 5},
        {"payload": 5},
    ],
)
def test_fields_of_another_type(place: Site, change: dict[str, object]) -> None:
    package = place.package()
    path = bundle.sidecar(package)
    (first, *_) = json.loads(path.read_bytes())
    data = as_json([{**first, "dsseEnvelope": {**first["dsseEnvelope"], **change}}])
    _damaged(place, path, data, lambda: single.verify_file(package, place.trusted))
    _damaged(place, path, data, lambda: bundle.tested(path))


def _damaged(site: Site, path: Path, data: bytes, read: Callable[[], object]) -> None:
    whole = path.read_bytes()
    shutil.rmtree(site.state, ignore_errors=True)
    path.write_bytes(data)
    try:
        answer(read)
    finally:
        path.write_bytes(whole)


def _signed_anew(site: Site, payload: bytes) -> bytes:
    """A sidecar in which the right key signed whatever this is."""
    made = bundle.sign(payload, keys.load(site.key))
    return bundle.dump([made]).encode()


def _statements(site: Site, path: Path) -> st.SearchStrategy[bytes]:
    (first, *_) = json.loads(path.read_bytes())
    payload = base64.b64decode(first["dsseEnvelope"]["payload"])
    return json_texts(payload).map(lambda text: _signed_anew(site, text))


@many
@given(st.data())
def test_sidecar(place: Site, drawn: Any) -> None:
    package = place.package()
    path = bundle.sidecar(package)
    data = drawn.draw(st.one_of(json_texts(path.read_bytes()), _statements(place, path)))
    if drawn.draw(st.booleans()):
        _damaged(place, path, data, lambda: single.verify_file(package, place.trusted))
    else:
        _damaged(place, path, data, place.verify)


@many
@given(st.data())
def test_signed_lists(place: Site, drawn: Any) -> None:
    paths = [place.trusted, *sorted((place.channel / "metadata").glob("*.json"))]
    path = drawn.draw(st.sampled_from(paths))
    _damaged(place, path, drawn.draw(json_texts(path.read_bytes())), place.verify)


@many
@given(st.data())
def test_key(place: Site, drawn: Any) -> None:
    data = drawn.draw(contents(place.key.read_bytes()))
    _damaged(place, place.key, data, lambda: keys.load(place.key))
