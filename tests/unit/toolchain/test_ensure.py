"""``ensure`` end to end on a small catalog: real pip, real packaging, real index, real solver."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from io import StringIO
from pathlib import Path

import pytest
from click.testing import CliRunner
from rattler import BuildString, GenericVirtualPackage, MatchSpec, PackageName, Version, solve
from rattler import Channel as RattlerChannel
from rattler.package_streaming import extract
from toolchain_fakes import CATALOG, make_wheel

from vllm_conda.downloads.store import sha256
from vllm_conda.errors import (
    BuildFailure,
    ConfigError,
    DiskError,
    IntegrityError,
    NetworkError,
)
from vllm_conda.progress import Mode, Reporter
from vllm_conda.toolchain import maker as maker_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.command import toolchain
from vllm_conda.toolchain.native import ensure
from vllm_conda.toolchain.plan import plan

pytestmark = pytest.mark.usefixtures("small_catalog", "wheels")


def make(cache: Path) -> tuple[Channel, str]:
    """The channel and what was printed."""
    stream = StringIO()
    with Reporter(Mode.PLAIN, stream) as reporter:
        channel = ensure("linux-64", reporter=reporter, cache=cache)
    return channel, stream.getvalue()


def artifact(cache: Path, name: str) -> Path:
    return next((cache / "downloads/pip").glob(f"{name}*/*.whl"))


def test_the_channel_holds_every_package_of_the_catalog(tmp_path: Path) -> None:
    channel, text = make(tmp_path / "cache")
    found = [(one.name, one.version, one.build, one.subdir) for one in channel.packages]
    assert found == [
        ("demo", "1.0", "external_0", "noarch"),
        ("extra", "2.5", "external_0", "linux-64"),
        ("level", "1", "external_0", "noarch"),
        ("level", "3", "external_0", "noarch"),
    ]
    assert channel.url == channel.path.as_uri()
    assert "4 packages (4 made now)" in text
    repodata = json.loads((channel.path / "noarch/repodata.json").read_text())
    assert len(repodata["packages.conda"]) == 3


def test_nothing_is_left_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    make(tmp_path / "cache")
    assert not list(temporary.iterdir())


def test_package_content(tmp_path: Path) -> None:
    channel, _ = make(tmp_path / "cache")
    files = {one.name: channel.path / one.subdir / one.file_name for one in channel.packages}
    extract(files["demo"], tmp_path / "demo")
    link = json.loads((tmp_path / "demo/info/link.json").read_text())
    assert link["noarch"]["entry_points"] == ["demo = demo:main"]
    assert (tmp_path / "demo/site-packages/demo/__init__.py").exists()
    assert not (tmp_path / "demo/bin").exists()

    extract(files["extra"], tmp_path / "extra")
    paths = json.loads((tmp_path / "extra/info/paths.json").read_text())["paths"]
    script = next(row for row in paths if row["_path"] == "bin/extra")
    assert script["file_mode"] == "text"
    first = (tmp_path / "extra/bin/extra").read_text().splitlines()[0]
    assert first == f"#!{script['prefix_placeholder']}/bin/python"
    exports = json.loads((tmp_path / "extra/info/run_exports.json").read_text())
    assert exports == {"weak": ["extra >=2.5"]}
    index = json.loads((tmp_path / "extra/info/index.json").read_text())
    version = ".".join(str(part) for part in sys.version_info[:2])
    assert index["depends"] == [f"python >={version}"]


@pytest.mark.parametrize(
    ("cpu", "level"), [("x86_64_v4", "3"), ("haswell", "3"), ("nehalem", "1"), ("x86_64_v2", "1")]
)
def test_the_solver_takes_the_highest_level_of_the_cpu(
    tmp_path: Path, cpu: str, level: str
) -> None:
    channel, _ = make(tmp_path / "cache")
    records = asyncio.run(
        solve(
            [RattlerChannel(channel.url)],
            [MatchSpec("level")],
            platforms=["linux-64", "noarch"],
            virtual_packages=[
                GenericVirtualPackage(PackageName("__archspec"), Version("1"), BuildString(cpu))
            ],
        )
    )
    assert [str(one.version) for one in records] == [level]


def test_a_second_call_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = make(tmp_path / "cache")
    monkeypatch.setattr(maker_module, "Maker", None)
    second, text = make(tmp_path / "cache")
    assert second == first
    assert text == ""


def test_one_entry_more_makes_one_package_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_conda.toolchain import model

    first, _ = make(tmp_path / "cache")
    more = '\n[packages.more]\nsummary = "m"\nlicense = "MIT"\nversion = "1"\n'
    monkeypatch.setattr(model, "catalog_text", lambda: CATALOG + more)
    second, text = make(tmp_path / "cache")
    assert "5 packages (1 made now)" in text
    assert second.fingerprint != first.fingerprint
    assert set(first.packages) < set(second.packages)


def test_a_lost_channel_file_is_put_back(tmp_path: Path) -> None:
    channel, _ = make(tmp_path / "cache")
    (channel.path / "linux-64/extra-2.5-external_0.conda").unlink()
    again, text = make(tmp_path / "cache")
    assert "(0 made now)" in text
    assert again == channel
    assert (channel.path / "linux-64/extra-2.5-external_0.conda").exists()


def test_a_corrupted_download_is_fetched_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first, _ = make(cache)
    wheel = artifact(cache, "demo")
    good = wheel.read_bytes()
    wheel.write_bytes(good[:-1] + b"!")
    for request in (cache / "requests").iterdir():
        request.unlink()
    second, text = make(cache)
    assert "demo-1.0-py3-none-any.whl lost its recorded hash" in text
    assert artifact(cache, "demo").read_bytes() == good
    assert second == first


def test_a_corrupted_download_without_network_is_an_integrity_error(
    tmp_path: Path, wheels: Path
) -> None:
    cache = tmp_path / "cache"
    make(cache)
    wheel = artifact(cache, "demo")
    wheel.write_bytes(wheel.read_bytes()[:-1] + b"!")
    for request in (cache / "requests").iterdir():
        request.unlink()
    (wheels / wheel.name).unlink()
    with pytest.raises(IntegrityError, match=r"cached download of demo 1\.0") as failure:
        make(cache)
    assert failure.value.exit_code == 7


def test_a_corrupted_package_is_made_again(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    channel, _ = make(cache)
    package = next((cache / "packages").glob("*/extra-*.conda"))
    package.write_bytes(b"damaged")
    again, text = make(cache)
    assert "4 packages (1 made now)" in text
    assert again.fingerprint == channel.fingerprint


def _sums(channel: Channel) -> dict[str, str]:
    """File -> SHA-256 as the index lists it, each compared with the file."""
    found = {}
    for index in channel.path.glob("*/repodata.json"):
        for name, record in json.loads(index.read_text())["packages.conda"].items():
            assert sha256(index.parent / name) == record["sha256"]
            found[f"{index.parent.name}/{name}"] = record["sha256"]
    return found


def test_a_published_address_keeps_its_bytes(tmp_path: Path) -> None:
    """Packages that are made again differ by their timestamps: their channel lies elsewhere."""
    cache = tmp_path / "cache"
    first, _ = make(cache)
    before = _sums(first)
    shutil.rmtree(cache / "packages")
    for request in (cache / "requests").iterdir():
        request.unlink()
    second, text = make(cache)
    assert "4 packages (4 made now)" in text
    assert second.fingerprint == first.fingerprint
    assert _sums(first) == before
    assert (_sums(second) == before) == (second.path == first.path)


def test_what_is_whole_of_a_damaged_channel_stays(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    channel, _ = make(cache)
    before = _sums(channel)
    (channel.path / "noarch/repodata.json").unlink()
    (channel.path / "linux-64/extra-2.5-external_0.conda").unlink()
    reader = os.open(channel.path, os.O_RDONLY)
    again, text = make(cache)
    assert os.fstat(reader).st_ino == channel.path.stat().st_ino
    os.close(reader)
    assert "(0 made now)" in text
    assert again == channel
    assert _sums(channel) == before
    assert list((cache / "tmp").iterdir()) == []


@pytest.mark.parametrize("text", ["[]", "{", '{"fingerprint": 1}', '{"packages": [{"a": 1}]}'])
def test_a_damaged_record_of_a_request_is_made_again(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache"
    channel, _ = make(cache)
    (request,) = (cache / "requests").iterdir()
    request.write_text(text)
    again, said = make(cache)
    assert again == channel
    assert "(0 made now)" in said


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', "null", "[" * 5000])
def test_a_damaged_record_of_a_package_is_made_again(tmp_path: Path, text: str) -> None:
    cache = tmp_path / "cache"
    channel, _ = make(cache)
    next((cache / "packages").glob("*/extra-*.conda")).with_name("package.json").write_text(text)
    next((cache / "requests").iterdir()).unlink()
    again, said = make(cache)
    assert again.fingerprint == channel.fingerprint
    assert "(1 made now)" in said


def test_no_network_and_an_empty_cache(tmp_path: Path, wheels: Path) -> None:
    for wheel in wheels.iterdir():
        wheel.unlink()
    with pytest.raises(NetworkError) as failure:
        make(tmp_path / "cache")
    assert failure.value.exit_code == 6
    assert "demo==1.0" in failure.value.message
    assert "pip download --no-deps --only-binary :all: -d wheels" in failure.value.hint
    assert list((tmp_path / "cache/tmp").iterdir()) == []
    assert not list((tmp_path / "cache/channels").iterdir())


def test_a_rule_that_does_not_fit_leaves_no_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_conda.toolchain import model

    rule = (
        '\n[packages.bad]\nsummary = "b"\nlicense = "MIT"\nversion = "1"\n'
        '[[packages.bad.files]]\nsource = "pip:demo"\nonly = ["*.dll"]\n'
    )
    monkeypatch.setattr(model, "catalog_text", lambda: CATALOG + rule)
    with pytest.raises(ConfigError, match="bad: rule 1"):
        make(tmp_path / "cache")
    assert not list((tmp_path / "cache/channels").iterdir())


def test_a_refused_recipe_is_a_build_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_conda.toolchain import model

    monkeypatch.setattr(
        model, "catalog_text", lambda: CATALOG.replace('license = "MIT"', 'license = "no licence"')
    )
    with pytest.raises(BuildFailure, match="rattler-build could not pack"):
        make(tmp_path / "cache")


def test_an_unknown_platform(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'linux-64'"):
        ensure("linux64", reporter=Reporter(Mode.PLAIN, StringIO()), cache=tmp_path)


# Runs ensure on the small catalog and dies as the named moment comes.
DRIVER = textwrap.dedent(
    """
    import os, resource, signal, sys
    sys.path[:0] = {path!r}
    from pathlib import Path
    from vllm_conda.errors import VllmError
    from vllm_conda.progress import Mode, Reporter
    from vllm_conda.downloads import store
    from vllm_conda.toolchain import maker, model
    from vllm_conda.toolchain.native import ensure

    model.catalog_text = lambda: {catalog!r}
    calls = 0

    def dying(real, at):
        def call(*args, **kwargs):
            global calls
            calls += 1
            if calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call

    moment = {moment!r}
    if moment == "packaging":
        maker.assemble = dying(maker.assemble, 3)
    elif moment == "record":
        store.Store.publish = dying(store.Store.publish, 2)
    elif moment == "index":
        maker._in_own_loop = dying(maker._in_own_loop, 1)
    elif moment == "small files":
        resource.setrlimit(resource.RLIMIT_FSIZE, (800, 800))
    try:
        ensure("linux-64", reporter=Reporter(Mode.PLAIN), cache=Path({cache!r}))
    except VllmError as error:
        print(error)
        sys.exit(error.exit_code)
    """
)


def drive(cache: Path, moment: str) -> subprocess.CompletedProcess[str]:
    code = DRIVER.format(path=sys.path, catalog=CATALOG, moment=moment, cache=str(cache))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(("moment", "kept"), [("record", 0), ("packaging", 1), ("index", 4)])
def test_a_killed_run_is_resumed(tmp_path: Path, moment: str, kept: int) -> None:
    cache = tmp_path / "cache"
    assert drive(cache, moment).returncode == -9
    assert not list((cache / "channels").iterdir())
    channel, text = make(cache)
    assert len(channel.packages) == 4
    made_now = int(text.split(" made now")[0].rsplit("(", 1)[1])
    assert made_now <= 4 - kept
    assert list((cache / "tmp").iterdir()) == []


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = drive(cache, "small files")
    assert done.returncode == DiskError.exit_code, done.stderr
    assert "Traceback" not in done.stderr
    assert "VLLM_CONDA_CACHE" in done.stdout
    assert not list((cache / "channels").iterdir())
    assert len(make(cache)[0].packages) == 4


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
@pytest.mark.parametrize("size", ["16k", "64k", "96k"])
def test_a_full_file_system(tmp_path: Path, size: str) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(cache)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this sandbox forbids mounting")
    try:
        done = drive(cache, "")
        assert done.returncode == DiskError.exit_code, done.stderr
        assert "VLLM_CONDA_CACHE" in done.stdout
        assert not list((cache / "channels").glob("*"))
    finally:
        subprocess.run(["umount", str(cache)], check=True)


def test_plan_says_what_would_be_fetched(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    before = plan("linux-64", cache=cache)
    assert not before.ready
    assert not cache.exists()
    pip = next(step for step in before.steps if step.client == "pip")
    assert pip.what == ("demo==1.0", "extra==2.5")
    assert not pip.cached
    assert any("to fetch: demo==1.0 extra==2.5" in row for row in before.lines())
    make(cache)
    after = plan("linux-64", cache=cache)
    assert after.ready
    assert all(step.cached for step in after.steps)


def test_command_prints_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))
    done = CliRunner().invoke(toolchain, ["--json"], catch_exceptions=False)
    assert done.exit_code == 0
    answer = json.loads(done.stdout)
    assert {one["name"] for one in answer["packages"]} == {"demo", "extra", "level"}
    assert Path(answer["path"]).is_dir()
    listed = CliRunner().invoke(toolchain, ["--list", "--json"], catch_exceptions=False)
    assert json.loads(listed.stdout)["ready"]


def test_a_newer_wheel_changes_the_fingerprint(
    tmp_path: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm_conda.toolchain import model

    first, _ = make(tmp_path / "cache")
    make_wheel(wheels, "demo", "1.1", "demo = demo:main")
    monkeypatch.setattr(model, "catalog_text", lambda: CATALOG.replace("demo==1.0", "demo==1.1"))
    second, text = make(tmp_path / "cache")
    assert "(1 made now)" in text
    assert second.fingerprint != first.fingerprint


def test_a_wheel_with_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = make(tmp_path / "cache")
    digest = json.loads((artifact(tmp_path / "cache", "demo").parent / "artifact.json").read_text())
    pins = f'[sha256]\ndemo = "{"0" * 64}"\n[packages.demo]'
    wrong = CATALOG.replace("[packages.demo]", pins)
    monkeypatch.setattr(model, "catalog_text", lambda: wrong)
    with pytest.raises(IntegrityError) as failure:
        make(tmp_path / "cache")
    assert "demo-1.0-py3-none-any.whl has SHA-256" in failure.value.message
    assert "pins 0000000000000000" in failure.value.message
    assert "pip download demo==1.0" in failure.value.hint
    assert channel.path.is_dir()
    right = wrong.replace("0" * 64, digest["sha256"])
    monkeypatch.setattr(model, "catalog_text", lambda: right)
    assert make(tmp_path / "cache")[0].fingerprint == channel.fingerprint
