"""Every file of a channel damaged in turn, and what each command makes of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from support import SLOW

from packages import Recipe, make
from vllm_conda.channel.add import Source, add
from vllm_conda.channel.folder import ChannelFolder, create
from vllm_conda.cli import main

SITE = """\
schema: 1
site: one
nodes:
  node: {platform: linux-64, glibc: "2.28", archspec: haswell}
"""
RECIPES = [
    Recipe("lib", run_exports={"weak": ["lib >=1"]}),
    Recipe("app", subdir="linux-64", depends=["lib"]),
]
DAMAGES = 200 if SLOW else 32
# usage, config, network (how solvers call an index that they cannot read), integrity, solve,
# unserved
SENTENCES = {2, 3, 6, 7, 9, 15}


def _damage(path: Path, drawn: random.Random) -> None:
    data = bytearray(path.read_bytes())
    kind = drawn.randrange(4)
    if kind == 0:
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)
    elif kind == 1:
        del data[drawn.randrange(len(data)) :]
    elif kind == 2:
        start = drawn.randrange(len(data))
        data[start : start + 16] = drawn.randbytes(16)
    else:
        data[:] = drawn.choice((b"", b"[]", b"{}", b"null", b'{"schema": 1}'))
    path.write_bytes(data)


def test_one_sentence_or_the_right_packages(
    channel: ChannelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage that changes nothing, such as in a form that a command does not read, may pass."""
    add(channel, [Source(make(tmp_path / "made", recipe)) for recipe in RECIPES])
    saved, site, other = tmp_path / "saved", tmp_path / "site.yaml", tmp_path / "other"
    shutil.copytree(channel.path, saved)
    whole = {recipe.key: (saved / recipe.key).read_bytes() for recipe in RECIPES}
    site.write_text(SITE)
    commands = (
        ["mirror", str(other), str(site), "app", "-c", channel.url],
        ["add", str(other), str(channel.path)],
        ["bundle", str(tmp_path / "b.tar"), str(site), "app", "-c", channel.url],
        ["list", str(channel.path)],
        ["yank", str(channel.path), RECIPES[1].file_name, "--reason", "x"],
        ["prune", str(channel.path)],
        ["index", str(channel.path)],
    )
    files = sorted(
        path.relative_to(saved)
        for path in saved.rglob("*")
        if path.is_file() and path.suffix != ".conda" and path.name != "lock"
    )
    drawn = random.Random(16)  # noqa: S311 - not for secrets
    refused = 0
    for number in range(DAMAGES):
        name, command = drawn.choice(files), commands[number % len(commands)]
        create(other)
        _damage(channel.path / name, drawn)
        code = main(["channel", *command])
        errors = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
        where = f"{number}: {name} {command}"
        assert code == 0 or code in SENTENCES, where
        assert len(errors) == (code != 0), where
        refused += code != 0
        for place in (channel.path, other):
            for key, data in whole.items():
                # Nothing is lost, and nothing wrong has come in.
                file = place / key
                assert not file.exists() or file.read_bytes() == data, where
                assert file.exists() or place == other, where
        for folder in (channel.path, other):
            shutil.rmtree(folder)
        shutil.copytree(saved, channel.path)
    assert refused
