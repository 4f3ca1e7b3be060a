"""Mirrors: from folders and servers, stopped and started, short of room, and lied to."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import web
from support import ROOT, SLOW

from packages import Recipe, make
from vllm_conda.channel import fetch
from vllm_conda.channel.add import Source, add
from vllm_conda.channel.closure import Closure, closure
from vllm_conda.channel.folder import ChannelFolder, create
from vllm_conda.channel.mirror import mirror
from vllm_conda.cli import main
from vllm_conda.errors import DiskError, IntegrityError, NetworkError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.site.model import parse_site

SITE = """\
schema: 1
site: one
nodes:
  node: {platform: linux-64, glibc: "2.28", archspec: haswell}
"""
LIB, APP = Recipe("lib"), Recipe("app", subdir="linux-64", depends=["lib"])
BIG = Recipe("big", subdir="linux-64", files={"share/big": os.urandom(3 << 20)})
QUIET = Reporter(Mode.JSON, io.StringIO())


@pytest.fixture
def source(tmp_path: Path) -> ChannelFolder:
    made = create(tmp_path / "source")
    add(made, [Source(make(tmp_path / "made", one)) for one in (LIB, APP, BIG)])
    return made


def served(folder: Path, *broken: str) -> AbstractContextManager[str]:
    """The folder over HTTP; files named in ``broken`` end after half."""

    class Handler(web.Quiet):
        def copyfile(self, source: object, outputfile: object) -> None:
            data = source.read()  # type: ignore[attr-defined]
            if any(name in self.path for name in broken):
                data = data[: len(data) // 2]
            outputfile.write(data)  # type: ignore[attr-defined]

    return web.served(folder, Handler)


def _wanted(address: str, *specs: str) -> Closure:
    return closure(parse_site(SITE, "site.yaml"), [address], specs or ("app", "big"))


@pytest.mark.parametrize("over_http", [False, True])
def test_the_closure_and_no_more(
    over_http: bool, source: ChannelFolder, channel: ChannelFolder, tmp_path: Path
) -> None:
    with served(source.path) as address:
        report = mirror(channel, _wanted(address if over_http else source.url, "app"), QUIET)
    assert sorted(report.fetched) == sorted((LIB.key, APP.key))
    assert {one.key for one in channel.packages()} == {LIB.key, APP.key}
    for recipe in (LIB, APP):
        assert (channel.path / recipe.key).read_bytes() == (source.path / recipe.key).read_bytes()
    # It serves the same node by itself.
    assert set(_wanted(channel.url, "app").records) == {LIB.key, APP.key}
    again = mirror(channel, _wanted(source.url, "app"), QUIET)
    assert again.fetched == ()
    assert again.serial == report.serial


def test_corrections_of_the_source_stay(source: ChannelFolder, channel: ChannelFolder) -> None:
    """A channel may say of a package what is not in it, as conda-forge's repodata patches do."""
    for package in source.packages():
        if package.file_name == APP.file_name:
            record = {**package.record, "depends": ["lib", "__glibc >=2.17"]}
            source.write_record(type(package)(package.subdir, package.file_name, record))
    assert main(["channel", "index", str(source.path)]) == 0
    mirror(channel, _wanted(source.url, "app"), QUIET)
    rows = json.loads((channel.path / "linux-64" / "repodata.json").read_text())
    assert rows["packages.conda"][APP.file_name]["depends"] == ["lib", "__glibc >=2.17"]
    # And they stay when the index is made anew.
    assert main(["channel", "index", str(channel.path)]) == 0
    rows = json.loads((channel.path / "linux-64" / "repodata.json").read_text())
    assert rows["packages.conda"][APP.file_name]["depends"] == ["lib", "__glibc >=2.17"]


def test_a_broken_connection_keeps_what_came(source: ChannelFolder, channel: ChannelFolder) -> None:
    with (
        served(source.path, BIG.file_name) as address,
        pytest.raises((NetworkError, IntegrityError)) as caught,
    ):
        mirror(channel, _wanted(address), QUIET)
    assert BIG.file_name in caught.value.message
    assert "\n" not in caught.value.message
    assert channel.packages() == []
    came = {path.name for path in (channel.state / "fetched").rglob("*.conda")}
    assert came == {APP.file_name}
    # What has come is not asked for again.
    with served(source.path, APP.file_name) as address:
        report = mirror(channel, _wanted(address), QUIET)
    assert set(report.fetched) == {LIB.key, APP.key, BIG.key}
    assert not (channel.state / "fetched").exists()


