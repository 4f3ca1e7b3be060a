"""The cache folder of one checkout's builds: locks, seeded channel, machine settings."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from vllm_conda.builder.session import end_orphans
from vllm_conda.errors import BusyError
from vllm_conda.paths import cache_root, disk_errors, write_atomic

# Staging builds kept for repackaging: a core and each level's kernels, twice.
KEPT_STAGINGS = 6
SETTINGS_VARIABLE = "VLLM_CONDA_BUILD_SETTINGS"


@dataclass(frozen=True)
class Workspace:
    """Folders of one checkout in the toolkit's cache.

    ``folder`` is rattler-build's output folder: it holds the work folders, the staging
    cache and a channel of the current packages.
    """

    folder: Path
    cache: Path

    @property
    def outgoing(self) -> Path:
        return self.folder / "outgoing"

    @property
    def settings(self) -> Path:
        return self.folder / "settings.sh"

    @property
    def rattler(self) -> Path:
        """rattler's cache: packages and the channels' indices."""
        return self.cache / "rattler"

    def packages(self, platform: str) -> Path:
        return self.folder / platform


def workspace_for(root: Path, task: Path | None = None) -> Workspace:
    """The workspace of a checkout, or of one task of it, named by the channel that it fills.

    All names are of one length: rattler-build fills the prefix up to a fixed one, so that in a
    longer folder the prefix has another name, and the compiler cache no hit.
    """
    cache = cache_root()
    name = _key(root, task) if task else _key(root)
    return Workspace(cache / "build" / name, cache)


def _key(*paths: Path) -> str:
    text = "\0".join(str(path.resolve()) for path in paths)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def locked(workspace: Workspace, output: Path) -> Iterator[None]:
    """Hold the locks of workspace and output folder; ends what a killed run left running.

    Raises:
        BusyError: Another process builds in this checkout or into this output folder.
    """
    locks = workspace.cache / "locks"
    with disk_errors("a lock", locks):
        locks.mkdir(parents=True, exist_ok=True)
        workspace.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for what, path in (("this checkout", workspace.folder), ("the output folder", output)):
            _lock(stack, locks / f"build-{_key(path)}.lock", what, path)
        end_orphans(workspace.folder)
        drop_halves(workspace)
        yield


def _lock(stack: ExitStack, path: Path, what: str, place: Path) -> None:
    lock = FileLock(path, timeout=0)
    owner = path.with_suffix(".pid")
    try:
        stack.enter_context(lock)
    except Timeout:
        pid = owner.read_text().strip() if owner.is_file() else "unknown"
        raise BusyError(
            f"Another build of {what} is running (process {pid}, {place}).",
            "Wait for it, or stop it.",
        ) from None
    write_atomic(owner, f"{os.getpid()}\n")


def seed(workspace: Workspace, platform: str, packages: Iterable[Path]) -> None:
    """Make the workspace's channel hold exactly ``packages``.

    A kill may have left a truncated package or index there; only whole, published ones
    come back. Copies, because a hard link would let a later build write into ``output``.
    """
    target = workspace.packages(platform)
    with disk_errors("the build channel", target):
        for folder in (target, workspace.folder / "noarch", workspace.outgoing):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        for package in packages:
            shutil.copy2(package, target / package.name)


def drop_halves(workspace: Workspace) -> None:
    """Remove staging builds that a kill left without a whole description, which is saved last.

    rattler-build takes them for none and then finds their files in its way, in every build to come.
    """
    for folder in (workspace.folder / "build_cache").glob("staging_*"):
        try:
            json.loads((folder / "metadata.json").read_bytes())
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)


def prune_stagings(workspace: Workspace) -> None:
    """Remove all but the newest staging builds; each source change leaves one."""
    folders = (workspace.folder / "build_cache").glob("staging_*")
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime)[:-KEPT_STAGINGS]:
        shutil.rmtree(folder, ignore_errors=True)


def write_settings(workspace: Workspace, jobs: int | None) -> None:
    """Write what build.sh sources: settings of this machine that no hash may see."""
    ccache = workspace.cache / "ccache"
    values: dict[str, str] = {
        "CCACHE_DIR": str(ccache),
        "CCACHE_MAXSIZE": "5G",
        # Headers of a freshly made environment are newer than the cache entry; contents decide.
        "CCACHE_SLOPPINESS": "include_file_mtime,include_file_ctime,time_macros",
        "CCACHE_COMPILERCHECK": "content",
    }
    # benchmarks/toolkit/bench_jobs.py: every file is compiled, and what that costs is recorded.
    for name in ("CCACHE_RECACHE", "CCACHE_PREFIX", "VLLM_COMPILE_LOG"):
        if os.environ.get(name):
            values[name] = os.environ[name]
    if jobs:
        values["MAX_JOBS"] = str(jobs)
    elif os.environ.get("MAX_JOBS"):
        values["MAX_JOBS"] = os.environ["MAX_JOBS"]
    write_atomic(workspace.settings, _exports(values))


def _exports(values: Mapping[str, str]) -> str:
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in values.items())


def worker_environment(workspace: Workspace, toolchain: str) -> dict[str, str]:
    """Environment of a worker: where caches are and what the staging keys hold."""
    return {
        SETTINGS_VARIABLE: str(workspace.settings),
        "VLLM_CONDA_TOOLCHAIN": toolchain,
        "RATTLER_CACHE_DIR": str(workspace.rattler),
    }
