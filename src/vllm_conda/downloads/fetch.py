"""Downloads with a recorded hash: what pip and apt have in common.

An artifact lives in ``downloads/CLIENT/KEY/`` beside ``artifact.json``, which records its
SHA-256 when it arrives. A file that no longer has that hash is fetched again.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_conda.downloads.store import Store, disk_errors, read_json, remove, sha256
from vllm_conda.errors import IntegrityError, MissingToolError
from vllm_conda.processes import run
from vllm_conda.progress import Reporter

_POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Artifact:
    """One downloaded file.

    Attributes:
        client: ``pip`` or ``apt``.
        name: Package name in that registry.
        version: Version there.
        path: File in the cache.
        sha256: Hash recorded at download.
        size: Bytes.
    """

    client: str
    name: str
    version: str
    path: Path
    sha256: str
    size: int


def folder_of(store: Store, client: str, key: str) -> Path:
    """Folder of one download."""
    return store.downloads / client / key.replace("/", "_")


def cached(store: Store, client: str, key: str) -> Artifact | None:
    """The artifact of an earlier run, or None. Does not read the file itself."""
    folder = folder_of(store, client, key)
    record: Any = read_json(folder / "artifact.json")
    try:
        path = folder / record["file"]
        if path.stat().st_size != record["size"]:
            return None
        texts = [str(record[key]) for key in ("name", "version", "sha256")]
    except (LookupError, TypeError, ValueError, OSError):  # something else wrote into the cache
        return None
    name, version, digest = texts
    return Artifact(client, name, version, path, digest, path.stat().st_size)


def intact(artifact: Artifact) -> bool:
    """Does the file still have the recorded hash?"""
    return artifact.path.is_file() and sha256(artifact.path) == artifact.sha256


def record(store: Store, client: str, key: str, name: str, version: str, file: Path) -> Artifact:
    """Move a finished download into the cache and record its hash."""
    folder = folder_of(store, client, key)
    scratch = store.scratch("record")
    with disk_errors(scratch):
        size, digest = file.stat().st_size, sha256(file)
        kept = scratch / file.name
        file.replace(kept)
        store.write_json(
            scratch / "artifact.json",
            {"name": name, "version": version, "file": file.name, "sha256": digest, "size": size},
        )
    store.publish(scratch, folder)
    return Artifact(client, name, version, folder / file.name, digest, size)


def corrupted(artifacts: Sequence[Artifact], cause: Exception) -> IntegrityError:
    """The error for damaged downloads that could not be fetched again."""
    names = ", ".join(f"{one.name} {one.version}" for one in artifacts)
    return IntegrityError(
        f"The cached download of {names} no longer has its recorded SHA-256 and could not be "
        f"fetched again ({cause}).",
        "Connect the machine and run the same command again.",
    )


def run_client(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, str]:
    """Run a registry client; returns its exit code and the text of both streams.

    Raises:
        MissingToolError: the client is not installed.
    """
    try:
        done = run(
            command,
            env=dict(env),
            cwd=cwd,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except FileNotFoundError as error:
        raise MissingToolError(f"{command[0]} is not installed on this machine.") from error
    return done.returncode, done.stdout


@contextmanager
def growing(reporter: Reporter, name: str, folder: Path, total: float | None) -> Iterator[None]:
    """Report a download by the growth of ``folder``: neither client has a stable progress API."""
    stop = threading.Event()

    def size() -> int:
        found = 0
        for base, _, names in os.walk(folder):
            for file in names:
                with suppress(OSError):
                    found += Path(base, file).lstat().st_size
        return found

    with reporter.task(name, total) as task:

        def watch() -> None:
            seen = 0
            while not stop.wait(_POLL_SECONDS):
                now = size()
                if now > seen:
                    task.advance(now - seen)
                    seen = now

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def forget(store: Store, artifact: Artifact) -> None:
    """Drop a damaged artifact from the cache."""
    remove(artifact.path.parent)
    store.prepare()


def hold_to(store: Store, artifact: Artifact, what: str, wanted: str, where: str) -> None:
    """Refuse, and forget, a download of ``what`` that has not the hash which ``where`` pins.

    Raises:
        IntegrityError: It has another.
    """
    if artifact.sha256 != wanted:
        forget(store, artifact)
        raise IntegrityError(
            f"{what} has the SHA-256 {artifact.sha256}, {where} pins {wanted}.",
            "The registry serves another file under this version; find out which is right.",
        )


def last_error(text: str) -> str:
    """The line of a client's output that says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(("ERROR:", "E:", "Err:")):
            return line.split(":", 1)[1].strip()
    return lines[-1] if lines else "no output"
