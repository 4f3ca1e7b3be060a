#!/usr/bin/env python3
"""Run the finished packages' self-test on the oldest C library that the registries offer.

    python scripts/test_userland.py [--output DIRECTORY] [--suite NAME] [arguments of the self-test]

vllm-kernels-cpu of the lowest level, which has all tiers, is solved and installed. Its files and
PyTorch's, all unchanged, then run on the C library of Debian's SUITE, by the suite's loader: first
every symbol of each library is looked up at once, then `python -m vllm_kernels.selftest` compares
each op with its reference on every tier that this CPU runs. Exit code: 0 if all of it passed.

The installed Python and libstdc++ are Debian's of this machine, which a node with an old C library
would not have. So Python is compiled once by the channel's own compiler, for the C library that
targets.toml names, and libstdc++ is told to take what moved since from where it was.
"""

from __future__ import annotations

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from filelock import FileLock

from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.workspace import locked, workspace_for
from vllm_conda.downloads.store import Store, key_of
from vllm_conda.environment import ensure_environment
from vllm_conda.errors import BuildFailure, VllmError
from vllm_conda.microarch import level_cpu
from vllm_conda.paths import cache_root
from vllm_conda.platforms import table
from vllm_conda.progress import Reporter
from vllm_conda.solve import virtual_packages
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain.apt_client import AptClient, SourceSet
from vllm_conda.toolchain.model import AptSet
from vllm_conda.toolchain.unpack import graft, unpack_deb

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "tests" / "userland"
PLATFORM = "linux-64"
INSTALLED = ["vllm-kernels-cpu", f"gxx_{PLATFORM}"]
LIBRARIES = ("libc6", "libgcc-s1", "libgomp1", "zlib1g", "libffi7")
HEADERS = ("zlib1g-dev", "libffi-dev")
EDITION = "1"  # of what Userland.make makes; another makes it anew
OLDEST = "GLIBC_2.2.5"  # of x86-64
OLD_MINOR = 31  # the C library that newer.c is written for: 2.31
WEAK = 2  # VER_FLG_WEAK: the loader does without
PROGRAM = """
import os, sys
print("userland:", os.confstr("CS_GNU_LIBC_VERSION"), "Python", sys.version.split()[0], flush=True)
with open("/proc/self/maps") as maps:
    foreign = {line.split()[-1] for line in maps if "/libc.so.6" in line or "/libc-2." in line}
assert len(foreign) == 1 and next(iter(foreign)).startswith(sys.argv[1]), foreign
from vllm_kernels.selftest import main
raise SystemExit(main(sys.argv[2:]))
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Test the packages on an old C library.")
    parser.add_argument("--output", type=Path, default=ROOT / "output", help="the channel")
    parser.add_argument("--suite", default="bullseye", help="Debian's, of the C library")
    chosen, rest = parser.parse_known_args(arguments)
    try:
        with Reporter() as reporter:
            prefix = install(chosen.output.resolve(), reporter)
            userland = Userland(prefix, chosen.suite, reporter)
            userland.make()
    except VllmError as error:
        print(f"test-userland: {error}", file=sys.stderr)
        return error.exit_code
    missing = userland.missing_symbols()
    for line in missing:
        print(f"test-userland: {line}", file=sys.stderr)
    return 1 if missing else userland.run("-c", PROGRAM, str(userland.root), *rest)


def install(output: Path, reporter: Reporter) -> Path:
    """The packages of the lowest level with what they run on and their channel's compiler."""
    entry = table()[PLATFORM]
    virtual = virtual_packages([f"__archspec=1={level_cpu(entry.family, entry.levels[0])}"])
    workspace = workspace_for(ROOT)
    toolchain = toolchain_for(PLATFORM, (), reporter)
    with locked(workspace, output):
        channels = [output.as_uri(), *toolchain.channels]
        return ensure_environment(channels, INSTALLED, PLATFORM, workspace, reporter, virtual)


