"""Every command of the command line, with words that make it do its work in a small world.

The commands come from the parser. One without words of its own gets a value for each argument that
it requires, so that a new command is tried from the day it is there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import support

from vllm_conda.cli import cli

V3 = "linux-64-cpu-x86-64-v3"
PACKAGE = "stays-1-external_1.conda"
SITE = """schema: 1
site: small
nodes:
  node:
    role: compute
    platform: linux-64
    glibc: "2.28"
    linux: "5.14"
    archspec: x86_64_v4
specs: [stays]
"""
# Command → its words; {world} is the folder that World.make() fills.
WORDS = {
    "audit": "{package}",
    "build": f"--root {{world}}/checkout -c {{dummies}} --variant {V3}",
    "channel add": "{world}/channel {world}/more",
    "channel bundle": "{world}/new.tar {site} -c {world}/channel --root {world}/checkout",
    "channel create": "{world}/new",
    "channel index": "{world}/channel",
    "channel keygen": "{world}/new.pem",
    "channel list": "{world}/channel",
    "channel mirror": "{world}/signed {site} -c {world}/channel --root {world}/checkout",
    "channel page": "{world}/channel {site}",
    "channel prune": "{world}/channel --keep 1",
    "channel remove": f"{{world}}/channel {PACKAGE} --reason test",
    "channel sign": "{world}/channel --key {world}/key.pem",
    "channel unbundle": "{world}/bundle.tar {world}/new",
    "channel verify": "{world}/signed --root {world}/signed/metadata/root.json",
    "channel yank": f"{{world}}/channel {PACKAGE} --reason test",
    "engine add": "0.0.1 --root {world}/checkout -c {dummies}",
    "engine build": "--root {world}/checkout -c {dummies}",
    "engine diff": "{world}/none.tar.gz --root {world}/checkout -c {dummies}",
    "engine test": "--root {world}/checkout -c {dummies} --output {world}/channel",
    "exec": "--root {world}/checkout --output {world}/channel -c {dummies} --with stays -- true",
    "generate": "--root {root} --check",
    "lint": "--root {world}/checkout",
    "matrix": "--root {world}/checkout",
    "render": f"--root {{world}}/checkout --variant {V3} -c {{dummies}}",
    "rerender": "--root {root} --check",
    "solve": "{site} -c {world}/channel --root {world}/checkout --lock {world}/locks",
    "test": "{package} -c {world}/channel",
    "toolchain": "--list",
}  # fmt: skip


def leaves(group: click.Command = cli, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command of the parser that is no group."""
    if not isinstance(group, click.Group):
        yield above
        return
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from leaves(command, (*above, name))


COMMANDS = tuple(" ".join(leaf) for leaf in leaves())


def _invented(name: str) -> str:
    """Words for a command that WORDS does not know yet."""
    command: click.Command = cli
    for part in name.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), part)
        assert found is not None
        command = found
    words = []
    for parameter in command.params:
        if not parameter.required:
            continue
        if isinstance(parameter, click.Option):
            words.append(parameter.opts[0])
        words.append("{world}/channel" if isinstance(parameter.type, click.Path) else "1")
    return " ".join(words)


class World:
    """A checkout, channels, keys and a site file, of which each try gets a copy."""

    def __init__(self, folder: Path, dummies: str) -> None:
        self.template, self.dummies = folder, dummies
        support.checkout(folder / "checkout")
        for place, version in (("made", "1"), ("more", "2")):
            support.build_dummy(folder / place, "stays", version, {"run": []}, "")
        (folder / "site.yaml").write_text(SITE)
        channel, key = folder / "channel", folder / "key.pem"
        for words in (
            ["keygen", key],
            ["create", channel],
            ["add", channel, folder / "made"],
            ["bundle", folder / "bundle.tar", folder / "site.yaml", "-c", channel],
        ):
            self._do(*map(str, words))
        shutil.copytree(channel, folder / "signed")
        self._do("sign", str(folder / "signed"), "--key", str(key))

    def _do(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "vllm_conda", "channel", *words],
            cwd=self.template / "checkout",
            env={**os.environ, **self.environment(self.template)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def copy(self, folder: Path) -> Path:
        shutil.copytree(self.template, folder, symlinks=True)
        return folder

    def words(self, name: str, world: Path) -> list[str]:
        """The command and its words, for the copy in ``world``."""
        places: Mapping[str, object] = {
            "world": world,
            "site": world / "site.yaml",
            "package": next((world / "made").glob("*/stays-*.conda")),
            "dummies": self.dummies,
            "root": support.ROOT,
        }
        words = WORDS.get(name) or _invented(name)
        return [*name.split(), *(word.format_map(places) for word in words.split())]

    def environment(self, world: Path) -> dict[str, str]:
        """Variables of a try: no network, and nothing of the caller's caches."""
        closed = "http://127.0.0.1:9"
        return {
            "PYTHONPATH": str(support.ROOT / "src"),
            "HOME": str(world / "home"),
            "VLLM_CONDA_CACHE": str(world / "cache"),
            "RATTLER_CACHE_DIR": str(world / "cache/rattler"),
            "XDG_STATE_HOME": str(world / "state"),
            "TMPDIR": str(world / "tmp"),
            "CONDA_OVERRIDE_ARCHSPEC": "x86_64_v4",
            "HTTP_PROXY": closed,
            "HTTPS_PROXY": closed,
            "ALL_PROXY": closed,
            "PIP_INDEX_URL": f"{closed}/simple",
            "PIP_RETRIES": "0",
            "PIP_CONFIG_FILE": os.devnull,
        }


def sample(text: str) -> str:
    """Stderr for a message of a failed assertion."""
    return json.dumps(text[-3000:])
