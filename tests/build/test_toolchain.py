"""The real toolchain channel: solved, installed, run and built against.

Needs the package registries and a few minutes the first time; later runs use the cache.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from io import StringIO
from pathlib import Path

import pytest
import rattler_build
from rattler import (
    BuildString,
    GenericVirtualPackage,
    MatchSpec,
    PackageName,
    Version,
    VirtualPackage,
    install,
    solve,
)
from rattler import Channel as RattlerChannel
from rattler.exceptions import SolverError
from rattler.package_streaming import extract
from rattler.repo_data import RepoDataRecord
from rattler.shell import ActivationVariables, Shell, activate

from vllm_conda.progress import Mode, Reporter
from vllm_conda.toolchain import Channel, elf
from vllm_conda.toolchain.native import ensure

pytestmark = [pytest.mark.slow, pytest.mark.network]

SPECS = [
    "python", "pytorch", "numpy", "pytest", "pip", "gxx_linux-64", "cmake", "ninja", "ccache",
    "onednn", "libhwy", "libsanitizer", "x86_64-microarch-level 3",
]  # fmt: skip
TOOLS = ("x86_64-conda-linux-gnu-gcc", "x86_64-conda-linux-gnu-g++")


@pytest.fixture(scope="session")
def channel() -> Channel:
    with Reporter(Mode.PLAIN) as reporter:
        return ensure("linux-64", reporter=reporter)


def resolve(
    channel: Channel, specs: list[str], virtual: list[GenericVirtualPackage] | None = None
) -> list[RepoDataRecord]:
    return asyncio.run(
        solve(
            [RattlerChannel(channel.url)],
            [MatchSpec(spec) for spec in specs],
            platforms=["linux-64", "noarch"],
            virtual_packages=virtual or VirtualPackage.detect(),
        )
    )


@pytest.fixture(scope="session")
def prefix(channel: Channel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toolchain") / "prefix"
    asyncio.run(install(resolve(channel, SPECS), target_prefix=root, show_progress=False))
    return root


def run(prefix: Path, script: str, cwd: Path) -> str:
    """Standard output of a script in the activated prefix, whose PATH has nothing of the host's
    compilers in front."""
    code = activate(prefix, ActivationVariables(), Shell.bash).script
    done = subprocess.run(
        ["bash", "-e", "-c", f"{code}\n{script}"],
        cwd=cwd, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(cwd), "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_second_call_is_immediate(channel: Channel) -> None:
    code = (
        "import time; start = time.process_time()\n"
        "from vllm_conda.progress import Reporter\n"
        "from vllm_conda.toolchain.native import ensure\n"
        "print(ensure('linux-64', reporter=Reporter()).fingerprint, time.process_time() - start)\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    fingerprint, seconds = done.stdout.split()
    assert fingerprint == channel.fingerprint
    assert float(seconds) < 1


def test_every_package_says_external(channel: Channel) -> None:
    assert {one.build.split("_")[0] for one in channel.packages} == {"external"}


def test_torch_and_numpy_run_on_the_prefix_alone(prefix: Path, tmp_path: Path) -> None:
    script = """
    python - <<'X'
    import json, numpy, torch
    assert (torch.ones(2) + 1).tolist() == [2.0, 2.0]
    assert torch.from_numpy(numpy.arange(3)).sum() == 3
    torch.set_num_threads(2)
    torch.ones(512, 512) @ torch.ones(512, 512)
    rows = open("/proc/self/maps").read().splitlines()
    print(json.dumps(sorted({row.split()[-1] for row in rows if ".so" in row})))
    X
    """
    libraries = [Path(row) for row in json.loads(run(prefix, textwrap.dedent(script), tmp_path))]
    outside = [path.name for path in libraries if prefix not in path.parents]
    # Debian names the real files of the C library after its sonames.
    assert [name for name in outside if not elf.GLIBC_SONAMES.match(name)] == []
    assert len({path.resolve() for path in libraries if "libgomp" in path.name}) == 1
    assert len({path.resolve() for path in libraries if "libstdc++" in path.name}) == 1


def test_the_interpreter_knows_only_its_prefix(prefix: Path, tmp_path: Path) -> None:
    script = """
    python - <<'X'
    import json, sys, sysconfig
    import bz2, ctypes, curses, hashlib, lzma, readline, sqlite3, ssl, uuid, zlib
    values = {k: v for k, v in sysconfig.get_config_vars().items() if isinstance(v, str)}
    print(json.dumps([sys.prefix, sys.path[1:], sysconfig.get_paths(), values]))
    X
    """
    own, path, paths, values = json.loads(run(prefix, textwrap.dedent(script), tmp_path))
    assert own == str(prefix)
    assert all(Path(row).is_relative_to(prefix) for row in path)
    assert all(Path(row).is_relative_to(prefix) for row in paths.values())
    home = sys.base_prefix
    if home not in ("/usr", "/usr/local"):  # compilers really are in /usr/bin
        assert {k: v for k, v in values.items() if home in v.split("WASM")[0]}.keys() <= {
            "WASM_ASSETS_DIR", "WASM_STDLIB",
        }  # fmt: skip
    assert values["LIBDIR"] == str(prefix / "lib")
    listed = run(prefix, "python -m pip list --format=json", tmp_path)
    assert {row["name"].lower() for row in json.loads(listed)} >= {"torch", "numpy", "pytest"}


def test_every_script_starts_with_the_prefix(prefix: Path) -> None:
    checked = 0
    for path in sorted((prefix / "bin").iterdir()):
        first = path.read_bytes().split(b"\n")[0]
        if path.is_symlink() or not first.startswith(b"#!") or b"python" not in first:
            continue
        checked += 1
        assert first.decode().removeprefix("#!").strip().startswith(str(prefix)), path
    assert checked >= 5


def test_the_environment_is_conda_forges(prefix: Path, tmp_path: Path) -> None:
    found = dict(
        row.split("=", 1) for row in run(prefix, "env", tmp_path).splitlines() if "=" in row
    )
    for name in ("CC", "CXX", "AR", "LD", "RANLIB", "STRIP", "OBJCOPY", "NM"):
        assert Path(found[name]).parent == prefix / "bin"
        assert os.access(found[name], os.X_OK)
    assert found["HOST"] == found["BUILD"] == "x86_64-conda-linux-gnu"
    assert f"-Wl,-rpath,{prefix}/lib" in shlex.split(found["LDFLAGS"])
    assert f"-L{prefix}/lib" in shlex.split(found["LDFLAGS"])
    for name in ("CFLAGS", "CXXFLAGS"):
        assert shlex.split(found[name])[-1] == "-march=x86-64-v3"
    for row in shlex.split(found["CMAKE_ARGS"]):
        _, _, value = row.partition("=")
        assert not value.startswith("/") or os.access(value, os.X_OK), row


HELLO = '#include <cstdio>\nint main() { std::puts("hello"); }\n'
OPENMP = """
#include <omp.h>
#include <iostream>
int main() {
  long sum = 0;
#pragma omp parallel for reduction(+ : sum) num_threads(2)
  for (int i = 0; i < 1000; ++i) sum += i;
  std::cout << sum << "\\n";
}
"""


def test_compile_link_and_run(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "hello.cpp").write_text(HELLO)
    (tmp_path / "omp.cpp").write_text(OPENMP)
    assert run(prefix, "$CXX $CXXFLAGS hello.cpp $LDFLAGS -o a && ./a", tmp_path) == "hello\n"
    text = run(prefix, "$CXX $CXXFLAGS -fopenmp omp.cpp $LDFLAGS -o b && ./b && ldd b", tmp_path)
    assert text.startswith("499500\n")
    found = dict(re.findall(r"(\S+) => (\S+)", text))
    for name in ("libgomp.so.1", "libstdc++.so.6", "libgcc_s.so.1"):
        assert found[name] == str(prefix / "lib" / name)


def test_sanitizers_work(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.cpp").write_text(
        "int main(int n, char**) { int* p = new int[2]; int v = p[n + 1]; delete[] p; return v; }\n"
    )
    text = run(
        prefix, "$CXX -g -fsanitize=address,undefined bad.cpp $LDFLAGS -o a; ./a 2>&1 || true",
        tmp_path,
    )  # fmt: skip
    assert "heap-buffer-overflow" in text


@pytest.mark.parametrize("tool", TOOLS)
def test_the_compiler_reads_nothing_of_the_host(prefix: Path, tmp_path: Path, tool: str) -> None:
    language = "c++" if tool.endswith("++") else "c"
    (tmp_path / "hello.c").write_text(HELLO if language == "c++" else "int main(void){return 0;}\n")
    text = run(prefix, f"{tool} -x {language} -v -Wl,--trace hello.c -o a 2>&1", tmp_path)
    searched = text.split("search starts here:")[2].split("End of search list")[0].split()
    linked = [row for row in text.splitlines() if re.match(r"^/\S+\.(o|so|a)(\.\d+)*$", row)]
    assert len(searched) >= 2  # the compiler's own and those of the C library
    assert len(linked) >= 5
    outside = [
        row
        for row in [*searched, *linked]
        if not Path(os.path.normpath(row)).is_relative_to(prefix) and not row.startswith("/tmp/cc")  # noqa: S108
    ]
    assert outside == []


def test_cmake_finds_onednn_highway_and_torch(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        textwrap.dedent(
            """
            cmake_minimum_required(VERSION 3.26)
            project(x CXX)
            find_package(dnnl REQUIRED CONFIG)
            find_package(hwy REQUIRED CONFIG)
            find_package(OpenMP REQUIRED)
            find_package(Torch REQUIRED CONFIG)
            add_executable(x x.cpp)
            target_link_libraries(x DNNL::dnnl hwy::hwy OpenMP::OpenMP_CXX)
            """
        )
    )
    (tmp_path / "x.cpp").write_text(
        textwrap.dedent(
            """
            #include <dnnl.hpp>
            #include <hwy/highway.h>
            #include <omp.h>
            #include <cstdio>
            namespace hn = hwy::HWY_NAMESPACE;
            int main() {
              dnnl::engine engine(dnnl::engine::kind::cpu, 0);
              const dnnl_version_t* library = dnnl_version();
              std::printf("%d.%d %d.%d %g\\n", library->major, library->minor,
                          DNNL_VERSION_MAJOR, DNNL_VERSION_MINOR,
                          hn::GetLane(hn::Set(hn::ScalableTag<float>(), 2.0f)));
            }
            """
        )
    )
    text = run(prefix, "cmake -G Ninja $CMAKE_ARGS -B b . && ninja -C b && ./b/x", tmp_path)
    assert text.splitlines()[-1] == "3.2 3.2 2"
    assert f"Found Torch: {prefix}/lib/libtorch.so" in text


def test_ccache_hits(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "hello.cpp").write_text(HELLO)
    script = (
        "export CCACHE_DIR=$PWD/cache\n"
        "for n in 1 2; do ccache $CXX $CXXFLAGS -c hello.cpp -o h.o; done\n"
        "ccache --print-stats"
    )
    stats = dict(row.split("\t") for row in run(prefix, script, tmp_path).splitlines())
    assert stats["direct_cache_hit"] == "1"
    assert stats["cache_miss"] == "1"


@pytest.mark.parametrize(
    ("cpu", "level"),
    [
        ("sapphirerapids", "4"), ("x86_64_v4", "4"), ("zen4", "4"), ("skylake_avx512", "4"),
        ("haswell", "3"), ("x86_64_v3", "3"), ("x86_64_v2", "2"), ("nehalem", "2"),
        ("x86_64", "1"),
    ],
)  # fmt: skip
def test_levels_as_the_solver_sees_them(channel: Channel, cpu: str, level: str) -> None:
    virtual = [GenericVirtualPackage(PackageName("__archspec"), Version("1"), BuildString(cpu))]
    found = resolve(channel, ["_x86_64-microarch-level"], virtual)
    assert [str(one.version) for one in found] == [level]
    if int(level) < 3:
        with pytest.raises(SolverError):
            resolve(channel, ["_x86_64-microarch-level >=3"], virtual)


def test_an_older_c_library_is_refused(channel: Channel) -> None:
    virtual = [
        GenericVirtualPackage(PackageName("__glibc"), Version("2.12"), BuildString("0")),
        GenericVirtualPackage(PackageName("__unix"), Version("0"), BuildString("0")),
    ]
    with pytest.raises(SolverError, match="__glibc"):
        resolve(channel, ["numpy"], virtual)


def test_the_tests_that_travel_in_the_packages_pass(channel: Channel) -> None:
    tested = {}
    for one in channel.packages:
        package = rattler_build.Package.from_file(channel.path / one.subdir / one.file_name)
        if package.test_count:
            results = package.run_tests(channel=[channel.url])
            tested[one.name] = all(result.success for result in results)
    assert tested == dict.fromkeys(tested, True)
    assert set(tested) >= {"python", "pytorch", "numpy", "pytest", "cmake", "ninja", "ccache"}


RECIPE = """
schema_version: 1
package:
  name: tiny
  version: "1.0"
