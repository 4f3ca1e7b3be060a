"""Bundles: whole ones install anywhere, damaged and hostile ones are one sentence."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from rattler import LockFile
from support import SLOW

from packages import Recipe, make
from vllm_conda.channel import envelope
from vllm_conda.channel.add import Source, add, sources
from vllm_conda.channel.bundle import bundle, estimate
from vllm_conda.channel.closure import Closure, closure
from vllm_conda.channel.folder import ChannelFolder, create
from vllm_conda.channel.unbundle import base_of, check_bundle, unbundle
from vllm_conda.cli import main
from vllm_conda.errors import DiskError, IntegrityError, UnservedError, VllmError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.site.model import Site, parse_site

CLIENT = Path(__file__).with_name("client.py")
SITE = """\
schema: 1
site: two
nodes:
  old: {platform: linux-64, glibc: "2.28", archspec: haswell}
  new: {platform: linux-64, glibc: "2.36", archspec: icelake}
"""
PACKAGES = [
    Recipe("lib", run_exports={"weak": ["lib >=1"]}),
    Recipe("app", "1", subdir="linux-64", depends=["lib", "__glibc >=2.28"]),
    Recipe("app", "2", subdir="linux-64", depends=["lib", "__glibc >=2.34"]),
]
QUIET = Reporter(Mode.JSON, io.StringIO())
# The loop of the slow ring; see docs/developers/testing.md.
DAMAGES = 200 if SLOW else 40


def _site() -> Site:
    return parse_site(SITE, "site.yaml")


@pytest.fixture
def wanted(channel: ChannelFolder, tmp_path: Path) -> Closure:
    add(channel, [Source(make(tmp_path / "made", recipe)) for recipe in PACKAGES])
    return closure(_site(), [channel.url], ["app"])


@pytest.fixture
def made(wanted: Closure, tmp_path: Path) -> Path:
    bundle(tmp_path / "site.tar", wanted, {}, QUIET)
    return tmp_path / "site.tar"


def _unpack(path: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    with tarfile.open(path) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _install(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(folder / "install.sh"), *words], capture_output=True, text=True, check=False
    )


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """An executable with micromamba's name and command line."""
    path = tmp_path / "bin" / "micromamba"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {CLIENT} "$@"\n')
    path.chmod(0o755)
    return path


def test_a_bundle_installs_where_nothing_else_is(made: Path, client: Path, tmp_path: Path) -> None:
    site = _unpack(made, tmp_path / "a site & more")
    for node, version in (("old", "1"), ("new", "2")):
        prefix = tmp_path / "a prefix" / node
        done = _install(site, "--client", str(client), node, str(prefix))
        assert done.returncode == 0, done.stdout + done.stderr
        assert (prefix / f"share/app/app-{version}-h1234567_0").is_file()
        assert (prefix / "share/lib/lib-1-h1234567_0").is_file()


def test_the_installer_checks_every_file(made: Path, client: Path, tmp_path: Path) -> None:
    site = _unpack(made, tmp_path / "site")
    assert _install(site, "--check").returncode == 0
    names = [line.split("  ", 1)[1] for line in (site / "SHA256SUMS").read_text().splitlines()]
    assert f"channel/{PACKAGES[0].key}" in names
    for name in names:
        whole = (site / name).read_bytes()
        (site / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        done = _install(site, "--client", str(client), "old", str(tmp_path / "prefix"))
        # The installer itself may be what is damaged; then the shell or the sum says so.
        assert done.returncode == 7 or name == "install.sh", name
        assert done.returncode != 0
        assert not (tmp_path / "prefix").exists()
        (site / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([], 2, "A node type and a prefix are needed"),
        (["gone", "prefix"], 2, "There is no node type gone here"),
        (["--wrong"], 2, "Unknown option --wrong"),
        (["--client", "/nowhere/conda", "old", "/nowhere/p"], 5, "None of micromamba"),
        (["--client", "true", "old", "/usr"], 2, "/usr is there already"),
    ],
)
def test_what_the_installer_says(
    words: list[str], code: int, part: str, made: Path, tmp_path: Path
) -> None:
    done = _install(_unpack(made, tmp_path / "site"), *words)
    assert done.returncode == code
    assert part in done.stderr
    assert done.stderr.count("\n") == 2


def test_unbundle_publishes_and_writes_locks(made: Path, tmp_path: Path) -> None:
    target = tmp_path / "srv" / "vllm"
    report = unbundle(made, target, "https://mirror.site/vllm")
    assert sorted(report.added) == sorted(recipe.key for recipe in PACKAGES)
    lock = LockFile.from_path(target / "locks" / "new.lock")
    environment = lock.default_environment()
    assert environment is not None
    (packages,) = environment.packages_by_platform().values()
    assert sorted(one.location for one in packages) == [
        f"https://mirror.site/vllm/{recipe.key}" for recipe in (PACKAGES[2], PACKAGES[0])
    ]
    explicit = (target / "locks" / "old.txt").read_text()
    assert f"https://mirror.site/vllm/{PACKAGES[1].key}#" in explicit
    exports = json.loads((target / "noarch" / "run_exports.json").read_text())
    assert exports["packages.conda"][PACKAGES[0].file_name]["run_exports"] == {"weak": ["lib >=1"]}
    again = unbundle(made, target)
    assert again.added == ()
    assert again.serial == report.serial


