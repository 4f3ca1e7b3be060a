"""Symbols that nothing defines: the loader would refuse the library."""

from __future__ import annotations

import json
from pathlib import Path

from planted import conda, library, needs_compiler

from vllm_conda.audit.finding import Finding
from vllm_conda.audit.run import Request, audit

pytestmark = needs_compiler

FOLDER = "lib/vllm_flashinfer"
HEADER = """
namespace flashinfer {{
template <int DIM> {weak} int dispatched(int x);
{more}
}}
extern "C" {weak} int TVMFFIErrorSetRaised(int);
extern "C" {weak} int planned(int);
"""
# Reads what it calls by its address: a weak one that is not there is null.
CALLS = 'extern "C" int run(int x) { return flashinfer::dispatched<512>(x); }'
DEFINES = "template <> int dispatched<512>(int x) { return x; }"


def source(calls: str, more: str = "", weak: str = "") -> str:
    return HEADER.format(weak=weak, more=more) + calls


def said(paths: list[Path]) -> list[Finding]:
    found = audit(paths, Request(checks=("symbols",)))
    return [finding for package in found.packages for finding in package.findings]


def package(
    folder: Path, sources: dict[str, str], name: str, depends: tuple[str, ...] = ()
) -> Path:
    files: dict[str, bytes | Path] = {
        file: library(folder / file, text, language="c++") for file, text in sources.items()
    }
    if name == "vllm-flashinfer":
        summary = {"flashinfer": "1", "cuda": "13.0", "archs": ["9.0a"], "modules": ["a"]}
        files[f"{FOLDER}/modules.json"] = json.dumps(summary).encode()
    return conda(folder, files, depends, name)


def modules(folder: Path, sources: dict[str, str], *depends: str) -> Path:
    named = {f"{FOLDER}/{one}/{one}.so": text for one, text in sources.items()}
    return package(folder, named, "vllm-flashinfer", depends)


def test_a_head_size_that_was_never_compiled(tmp_path: Path) -> None:
    """The fault of attention's modules: 512 was referred to and not among the sources."""
    (found,) = said([modules(tmp_path, {"a": source(CALLS)})])
    assert (found.check, found.file) == ("symbols", f"{FOLDER}/a/a.so")
    assert found.message == (
        "needs a symbol that neither it nor a dependency defines: flashinfer::dispatched"
    )
    assert said([modules(tmp_path, {"a": source(CALLS, DEFINES)})]) == []
    assert said([modules(tmp_path, {"a": source(CALLS, weak="__attribute__((weak))")})]) == []


def test_a_module_is_loaded_alone(tmp_path: Path) -> None:
    both = {"a": source(CALLS), "b": source("", DEFINES)}
    (found,) = said([modules(tmp_path, both)])
    assert found.file == f"{FOLDER}/a/a.so"


def test_functions_of_the_process_that_loads_it(tmp_path: Path) -> None:
    calls = 'extern "C" int run(int x) { return TVMFFIErrorSetRaised(x); }'
    assert said([modules(tmp_path, {"a": source(calls)}, "apache-tvm-ffi >=0.1")]) == []
    assert len(said([modules(tmp_path, {"a": source(calls)})])) == 1
    calls = calls.replace("TVMFFIErrorSetRaised", "planned")
    (found,) = said([modules(tmp_path, {"a": source(calls)}, "apache-tvm-ffi >=0.1")])
    assert found.message.endswith(" defines: planned")


def test_names_of_any_length_make_a_short_message(tmp_path: Path) -> None:
    wide = ", ".join(["unsigned long long"] * 60)
    more = f"template <class... T> int wide(T...); using Wide = int ({wide});"
    calls = 'extern "C" void* run() { return (void*)(flashinfer::Wide*)flashinfer::wide; }'
    calls += "\nint " + "n" * 400 + '(int);\nextern "C" int more(int x) { return ' + "n" * 400
    (found,) = said([modules(tmp_path, {"a": source(calls + "(x); }", more)})])
    assert "needs 2 symbols" in found.message
    assert "flashinfer::wide" in found.message
    assert len(found.message) <= 300


def test_other_packages_of_ours(tmp_path: Path) -> None:
    """Their libraries find each other, and those of the packages that they depend on."""
    core, cuda = "lib/vllm_kernels/libcore.so", "lib/vllm_kernels/libcuda_norm.so"
    uses, defines = source(CALLS), source("", DEFINES)
    name = "vllm-kernels-cuda"
    (found,) = said([package(tmp_path, {cuda: uses}, name)])
    assert found.file == cuda
    assert said([package(tmp_path, {cuda: uses, core: defines}, name)]) == []
    other = package(tmp_path, {core: defines}, "vllm-core")
    assert len(said([package(tmp_path, {cuda: uses}, name), other])) == 1
    assert said([package(tmp_path, {cuda: uses}, name, ("vllm-core ==1",)), other]) == []


def test_of_the_standard_library(tmp_path: Path) -> None:
    """PyTorch's libc10 has some of it without a version; the names of others only look alike."""
    name, file = "vllm-kernels-cuda", "lib/vllm_kernels/libcuda_norm.so"
    calls = """
    namespace std {
    inline namespace __cxx11 { struct planted { int text() const &; virtual ~planted(); }; }
    int planted_too(int);
    }
    int run(int x) { std::planted one; return one.text() + std::planted_too(x); }
    """
    assert len(said([package(tmp_path, {file: calls}, name)])) == 1
    assert said([package(tmp_path, {file: calls}, name, ("libstdcxx >=12",))]) == []
    calls = "struct Stage { int text() const; }; int run(const Stage& one) { return one.text(); }"
    (found,) = said([package(tmp_path, {file: calls}, name, ("libstdcxx >=12",))])
    assert found.message.endswith(" defines: Stage::text")


def test_packages_of_others_are_theirs(tmp_path: Path) -> None:
    assert said([package(tmp_path, {"lib/libother.so": source(CALLS)}, "other")]) == []
