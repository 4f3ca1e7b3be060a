"""What goes wrong during a build: one sentence, the documented code, nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from rattler_build import Package
from waiting import until, wait_for

from vllm_conda import errors
from vllm_conda.builder.workspace import workspace_for
from vllm_conda.progress import Mode, Reporter

V3 = "linux-64-cpu-x86-64-v3"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RATTLER_CACHE_DIR", str(tmp_path / "cache" / "rattler"))
    monkeypatch.setenv("PYTHONPATH", str(support.ROOT / "src"))
    monkeypatch.setenv("CONDA_OVERRIDE_ARCHSPEC", "x86_64_v4")


def command(root: Path, channel: str, *more: str) -> list[str]:
    words = ["build", "--root", str(root), "--channel", channel, "--variant", V3, *more]
    return [sys.executable, "-m", "vllm_conda", *words]


def cli(root: Path, channel: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(root, channel, *more), capture_output=True, text=True, timeout=120
    )


def check_output(root: Path) -> None:
    """The output folder is a valid channel, or has none yet; nothing in it is half-written."""
    output = root / "output"
    for path in output.glob("linux-64/*.conda"):
        Package.from_file(path)
    for subdir in ("linux-64", "noarch"):
        index = output / subdir / "repodata.json"
        if index.is_file():
            for name, record in json.loads(index.read_text())["packages.conda"].items():
                assert (output / subdir / name).stat().st_size == record["size"]
    strange = {p.name for p in output.glob("*")} - {"linux-64", "noarch"}
    assert not strange
    left = [p.name for p in output.glob("*/.*")] + [p.name for p in output.glob("*/*.tmp")]
    assert not left


def slow(root: Path, flag: Path) -> None:
    """Make the build script wait while ``flag`` exists."""
    script = root / "recipe" / "build.sh"
    wait = f'while [[ -f "{flag}" ]]; do echo "[1/2] waiting"; sleep 0.1; done\n'
    script.write_text(script.read_text().replace("mkdir -p", wait + "mkdir -p", 1))
    flag.touch()


def working_in(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def core_log(root: Path) -> Path:
    return root / "output.build" / "logs" / V3 / "vllm-core-build.log"


def test_compile_error(checkout: Path, dummies: str) -> None:
    assert cli(checkout, dummies).returncode == 0
    before = {p: p.read_bytes() for p in (checkout / "output").glob("*/*.*") if p.is_file()}
    (checkout / "csrc/cpu/norm/norm.cc").write_text("SYNTAX ERROR\n")
    done = cli(checkout, dummies)
    assert done.returncode == errors.BuildFailure.exit_code
    assert "csrc/cpu/norm/norm.cc:3:1: error: expected unqualified-id" in done.stderr
    assert "Traceback" not in done.stderr
    log = checkout / "output.build" / "logs" / V3 / "vllm-kernels-cpu-build.log"
    assert str(log) in done.stderr
    assert log.is_file()
    # Plain progress, then the error's few lines: not the whole log.
    assert len(done.stderr.splitlines()) < 40
    for path, content in before.items():
        if path.suffix == ".conda" or path.name.startswith("repodata"):
            assert path.read_bytes() == content
    (checkout / "csrc/cpu/norm/norm.cc").write_text("fixed\n")
    assert cli(checkout, dummies).returncode == 0
    check_output(checkout)


def test_compile_error_as_json(checkout: Path, dummies: str) -> None:
    (checkout / "csrc/cpu/norm/norm.cc").write_text("SYNTAX ERROR\n")
    done = cli(checkout, dummies, "--json")
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "build"
    assert error["exit_code"] == done.returncode == errors.BuildFailure.exit_code
    for line in done.stderr.splitlines():
        json.loads(line)


def test_failing_package_test_is_not_published(
    checkout: Path, dummies: str, tmp_path: Path
) -> None:
    # A python that fails, so that the tests which travel in the package fail.
    channel = tmp_path / "failing"
    shutil.copytree(Path(dummies.removeprefix("file://")), channel)
    script = support.PYTHON_SCRIPT.format(body="echo no module; exit 1")
    support.build_dummy(channel, "python", "3.13.0", {"run": []}, script)
    done = cli(checkout, channel.as_uri())
    assert done.returncode == errors.TestFailure.exit_code
    assert "vllm-core" in done.stderr
    assert not list((checkout / "output").glob("linux-64/*.conda"))


SIGNALS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def started(words: list[str], **more: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=support.default_signals,
        **more,
    )


def gone(folder: Path, seconds: float = 5.0) -> bool:
    """Whether soon nothing works in ``folder`` any more."""
    return until(lambda: not working_in(folder), seconds)


@pytest.mark.parametrize("sign", SIGNALS)
def test_stop_while_compiling_then_again(
    checkout: Path, dummies: str, tmp_path: Path, sign: signal.Signals
) -> None:
    flag = tmp_path / "slow"
    slow(checkout, flag)
    process = started(command(checkout, dummies))
    wait_for(core_log(checkout), "waiting")
    folder = workspace_for(checkout).folder
    assert working_in(folder)
    os.kill(process.pid, sign)
    code = process.wait(20)
    expected = {
        signal.SIGKILL: -signal.SIGKILL,
        signal.SIGINT: errors.INTERRUPTED_EXIT_CODE,
    }
    assert code == expected.get(sign, 128 + sign)
    check_output(checkout)
    assert gone(folder)
    flag.unlink()
    assert cli(checkout, dummies).returncode == 0
    check_output(checkout)


@pytest.mark.parametrize("left", [None, b"", b'{"files": ['])
def test_a_staging_build_that_was_killed_while_it_was_saved(
    checkout: Path, dummies: str, left: bytes | None
) -> None:
    """What it was to hold is built again; its files were in the way of every later build."""
    assert cli(checkout, dummies).returncode == 0
    stagings = (workspace_for(checkout).folder / "build_cache").glob("staging_*")
    descriptions = [folder / "metadata.json" for folder in stagings]
    assert len(descriptions) == 2
    for description in descriptions:
        description.unlink()
        if left is not None:
            description.write_bytes(left)
    shutil.rmtree(checkout / "output")
    done = cli(checkout, dummies)
    assert done.returncode == 0, done.stderr
    check_output(checkout)


@pytest.mark.parametrize("victim", ["worker", "guard", "both"])
def test_a_killed_child_ends_the_build(
    checkout: Path, dummies: str, tmp_path: Path, victim: str
) -> None:
    flag = tmp_path / "slow"
    slow(checkout, flag)
    process = started(command(checkout, dummies))
    wait_for(core_log(checkout), "waiting")
    folder = workspace_for(checkout).folder
    guard = json.loads((folder / "session.json").read_text())["session"]
    (worker,) = map(int, Path(f"/proc/{guard}/task/{guard}/children").read_text().split())
    for pid in {"worker": [worker], "guard": [guard], "both": [guard, worker]}[victim]:
        os.kill(pid, signal.SIGKILL)
    assert process.wait(20) == errors.BuildFailure.exit_code
    assert gone(folder)


def test_kill_at_many_moments_then_again(checkout: Path, dummies: str) -> None:
    """Covers packaging, testing and publishing: each kill is a little later.

    The slow ring (VLLM_CONDA_TEST_SLOW=1) kills three times as often.
    """
    outcomes = set()
    for step in range(1, 13) if support.SLOW else range(3, 13, 3):
        process = subprocess.Popen(
            command(checkout, dummies), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            outcomes.add(process.wait(0.25 * step))
        except subprocess.TimeoutExpired:
            process.kill()
            outcomes.add(process.wait())
        check_output(checkout)
        # Otherwise a run that ends early would leave nothing to interrupt.
        (checkout / "src/vllm_kernels/__init__.py").write_text(f"version = {step}\n")
    assert -signal.SIGKILL in outcomes
    assert cli(checkout, dummies).returncode == 0
    check_output(checkout)
    listed = json.loads((checkout / "output/linux-64/repodata.json").read_text())["packages.conda"]
    assert set(listed) == {p.name for p in (checkout / "output/linux-64").glob("*.conda")}
    assert len(listed) == 4


class SimulatedKill(BaseException):
    """Ends the process's code where it stands, as SIGKILL would: nothing may catch it."""


