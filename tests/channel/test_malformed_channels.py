"""Malformed channels, bundles and locks: what solvers, publishers, mirrors and pages read."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from answers import answer, answered, many
from hypothesis import assume, given
from hypothesis import strategies as st
from mutations import as_json, contents, documents
from rattler import LockFile
from web import Quiet, served

from packages import Recipe, make, unpacked
from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import Workspace
from vllm_conda.channel import envelope, index
from vllm_conda.channel.add import Source, add, sources
from vllm_conda.channel.bundle import bundle
from vllm_conda.channel.closure import closure
from vllm_conda.channel.folder import ChannelFolder, create
from vllm_conda.channel.manifest import MANIFEST
from vllm_conda.channel.prune import locked_packages, prune
from vllm_conda.channel.rebuild import rebuild
from vllm_conda.channel.retire import yank
from vllm_conda.channel.unbundle import unbundle
from vllm_conda.page import contents as page
from vllm_conda.progress import Mode, Reporter
from vllm_conda.signing import content
from vllm_conda.site.channels import Channels
from vllm_conda.site.model import parse_site
from vllm_conda.solve import solve_specs, virtual_packages

SITE = parse_site(
    """\
schema: 1
site: one
nodes:
  node: {platform: linux-64, glibc: "2.28", archspec: haswell}
