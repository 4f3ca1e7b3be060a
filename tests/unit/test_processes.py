"""What a program starts ends with it: every signal, the wrapper `./run` included."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from support import ROOT, default_signals
from waiting import until

from vllm_conda import processes

SIGNALS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
# Short work that the guard would only slow down; each is killed by its own time limit or ends
# within a second.
UNGUARDED = {
    "builder/proof.py", "builder/repack.py", "doctor.py", "engine/inside/faults.py",
    "engine/inside/server.py", "processes.py", "toolchain/elf.py",
}  # fmt: skip


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _read(file: Path) -> list[int]:
    written = until(lambda: file.is_file() and file.read_text().endswith("\n"), 120)
    assert written, f"nothing was written to {file}"
    return [int(word) for word in file.read_text().split()]


def _all_gone(pids: list[int], seconds: float = 5.0) -> bool:
    return until(lambda: not any(map(_alive, pids)), seconds)


def _script(pids: Path) -> str:
    """A child, a grandchild in a session of its own, and one that ignores TERM."""
    return (
        f"sleep 600 & a=$!; setsid sleep 600 & b=$!; (trap '' TERM; exec sleep 600) & c=$!; "
        f"echo $$ $a $b $c > {pids}; wait"
    )


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        preexec_fn=default_signals,
        check=False,
    )


@pytest.mark.parametrize("sign", SIGNALS)
def test_descendants_end_with_their_program(tmp_path: Path, sign: signal.Signals) -> None:
    pids = tmp_path / "pids"
    program = (
        "import sys\nfrom vllm_conda import processes\nprocesses.stop_on_signals()\n"
        "processes.run(['bash', '-c', sys.argv[1]])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, _script(pids)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        stderr=subprocess.DEVNULL,
        preexec_fn=default_signals,
    )
    found = _read(pids)
    os.kill(process.pid, sign)
    process.wait(10)
    assert _all_gone(found)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stop_that_python_swallows(sign: signal.Signals) -> None:
    """As in a callback of the import locks: the step then fails in other words."""
    program = f"""
import os, sys, weakref
from vllm_conda import cli
from vllm_conda.errors import ConfigError

class Lock: pass

def stop(reference):
    os.kill(os.getpid(), {int(sign)})
    return len(str(reference))

def command(**options):
    lock = Lock()
    reference = weakref.ref(lock, stop)
    del lock
    raise ConfigError("a child was killed")

cli.cli.main = command
sys.exit(cli.main())
"""
    done = _run(program)
    assert done.returncode == 128 + sign
    assert done.stderr == "\nStopped; run the same command again to go on.\n"


@pytest.mark.parametrize("loaded", ["", "import rattler"])
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_stopped_program_goes_no_further(sign: signal.Signals, loaded: str) -> None:
    """Nor does what calls main() and forgets its value: its code is the signal's."""
    program = f"""
import os
from vllm_conda import cli
{loaded}

cli.cli.main = lambda **options: os.kill(os.getpid(), {int(sign)})
cli.main()
print("went on")
"""
    done = _run(program)
    assert (done.returncode, done.stdout) == (128 + sign, "")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For one environment of the wrapper's, whichever signal ends it."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("sign", SIGNALS)
def test_descendants_end_with_the_wrapper(
    tmp_path: Path, cache: Path, sign: signal.Signals
) -> None:
    shutil.copy(ROOT / "run", tmp_path)
    (tmp_path / "src/vllm_conda").mkdir(parents=True)
    shutil.copy(ROOT / "src/vllm_conda/processes.py", tmp_path / "src/vllm_conda")
    (tmp_path / "packages/toolkit").mkdir(parents=True)
    (tmp_path / "packages/toolkit/pyproject.toml").write_text("[project]\ndependencies = []\n")
    (tmp_path / "pyproject.toml").write_text("[dependency-groups]\n")
    (tmp_path / "task.sh").write_text(_script(tmp_path / "pids"))
    (tmp_path / "pixi.toml").write_text('[tasks]\nlong = "bash task.sh"\n')
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "run"), "--client", "venv", "long"],
        env={**os.environ, "VLLM_CONDA_CACHE": str(cache)},
        stderr=subprocess.DEVNULL,
        preexec_fn=default_signals,
    )
    found = _read(tmp_path / "pids")
    os.kill(process.pid, sign)
    process.wait(10)
    assert _all_gone(found)