def test_other_bytes_than_the_index_says(source: ChannelFolder, channel: ChannelFolder) -> None:
    wanted = _wanted(source.url)
    file = source.path / APP.key
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="does not have its recorded SHA-256"):
        mirror(channel, wanted, QUIET)
    assert channel.packages() == []


def test_no_server(
    channel: ChannelFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    words = ["channel", "mirror", str(channel.path), str(site), "app"]
    assert main([*words, "-c", "http://127.0.0.1:9/channel"]) == 6
    assert capsys.readouterr().err.startswith("error: Cannot read the channels http://127.0.0.1:9")


def test_no_room_is_said_first(
    source: ChannelFolder, channel: ChannelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(channel.path)._replace(free=fetch._SPARE + (1 << 20))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match=r"Fetching 3 packages needs \d+ bytes, and"):
        mirror(channel, _wanted(source.url), QUIET)


FULL_DISK = """
set -e
mount -t tmpfs -o size=4m tmpfs "$1"
run() { "$PYTHON" -m vllm_conda channel "$@"; }
run create "$1/channel"
dd if=/dev/urandom of="$1/ballast" bs=1k count=2000 status=none
code=0; run mirror "$1/channel" "$2" app big -c "$3" || code=$?
echo "mirror: $code"
code=0; run add "$1/channel" "$4" || code=$?
echo "add: $code"
code=0; run bundle "$1/site.tar" "$2" app big -c "$3" || code=$?
echo "bundle: $code"
run list "$1/channel" --json
rm "$1/ballast"
mount -o remount,size=40m "$1"
run mirror "$1/channel" "$2" app big -c "$3" >&2
run index "$1/channel" >&2
run bundle "$1/site.tar" "$2" app big -c "$3" >&2
echo "then: $(ls "$1/channel/linux-64" | grep -c conda)"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_a_full_disk(source: ChannelFolder, tmp_path: Path) -> None:
    """The space check is told a lie, so that the disk fills up in the middle of the work."""
    small, site = tmp_path / "small", tmp_path / "site.yaml"
    small.mkdir()
    site.write_text(SITE)
    lie = tmp_path / "lie"
    lie.mkdir()
    (lie / "sitecustomize.py").write_text(
        "import shutil\n"
        "real = shutil.disk_usage\n"
        "shutil.disk_usage = lambda path: real(path)._replace(free=1 << 40)\n"
    )
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": f"{lie}:{ROOT / 'src'}",
    }
    arguments = [str(small), str(site), source.url, str(source.path / BIG.key)]
    done = subprocess.run(
        ["unshare", "-m", "bash", "-c", FULL_DISK, "full-disk", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "must be superuser" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("this container may not mount")
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("mirror: 8", "add: 8", "bundle: 8", "[]", "then: 2"):
        assert word in done.stdout.splitlines(), done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3
    assert all("No space left" in line or "disk is full" in line for line in errors), errors
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["mirror", "add", "bundle"])
def test_killed_at_any_moment(command: str, source: ChannelFolder, tmp_path: Path) -> None:
    """Killed earlier and later; then the same command finishes, and nothing is left over."""
    site, target = tmp_path / "site.yaml", tmp_path / "target"
    site.write_text(SITE)
    words = {
        "mirror": ["mirror", str(target), str(site), "app", "big", "-c", source.url],
        "add": ["add", str(target), str(source.path)],
        "bundle": ["bundle", str(target / "b.tar"), str(site), "app", "big", "-c", source.url],
    }[command]
    create(target)
    times = 40 if SLOW else 5
    for number in range(times):
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm_conda", "channel", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(0.4 + 1.6 * number / times)
        process.send_signal(signal.SIGKILL)
        process.wait()
        packages = ChannelFolder(target).packages()
        assert len(packages) in (0, 3) or command == "add"
    assert main(["channel", *words]) == 0
    channel = ChannelFolder(target)
    assert list((channel.state / "incoming").glob("*")) == []
    if command == "bundle":
        assert main(["channel", "unbundle", str(target / "b.tar"), "--check"]) == 0
        assert sorted(path.name for path in target.glob("*b.tar*")) == ["b.tar"]
    else:
        assert len(channel.packages()) == 3
        assert main(["channel", "index", str(target)]) == 0