def _write_points(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> list[int]:
    """Count renames and copies; raise at number ``stop_at``."""
    count = [0]

    def guarded(original: Any) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            count[0] += 1
            if count[0] == stop_at:
                raise SimulatedKill
            return original(*args, **keywords)

        return call

    monkeypatch.setattr(Path, "replace", guarded(Path.replace))
    monkeypatch.setattr(shutil, "copyfile", guarded(shutil.copyfile))
    return count


def _build(root: Path, channel: str) -> None:
    with open(os.devnull, "w") as sink:  # noqa: PTH123
        support.build(root, (channel,), (V3,), Reporter(Mode.PLAIN, sink))


def test_death_at_every_write_of_publishing_and_indexing(
    checkout: Path, dummies: str, tmp_path: Path
) -> None:
    """Each is two builds; the normal ring takes every fourth, the slow one all.

    test_publish.py has every change of a publication alone in both.
    """
    _build(checkout, dummies)
    saved = tmp_path / "saved"
    shutil.copytree(checkout / "output", saved)
    (checkout / "csrc/cpu/norm/norm.cc").write_text("another\n")
    for point in range(1, 100, 1 if support.SLOW else 4):
        shutil.rmtree(checkout / "output")
        shutil.copytree(saved, checkout / "output")
        with pytest.MonkeyPatch.context() as patch:
            _write_points(patch, point)
            try:
                _build(checkout, dummies)
            except SimulatedKill:
                finished = False
            else:
                finished = True
        check_output(checkout)
        _build(checkout, dummies)
        check_output(checkout)
        if finished:
            break
    assert finished
    assert point > 8, "the patch no longer sees the writes"


def test_disk_full_while_publishing(
    checkout: Path, dummies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(errors.DiskError, match="No space left on device"):
        _build(checkout, dummies)
    monkeypatch.undo()
    check_output(checkout)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user cannot mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_real_full_disk(
    checkout: Path, dummies: str, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filler = tiny_disk / "filler"
    filler.write_bytes(b"0" * 560 * 1024)
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tiny_disk / "cache"))
    done = cli(checkout, dummies)
    assert done.returncode == errors.DiskError.exit_code, done.stderr
    assert "Traceback" not in done.stderr
    check_output(checkout)


def test_two_builds_at_once(checkout: Path, dummies: str, tmp_path: Path) -> None:
    flag = tmp_path / "slow"
    slow(checkout, flag)
    first = subprocess.Popen(
        command(checkout, dummies), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    wait_for(core_log(checkout), "waiting")
    second = cli(checkout, dummies)
    assert second.returncode == errors.BusyError.exit_code
    assert str(first.pid) in second.stderr
    flag.unlink()
    assert first.wait(60) == 0


def test_channel_without_a_compiler(checkout: Path, dummies: str, tmp_path: Path) -> None:
    channel = tmp_path / "poor"
    shutil.copytree(Path(dummies.removeprefix("file://")), channel)
    index = channel / "linux-64" / "repodata.json"
    data = json.loads(index.read_text())
    data["packages.conda"] = {
        name: record
        for name, record in data["packages.conda"].items()
        if record["name"] != "gxx_linux-64"
    }
    index.write_text(json.dumps(data))
    for other in (channel / "linux-64").glob("repodata*"):
        if other != index:
            other.unlink() if other.is_file() else shutil.rmtree(other)
    done = cli(checkout, channel.as_uri())
    assert done.returncode == errors.SolveError.exit_code, done.stderr
    assert "gxx_linux-64" in done.stderr
    assert "Traceback" not in done.stderr
    check_output(checkout)


def test_channel_that_cannot_be_reached(checkout: Path) -> None:
    done = cli(checkout, "https://channel.invalid/forge")
    assert done.returncode == errors.NetworkError.exit_code, done.stderr
    assert "Traceback" not in done.stderr
    check_output(checkout)


@pytest.mark.parametrize(
    ("file", "text", "kind"),
    [
        ("targets.toml", "schema = [", errors.ConfigError),
        ("variants/linux-64-cpu-x86-64-v3.yaml", "microarch_levels: ['3']\n", errors.ConfigError),
        ("recipe/recipe.yaml", "outputs: {", errors.RecipeError),
    ],
)
def test_malformed_input_fails_before_any_work(
    checkout: Path, dummies: str, file: str, text: str, kind: type[errors.VllmError]
) -> None:
    (checkout / file).write_text(text)
    done = cli(checkout, dummies)
    assert done.returncode == kind.exit_code
    assert file in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not (checkout / "output").exists()
