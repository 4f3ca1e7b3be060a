"""One planted fault of each kind is found, and nothing else is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from planted import (
    NO_SHADOW_STACKS,
    SHADOW_STACKS,
    conda,
    findings,
    library,
    needs_compiler,
    only,
    wheel,
    words,
)
from support import ROOT

from vllm_conda.audit.finding import Severity
from vllm_conda.audit.promise import Overrides
from vllm_conda.audit.run import Request
from vllm_conda.audit.settings import Budget, Settings
from vllm_conda.packages import Package
from vllm_conda.targets import load_targets

pytestmark = needs_compiler

LIB = "lib/libplanted.so"
NONE = "int planted(void) { return 1; }"
MEMCPY = """
__asm__(".symver old, memcpy@GLIBC_2.14");
void *old(void *, const void *, unsigned long);
void *planted(void *a, const void *b) { return old(a, b, 3); }
"""
STRING = "#include <string>\nstd::string planted(int a) { return std::to_string(a) + 'x'; }"


def package(
    tmp_path: Path, source: str, *flags: str, depends: tuple[str, ...] = (), language: str = "c"
) -> Path:
    built = library(tmp_path / "planted.so", source, *flags, language=language)
    return conda(tmp_path, {LIB: built}, ("__glibc >=2.28", "libgcc >=12", *depends))


def test_a_good_package_is_clean(tmp_path: Path) -> None:
    assert findings(package(tmp_path, NONE)) == []


def test_newer_glibc(tmp_path: Path) -> None:
    built = library(tmp_path / "planted.so", MEMCPY)
    path = conda(tmp_path, {LIB: built}, ["__glibc >=2.12,<3.0.a0"])
    found = only(path, "glibc")
    assert found.severity is Severity.ERROR
    assert "memcpy@GLIBC_2.14" in found.message
    assert "GLIBC_2.12" in found.message
    assert findings(path, Request(overrides=Overrides(glibc=(2, 14)))) == []


def ours(tmp_path: Path, built: Path, *depends: str, subdir: str = "linux-64") -> Path:
    """One of our packages, less what this test is not about."""
    return conda(tmp_path, {LIB: built}, depends, name="vllm-core", subdir=subdir)


GLIBC_CHECKS = Request(checks=("glibc", "libstdcxx"))


def test_own_packages_are_held_to_the_table(tmp_path: Path) -> None:
    """Whatever sysroot they were built with: it is a fault of the toolchain to ask for more."""
    built = library(tmp_path / "planted.so", NONE)
    (found,) = findings(ours(tmp_path, built, "__glibc >=2.36,<3.0.a0"), GLIBC_CHECKS)
    assert found.severity is Severity.ERROR
    assert found.message == (
        "requires __glibc >=2.36,<3.0.a0, and targets.toml promises glibc 2.28"
    )
    assert findings(ours(tmp_path, built, "__glibc >=2.28,<3.0.a0"), GLIBC_CHECKS) == []
    # A foreign package may.
    assert findings(conda(tmp_path, {LIB: built}, ["__glibc >=2.36"]), GLIBC_CHECKS) == []


def test_a_symbol_newer_than_the_table_is_named_with_file_and_floor(tmp_path: Path) -> None:
    source = """
    __asm__(".symver now, pthread_create@GLIBC_2.34");
    int now(void); int planted(void) { return now(); }
    """
    built = library(tmp_path / "planted.so", source)
    (found,) = findings(ours(tmp_path, built, "__glibc >=2.28,<3.0.a0"), GLIBC_CHECKS)
    assert (found.severity, found.file) == (Severity.ERROR, LIB)
    assert "needs GLIBC_2.34 (pthread_create@GLIBC_2.34)" in found.message
    assert "GLIBC_2.28 (__glibc >=2.28,<3.0.a0)" in found.message


def test_a_symbol_that_was_linked_without_a_version(tmp_path: Path) -> None:
    """As when the link files lack it: the loader of an old node would not find it either."""
    source = """
    int gettid(void); extern int closefrom(int) __attribute__((weak)); int mine(void);
    int planted(void) { return gettid() + mine() + (closefrom ? closefrom(3) : 0); }
    """
    built = library(tmp_path / "planted.so", source, "-nostdlib")
    (found,) = findings(ours(tmp_path, built, "__glibc >=2.28,<3.0.a0"), GLIBC_CHECKS)
    assert found.message == (
        "needs gettid, which glibc has since 2.30, the package promises GLIBC_2.28 "
        "(__glibc >=2.28,<3.0.a0)"
    )
    foreign = conda(tmp_path, {LIB: built}, ["__glibc >=2.30"])
    assert findings(foreign, GLIBC_CHECKS) == []


def test_own_packages_are_held_to_the_tables_libstdcxx(tmp_path: Path) -> None:
    source = """
    __asm__(".symver now, _ZSt21ios_base_library_initv@GLIBCXX_3.4.32");
    extern "C" void now(); void planted() { now(); }
    """
    newer = """
    __asm__(".symver one, _ZSt21ios_base_library_initv@@GLIBCXX_3.4.32");
    void one(void) {}
    """
    flags = ("-nostdlib", "-Wl,-soname,libstdc++.so.6")
    versions = f"-Wl,--version-script={script(tmp_path)}"
    stub = library(tmp_path / "libstdc++.so.6", newer, *flags, versions)
    built = library(tmp_path / "planted.so", source, "-nostdlib", str(stub), language="c++")
    depends = ("__glibc >=2.28", "libstdcxx >=15", "libgcc >=15")
    (found,) = findings(ours(tmp_path, built, *depends), GLIBC_CHECKS)
    assert "needs GLIBCXX_3.4.32 (_ZSt21ios_base_library_initv" in found.message
    assert "GLIBCXX_3.4.30 (targets.toml)" in found.message
    assert findings(conda(tmp_path, {LIB: built}, depends), GLIBC_CHECKS) == []


def script(folder: Path) -> Path:
    path = folder / "versions.map"
    path.write_text("GLIBCXX_3.4.32 { global: *; };\n")
    return path


def test_wheel_with_newer_glibc(tmp_path: Path) -> None:
    built = library(tmp_path / "planted.so", MEMCPY)
    old = wheel(tmp_path, {"planted/a.so": built}, "cp311-cp311-manylinux2010_x86_64")
    assert "manylinux2010_x86_64" in only(old, "glibc").message
    new = wheel(tmp_path, {"planted/a.so": built}, "cp311-cp311-manylinux2014_x86_64")
    assert findings(new) == []


def test_no_glibc_floor_is_a_warning(tmp_path: Path) -> None:
    built = library(tmp_path / "planted.so", MEMCPY)
    found = only(conda(tmp_path, {LIB: built}), "glibc")
    assert found.severity is Severity.WARNING
    assert "depends on no __glibc" in found.message


def test_newer_libstdcxx(tmp_path: Path) -> None:
    good = package(tmp_path, STRING, depends=("libstdcxx >=12",), language="c++")
    assert findings(good) == []
    found = findings(package(tmp_path, STRING, depends=("libstdcxx-ng >=4.8",), language="c++"))
    assert {one.check for one in found} == {"libstdcxx"}
    assert any("GLIBCXX_3.4.20" in one.message for one in found)


TORCH = ("libtorch >=2.9",)


def test_unstable_torch_symbols(tmp_path: Path) -> None:
    source = "void _ZN2at6native5emptyEv(void); void planted(void) { _ZN2at6native5emptyEv(); }"
    found = only(package(tmp_path, source, depends=TORCH), "torch")
    assert "at::native::empty" in found.message


def test_torch_type_information_is_unstable(tmp_path: Path) -> None:
    source = "extern int _ZTIN3c105ErrorE; int *planted(void) { return &_ZTIN3c105ErrorE; }"
    assert "c10::Error" in only(package(tmp_path, source, depends=TORCH), "torch").message


def test_newer_torch_function(tmp_path: Path) -> None:
    source = (
        "int torch_dtype_float8_e8m0fnu(void); int f(void) { return torch_dtype_float8_e8m0fnu(); }"
    )
    found = only(package(tmp_path, source, depends=TORCH), "torch")
    assert "needs PyTorch 2.11 (torch_dtype_float8_e8m0fnu)" in found.message
    assert findings(package(tmp_path, source, depends=("pytorch >=2.11",))) == []
    assert only(package(tmp_path, source), "torch").severity is Severity.WARNING


def test_unknown_torch_function(tmp_path: Path) -> None:
    source = "int aoti_torch_get_dimm(void); int f(void) { return aoti_torch_get_dimm(); }"
    found = only(package(tmp_path, source, depends=TORCH), "torch")
    assert "Did you mean 'aoti_torch_get_dim'" in found.message


PYTHON = ("python >=3.10",)


def test_python_symbol_outside_abi3(tmp_path: Path) -> None:
    source = "void _PyLong_AsByteArray(void); void f(void) { _PyLong_AsByteArray(); }"
    assert "outside abi3" in only(package(tmp_path, source, depends=PYTHON), "python").message
    assert findings(package(tmp_path, source, depends=("python >=3.11,<3.12", "python_abi"))) == []


def test_python_symbol_newer_than_promised(tmp_path: Path) -> None:
    source = "void PyObject_Vectorcall(void); void f(void) { PyObject_Vectorcall(); }"
    found = only(package(tmp_path, source, depends=PYTHON), "python")
    assert "needs Python 3.12 (PyObject_Vectorcall)" in found.message
    assert findings(package(tmp_path, source, depends=("python >=3.12",))) == []


def test_abi3_wheel(tmp_path: Path) -> None:
    built = library(tmp_path / "odd.so", "void _Py_Odd(void); void f(void) { _Py_Odd(); }")
    odd = wheel(tmp_path, {"planted/a.abi3.so": built}, "cp310-abi3-manylinux_2_28_x86_64")
    assert "1 Python symbols outside abi3: _Py_Odd" in only(odd, "python").message
    source = "void PyList_New(void); void f(void) { PyList_New(); }"
    built = library(tmp_path / "planted.so", source)
    path = wheel(tmp_path, {"planted/a.abi3.so": built}, "cp310-abi3-manylinux_2_28_x86_64")
    assert findings(path) == []
    bound = "planted/a.cpython-311-x86_64-linux-gnu.so"
    path = wheel(tmp_path, {bound: built}, "cp310-abi3-manylinux_2_28_x86_64")
    assert "Python 3.11 alone" in only(path, "python").message


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        ("/opt/lib", "is absolute"),
        ("lib", "does not begin with $ORIGIN"),
        ("$ORIGIN/../..", "leaves the prefix"),
        ("$ORIGIN:", "empty RPATH entry"),
        ("$ORIGINAL", "does not begin with $ORIGIN"),
    ],
)
@pytest.mark.parametrize("tags", ["--enable-new-dtags", "--disable-new-dtags"])
def test_rpath(tmp_path: Path, entry: str, part: str, tags: str) -> None:
    found = only(package(tmp_path, NONE, f"-Wl,-rpath,{entry}", f"-Wl,{tags}"), "rpath")
    assert part in found.message


def test_rpath_inside_the_prefix(tmp_path: Path) -> None:
    built = library(tmp_path / "planted.so", NONE, "-Wl,-rpath,$ORIGIN/../../../..:${ORIGIN}")
    path = conda(tmp_path, {"site-packages/a/b.so": built}, ["__glibc >=2.36"], noarch="python")
    assert findings(path) == []  # lib/python3.N/site-packages/a


ROOT_HOME = "/root"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("/home/marvin/vllm/norm.cc", "/home/marvin/vllm/norm.cc"),
        (f"in {ROOT_HOME}/build/x", f"{ROOT_HOME}/build/x"),
        ("/data/ci/vllm/csrc/norm.h:12", "/data/ci/vllm/csrc/norm.h"),
        ("/opt/conda-bld/vllm_17/work", "/opt/conda-bld/vllm_17/work"),
    ],
)
def test_paths_in_a_library(tmp_path: Path, text: str, part: str) -> None:
    found = only(package(tmp_path, f'const char *planted(void) {{ return "{text}"; }}'), "paths")
    assert part in found.message


@pytest.mark.parametrize(
    "text",
    [
        "../csrc/norm.cc",
        "csrc/cpu/norm.cc",
        "/usr/include/c++/12/vector.h",
        "https://a.org/b/c.h",
        "/home/user/x",
        "/lib/a/b.so",
        "/data",
        "/usr/local/include/torch/x.h",
    ],
)
def test_innocent_paths(tmp_path: Path, text: str) -> None:
    assert findings(package(tmp_path, f'const char *f(void) {{ return "{text}"; }}')) == []


def test_names_of_the_machine_in_a_text_file(tmp_path: Path) -> None:
    request = Request(secrets=(("host name", "login07"), ("user name", "mmustermann")))
    path = conda(tmp_path, {"share/a.txt": b"made on login07.example.org\n"})
    assert only(path, "paths", request).message == "holds a host name: login07"
    path = conda(tmp_path, {"share/a.txt": b"login071 xlogin07 mmustermann2\n"})
    assert findings(path, request) == []


def test_placeholder_of_the_prefix_is_right(tmp_path: Path) -> None:
    prefix = "/home/marvin/conda-bld/x/_h_env_placehold_placehold"
    files = {"bin/a": f"#!{prefix}/bin/python\n".encode()}
    assert only(conda(tmp_path, files), "paths")
    entry = f'{{"_path": "bin/a", "prefix_placeholder": "{prefix}"}}'
    files["info/paths.json"] = f'{{"paths": [{entry}], "paths_version": 1}}'.encode()
    assert findings(conda(tmp_path, files)) == []


ZMM = '__asm__(".text\\nvpxord %zmm0, %zmm0, %zmm0\\n");'


def test_instruction_above_the_level(tmp_path: Path) -> None:
    level = ("_x86_64-microarch-level >=3",)
    found = only(package(tmp_path, ZMM, depends=level), "instructions")
    assert found.severity is Severity.ERROR
    assert "1 instructions need AVX512F, first vpxord" in found.message
    assert "promised is x86-64-v3" in found.message
    assert findings(package(tmp_path, ZMM, depends=("_x86_64-microarch-level >=4",))) == []


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted package is one of the recipe's."""
    monkeypatch.setattr("vllm_conda.packages.table", lambda: {"planted": Package()})


