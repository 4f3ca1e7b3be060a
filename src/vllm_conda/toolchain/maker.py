"""One run that makes what the cache lacks. Imported only when there is something to do."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TypeVar

import cattrs
from rattler.index import index_fs

from vllm_conda import platforms
from vllm_conda.downloads import fetch
from vllm_conda.downloads.fetch import Artifact
from vllm_conda.downloads.store import Store, disk_errors, key_of, read_json, remove, sha256
from vllm_conda.errors import BuildFailure, IntegrityError, NetworkError
from vllm_conda.microarch import level_builds
from vllm_conda.progress import Reporter
from vllm_conda.structure import GROUPS
from vllm_conda.toolchain import sysroot, variables
from vllm_conda.toolchain.apt_client import AptClient
from vllm_conda.toolchain.assemble import assemble, build_string
from vllm_conda.toolchain.channel import Channel, PackageFile, code_key, folder_for, load
from vllm_conda.toolchain.cpython import make_tree
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.model import GLIBC, AptSet, Catalog, Package, Rule, canonical, resolve
from vllm_conda.toolchain.pip_client import BATCH, PipClient, requirements_of
from vllm_conda.toolchain.stage import stage
from vllm_conda.toolchain.unpack import unpack_debs, unpack_wheel

_Result = TypeVar("_Result")
# Downloads wait for the network, so more of them than cores; torch has a slot of its own.
DOWNLOADS = 5
BUILDS = 2


@dataclass(frozen=True)
class Job:
    """One package to make: its filled-in entry, version and cache key."""

    package: Package
    version: str
    key: str

    @property
    def title(self) -> str:
        return f"{self.package.name} {self.version}"


def run_all(workers: int, calls: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Run calls in threads; after the first failure no new one starts, and it is raised."""
    with ThreadPoolExecutor(workers) as pool:
        futures: list[Future[_Result]] = [pool.submit(call) for call in calls]
        try:
            done, pending = wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:  # a signal stops the program
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        for future in pending:
            future.cancel()
        for future in done:
            future.result()
        return [future.result() for future in futures]


