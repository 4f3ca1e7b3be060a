"""What the embedded toolchain links runs on the C library that targets.toml names.

For every platform: the compilers of its channel, on this machine, whatever C library that has.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from vllm_conda import platforms
from vllm_conda.audit.elf import read_library
from vllm_conda.paths import cache_root
from vllm_conda.progress import Mode, Reporter
from vllm_conda.solve import install_records, solve_specs, virtual_packages
from vllm_conda.toolchain import ensure

pytestmark = [pytest.mark.slow, pytest.mark.network]

PROGRAM = Path(__file__).with_name("floor.cc")
# Name -> code that asks for it behind the headers' back, and the glibc that brought it.
NEWER = {
    "gettid": ("int gettid(void);\nint f(void) { return gettid(); }", "2.30"),
    "__libc_single_threaded": (
        "extern char __libc_single_threaded;\nint f(void) { return __libc_single_threaded; }",
        "2.32",
    ),
    "_dl_find_object": (
        "int _dl_find_object(void *, void *);\nint f(void) { return _dl_find_object(0, 0); }",
        "2.35",
    ),
    "__isoc23_strtol": (
        "long __isoc23_strtol(const char *, char **, int);\n"
        'int f(void) { return (int)__isoc23_strtol("1", 0, 0); }',
        "2.38",
    ),
}
# Calls as people write them: the headers must not know these.
DECLARED = {
    "gettid": "#include <unistd.h>\nint f() { return gettid(); }",
    "strlcpy": "#include <string.h>\nint f(char *a) { return (int)strlcpy(a, a, 1); }",
    "pthread_cond_clockwait": "#include <pthread.h>\nauto f() { return &pthread_cond_clockwait; }",
    "cospi": "#include <math.h>\ndouble f(double a) { return cospi(a); }",
    "closefrom": "#include <unistd.h>\nvoid f() { closefrom(3); }",
}


@dataclass(frozen=True)
class Tools:
    """An environment with a platform's compilers and emulator."""

    platform: str
    prefix: Path

    @property
    def entry(self) -> platforms.Platform:
        return platforms.table()[self.platform]

    def compile(self, compiler: str, *words: str) -> subprocess.CompletedProcess[str]:
        program = self.prefix / "bin" / f"{self.entry.conda_triplet}-{compiler}"
        return subprocess.run(
            [str(program), *words], capture_output=True, text=True, check=False, timeout=600
        )

    def run(self, program: Path) -> str:
        command = [str(program)]
        if self.entry.cross_from:
            libraries = program.parent / "run"
            sysroot = self.prefix / self.entry.conda_triplet / "sysroot/usr" / self.entry.triplet
            libraries.mkdir(exist_ok=True)
            for name in ("libstdc++.so.6", "libgcc_s.so.1"):
                shutil.copy(sysroot / "lib" / name, libraries)
            root = self.prefix / self.entry.conda_triplet / "glibc"
            emulator = str(self.prefix / "bin" / self.entry.emulator)
            command = [
                emulator, "-L", str(root), "-E", f"LD_LIBRARY_PATH={libraries}", *command
            ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        return done.stdout


@pytest.fixture(scope="module", params=platforms.table())
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tools:
    platform: str = request.param
    with Reporter(Mode.PLAIN) as reporter:
        channels = ensure(platform, reporter=reporter).base
    entry = platforms.table()[platform]
    specs = [f"gxx_{platform}"]
    if entry.cross_from:
        specs += [f"glibc_{platform}", f"qemu-user-{entry.machine}"]
    here = platforms.host_platform()
    records = solve_specs([one.url for one in channels], specs, here, virtual_packages())
    prefix = tmp_path_factory.mktemp(platform) / "prefix"
    install_records(records, prefix, here, cache_root() / "rattler")
    return Tools(platform, prefix)


def floor_of(path: Path) -> tuple[int, ...]:
    library = read_library(path, path.name)
    assert library is not None
    return max(library.versions["GLIBC"])


@pytest.mark.parametrize("standard", ["gnu++17", "gnu++20"])
def test_program_and_library_are_of_the_floor(tools: Tools, standard: str, tmp_path: Path) -> None:
    words = [f"-std={standard}", "-O2", "-D_FORTIFY_SOURCE=2", "-pthread", str(PROGRAM), "-o"]
    program, library = tmp_path / "program", tmp_path / "library.so"
    for goal, more in ((program, ()), (library, ("-shared", "-fPIC"))):
        done = tools.compile("g++", *more, *words, str(goal))
        assert done.returncode == 0, done.stderr
        assert floor_of(goal) <= tuple(int(part) for part in tools.entry.glibc.split("."))
    three, minor, size = tools.run(program).split()
    assert (three, f"2.{minor}") == ("3", tools.entry.glibc)
    assert int(size) > 10


@pytest.mark.parametrize("name", NEWER)
def test_newer_symbol_does_not_link(tools: Tools, name: str, tmp_path: Path) -> None:
    text, since = NEWER[name]
    code = tmp_path / "newer.c"
    code.write_text(f"{text}\nint main(void) {{ return f(); }}\n")
    for more in ((), ("-shared", "-fPIC")):
        done = tools.compile("gcc", *more, str(code), "-o", str(tmp_path / "newer"))
        assert done.returncode != 0
        assert f"{name} of glibc {since}, linked for {tools.entry.glibc}" in done.stderr
        assert not (tmp_path / "newer").exists()


@pytest.mark.parametrize("name", DECLARED)
def test_newer_function_is_not_declared(tools: Tools, name: str, tmp_path: Path) -> None:
    code = tmp_path / "newer.cc"
    code.write_text(DECLARED[name] + "\n")
    done = tools.compile("g++", "-c", str(code), "-o", str(tmp_path / "newer.o"))
    assert done.returncode != 0
    assert f"{name}" in done.stderr
    assert "declared" in done.stderr


def test_own_function_of_a_newer_name_is_ones_own(tools: Tools, tmp_path: Path) -> None:
    code = tmp_path / "own.c"
    code.write_text(
        "unsigned long strlcpy(char *a, const char *b, unsigned long n) { return n; }\n"
        "int main(void) { return (int)strlcpy(0, 0, 0); }\n"
    )
    done = tools.compile("gcc", str(code), "-o", str(tmp_path / "own"))
    assert done.returncode == 0, done.stderr
    tools.run(tmp_path / "own")