def test_instruction_without_a_level_is_a_warning_in_foreign_packages(tmp_path: Path) -> None:
    path = package(tmp_path, ZMM)
    assert only(path, "instructions").severity is Severity.WARNING
    assert findings(path, Request(overrides=Overrides(level=4))) == []


@pytest.mark.usefixtures("own")
def test_instruction_without_a_level_is_an_error_in_own_packages(tmp_path: Path) -> None:
    assert only(package(tmp_path, ZMM), "instructions").severity is Severity.ERROR


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("machine", "subdir", "level", "good", "bad", "part"),
    [
        ("aarch64", "linux-aarch64", "", 0x4E20CC00, 0x4E80A420, "I8MM, first smmla"),
        ("aarch64", "linux-aarch64", "", 0x8B020020, 0x2518E3E0, "SVE, first ptrue"),
        ("ppc64le", "linux-ppc64le", "9", 0xF4430011, 0xEC0320D0, "POWER10"),
        ("ppc64le", "linux-ppc64le", "8", 0x7C642A14, 0xF4430011, "POWER9"),
    ],
)
def test_instruction_of_another_machine(
    tmp_path: Path, machine: str, subdir: str, level: str, good: int, bad: int, part: str
) -> None:
    depends = [f"_{machine}-microarch-level >={level}"] if level else []
    path = conda(
        tmp_path, {LIB: words(tmp_path / "a.so", machine, [good] * 3)}, depends, subdir=subdir
    )
    assert findings(path) == []
    built = words(tmp_path / "a.so", machine, [good, good, bad])
    found = only(conda(tmp_path, {LIB: built}, depends, subdir=subdir), "instructions")
    assert part in found.message


