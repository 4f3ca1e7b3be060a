"""docs/packagers/site.md, command by command.

The commands run as they stand there, in a small checkout. Three things are put in their place:
folders of the machine by a temporary one, conda-forge by a local channel, and micromamba, which no
registry offers, by rattler: it installs the same explicit file.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
from markdown_it import MarkdownIt

from vllm_conda.builder.store import STATE_FILE
from vllm_conda.platforms import host_platform

PAGE = support.ROOT / "docs/packagers/site.md"
TIMEOUT = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(host_platform() != "linux-64", reason="the page's node types are linux-64"),
]

MICROMAMBA = """#!{python}
import asyncio, os, re, sys
from pathlib import Path
from rattler import PackageRecord, RepoDataRecord, install
from rattler.package_streaming import extract
from urllib.parse import urlsplit, unquote
import json, tempfile

def record(url):
    path = Path(unquote(urlsplit(url).path))
    with tempfile.TemporaryDirectory() as folder:
        extract(path, Path(folder))
        row = PackageRecord.from_index_json(Path(folder) / "info/index.json")
    return RepoDataRecord(row, path.name, url, path.parent.parent.as_uri())

words = ["-p" if word == "--prefix" else word for word in sys.argv[1:]]
prefix = Path(words[words.index("-p") + 1])
if words[0] == "run":
    command = words[words.index("-p") + 2:]
    program = str(prefix / "bin" / command[0])
    os.execve(program, [program, *command[1:]], {{"PATH": f"{{prefix}}/bin:/usr/bin:/bin"}})
lines = Path(words[words.index("--file") + 1]).read_text().splitlines()
urls = [line for line in lines[lines.index("@EXPLICIT") + 1:] if line]
records = [record(url.partition("#")[0]) for url in urls]
asyncio.run(install(records, target_prefix=prefix, cache_dir=Path(os.environ["CACHE"]),
                    show_progress=False))
"""


def commands() -> Iterator[tuple[str, str]]:
    """Heading and text of each block of commands."""
    heading = ""
    tokens = MarkdownIt("commonmark").parse(PAGE.read_text())
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[number + 1].content
        elif token.type == "fence":
            yield heading, token.content


class Shell:
    """Runs blocks in one folder, and fails with what they printed."""

    def __init__(self, folder: Path, checkout: Path, machine: Path, places: dict[str, str]) -> None:
        self.checkout, self.machine, self.places = checkout, machine, places
        tools = folder / "tools"
        tools.mkdir(parents=True)
        python = sys.executable
        self.tool(tools / "vllm-conda", f'#!/bin/sh\nexec {python} -m vllm_conda "$@"\n')
        self.tool(tools / "micromamba", MICROMAMBA.format(python=python))
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("VLLM_")},
            **{key: os.environ[key] for key in ("VLLM_CONDA_CACHE",) if key in os.environ},
            "PATH": f"{tools}:{os.environ['PATH']}",
            "PYTHONPATH": str(support.ROOT / "src"),
            "XDG_STATE_HOME": str(folder / "memory"),
            "CACHE": str(folder / "pkgs"),
        }

    @staticmethod
    def tool(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, block: str, code: int = 0) -> str:
        for old, new in self.places.items():
            block = block.replace(old, new)
        block = re.sub(r"(?<=\s)/(?=(?:srv|site)[/\s])", f"{self.machine}/", block)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=self.checkout,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == code, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def installed(prefix: Path) -> dict[str, str]:
    rows = [json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")]
    return {row["name"]: row["build"] for row in rows}


def walk(shell: Shell, root: Path, nodes: bool) -> None:
    """The whole page; ``nodes`` says whether what is installed runs on this machine."""
    for heading, block in commands():
        if "python -m vllm_kernels" in block and not nodes:
            continue
        if "VERSION-BUILD" in block:
            (package,) = (root / "srv/vllm/linux-64").glob("vllm-kernels-[0-9]*.conda")
            block = block.replace("vllm-kernels-VERSION-BUILD.conda", package.name)
        assert heading
        shell.run(block)


def check(shell: Shell, root: Path) -> None:
    """What the page promises."""
    amd, intel = installed(root / "site/amd"), installed(root / "site/intel")
    assert amd["vllm-kernels-cpu"].endswith("_300")
    assert intel["vllm-kernels-cpu"].endswith("_400")
    page = (root / "srv/vllm/index.html").read_text()
    assert "yanked: wrong results on zen3" in page
    assert (root / "site/channel/locks/amd.txt").is_file()
    # The page verified the publisher's own channel last, which is three signings on.
    assert "older than signing" in shell.run(
        "vllm-conda channel verify /site/vllm --root site-root.json", code=17
    )
    package = next((root / "site/vllm/linux-64").glob("vllm-kernels-cpu-*.conda"))
    package.write_bytes(package.read_bytes()[:-1])
    fresh = "XDG_STATE_HOME=$PWD/fresh vllm-conda channel verify /site/vllm --root site-root.json"
    assert f"linux-64/{package.name} has" in shell.run(fresh, code=7)


def test_every_command_in_a_small_checkout(checkout: Path, dummies: str, tmp_path: Path) -> None:
    root = tmp_path / "machine"
    shutil.copytree(Path(dummies.removeprefix("file://")), root / "srv/conda-forge")
    places = {
        "vllm-conda build": f"vllm-conda build -c {dummies}",
        "-c conda-forge": f"-c {dummies}",
        # A CPU of the same level that the dummies know.
        "zen3}": "zen2}",
    }
    shell = Shell(tmp_path / "shell", checkout, root, places)
    walk(shell, root, nodes=False)
    check(shell, root)


def test_the_page_names_this_test() -> None:
    assert re.search(r"tests/build/test_site_page\.py", PAGE.read_text())
    assert STATE_FILE in PAGE.read_text()
