"""Packages leave the index: yanked, removed, pruned."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from rattler import Channel, Gateway
from rattler.platform import Subdir

from packages import Recipe, make
from vllm_conda.channel import index, retire
from vllm_conda.channel.add import Source, add
from vllm_conda.channel.folder import ChannelFolder, Mark, create
from vllm_conda.channel.prune import prune
from vllm_conda.channel.rebuild import rebuild
from vllm_conda.errors import ConfigError, IntegrityError, UsageError


def _fill(channel: ChannelFolder, folder: Path, *recipes: Recipe) -> None:
    add(channel, [Source(make(folder, recipe)) for recipe in recipes])


def _offered(channel: ChannelFolder, name: str = "app") -> set[str]:
    """File names that a solver may choose, by every form of the index."""
    rows = json.loads((channel.path / "noarch" / "repodata.json").read_text())["packages.conda"]
    found = {file for file, row in rows.items() if row["name"] == name}
    gateway = Gateway(cache_dir=channel.path.parent / f"cache-{time.monotonic_ns()}")
    query = gateway.query([Channel(channel.url)], [Subdir("noarch")], [name], recursive=False)
    assert {one.file_name for source in asyncio.run(query) for one in source} == found
    assert (
        index.stale(channel.path, [p for p in channel.packages() if not p.yanked], ["noarch"]) == []
    )
    return found


APPS = [Recipe("app", version) for version in ("1", "2", "3")]


def test_a_yanked_package_stays_for_its_locks(channel: ChannelFolder, tmp_path: Path) -> None:
    _fill(channel, tmp_path, *APPS)
    assert retire.yank(channel, [APPS[1].file_name], "wrong sums") == [APPS[1].key]
    assert _offered(channel) == {APPS[0].file_name, APPS[2].file_name}
    assert (channel.path / APPS[1].key).is_file()
    (yanked,) = [one for one in channel.packages() if one.yanked]
    assert yanked.yanked is not None
    assert yanked.yanked.reason == "wrong sums"
    retire.offer_again(channel, [APPS[1].key])
    assert len(_offered(channel)) == 3


def test_files_go_after_the_index(channel: ChannelFolder, tmp_path: Path) -> None:
    _fill(channel, tmp_path, *APPS)
    retire.remove(channel, [APPS[0].file_name], "leaked", grace=3600)
    assert _offered(channel) == {APPS[1].file_name, APPS[2].file_name}
    assert (channel.path / APPS[0].key).is_file()
    (channel.path / f"{APPS[1].key}.sigs").write_text("signatures")
    retire.remove(channel, [APPS[1].file_name], "leaked", grace=0)
    assert not list((channel.path / "noarch").glob(f"{APPS[1].file_name}*"))
    # Brought back while its file waits to go.
    _fill(channel, tmp_path, APPS[0])
    assert _offered(channel) == {APPS[0].file_name, APPS[2].file_name}


def test_a_clock_in_the_past_deletes_nothing_early(
    channel: ChannelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(channel, tmp_path, *APPS)
    before = channel.publication()
    monkeypatch.setattr(time, "time", lambda: 1000.0)
    retire.remove(channel, [APPS[0].file_name], "leaked", grace=3600)
    after = channel.publication()
    assert after.serial == before.serial + 1
    assert after.time >= before.time
    monkeypatch.undo()
    _fill(channel, tmp_path, Recipe("other"))
    assert (channel.path / APPS[0].key).is_file()


def test_old_shards_stay_for_a_while(channel: ChannelFolder, tmp_path: Path) -> None:
    _fill(channel, tmp_path, APPS[0])
    old = index.shards(channel.path / "noarch")
    _fill(channel, tmp_path, APPS[1])
    folder = channel.path / "noarch" / "shards"
    assert old <= {path.name for path in folder.iterdir()}
    (name,) = old
    mark = channel.marks("old-shards")[f"noarch/{name}"]
    channel.mark("old-shards", f"noarch/{name}", Mark(mark.reason, mark.time, mark.time))
    _fill(channel, tmp_path, APPS[2])
    assert name not in {path.name for path in folder.iterdir()}


def test_prune_keeps_locks_the_newest_and_what_they_need(
    channel: ChannelFolder, tmp_path: Path
) -> None:
    libs = [Recipe("lib", version) for version in ("1", "2", "3", "4")]
    apps = [
        Recipe("app", "1", depends=["lib ==1"]),
        Recipe("app", "2", depends=["lib ==2"]),
        Recipe("app", "3", depends=["lib ==3"]),
        Recipe("app", "3", "habcdef0_400", 400, depends=["lib ==4", "_level >=4"]),
        Recipe("app", "2", "habcdef1_400", 400, depends=["lib ==2", "_level >=4"]),
    ]
    _fill(channel, tmp_path / "made", *libs, *apps)
    retire.yank(channel, [apps[1].file_name], "wrong")
    explicit = tmp_path / "gpu.txt"
    explicit.write_text(
        f"# platform: linux-64\n@EXPLICIT\nhttps://x.org/c/{apps[1].key}#{'0' * 32}\n"
    )
    plan = prune(channel, 1, [explicit], dry_run=True)
    assert set(plan.removed) == {apps[0].key, apps[4].key, libs[0].key}
    assert len(channel.packages()) == 9
    report = prune(channel, 1, [explicit], grace=0)
    assert report == plan
    # The newest for each kind of machine, the locked one, and what each of them needs.
    kept = {one.key for one in channel.packages()}
    assert kept == {one.key for one in (*libs[1:], *apps[1:4])}
    assert not (channel.path / apps[0].key).exists()
    assert prune(channel, 1, [explicit], grace=0).removed == ()


@pytest.mark.parametrize("text", ["", "@EXPLICIT\n", "version: 6\nx: [", "\0", "[1, 2]"])
def test_a_bad_lock_prunes_nothing(text: str, channel: ChannelFolder, tmp_path: Path) -> None:
    _fill(channel, tmp_path, *APPS)
    lock = tmp_path / "x.lock"
    lock.write_text(text)
    with pytest.raises(ConfigError) as caught:
        prune(channel, 0, [lock], grace=0)
    assert "\n" not in caught.value.message
    assert len(_offered(channel)) == 3


def test_unknown_packages(channel: ChannelFolder) -> None:
    for action in (retire.yank, retire.remove):
        with pytest.raises(UsageError, match=r"has no package x\.conda"):
            action(channel, ["x.conda"], "why")


def test_index_mends_what_was_damaged(channel: ChannelFolder, tmp_path: Path) -> None:
    _fill(channel, tmp_path, *APPS)
    serial = channel.publication().serial
    for path in sorted(channel.path.rglob("*")):
        if not path.is_file() or path.name in ("lock",) or path.suffix == ".conda":
            continue
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        try:
            rebuild(channel)
        except IntegrityError as error:
            # A record: the sentence says that it can go, and that the index comes back.
            record = error.message
            path.unlink()
            rebuild(channel)
            assert str(path) in record
        assert len(_offered(channel)) == 3, path
    assert channel.publication().serial > serial


def test_index_names_what_is_gone_or_changed(channel: ChannelFolder, tmp_path: Path) -> None:
    _fill(channel, tmp_path, *APPS)
    file = channel.path / APPS[0].key
    whole = file.read_bytes()
    file.unlink()
    with pytest.raises(IntegrityError, match=f"{APPS[0].key} is gone"):
        rebuild(channel)
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(IntegrityError, match=f"{APPS[0].key} does not have its recorded SHA-256"):
        rebuild(channel)
    _fill(channel, tmp_path, APPS[0])
    assert file.read_bytes() == whole
    rebuild(channel)


def test_index_takes_in_files_that_were_copied_there(tmp_path: Path) -> None:
    channel = create(tmp_path / "channel")
    make(channel.path, APPS[0])
    make(channel.path, Recipe("arm", subdir="linux-aarch64"))
    assert len(rebuild(channel).added) == 2
    assert _offered(channel) == {APPS[0].file_name}


def test_no_channel(tmp_path: Path) -> None:
    for action in (rebuild, ChannelFolder.publication):
        with pytest.raises(ConfigError, match="is no channel"):
            action(ChannelFolder(tmp_path))
