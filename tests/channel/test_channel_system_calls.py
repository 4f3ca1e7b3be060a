"""Killed at a system call that changes a file, each command leaves the old channel or the new.

The same command then goes to its end as if nothing had been.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path

import msgpack
import pytest
import support
import system_calls

from packages import Recipe, make, unpacked
from vllm_conda.channel import index
from vllm_conda.channel.folder import ChannelFolder
from vllm_conda.cli import main

SITE = """\
schema: 1
site: one
nodes:
  node: {platform: linux-64, glibc: "2.28", archspec: haswell}
"""
LIB = Recipe("lib", run_exports={"weak": ["lib >=1"]})
APPS = [Recipe("app", str(number), subdir="linux-64", depends=["lib"]) for number in range(3)]
OLD = {LIB.key, *(app.key for app in APPS[:2])}
NEW = {LIB.key, *(app.key for app in APPS)}
# Command → its words, the packages that it lists at last, and whether the channel is there before.
COMMANDS: dict[str, tuple[str, set[str], bool]] = {
    "add": ("{channel} {more}", NEW, True),
    "yank": (f"{{channel}} {APPS[0].file_name} --reason x", OLD - {APPS[0].key}, True),
    "prune": ("{channel} --keep 1 --grace 0", OLD - {APPS[0].key}, True),
    "mirror": ("{channel} {site} app lib -c {source}", OLD | {APPS[2].key}, True),
    "unbundle": ("{bundle} {channel}", OLD | {APPS[2].key}, True),
    "unbundle into nothing": ("{bundle} {channel}", {LIB.key, APPS[2].key}, False),
    "index": ("{channel}", NEW, True),
}


class Command:
    """A command that changes the channel in ``folder``, which is as before at each even step."""

    def __init__(self, name: str, folder: Path) -> None:
        self.folder, self.channel, self.before = folder, folder / "channel", folder / "before"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        words, self.wanted, there = COMMANDS[name]
        self.name = name.partition(" ")[0]
        site, source, more = folder / "site.yaml", folder / "source", folder / "more"
        site.write_text(SITE)
        for place, recipes in ((more, [APPS[2]]), (folder / "made", [LIB, *APPS[:2]])):
            for recipe in recipes:
                make(place, recipe)
        self._done("create", self.before)
        self._done("add", self.before, *(folder / "made").glob("*/*.conda"))
        shutil.copytree(self.before, source)
        self._done("add", source, *more.glob("*/*.conda"))
        self._done("bundle", folder / "site.tar", site, "app", "-c", source.as_uri())
        if name == "index":
            shutil.copy(more / APPS[2].key, self.before / APPS[2].key)
        if not there:
            shutil.rmtree(self.before)
        places = {
            "channel": self.channel, "site": site, "source": source.as_uri(),
            "more": more / APPS[2].key, "bundle": folder / "site.tar",
        }  # fmt: skip
        self.words = [word.format_map(places) for word in words.split()]
        self.old = self._listed(self.before) if there else set()

    @staticmethod
    def _done(*words: object) -> None:
        assert main(["channel", *map(str, words)]) == 0

    def command(self, step: int) -> list[str]:
        if step == 1 or step % 2 == 0:
            shutil.rmtree(self.channel, ignore_errors=True)
            if self.before.is_dir():
                shutil.copytree(self.before, self.channel)
        return [sys.executable, "-m", "vllm_conda", "channel", self.name, *self.words]

    def environment(self) -> dict[str, str]:
        temporary = {"TMPDIR": str(self.temporary)}
        return {**os.environ, "PYTHONPATH": str(support.ROOT / "src"), **temporary}

    @staticmethod
    def _listed(channel: Path) -> set[str]:
        return {f"{subdir.name}/{name}" for subdir in channel.glob("*/") for name in _plain(subdir)}

    def damage(self) -> str:
        for form, rows in (("json", _plain), ("zst", _packed), ("shards", _sharded)):
            for subdir in sorted(self.channel.glob("[!.]*/")):
                for name, digest in rows(subdir).items():
                    file = subdir / name
                    if not file.is_file():
                        return f"{file} is listed ({form}) and not there"
                    if sha256(file.read_bytes()).hexdigest() != digest:
                        return f"{file} is not the file that the index lists ({form})"
        listed = self._listed(self.channel)
        if not self.old & self.wanted <= listed <= self.old | self.wanted:
            return f"lists {sorted(listed)}"
        # Each subdir is replaced by itself; of one, the old list or the new.
        for subdir in ("noarch", "linux-64"):
            now, old, new = (
                {key for key in keys if key.startswith(f"{subdir}/")}
                for keys in (listed, self.old, self.wanted)
            )
            if now not in (old, new):
                return f"{subdir} lists {sorted(now)}"
        return ""

    def result(self, step: int) -> str:
        folder = ChannelFolder(self.channel)
        if (listed := self._listed(self.channel)) != self.wanted:
            return f"lists {sorted(listed)}"
        offered = [one for one in folder.packages() if not one.yanked]
        if stale := index.stale(self.channel, offered, ["noarch", "linux-64"]):
            return f"the index of {stale} is old"
        left = [
            *(folder.state / "incoming").glob("*"),
            *self.channel.rglob(".*.json.*"),
            *self.channel.rglob("*.part"),
            *self.temporary.iterdir(),
        ]
        return f"left {left}" if left else ""


def _hashes(repodata: bytes) -> dict[str, str]:
    return {name: row["sha256"] for name, row in json.loads(repodata)["packages.conda"].items()}


def _plain(subdir: Path) -> dict[str, str]:
    file = subdir / "repodata.json"
    return _hashes(file.read_bytes()) if file.is_file() else {}


def _packed(subdir: Path) -> dict[str, str]:
    file = subdir / "repodata.json.zst"
    return _hashes(unpacked(file.read_bytes())) if file.is_file() else {}


def _sharded(subdir: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    file = subdir / "repodata_shards.msgpack.zst"
    if file.is_file():
        for digest in msgpack.unpackb(unpacked(file.read_bytes()))["shards"].values():
            shard = (subdir / "shards" / f"{digest.hex()}.msgpack.zst").read_bytes()
            assert sha256(shard).digest() == digest
            rows = msgpack.unpackb(unpacked(shard))["packages.conda"]
            found |= {name: row["sha256"].hex() for name, row in rows.items()}
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_every_call(name: str, tmp_path: Path) -> None:
    if not support.SLOW and name not in ("add", "prune"):
        pytest.skip(f"minutes; {support.SLOW_VARIABLE}=1 runs it")
    assert system_calls.kill_at_every_call(Command(name, tmp_path), few=3)