def test_library_of_the_build_host(tmp_path: Path) -> None:
    built = library(tmp_path / "planted.so", NONE)
    found = only(conda(tmp_path, {LIB: built}, ["__glibc >=2.36"], subdir="linux-aarch64"),
                 "machine")  # fmt: skip
    assert found.message == "is for X86_64, the package for aarch64"


def test_needed_library_that_nobody_brings(tmp_path: Path) -> None:
    stub = library(tmp_path / "stub" / "libdnnl.so.3", NONE, "-Wl,-soname,libdnnl.so.3")
    flags = ("-Wl,--no-as-needed", str(stub))
    found = only(package(tmp_path, NONE, *flags), "needed")
    assert "libdnnl.so.3" in found.message
    assert found.hint.startswith("add onednn")
    assert findings(package(tmp_path, NONE, *flags, depends=("onednn >=3.2",))) == []
    user = library(tmp_path / "planted.so", NONE, *flags)
    both = conda(tmp_path, {LIB: user, "lib/libdnnl.so.3": stub}, ["__glibc >=2.36"])
    assert findings(both) == []


@pytest.mark.parametrize(
    ("flag", "part"),
    [
        ("-Wl,-z,execstack", "executable stack"),
        ("-Wl,-z,norelro", "without RELRO"),
        ("-Wl,-z,lazy", "without BIND_NOW"),
    ],
)
def test_hardening_is_a_warning(tmp_path: Path, flag: str, part: str) -> None:
    found = only(package(tmp_path, NONE, flag), "hardening")
    assert found.severity is Severity.WARNING
    assert part in found.message