build:
  script:
    content: |
      {
        echo 'cmake_minimum_required(VERSION 3.26)'
        echo 'project(t CXX)'
        echo 'find_package(dnnl REQUIRED)'
        echo 'add_library(tiny SHARED t.cpp)'
        echo 'target_link_libraries(tiny PRIVATE DNNL::dnnl)'
        echo 'install(TARGETS tiny DESTINATION lib)'
      } > CMakeLists.txt
      {
        echo '#include <dnnl.hpp>'
        echo '#include <string>'
        echo 'std::string version() { return std::to_string(dnnl_version()->major); }'
      } > t.cpp
      cmake -G Ninja $CMAKE_ARGS -B b . && ninja -C b install
  dynamic_linking:
    overlinking_behavior: error
    overdepending_behavior: error
requirements:
  build:
    - ${{ compiler('cxx') }}
    - ${{ stdlib('c') }}
    - cmake
    - ninja
    - x86_64-microarch-level ==3
  host:
    - onednn
  ignore_run_exports:
    from_package: IGNORED
tests:
  - script: [test -f $PREFIX/lib/libtiny.so]
"""
VARIANTS = """
cxx_compiler: [gxx]
c_stdlib: [sysroot]
c_stdlib_version: ["GLIBC"]
"""


def build_tiny(channel: Channel, folder: Path, ignored: str) -> Path:
    sysroot = next(one for one in channel.packages if one.name == "sysroot_linux-64")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.replace("IGNORED", ignored))
    variants = rattler_build.VariantConfig.from_yaml(VARIANTS.replace("GLIBC", sysroot.version))
    platform = rattler_build.PlatformConfig(target_platform="linux-64")
    rendered = rattler_build.Stage0Recipe.from_file(recipe).render(
        variants, rattler_build.RenderConfig(platform=platform)
    )
    result = rendered[0].run_build(
        tool_config=rattler_build.ToolConfiguration(test_strategy="native"),
        output_dir=folder / "out",
        channels=[channel.url],
    )
    return Path(result.packages[0])


def test_a_recipe_builds_with_overlinking_errors_on(channel: Channel, tmp_path: Path) -> None:
    package = build_tiny(channel, tmp_path, "[]")
    extract(package, tmp_path / "x")
    index = json.loads((tmp_path / "x/info/index.json").read_text())
    names = {row.split()[0]: row for row in index["depends"]}
    sysroot = next(one for one in channel.packages if one.name == "sysroot_linux-64")
    assert names["__glibc"] == f"__glibc >={sysroot.version},<3.0.a0"
    assert names["_x86_64-microarch-level"] == "_x86_64-microarch-level >=3"
    assert set(names) == {"__glibc", "_x86_64-microarch-level", "libgcc", "libstdcxx", "onednn"}


def test_a_forgotten_dependency_is_an_overlinking_error(channel: Channel, tmp_path: Path) -> None:
    with pytest.raises(rattler_build.RattlerBuildError, match=r"[Oo]verlinking.*libdnnl"):
        build_tiny(channel, tmp_path, "[onednn]")


def test_an_empty_cache_offline_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    from vllm_conda.errors import NetworkError

    started = time.monotonic()
    with pytest.raises(NetworkError) as failure:
        ensure("linux-64", reporter=Reporter(Mode.PLAIN, StringIO()), cache=tmp_path / "cache")
    assert failure.value.hint
    assert time.monotonic() - started < 60
    assert not list((tmp_path / "cache/channels").iterdir())
