"""What apt prints, and what happens when it is missing or cannot reach its mirror."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest

from vllm_conda.downloads.store import Store
from vllm_conda.errors import MissingToolError, NetworkError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain.apt_client import AptClient, Uri, parse_uris, upstream_version
from vllm_conda.toolchain.model import AptSet

PRINTED = """Reading package lists...
'http://mirror/z/zlib1g_1.2.13.dfsg-1_amd64.deb' zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86 MD5Sum:0a
'http://mirror/pool/g/g%2b%2b-12_12.2.0-14_amd64.deb' g++-12_12.2.0-14_amd64.deb 10694 SHA256:0b
'http://mirror/dists/x/InRelease' mirror_dists_x_InRelease 0 x
"""
SET = AptSet("host", ("g++",), closure=True)


def client(root: Path, **changes: object) -> AptClient:
    store = Store(root)
    store.prepare()
    host = replace(host_module.detect("linux-64"), **changes)  # type: ignore[arg-type]
    return AptClient(store, host, Reporter(Mode.PLAIN, StringIO()))


def test_uris_are_read() -> None:
    assert parse_uris(PRINTED) == [
        Uri("zlib1g_1:1.2.13.dfsg-1_amd64", "zlib1g", "1:1.2.13.dfsg-1", 86),
        Uri("g++-12_12.2.0-14_amd64", "g++-12", "12.2.0-14", 10694),
    ]


SOURCES = """Need to get 26.7 MB of source archives.
'http://m/p/python3.11_3.11.2-6%2bdeb12u8.dsc' python3.11_3.11.2-6+deb12u8.dsc 3805 SHA256:0c
'http://m/p/python3.11_3.11.2.orig.tar.gz' python3.11_3.11.2.orig.tar.gz 26437858 SHA256:0d
'http://m/p/python3.11_3.11.2-6.debian.tar.xz' python3.11_3.11.2-6.debian.tar.xz 279556 SHA256:0e
"""


def test_sources_are_upstream_archives() -> None:
    """Debian's changes and its description of both are not kept."""
    assert parse_uris(SOURCES) == [
        Uri("python3.11_3.11.2_source", "python3.11", "3.11.2", 26437858)
    ]


@pytest.mark.parametrize(
    ("debian", "upstream"),
    [("2.36-9+deb12u14", "2.36"), ("1:1.2.13.dfsg-1", "1.2.13"), ("12.2.0-14+deb12u1", "12.2.0")],
)
def test_upstream_version(debian: str, upstream: str) -> None:
    assert upstream_version(debian) == upstream


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="no apt-get") as failure:
        client(tmp_path, apt=False).fetch(SET)
    assert "conda-forge" in failure.value.hint


@pytest.mark.skipif(not shutil.which("apt-get"), reason="a Debian system is needed")
def test_an_unreachable_mirror_is_a_network_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = client(tmp_path, suite="bookworm")
    nowhere = tmp_path / "no-mirror-here"
    monkeypatch.setattr(apt, "_site", lambda suite, scratch: nowhere.as_uri())
    with pytest.raises(NetworkError, match="package list of bookworm") as failure:
        apt.fetch(SET)
    assert "apt-get update" in failure.value.hint
    assert list(apt.store.tmp.iterdir()) == []
    assert apt.cached(SET) is None


@pytest.mark.skipif(not shutil.which("apt-get"), reason="a Debian system is needed")
def test_a_suite_that_the_host_does_not_use_has_no_mirror(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="name no mirror for nosuchsuite"):
        client(tmp_path, suite="nosuchsuite").fetch(SET)


def test_sets_of_one_suite_are_fetched_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apt = client(tmp_path, apt=True, suite="bookworm")
    inside: list[Path] = []
    met = threading.Barrier(2)

    def update(suite: str, state: Path, *_: object) -> None:
        inside.append(state)
        if suite == "trixie":
            met.wait(5)  # its components have lists of their own
        time.sleep(0.05)
        assert inside.count(state) == 1
        inside.remove(state)

    monkeypatch.setattr(apt, "_configure", lambda *_: tmp_path)
    monkeypatch.setattr(apt, "_update", update)
    monkeypatch.setattr(apt, "_uris", lambda *_: [])
    sets = [AptSet("bookworm", (name,)) for name in "abc"]
    other = [
        AptSet("trixie", ("d",)),
        AptSet("trixie", ("e",), component="non-free"),
    ]
    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(apt.fetch, [*other, *sets])) == [[]] * 5
