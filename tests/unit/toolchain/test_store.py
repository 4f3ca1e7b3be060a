"""The cache: atomic, locked, and clear about a full disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from vllm_conda.downloads import store as module
from vllm_conda.downloads.store import Store, disk_errors, key_of, read_json
from vllm_conda.errors import BusyError, DiskError
from vllm_conda.paths import cache_root
from vllm_conda.progress import Mode, Reporter


def quiet() -> Reporter:
    return Reporter(Mode.PLAIN, StringIO())


def test_the_cache_folder_follows_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "a"))
    assert cache_root() == tmp_path / "a"
    monkeypatch.delenv("VLLM_CONDA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_root() == tmp_path / "b" / "vllm-conda"


def test_keys_do_not_confuse_where_parts_end() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("a", "b") == key_of("a", "b")


def test_a_second_process_gets_busy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from pathlib import Path\n"
        "from vllm_conda.errors import BusyError\n"
        "from vllm_conda.progress import Reporter\n"
        "from vllm_conda.downloads.store import Store\n"
        "try:\n"
        f"    with Store(Path({str(tmp_path)!r})).locked(Reporter(), wait=0.3):\n"
        "        print('got it')\n"
        "except BusyError as error: print(error.exit_code, error)\n"
    )

    def other() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout

    with store.locked(quiet()):
        assert other().startswith("14 Another process holds the cache")
    assert other() == "got it\n"


def test_rubbish_of_a_killed_run_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    (store.scratch("half") / "file").write_text("x")
    with store.locked(quiet()):
        assert list(store.tmp.iterdir()) == []


def test_json_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.prepare()
    path = store.requests / "a.json"
    store.write_json(path, {"n": 1})

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(json, "dump", full)
    with pytest.raises(DiskError, match="the disk is full"):
        store.write_json(path, {"n": 2})
    assert read_json(path) == {"n": 1}
    assert list(store.tmp.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG])
def test_disk_errors_say_what_to_do(number: int, tmp_path: Path) -> None:
    with pytest.raises(DiskError) as failure, disk_errors(tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))
    assert failure.value.exit_code == 8
    assert str(tmp_path / "x") in failure.value.message
    assert "VLLM_CONDA_CACHE" in failure.value.hint


def test_other_os_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConnectionRefusedError), disk_errors(tmp_path):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "no")


def test_publish_replaces_a_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.prepare()
    for text in ("old", "new"):
        made = store.scratch("made")
        (made / "file").write_text(text)
        store.publish(made, store.packages / "k")
    assert (store.packages / "k" / "file").read_text() == "new"
    assert list(store.tmp.iterdir()) == []


def _write_past_the_limit(root: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
    store = Store(Path(root))
    store.prepare()
    try:
        store.write_json(store.requests / "a.json", {"text": "x" * 100})
    except DiskError as error:
        os._exit(error.exit_code)
    os._exit(0)


def test_a_file_size_limit_is_a_disk_error(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_write_past_the_limit, args=(str(tmp_path),)
    )
    process.start()
    process.join()
    assert process.exitcode == DiskError.exit_code
    assert not (tmp_path / "requests" / "a.json").exists()


def test_busy_is_raised_at_once_without_waiting(tmp_path: Path) -> None:
    from filelock import FileLock

    Store(tmp_path).prepare()
    with (
        FileLock(tmp_path / "lock"),
        pytest.raises(BusyError),
        Store(tmp_path).locked(quiet(), wait=0),
    ):
        pytest.fail("the lock was free")


def test_module_names_its_variable() -> None:
    assert module.CACHE_VARIABLE in module.FREE_SPACE