def test_incremental(made: Path, wanted: Closure, channel: ChannelFolder, tmp_path: Path) -> None:
    newer = Recipe("app", "3", subdir="linux-64", depends=["lib", "__glibc >=2.34"])
    add(channel, [Source(make(tmp_path / "made", newer))])
    later = closure(_site(), [channel.url], ["app"])
    base = base_of({"site.tar": check_bundle(made)})
    update = tmp_path / "update.tar"
    manifest = bundle(update, later, base, QUIET)
    assert [key for key, one in manifest.packages.items() if one.carried] == [newer.key]
    empty = tmp_path / "empty"
    with pytest.raises(IntegrityError, match=r"is incremental and leaves out \S+, which"):
        unbundle(update, empty)
    unbundle(made, empty)
    assert unbundle(update, empty).added == (newer.key,)
    # By hand too: over the one before.
    site = _unpack(update, _unpack(made, tmp_path / "site"))
    assert _install(site, "--check").returncode == 0
    exports = json.loads((site / "channel" / "noarch" / "run_exports.json").read_text())
    assert exports["packages.conda"][PACKAGES[0].file_name]["run_exports"]


def test_the_estimate_is_an_upper_bound(made: Path, wanted: Closure) -> None:
    plan = estimate(wanted, {})
    assert made.stat().st_size <= plan.size <= made.stat().st_size + 300_000
    assert len(plan.carried) == 3


def test_no_room_is_said_before_the_start(
    wanted: Closure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1 << 26)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskError, match=r"The bundle needs \d+ bytes, and \S+ has 0 free"):
        bundle(tmp_path / "site.tar", wanted, {}, QUIET)
    assert not (tmp_path / "site.tar").exists()


def test_a_node_type_without_packages(wanted: Closure, channel: ChannelFolder) -> None:
    poor = parse_site(SITE.replace("2.28", "2.17"), "site.yaml")
    with pytest.raises(UnservedError, match="1 of 2 node types are not served: old needs"):
        closure(poor, [channel.url], ["app"])


def _flip(data: bytearray, drawn: random.Random) -> None:
    data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)


def _cut(data: bytearray, drawn: random.Random) -> None:
    del data[drawn.randrange(len(data)) :]


def _hole(data: bytearray, drawn: random.Random) -> None:
    start = drawn.randrange(len(data) - 512)
    del data[start : start + 512]