def test_killed_guard(tmp_path: Path) -> None:
    with processes.guarded(["bash", "-c", _script(tmp_path / "pids")]) as process:
        found = _read(tmp_path / "pids")
        process.kill()
        process.wait()
    assert not any(map(_alive, found))


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    done = processes.run(["bash", "-c", f"setsid sleep 600 & echo $! > {pids}; exit 3"])
    assert done.returncode == 3
    assert not any(map(_alive, _read(pids)))


@pytest.mark.parametrize("sign", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_exit_code_of_a_signal_is_the_shells(sign: signal.Signals) -> None:
    done = processes.run(["bash", "-c", f"kill -{sign.name[3:]} $$"])
    assert done.returncode == 128 + sign
    assert processes.signal_name(done.returncode) == sign.name


def test_missing_command() -> None:
    with pytest.raises(FileNotFoundError):
        processes.run(["no-such-command"])


def test_every_command_starts_its_processes_guarded() -> None:
    package = ROOT / "src" / "vllm_conda"
    found = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        if re.search(r"subprocess\.(run|Popen|call|check_\w+)\(", file.read_text())
    }
    assert found <= UNGUARDED


OWN = """
import os, pathlib, sys
from vllm_conda import processes
processes.stop_on_signals()
with processes.own_temporary():
    pathlib.Path(os.environ["TMPDIR"], "of-the-command").touch()
    begun = "mkdir $TMPDIR/kept; echo x > $TMPDIR/kept/file; "
    begun += f"echo $$ > {sys.argv[1]}; exec sleep 600"
    {RUN}
"""
GUARDED = OWN.replace("{RUN}", 'processes.run(["sh", "-c", begun])')
# Such as a library that fills the folder in the program's own process.
ALONE = OWN.replace("{RUN}", 'os.execvp("sh", ["sh", "-c", begun])')


def _own_temporary(program: str, tmp_path: Path, sign: signal.Signals) -> Path:
    """TMPDIR of a program that got a signal while it filled a folder of its own."""
    temporary, pids = tmp_path / "temporary", tmp_path / "pids"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(pids)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(temporary)},
        preexec_fn=default_signals,
        stderr=subprocess.DEVNULL,
    )
    _read(pids)
    (own,) = temporary.iterdir()
    assert {path.name for path in own.iterdir()} == {".lock", "of-the-command", "kept"}
    process.send_signal(sign)
    process.wait(20)
    return temporary


@pytest.mark.parametrize("sign", SIGNALS, ids=lambda sign: sign.name)
def test_a_killed_program_leaves_nothing_in_the_temporary_folder(
    tmp_path: Path, sign: signal.Signals
) -> None:
    temporary = _own_temporary(GUARDED, tmp_path, sign)
    assert until(lambda: not list(temporary.iterdir()), 5)


def test_what_a_killed_program_left_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = _own_temporary(ALONE, tmp_path, signal.SIGKILL)
    (left,) = temporary.iterdir()
    (temporary / "of-somebody").mkdir()
    (temporary / "vllm-conda.without-lock").mkdir()  # killed before it had one
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(temporary))
    with processes.own_temporary():
        own = Path(os.environ["TMPDIR"])
        assert own.parent == temporary
        assert tempfile.gettempdir() == str(own)
        assert set(temporary.iterdir()) == {own, temporary / "of-somebody"}
        assert left != own
        with processes.own_temporary():
            assert os.environ["TMPDIR"] == str(own)
        assert processes.callers_environment()["TMPDIR"] == str(temporary)
    assert os.environ["TMPDIR"] == str(temporary)
    assert [path.name for path in temporary.iterdir()] == ["of-somebody"]


def test_the_folder_of_a_living_program_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    program = "from vllm_conda.processes import own_temporary\nwith own_temporary(): pass"
    with processes.own_temporary():
        own = Path(os.environ["TMPDIR"])
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(tmp_path)}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
        assert list(tmp_path.iterdir()) == [own]
    assert "TMPDIR" not in os.environ
    assert not list(tmp_path.iterdir())


def test_no_temporary_folder_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(**_: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with processes.own_temporary():
        assert os.environ["TMPDIR"] == str(tmp_path)
        assert processes.callers_environment()["TMPDIR"] == str(tmp_path)


def test_a_temporary_folder_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR names nothing: what is made lies where Python would put it."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", "/no/such")
    with processes.own_temporary():
        assert Path(os.environ["TMPDIR"]).parent == Path("/tmp")  # noqa: S108
    assert os.environ["TMPDIR"] == "/no/such"
    assert tempfile.tempdir is None
