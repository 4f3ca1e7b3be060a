"""What may not enter a channel, and what is said of it."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from packages import Recipe, content, make
from vllm_conda.channel.add import Source, add, sources
from vllm_conda.channel.folder import ChannelFolder
from vllm_conda.errors import IntegrityError, UsageError, VllmError

GOOD = Recipe("good", run_exports={"weak": ["good >=1"]})


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


HOSTILE: dict[str, tuple[Recipe, str]] = {
    "absolute path": (Recipe("bad", members=[(_member("/etc/x"), b"")]), "outside its prefix"),
    "dots": (Recipe("bad", members=[(_member("lib/../../x"), b"")]), "outside its prefix"),
    "absolute link": (
        Recipe("bad", members=[(_member("lib/x", tarfile.SYMTYPE, "/etc"), b"")]),
        "link lib/x to '/etc', outside its prefix",
    ),
    "link out": (
        Recipe("bad", members=[(_member("lib/x", tarfile.SYMTYPE, "../../x"), b"")]),
        "link lib/x to '../../x', outside its prefix",
    ),
    "hard link out": (
        Recipe("bad", members=[(_member("lib/x", tarfile.LNKTYPE, "../x"), b"")]),
        "outside its prefix",
    ),
    "device": (
        Recipe("bad", members=[(_member("dev/sda", tarfile.BLKTYPE), b"")]),
        "neither a file nor a link",
    ),
    "listed out": (
        Recipe("bad", listed=[{"_path": "../x", "path_type": "softlink"}]),
        "lists '../x', a path outside its prefix",
    ),
    "entry point": (
        Recipe("bad", entry_points=["../../x = a:b"]),
        "entry point '../../x', outside its prefix",
    ),
    "missing": (
        Recipe("bad", listed=[{"_path": "lib/x", "path_type": "hardlink"}]),
        "lacks lib/x",
    ),
    "other bytes": (
        Recipe("bad", files={"a": b"1"}, listed=[{"_path": "a", "sha256": "0" * 64}]),
        "holds another a than it lists",
    ),
    "other name": (Recipe("bad", index={"name": "../x"}), "says of itself that it is ../x-1-"),
    "no platform": (Recipe("bad", index={"subdir": "../etc"}), "platform '../etc'"),
}


@pytest.mark.parametrize("name", sorted(HOSTILE))
def test_hostile_packages_are_refused(name: str, channel: ChannelFolder, tmp_path: Path) -> None:
    recipe, part = HOSTILE[name]
    good = Source(make(tmp_path, GOOD))
    bad = Source(make(tmp_path, recipe))
    with pytest.raises(IntegrityError) as caught:
        add(channel, [good, bad])
    assert part in caught.value.message
    assert recipe.file_name in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 7
    # All or none, and the next run with the good one finishes.
    assert channel.packages() == []
    assert add(channel, [good]).added == [GOOD.key]


def test_a_bomb_is_refused_early(channel: ChannelFolder, tmp_path: Path) -> None:
    """64 GiB of zeros in some MB; the header says so, and nothing of it is unpacked."""
    header = tarfile.TarInfo("zeros")
    header.size = 1 << 36
    packed = io.BytesIO()
    zeros = bytes(1 << 24)
    with zstandard.ZstdCompressor(level=1).stream_writer(packed, closefd=False) as stream:
        stream.write(header.tobuf())
        for _ in range(40):
            stream.write(zeros)
    _with_payload(tmp_path / GOOD.file_name, packed.getvalue())
    with pytest.raises(IntegrityError, match="unpacks to far more than its size"):
        add(channel, [Source(tmp_path / GOOD.file_name)])


def test_a_header_that_asks_for_memory_is_refused(channel: ChannelFolder, tmp_path: Path) -> None:
    """tarfile reads an extended header at once."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 300 << 20
    packed = zstandard.ZstdCompressor(level=1).compress(header.tobuf() + bytes(300 << 20))
    _with_payload(tmp_path / GOOD.file_name, packed)
    with pytest.raises(IntegrityError, match="unpacks to far more than its size"):
        add(channel, [Source(tmp_path / GOOD.file_name)])


def _with_payload(path: Path, payload: bytes) -> None:
    """GOOD with another tar archive of what it installs."""
    with (
        zipfile.ZipFile(io.BytesIO(content(GOOD))) as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, payload if name.startswith("pkg-") else old.read(name))


def test_damage_anywhere_is_one_sentence(channel: ChannelFolder, tmp_path: Path) -> None:
    """Without an index that knows the hash, only damage to what counts can be seen."""
    whole = content(GOOD)
    path = make(tmp_path, GOOD)
    refused = []
    for place in range(0, len(whole), 19):
        damaged = bytearray(whole)
        damaged[place] ^= 1 + place % 255
        path.write_bytes(damaged)
        try:
            add(channel, [Source(path)])
        except IntegrityError as error:
            refused.append(error.message)
        else:
            # A field of the ZIP container that nobody reads, such as a date.
            assert [one.key for one in channel.packages()] == [GOOD.key]
            channel.forget(GOOD.key)
    assert len(refused) > len(whole) // 19 // 2
    assert not [message for message in refused if "\n" in message]
    for size in range(0, len(whole) - 1, 101):
        path.write_bytes(whole[:size])
        with pytest.raises(IntegrityError, match="is damaged"):
            add(channel, [Source(path)])


def test_the_index_of_the_source_is_believed(channel: ChannelFolder, tmp_path: Path) -> None:
    other = ChannelFolder(tmp_path / "other")
    from vllm_conda.channel.folder import create

    create(other.path)
    add(other, [Source(make(tmp_path, GOOD))])
    file = other.path / GOOD.key
    data = bytearray(file.read_bytes())
    data[11] ^= 1  # the container's date
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match="not the file that its channel's index lists"):
        add(channel, sources([other.path]))


def test_wrong_platform(channel: ChannelFolder, tmp_path: Path) -> None:
    made = make(tmp_path, Recipe("arm", subdir="linux-aarch64"))
    wrong = tmp_path / "linux-64" / made.name
    wrong.parent.mkdir()
    made.rename(wrong)
    with pytest.raises(IntegrityError, match="lies in linux-64, but it is a package for linux-aa"):
        add(channel, [Source(wrong, "linux-64")])


def test_a_name_keeps_its_bytes(channel: ChannelFolder, tmp_path: Path) -> None:
    add(channel, [Source(make(tmp_path / "1", GOOD))])
    before = (channel.path / GOOD.key).read_bytes()
    other = make(tmp_path / "2", Recipe("good", files={"a": b"other"}))
    with pytest.raises(IntegrityError, match="never changes its bytes"):
        add(channel, [Source(other)])
    assert (channel.path / GOOD.key).read_bytes() == before


@pytest.mark.parametrize("name", ["nothing.conda", "text.txt", "empty"])
def test_what_is_no_package(name: str, channel: ChannelFolder, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError):
        add(channel, sources([tmp_path / name]))


def test_damaged_index_of_a_source(channel: ChannelFolder, tmp_path: Path) -> None:
    folder = tmp_path / "other" / "noarch"
    folder.mkdir(parents=True)
    for text in ("{", "[]", '{"packages": 3}', '{"packages.conda": {"a": 1}}', "\udcff"):
        (folder / "repodata.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(VllmError, match="is damaged"):
            add(channel, sources([folder.parent]))