def _zeros(data: bytearray, drawn: random.Random) -> None:
    start = drawn.randrange(len(data) // 2)
    data[start : start + 4096] = b"\xff" * 4096


def _longer(data: bytearray, drawn: random.Random) -> None:
    data += bytes(drawn.randrange(1, 20000))


def test_every_damage_is_one_sentence(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Through the command line: what a user sees, and that the channel stays as it was."""
    whole = made.read_bytes()
    target = tmp_path / "channel-of-site"
    drawn = random.Random(14)  # noqa: S311 - not for secrets
    for number in range(DAMAGES):
        data = bytearray(whole)
        (_flip, _cut, _hole, _zeros, _longer)[number % 5](data, drawn)
        made.write_bytes(data)
        assert main(["channel", "unbundle", str(made), str(target)]) == 7
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith(f"error: {made}")
        assert captured.err.count("\n") == 2
        assert not target.exists()
    made.write_bytes(whole)
    assert main(["channel", "unbundle", str(made), str(target)]) == 0


def _rewritten(made: Path, change: Callable[[str, bytes, dict[str, bytes]], None]) -> None:
    """A bundle with a right digest whose maker meant harm."""
    with envelope.members(made) as files:
        contents = {name: stream.read() for name, _, stream in files}
    for name in list(contents):
        change(name, contents[name], contents)
    with made.open("wb") as stream:
        writer = envelope.BundleWriter(stream, 1_700_000_000)
        for name, data in contents.items():
            writer.add_bytes(name, data)
        writer.finish()


def _manifest_with(key: str, value: object) -> Callable[[str, bytes, dict[str, bytes]], None]:
    def change(name: str, data: bytes, contents: dict[str, bytes]) -> None:
        if name == "bundle.json":
            manifest = json.loads(data)
            manifest[key] = value
            contents[name] = json.dumps(manifest).encode()

    return change


def _extra(name: str, data: bytes, contents: dict[str, bytes]) -> None:
    contents["../../evil"] = b"x"


def _swapped(name: str, data: bytes, contents: dict[str, bytes]) -> None:
    if name.endswith(".conda"):
        contents[name] = data[:-1] + bytes([data[-1] ^ 1])


def _without(name: str, data: bytes, contents: dict[str, bytes]) -> None:
    if name.endswith(".conda"):
        contents.pop(name)


def _bad_package(name: str, data: bytes, contents: dict[str, bytes]) -> None:
    """A package that leaves its prefix, with all sums right."""
    if not name.endswith("app-1-h1234567_0.conda"):
        return
    from packages import content

    link = tarfile.TarInfo("lib/x")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    bad = content(Recipe("app", "1", subdir="linux-64", members=[(link, b"")]))
    contents[name] = bad
    manifest = json.loads(contents["bundle.json"])
    record = manifest["packages"][name.removeprefix("channel/")]["record"]
    record["sha256"], record["size"] = sha256(bad).hexdigest(), len(bad)
    contents["bundle.json"] = json.dumps(manifest).encode()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (_extra, r"holds '../../evil' of 1 bytes, which it does not list"),
        (_swapped, r"holds another channel/\S+ than it lists"),
        (_without, r"lacks channel/\S+, which it lists"),
        (_bad_package, r"link lib/x to '/etc', outside its prefix"),
        (_manifest_with("packages", {"../../x": 1}), r"damaged bundle.json"),
        (_manifest_with("packages", []), r"damaged bundle.json"),
        (_manifest_with("files", {"../../x": {"sha256": "0", "size": 1}}), r"names '../../x'"),
        (_manifest_with("nodes", {"../x": {}}), r"damaged bundle.json"),
        (_manifest_with("schema", 2), r"of schema 2, this toolkit reads 1"),
    ],
)
def test_hostile_bundles(
    change: Callable[[str, bytes, dict[str, bytes]], None], part: str, made: Path, tmp_path: Path
) -> None:
    _rewritten(made, change)
    target = create(tmp_path / "target")
    with pytest.raises(VllmError, match=part) as caught:
        unbundle(made, target.path)
    assert "\n" not in caught.value.message
    assert target.packages() == []
    assert not (tmp_path / "evil").exists()
    assert not list((target.state / "incoming").glob("*"))


def test_links_in_a_bundle(made: Path, tmp_path: Path) -> None:
    link = tarfile.TarInfo("channel/x")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with envelope.members(made) as files:
        contents = {name: stream.read() for name, _, stream in files}
    with made.open("wb") as stream:
        writer = envelope.BundleWriter(stream, 1_700_000_000)
        for name, data in contents.items():
            writer.add_bytes(name, data)
        writer._write(link.tobuf())
        writer.finish()
    with pytest.raises(IntegrityError, match="holds 'channel/x', which is no plain file"):
        unbundle(made, tmp_path / "target")


def test_a_base_may_be_the_sites_channel(
    made: Path, channel: ChannelFolder, tmp_path: Path
) -> None:
    """The command says what it leaves out."""
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    words = ["channel", "bundle", str(tmp_path / "empty.tar"), str(site), "app", "-c", channel.url]
    assert main([*words, "--base", str(channel.path)]) == 0
    assert not any(one.carried for one in check_bundle(tmp_path / "empty.tar").packages.values())
    assert sources([channel.path])


def test_damaged_sources_are_one_sentence(
    wanted: Closure,
    channel: ChannelFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Channels whose files are not what their index says: bundle, mirror, add and index."""
    site = tmp_path / "site.yaml"
    site.write_text(SITE)
    other, target = tmp_path / "other", tmp_path / "x.tar"
    create(other)
    commands = (
        ["bundle", str(target), str(site), "app", "-c", channel.url],
        ["mirror", str(other), str(site), "app", "-c", channel.url],
        ["add", str(other), str(channel.path)],
        ["index", str(channel.path)],
    )
    drawn = random.Random(15)  # noqa: S311 - not for secrets
    saved = tmp_path / "saved"
    shutil.copytree(channel.path, saved)
    files = sorted(channel.path.glob("*/*.conda"))
    for number in range(DAMAGES):
        file = files[number % len(files)]
        data = bytearray(file.read_bytes())
        (_flip, _cut)[number % 2](data, drawn)
        if number % 8 == 7:
            file.unlink()
        else:
            file.write_bytes(data)
        command = commands[number % len(commands)]
        # What a mirror has brought is whole, and the next one would take it.
        shutil.rmtree(other)
        create(other)
        assert main(["channel", *command]) in (2, 7), command
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, captured.err
        assert file.name in errors[0]
        assert "Traceback" not in captured.err
        shutil.rmtree(channel.path)
        shutil.copytree(saved, channel.path)
        assert not target.exists()
        assert ChannelFolder(other).packages() == []
    for command in commands:
        assert main(["channel", *command]) == 0