class Maker:
    """Holds the state of one run; the caller holds the cache's lock."""

    def __init__(
        self,
        store: Store,
        host: Host,
        reporter: Reporter,
        catalog: Catalog,
        foreign: Sequence[str] = (),
    ) -> None:
        self.store, self.host, self.reporter, self.catalog = store, host, reporter, catalog
        self.pip = PipClient(store, host, reporter, foreign)
        self.apt = AptClient(store, host, reporter)
        self.requirements = requirements_of(catalog.pip, host)
        self.sources: dict[str, list[Artifact]] = {}
        self._trees: dict[str, list[Path]] = {}
        self._entry_points: dict[str, list[str]] = {}
        self._tree_locks: dict[str, threading.Lock] = {}
        self._trees_root = store.scratch("trees")

    def make(self, request: Path, title: str) -> Channel:
        """Fetch, build, index; record the result under ``request``."""
        started = time.monotonic()
        try:
            self.fetch()
            jobs = self.jobs()
            made = self._kept(jobs)
            missing = [job for job in jobs if job.key not in made]
            if missing:
                # The largest first, so that the last worker does not end alone on it.
                missing.sort(key=self._weight, reverse=True)
                total = sum(self._weight(job) for job in missing)
                with self.reporter.task(f"make {len(missing)} packages", total) as task:

                    def build(job: Job) -> tuple[str, PackageFile]:
                        built = self._build(job)
                        task.advance(self._weight(job))
                        task.status(f"{job.title} from {built.source}")
                        return job.key, built

                    made.update(run_all(BUILDS, [partial(build, job) for job in missing]))
            channel = self._index(jobs, made)
        finally:
            remove(self._trees_root)
        rows = [asdict(package) for package in channel.packages]
        self.store.write_json(request, {"fingerprint": channel.fingerprint, "packages": rows})
        self.reporter.line(
            f"{title} with {len(channel.packages)} packages "
            f"({len(missing)} made now) in {time.monotonic() - started:.0f} s: {channel.path}"
        )
        return channel

    # -- downloads --------------------------------------------------------------------------

    def fetch(self) -> None:
        """Fill ``sources`` from the cache and the registries.

        A cached file that lost its recorded hash is fetched again.
        """
        wanted_pip = {
            name: self.requirements[name] for name in self._used("pip") if name in self.requirements
        }
        wanted_apt = {name: self.catalog.apt[name] for name in self._used("apt")}
        damaged = self._from_cache(wanted_pip, wanted_apt)
        pip_missing = [row for name, row in wanted_pip.items() if f"pip:{name}" not in self.sources]
        apt_missing = [name for name in wanted_apt if f"apt:{name}" not in self.sources]
        batches = [[row] for row in pip_missing if row.startswith("torch==")]
        rest = [row for row in pip_missing if not row.startswith("torch==")]
        batches += [rest[start : start + BATCH] for start in range(0, len(rest), BATCH)]
        rows: dict[str, Artifact] = {}

        def pip(batch: list[str]) -> None:
            rows.update(self.pip.fetch(batch))

        def apt(name: str) -> None:
            self.sources[f"apt:{name}"] = self.apt.fetch(self.catalog.apt[name])

        calls = [partial(pip, batch) for batch in batches]
        calls += [partial(apt, name) for name in apt_missing]
        try:
            run_all(DOWNLOADS, calls)
        except NetworkError as error:
            if damaged:
                raise fetch.corrupted(damaged, error) from error
            raise
        for name, row in wanted_pip.items():
            if row in rows:
                self.sources[f"pip:{name}"] = [rows[row]]
        self._check_pins()

    def _check_pins(self) -> None:
        """Refuse a wheel that is not the one that the catalog pins by its hash."""
        for name, pinned in self.catalog.sha256.items():
            for wheel in self.sources.get(f"pip:{name}", []):
                if wheel.sha256 != pinned:
                    fetch.forget(self.store, wheel)
                    raise IntegrityError(
                        f"{wheel.path.name} has SHA-256 {wheel.sha256[:16]}…, and the toolchain "
                        f"pins {pinned[:16]}…: it was not used.",
                        f"Ask who serves pip's index; `pip download {self.requirements[name]}` "
                        "fetches it again.",
                    )

    def _used(self, client: str) -> list[str]:
        found = [
            source.partition(":")[2]
            for package in self.catalog.packages
            for source in package.sources()
            if source.startswith(f"{client}:")
        ]
        return list(dict.fromkeys(found))

    def _from_cache(self, pips: dict[str, str], apts: dict[str, AptSet]) -> list[Artifact]:
        for name, row in pips.items():
            if (wheel := self.pip.cached(row)) is not None:
                self.sources[f"pip:{name}"] = [wheel]
        for name in apts:
            if (debs := self.apt.cached(self.catalog.apt[name])) is not None:
                self.sources[f"apt:{name}"] = debs
        damaged = []
        for source, artifacts in list(self.sources.items()):
            broken = [one for one in artifacts if not fetch.intact(one)]
            for one in broken:
                self.reporter.line(f"{one.path.name} lost its recorded hash; fetching it again.")
                fetch.forget(self.store, one)
            if broken:
                del self.sources[source]
                damaged += broken
        return damaged

    # -- packages ---------------------------------------------------------------------------

    def jobs(self) -> list[Job]:
        """Every package of the catalog with its version and cache key."""
        shared = variables.shared(self.host, self.sources)
        lists = {"{level_builds}": level_builds(self.host.family)}
        found = []
        for entry in self.catalog.packages:
            where = f"[packages.{entry.name}]"
            for instance in entry.instances(lists):
                known = {**shared, **variables.of_instance(self.host, instance)}
                known["version"] = "{version}"
                half = resolve(replace(entry, each={}), known, where)
                version = variables.version_of(half, self.host, self.sources)
                package = resolve(half, {**known, "version": version}, where)
                found.append(Job(package, version, self._key(package, version)))
        names = [(job.package.name, job.version, job.package.build) for job in found]
        if len(set(names)) != len(names):
            raise BuildFailure("packages.toml makes two packages with one file name.")
        return found

    def _inputs(self, package: Package) -> list[Artifact]:
        globs = [(rule.source, glob) for rule in package.files for glob in (rule.debs or ("*",))]
        chosen = []
        for source in package.sources():
            for one in self.sources.get(source, []):
                if one.client == "pip" or any(
                    named == source and fnmatchcase(one.name, glob) for named, glob in globs
                ):
                    chosen.append(one)
        return chosen

    def _key(self, package: Package, version: str) -> str:
        inputs = [f"{one.name}={one.version}:{one.sha256}" for one in self._inputs(package)]
        if "host:cpython" in package.sources() or package.compile:
            inputs.append(f"{self.host.python_home}:{self.host.python_build}")
        # One entry may serve several platforms with nothing but text in it.
        subdir = "noarch" if package.noarch else package.subdir or self.host.platform
        return key_of(code_key(), canonical(package), version, subdir, *inputs)

    def _weight(self, job: Job) -> int:
        return sum(one.size for one in self._inputs(job.package))

    def _kept(self, jobs: Sequence[Job]) -> dict[str, PackageFile]:
        """Packages of earlier runs whose file still has its recorded hash."""
        found = {}
        for job in jobs:
            folder = self.store.packages / job.key
            row = read_json(folder / "package.json")
            with suppress(TypeError, *GROUPS):  # something else wrote into the cache
                package = cattrs.structure(row, PackageFile)
                file = folder / package.file_name
                if file.is_file() and sha256(file) == package.sha256:
                    found[job.key] = package
        return found

    def _tree(self, source: str) -> list[Path]:
        """Unpack a source once a run."""
        with self._tree_locks.setdefault(source, threading.Lock()):
            if source not in self._trees:
                root = self._trees_root / source.replace(":", "-")
                with disk_errors(root):
                    root.mkdir()
                if source == "host:cpython":
                    with disk_errors(root):
                        make_tree(self.host, root)
                    folders = [root]
                elif source.startswith(GLIBC):
                    wheel_file = self.sources[f"pip:{source.removeprefix(GLIBC)}"][0].path
                    glibc = platforms.table()[self.host.platform].glibc
                    with self.reporter.task(f"make glibc {glibc} for {self.host.platform}"):
                        sysroot.make(
                            wheel_file, self.host.platform, glibc, root, self.store.scratch("zig")
                        )
                    folders = [root]
                elif source.startswith("pip:"):
                    site = f"lib/python{self.host.py}/site-packages"
                    wheel = unpack_wheel(self.sources[source][0].path, root, site)
                    self._entry_points[source] = wheel.entry_points
                    folders = [root]
                else:
                    unpack_debs(self.sources[source], root)
                    folders = sorted(root.iterdir())
                self._trees[source] = folders
            return self._trees[source]

    def _build(self, job: Job) -> PackageFile:
        package = job.package
        work = self.store.scratch(package.name)
        try:
            # A wheel that the C library is made of is read as it is: its tree is large.
            read = {rule.source for rule in package.files} | {f"pip:{package.wheel}"}
            trees = {source: self._tree(source) for source in package.sources() if source in read}
            entry_points: list[str] = []
            if package.noarch == "python":
                entry_points = self._entry_points[f"pip:{package.wheel}"]
                package = without_scripts(package, entry_points)
            root = work / "stage"
            root.mkdir()
            staged = stage(package, trees, root, self.host.family)
            subdir = package.subdir or self.host.platform
            file = assemble(package, job.version, subdir, staged, entry_points, work)
            built = PackageFile(
                name=package.name,
                version=job.version,
                build=build_string(package),
                subdir=file.parent.name,
                source=", ".join(package.sources()) or "packages.toml",
                sha256=sha256(file),
                size=file.stat().st_size,
            )
            kept = self.store.scratch("package")
            with disk_errors(kept):
                file.replace(kept / built.file_name)
            self.store.write_json(kept / "package.json", asdict(built))
            self.store.publish(kept, self.store.packages / job.key)
            return built
        finally:
            remove(work)

    # -- channel ----------------------------------------------------------------------------

    def _index(self, jobs: Sequence[Job], made: dict[str, PackageFile]) -> Channel:
        fingerprint = key_of(*sorted(job.key for job in jobs))
        packages = sorted(made.values(), key=lambda one: (one.name, one.version, one.build))
        # Another request may have led to the same packages.
        if (there := load(self.store, fingerprint, packages)) is not None:
            return there
        final = folder_for(self.store, fingerprint, packages)
        scratch = self.store.scratch("channel")
        with disk_errors(scratch):
            for job in jobs:
                package = made[job.key]
                folder = scratch / package.subdir
                folder.mkdir(exist_ok=True)
                os.link(
                    self.store.packages / job.key / package.file_name, folder / package.file_name
                )
            for subdir in ("noarch", self.host.platform, self.host.build_platform):
                (scratch / subdir).mkdir(exist_ok=True)
            with self.reporter.task("index channel"):
                _in_own_loop(scratch)
        self.store.complete(scratch, final, last="repodata")
        return Channel(final, final.as_uri(), tuple(packages), fingerprint)


def without_scripts(package: Package, entry_points: Sequence[str]) -> Package:
    """A noarch package declares its entry points; the installer writes the scripts."""
    names = tuple(f"bin/{row.split('=')[0].strip()}" for row in entry_points)
    rules = package.files or (Rule(f"pip:{package.wheel}"),)
    return replace(package, files=tuple(replace(rule, drop=(*rule.drop, *names)) for rule in rules))


def _in_own_loop(folder: Path) -> None:
    """Index in a thread of its own: the caller may already run an event loop."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            asyncio.run(index_fs(folder, write_shards=False))
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        if isinstance(failures[0], OSError):
            raise failures[0]
        raise BuildFailure(f"The channel could not be indexed: {failures[0]}.") from failures[0]