@pytest.mark.skipif(not SHADOW_STACKS, reason="shadow stacks are x86-64's: no compiler for it here")
@pytest.mark.usefixtures("own")
def test_own_library_without_shadow_stacks_is_a_warning(tmp_path: Path) -> None:
    found = only(package(tmp_path, NONE, NO_SHADOW_STACKS), "hardening")
    assert found.severity is Severity.WARNING
    assert "not marked for shadow stacks" in found.message


def test_debug_information(tmp_path: Path) -> None:
    path = tmp_path / "planted.so"
    command = ["gcc", "-g", "-shared", "-fPIC", "-x", "c", "-", "-o", str(path)]
    subprocess.run(command, input=NONE, text=True, check=True)
    depends = ["__glibc >=2.36"]
    found = findings(conda(tmp_path, {LIB: path}, depends), Request(("debug",)))
    assert [(one.severity, one.message) for one in found] == [
        (Severity.ERROR, "holds debug information")
    ]
    if shutil.which("strip"):
        subprocess.run(["strip", "--strip-debug", path], check=True)
        found = findings(conda(tmp_path, {LIB: path}, depends), Request(("debug",)))
        assert [one.severity for one in found] == [Severity.WARNING]


def test_size_over_budget(tmp_path: Path) -> None:
    path = conda(tmp_path, {"share/a.txt": b"x" * 2_000_000})
    small = Request(settings=Settings({"planted": Budget(1, 1.5)}))
    assert only(path, "size", small).message == "installed size is 1.91 MiB, the budget 1.5 MiB"
    assert findings(path, Request(settings=Settings({"planted": Budget(1, 2)}))) == []
    assert findings(path) == []  # no budget


@pytest.mark.usefixtures("own")
def test_own_package_without_a_budget(tmp_path: Path) -> None:
    path = conda(tmp_path, {"share/a.txt": b"x"})
    found = only(path, "size", Request(targets=load_targets(ROOT)))
    assert found.message == "0.00 MiB, 0.00 MiB installed, without a budget"
    assert findings(path) == []  # outside a checkout there are no budgets


def test_budget_of_a_build_goes_before_the_packages(tmp_path: Path) -> None:
    path = conda(tmp_path, {"share/a.txt": b"x" * 2_000_000})
    for pattern, found in (("planted-*", 1), ("planted-*_other", 0)):
        budgets = {"planted": Budget(1, 2), pattern: Budget(1, 1)}
        assert len(findings(path, Request(settings=Settings(budgets)))) == found, pattern


def test_licence_missing(tmp_path: Path) -> None:
    files = {"share/a.txt": b"a", "info/licenses/LICENSE": b""}
    assert only(conda(tmp_path, files), "licence").message == "holds no licence file"
    named = conda(tmp_path, {"share/a.txt": b"a"}, license="")
    assert only(named, "licence").severity is Severity.WARNING
    assert findings(conda(tmp_path, {"info/licenses/LICENSE": b""})) == []  # a metapackage