class Userland:
    """A folder with an old C library, and a Python and a libstdc++ that run on it."""

    def __init__(self, prefix: Path, suite: str, reporter: Reporter) -> None:
        self.prefix, self.suite, self.reporter = prefix, suite, reporter
        self.host = host_module.detect(PLATFORM)
        self.store = Store(cache_root())
        (site,) = prefix.glob("lib/python3*/site-packages")
        self.site, self.python_name = site, site.parent.name
        inputs = [path.read_text(encoding="utf-8") for path in sorted(HERE.iterdir())]
        key = key_of(EDITION, suite, self.python_name, *inputs)
        self.root = self.store.root / "userland" / key

    @property
    def libraries(self) -> list[Path]:
        return [self.root / "lib", self.root / "usr/lib" / self.host.triplet]

    def make(self) -> None:
        """Fetch and compile it once.

        Raises:
            NetworkError, MissingToolError: Debian's mirror does not have it.
            BuildFailure: Python does not compile.
        """
        if self.root.is_dir():
            return
        self.store.prepare()
        client = AptClient(self.store, self.host, self.reporter)
        with self.store.locked(self.reporter):
            debs = client.fetch(AptSet(self.suite, (*LIBRARIES, *HEADERS)))
            (source,) = client.fetch(SourceSet("host", (self.python_name,)))
        # Compiling takes minutes, for which the cache stays free for others.
        work = self.root.with_name(f"{self.root.name}.making")
        self.root.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(work.with_suffix(".lock")):
            shutil.rmtree(work, ignore_errors=True)  # what a killed run left
            made = work / "root"
            for deb in debs:
                unpack_deb(deb.path, work / deb.name)
                graft(work / deb.name, made)
            (made / "lib").mkdir(exist_ok=True)
            self._newer(made)
            self._python(made, source.path, work / "source")
            if not self.root.is_dir():
                made.rename(self.root)
            shutil.rmtree(work)

    def _newer(self, made: Path) -> None:
        """libstdc++ of the suite, and what it takes from a newer C library."""
        library = made / "lib" / "libstdc++.so.6"
        shutil.copy(self.prefix / "lib" / "libstdc++.so.6", library)
        take_from_the_oldest(library)
        program = [
            self._tool("gcc"),
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            "-D_GNU_SOURCE",
        ]
        self._run([*program, str(HERE / "newer.c"), "-o", str(made / "lib" / "libnewer.so")], made)

    def _python(self, made: Path, archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        (source,) = folder.iterdir()
        shutil.copy(HERE / "Setup.local", source / "Modules")
        usr = made / "usr"
        libraries = usr / "lib" / self.host.triplet
        include = f"-I{usr / 'include'} -I{usr / 'include' / self.host.triplet}"
        variables = {
            "CC": self._tool("gcc"), "CXX": self._tool("g++"), "CFLAGS": "-O1 -g0",
            "CPPFLAGS": include, "LDFLAGS": f"-L{libraries}",
            "LD_LIBRARY_PATH": str(self._run_path(made)),
        }  # fmt: skip
        jobs = str(len(os.sched_getaffinity(0)))
        with self.reporter.task(f"compile {self.python_name} for an old C library"):
            self._run(["./configure", "--quiet", "--without-ensurepip"], source, variables)
            self._run(["make", "-j", jobs, "python", "pybuilddir.txt"], source, variables)
        home = made / "python"
        (home / "bin").mkdir(parents=True)
        (home / "lib").mkdir()
        shutil.copy(source / "python", home / "bin")
        shutil.copytree(source / "Lib", home / "lib" / self.python_name)
        for data in source.glob("build/lib.*/_sysconfigdata*.py"):
            shutil.copy(data, home / "lib" / self.python_name)

    def _run_path(self, made: Path) -> Path:
        """Without the C library: for programs that make runs on this machine's."""
        folder = made / "build-time"
        folder.mkdir(exist_ok=True)
        for name in ("libffi.so.7", "libz.so.1"):
            shutil.copy(made / "usr/lib" / self.host.triplet / name, folder)
        return folder

    def _tool(self, name: str) -> str:
        return str(self.prefix / "bin" / f"{self.host.conda_triplet}-{name}")

    def _run(
        self, command: list[str], folder: Path, variables: dict[str, str] | None = None
    ) -> None:
        environment = {"PATH": os.defpath, "LC_ALL": "C", **(variables or {})}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise BuildFailure(f"{command[0]} failed for the old userland:\n{done.stderr[-2000:]}")

    def _loaded(self, *program: str) -> list[str]:
        """The command line of a program that the old loader starts."""
        (loader,) = self.libraries[1].glob("ld-linux-x86-64.so.2")
        first = [self.root / "lib/libnewer.so", self.root / "lib/libstdc++.so.6"]
        first += [self.libraries[1] / name for name in ("libgcc_s.so.1", "libgomp.so.1")]
        path = ":".join(map(str, self.libraries))
        preload = " ".join(map(str, first))
        return [str(loader), "--library-path", path, "--preload", preload, *program]

    def missing_symbols(self) -> list[str]:
        """What the installed libraries, and all that they load, do not find in the old userland."""
        variables = {"LD_WARN": "yes", "LD_BIND_NOW": "yes", "LD_TRACE_LOADED_OBJECTS": "1"}
        found = []
        libraries = sorted((self.prefix / "lib" / "vllm_kernels").glob("*.so"))
        for library in libraries:
            done = subprocess.run(
                self._loaded(str(library)), env=variables, capture_output=True, text=True
            )
            text = f"{done.stdout}{done.stderr}"
            # The versions that take_from_the_oldest made weak are named too.
            lines = [one.strip() for one in text.splitlines() if "weak version" not in one]
            found += [f"{library.name}: {one}" for one in lines if "not " in one or "undef" in one]
            found += [f"{library.name}: not loaded: {text}"] if "libc.so.6 =>" not in text else []
        print(f"test-userland: symbols of {len(libraries)} libraries looked up", flush=True)
        return found

    def run(self, *arguments: str) -> int:
        """Run Python on the old C library; returns its exit code."""
        variables = {
            "PYTHONHOME": str(self.root / "python"), "PYTHONPATH": str(self.site),
            "PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "OMP_WAIT_POLICY": "passive",
        }  # fmt: skip
        command = self._loaded(str(self.root / "python/bin/python"), *arguments)
        return subprocess.run(command, env=variables, check=False).returncode


def take_from_the_oldest(library: Path) -> None:
    """Let references to versions that the old C library lacks name its oldest version.

    Most are functions that moved from libpthread into libc and were given a new version with it.
    """
    data = bytearray(library.read_bytes())
    with library.open("rb") as stream:
        elf = ELFFile(stream)
        needs = elf.get_section_by_name(".gnu.version_r")
        versions = elf.get_section_by_name(".gnu.version")
        if not isinstance(needs, GNUVerNeedSection) or versions is None:
            raise BuildFailure(f"{library.name} names no versions of symbols.")
        newer, oldest, place = set(), 0, needs["sh_offset"]
        for need, entries in needs.iter_versions():
            entry = place + need["vn_aux"]
            for one in entries:
                if one.name == OLDEST and need.name == "libc.so.6":
                    oldest = one["vna_other"]
                if one.name.startswith("GLIBC_2.") and int(one.name.split(".")[1]) > OLD_MINOR:
                    newer.add(one["vna_other"])
                    struct.pack_into("<H", data, entry + 4, WEAK)
                entry += one["vna_next"]
            place += need["vn_next"]
        for offset in range(versions["sh_offset"], versions["sh_offset"] + versions["sh_size"], 2):
            if struct.unpack_from("<H", data, offset)[0] in newer:
                struct.pack_into("<H", data, offset, oldest)
    library.write_bytes(data)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