""",
    "site.yaml",
)
RECIPES = [
    Recipe("lib", run_exports={"weak": ["lib >=1"]}),
    Recipe("app", subdir="linux-64", depends=["lib", "__glibc >=2.17"]),
    Recipe("old", subdir="linux-64"),
]
QUIET = Reporter(Mode.JSON, io.StringIO())


class Channel:
    """A channel, and a copy of it for each try."""

    def __init__(self, folder: Path) -> None:
        self.whole, self.folder = folder / "whole", folder / "channel"
        made = create(self.whole)
        add(made, [Source(make(folder / "made", recipe)) for recipe in RECIPES])
        yank(made, [RECIPES[2].file_name], "wrong")
        self.bundle = folder / "site.tar"
        wanted = closure(SITE, [made.url], ["app"])
        bundle(self.bundle, wanted, {}, QUIET)
        shutil.copytree(self.whole, self.folder)
        self.address = ""

    def anew(self) -> None:
        """The whole one again: what was found damaged may have been made anew."""
        shutil.rmtree(self.folder)
        shutil.copytree(self.whole, self.folder)


class Fresh(Quiet):
    def do_GET(self) -> None:  # noqa: N802 - http.server's name
        del self.headers["If-Modified-Since"]  # its answer to that lacks what rattler asks for
        super().do_GET()


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Channel]:
    made = Channel(tmp_path_factory.mktemp("channels"))
    with served(made.folder, Fresh) as made.address:
        yield made


def _solved(address: str) -> None:
    solve_specs([address], ["app"], "linux-64", virtual_packages())
    Channels([address]).names("linux-64")
    closure(SITE, [address], ["app"])


def _built_against(folder: Path) -> None:
    toolchain_for("linux-64", [folder.as_uri()], QUIET)
    Store(folder, "linux-64", Workspace(folder, folder)).settle({}, set())


def _prune(folder: Path) -> None:
    prune(ChannelFolder(folder), 1, [], dry_run=True)


READERS: tuple[Callable[[Path], object], ...] = (
    lambda folder: _solved(folder.as_uri()),
    lambda folder: sources([folder]),
    content.records,
    lambda folder: page.collect(folder, SITE, specs=["app"]),
    _prune,
    lambda folder: index.stale(folder, ChannelFolder(folder).packages(), ["noarch", "linux-64"]),
    lambda folder: rebuild(ChannelFolder(folder)),
    _built_against,
)


def _pack(text: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(text)


def _as_msgpack(document: object) -> bytes:
    try:
        return bytes(msgpack.packb(document))
    except (OverflowError, UnicodeEncodeError):  # nothing that the format can hold
        assume(False)
        raise


def damaged(data: bytes, name: str) -> st.SearchStrategy[bytes]:
    """A file of a channel with mistakes in its document, its text or its bytes."""
    packed = name.endswith(".zst")
    text = unpacked(data) if packed else data
    if name.endswith(".msgpack.zst"):
        drawn = documents(msgpack.unpackb(text)).map(_as_msgpack)
    else:
        drawn = documents(json.loads(text)).map(as_json)
    drawn = st.one_of(drawn, drawn, contents(text))
    return st.one_of(drawn.map(_pack), contents(data)) if packed else drawn


def _tried(channel: Channel, drawn: st.DataObject, patterns: tuple[str, ...]) -> None:
    names = sorted(
        path.relative_to(channel.whole).as_posix()
        for pattern in patterns
        for path in channel.whole.glob(pattern)
    )
    name = drawn.draw(st.sampled_from(names))
    data = drawn.draw(damaged((channel.whole / name).read_bytes(), name))
    reader = drawn.draw(st.integers(0, len(READERS)))
    channel.anew()
    (channel.folder / name).write_bytes(data)
    if reader == len(READERS):
        answer(lambda: _solved(channel.address))
    else:
        answer(lambda: READERS[reader](channel.folder))


def test_the_whole_ones_pass(channel: Channel, tmp_path: Path) -> None:
    """What is changed below is a channel that every reader takes."""
    for reader in READERS:
        reader(channel.folder)
        channel.anew()
    _solved(channel.address)
    unbundle(channel.bundle, tmp_path / "new")


@many
@given(st.data())
def test_repodata(channel: Channel, drawn: st.DataObject) -> None:
    _tried(channel, drawn, ("*/repodata.json", "*/run_exports.json"))


@many
@given(st.data())
def test_packed_repodata(channel: Channel, drawn: st.DataObject) -> None:
    patterns = ("*/repodata.json.zst", "*/run_exports.json.zst", "*/repodata_shards.msgpack.zst")
    _tried(channel, drawn, (*patterns, "*/shards/*.zst"))


@many
@given(st.data())
def test_records_of_a_channel(channel: Channel, drawn: st.DataObject) -> None:
    _tried(channel, drawn, ("publication.json", ".vllm-conda/*/*/*.json"))


# Bundles


def _members(path: Path) -> dict[str, bytes]:
    with envelope.members(path) as files:
        return {name: stream.read() for name, _, stream in files}


def _whole(members: dict[str, bytes]) -> bytes:
    """A bundle with a right digest, whatever it holds."""
    stream = io.BytesIO()
    writer = envelope.BundleWriter(stream, 1_700_000_000)
    for name, data in members.items():
        writer.add_bytes(name, data)
    writer.finish()
    return stream.getvalue()


def _listed(members: dict[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
    """The members with another content of one, which the manifest lists as it is."""
    manifest: Any = json.loads(members[MANIFEST])
    key = name.removeprefix("channel/")
    about = {"sha256": sha256(data).hexdigest(), "size": len(data)}
    if key in manifest["packages"]:
        manifest["packages"][key]["record"] |= about
    else:
        manifest["files"][name] = about
    return {**members, MANIFEST: as_json(manifest), name: data}


@st.composite
def bundles(draw: st.DrawFn, path: Path) -> bytes:
    members = _members(path)
    kind = draw(st.sampled_from(("manifest", "manifest", "text", "member", "bytes")))
    if kind == "bytes":
        return draw(contents(path.read_bytes()))
    if kind == "manifest":
        text = as_json(draw(documents(json.loads(members[MANIFEST]))))
        return _whole({**members, MANIFEST: text})
    if kind == "text":
        return _whole({**members, MANIFEST: draw(contents(members[MANIFEST]))})
    name = draw(st.sampled_from(sorted(members.keys() - {MANIFEST})))
    return _whole(_listed(members, name, draw(contents(members[name]))))


@many
@given(st.data())
def test_bundle(channel: Channel, drawn: st.DataObject) -> None:
    data = drawn.draw(bundles(channel.bundle))
    path, target = channel.bundle.with_name("damaged.tar"), channel.bundle.with_name("target")
    shutil.rmtree(target, ignore_errors=True)
    answered(path, data, lambda path: unbundle(path, target))


# Locks


@many
@given(st.data())
def test_lock(channel: Channel, drawn: st.DataObject) -> None:
    members = _members(channel.bundle)
    name = drawn.draw(st.sampled_from([name for name in members if name.startswith("locks/")]))
    path = channel.bundle.with_name(Path(name).name)
    answered(path, drawn.draw(contents(members[name])), locked_packages)


def test_the_lock_is_one(channel: Channel, tmp_path: Path) -> None:
    path = tmp_path / "node.lock"
    path.write_bytes(_members(channel.bundle)["locks/node.lock"])
    assert LockFile.from_path(path)
    assert len(locked_packages(path)) == 2


# What a page keeps for the next one


@many
@given(st.data())
def test_record_of_a_page(channel: Channel, drawn: st.DataObject) -> None:
    record = page.record_of(page.collect(channel.whole, SITE, specs=["app"]))
    text = page.dump(record).encode()
    path = channel.bundle.with_name("index.html.json")
    data = drawn.draw(damaged(text, path.name))
    answered(path, data, lambda path: page.changes(page.load(path), record.files))
