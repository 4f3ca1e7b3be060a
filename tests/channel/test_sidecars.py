"""Signatures are carried along, hold on the other side, and are joined by the site's own."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_mirror import served

from packages import Recipe, make
from vllm_conda.channel.add import Source, add
from vllm_conda.channel.bundle import bundle as write_bundle
from vllm_conda.channel.closure import Closure, closure
from vllm_conda.channel.folder import ChannelFolder, create
from vllm_conda.channel.mirror import mirror
from vllm_conda.channel.unbundle import unbundle
from vllm_conda.errors import IntegrityError, SignatureError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.signing import bundle, keys
from vllm_conda.signing.repository import Signing, sign_channel
from vllm_conda.signing.single import verify_file
from vllm_conda.signing.verify import verify_channel
from vllm_conda.site.model import parse_site

SITE = """\
schema: 1
site: one
nodes:
  node: {platform: linux-64, glibc: "2.28", archspec: haswell}
"""
PACKAGES = [Recipe("lib"), Recipe("app", subdir="linux-64", depends=["lib"])]
QUIET = Reporter(Mode.JSON, io.StringIO())

Carry = Callable[[Closure, Path], ChannelFolder]


def by_mirror(wanted: Closure, place: Path) -> ChannelFolder:
    folder = create(place / "there")
    mirror(folder, wanted, QUIET)
    return folder


def by_bundle(wanted: Closure, place: Path) -> ChannelFolder:
    write_bundle(place / "site.tar", wanted, {}, QUIET)
    unbundle(place / "site.tar", place / "there")
    return ChannelFolder(place / "there")


@pytest.fixture
def maker(tmp_path: Path) -> tuple[ChannelFolder, Path]:
    """A signed channel and its root.json."""
    made = create(tmp_path / "source")
    add(made, [Source(make(tmp_path / "made", one)) for one in PACKAGES])
    return made, sign(made, tmp_path / "maker.pem", tmp_path / "maker.json")


def sign(channel: ChannelFolder, key: Path, trusted: Path) -> Path:
    if not key.exists():
        keys.generate(key)
    shutil.copy(sign_channel(channel.path, Signing(keys.load(key))).root, trusted)
    return trusted


def wanted_from(address: str) -> Closure:
    return closure(parse_site(SITE, "site.yaml"), [address], ["app"])


@pytest.mark.parametrize("carry", [by_mirror, by_bundle])
@pytest.mark.parametrize("by_http", [False, True])
def test_makers_statements_hold_on_the_other_side(
    maker: tuple[ChannelFolder, Path], tmp_path: Path, carry: Carry, by_http: bool
) -> None:
    source, trusted = maker
    if by_http:
        with served(source.path) as address:
            there = carry(wanted_from(address), tmp_path)
    else:
        there = carry(wanted_from(source.url), tmp_path)
    for one in there.packages():
        assert verify_file(there.package_path(one), trusted).sha256 == one.sha256
    # The site signs its own channel: its statements join the maker's.
    own = sign(there, tmp_path / "site.pem", tmp_path / "site.json")
    assert verify_channel(there.path, own, tmp_path / "state").packages == len(PACKAGES)
    for one in there.packages():
        assert verify_file(there.package_path(one), trusted)
        assert verify_file(there.package_path(one), own)
    # Again: nothing twice.
    before = {path: path.read_bytes() for path in there.path.rglob("*.sigs")}
    assert len(before) == len(PACKAGES)
    carry(wanted_from(source.url), tmp_path)
    assert {path: path.read_bytes() for path in there.path.rglob("*.sigs")} == before


@pytest.mark.parametrize("carry", [by_mirror, by_bundle])
def test_packages_without_signatures_are_carried_too(tmp_path: Path, carry: Carry) -> None:
    made = create(tmp_path / "source")
    add(made, [Source(make(tmp_path / "made", one)) for one in PACKAGES])
    with served(made.path) as address:
        there = carry(wanted_from(address), tmp_path)
    assert len(there.packages()) == len(PACKAGES)
    assert not list(there.path.rglob("*.sigs"))


@pytest.mark.parametrize("carry", [by_mirror, by_bundle])
@pytest.mark.parametrize("text", ["", "{}", "[1]", "[" * 100_000, "\0"])
def test_a_damaged_sidecar_stops_it_before_anything_is_published(
    maker: tuple[ChannelFolder, Path], tmp_path: Path, carry: Carry, text: str
) -> None:
    source, _ = maker
    package = next(iter(source.path.glob("linux-64/*.conda")))
    bundle.sidecar(package).write_text(text)
    with pytest.raises(IntegrityError, match="is damaged"):
        carry(wanted_from(source.url), tmp_path)
    assert not list((tmp_path / "there").glob("*/*.conda"))


def test_a_changed_statement_is_found_on_the_other_side(
    maker: tuple[ChannelFolder, Path], tmp_path: Path
) -> None:
    source, trusted = maker
    there = by_mirror(wanted_from(source.url), tmp_path)
    package = there.package_path(next(iter(there.packages())))
    beside = bundle.sidecar(package)
    text = beside.read_text()
    start = text.index('"payload":"') + 20
    beside.write_text(text[:start] + ("A" if text[start] != "A" else "B") + text[start + 1 :])
    with pytest.raises(SignatureError):
        verify_file(package, trusted)
