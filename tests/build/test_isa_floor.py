"""No instruction above the floor outside its tier: in what is built, and in planted faults."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from vllm_conda.audit import built_for
from vllm_conda.audit import isa_x86_64 as isa
from vllm_conda.audit.code import TIER_PREFIX
from vllm_conda.audit.instructions import Allowed, allowed_features
from vllm_conda.errors import AuditFailure, ConfigError
from vllm_conda.targets import load_targets

ROOT = Path(__file__).parents[2]
TARGETS = load_targets(ROOT)
FAMILY = "x86_64"
V3, _ = allowed_features(FAMILY, 3, built_for.tiers_of(TARGETS, FAMILY, 3))

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("objcopy") is None,
    reason="needs g++ and objcopy on PATH",
)

# Functions that each need one extension; `asm` so that no optimiser chooses another encoding.
SOURCES = {
    "v3": "float v3(float a, float b, float c) { return a * b + c; }",
    "zmm": 'extern "C" void zmm() { asm volatile("vpxord %zmm0, %zmm0, %zmm0"); }',
    "mask": 'extern "C" void mask() { asm volatile("kmovw %eax, %k1"); }',
    "xmm16": 'extern "C" void xmm16() { asm volatile("vaddps %xmm16, %xmm1, %xmm2"); }',
    "bf16": 'extern "C" void bf16() { asm volatile("vdpbf16ps %zmm0, %zmm1, %zmm2"); }',
    "fp16": 'extern "C" void fp16() { asm volatile("vaddph %zmm0, %zmm1, %zmm2"); }',
    "vnni": 'extern "C" void vnni() { asm volatile("vpdpbusd %zmm0, %zmm1, %zmm2"); }',
    "avxvnni": 'extern "C" void avxvnni() { asm volatile("{vex} vpdpbusd %ymm0, %ymm1, %ymm2"); }',
    "tile": 'extern "C" void tile() { asm volatile("tdpbf16ps %tmm0, %tmm1, %tmm2"); }',
    "byte": 'extern "C" void byte() { asm volatile(".byte 0x06"); }',  # no 64-bit instruction
}


def library(folder: Path, common: list[str], tiers: dict[str, list[str]] | None = None) -> Path:
    """A shared library with these functions in common code and in tiers' sections."""
    folder.mkdir(exist_ok=True)
    objects = []
    for tier, names in {"": common, **(tiers or {})}.items():
        source = folder / f"code{tier}.cc"
        source.write_text("\n".join(SOURCES[name] for name in names))
        target = source.with_suffix(".o")
        subprocess.run(
            ["g++", "-c", "-O2", "-fPIC", "-march=x86-64-v3", source, "-o", target], check=True
        )
        if tier:
            rename = f".text={TIER_PREFIX}{tier}"
            subprocess.run(["objcopy", "--rename-section", rename, target], check=True)
        objects.append(target)
    path = folder / "lib.so"
    subprocess.run(["g++", "-shared", "-nostartfiles", *objects, "-o", path], check=True)
    return path


# The libraries of each package, as cmake/Install.cmake's components have them.
COMPONENTS = {"core": ("core", "ops"), "cpu": ("cpu", "cpu_torch")}


def built(component: str) -> list[Path]:
    """Libraries of one component in the build tree that the tests run on."""
    folder = os.environ.get("VLLM_KERNELS_LIBRARY_DIR")
    names = [f"libvllm_kernels_{name}.so" for name in COMPONENTS[component]]
    return [path for name in names if folder and (path := Path(folder) / name).is_file()]


needs_build = pytest.mark.skipif(
    not built("cpu"), reason="VLLM_KERNELS_LIBRARY_DIR names no build tree"
)


def tiers_of(path: Path) -> list[str]:
    """Names of the tiers whose sections the library holds."""
    with path.open("rb") as stream:
        names = [section.name for section in ELFFile(stream).iter_sections()]
    return [name.removeprefix(TIER_PREFIX) for name in names if name.startswith(TIER_PREFIX)]


def promised(libraries: list[Path]) -> tuple[int | None, Allowed]:
    """The level that libraries were built for, by their lowest tier, and what it allows them.

    A package without tiers is the same for every CPU.
    """
    tiers = {tier for path in libraries for tier in tiers_of(path)}
    levels = TARGETS.levels[FAMILY].items()
    number = next((int(n) for n, level in levels if level.tiers[0] in tiers), None)
    assert number or not tiers
    return number, allowed_features(FAMILY, number, built_for.tiers_of(TARGETS, FAMILY, number))[0]


def packages() -> list[Path]:
    folder = ROOT / "output" / "linux-64"
    return sorted((*folder.glob("vllm-core-*.conda"), *folder.glob("vllm-kernels-c*.conda")))


def assert_promise_is_kept(libraries: list[Path]) -> None:
    assert libraries
    level, allowed = promised(libraries)
    for path in libraries:
        leaks = isa.survey(path, allowed)
        said = "\n".join(str(leak) for leak in leaks[:20])
        assert not leaks, f"{path.name} (level {level}): instructions too new\n{said}"
        assert isa.tier_initialisers(path) == []


@needs_build
@pytest.mark.parametrize("component", COMPONENTS)
def test_build_tree(component: str) -> None:
    assert_promise_is_kept(built(component))


@pytest.mark.slow
@pytest.mark.skipif(not packages(), reason="output/ holds no package (./run build makes them)")
@pytest.mark.parametrize("package", packages(), ids=lambda path: path.name)
def test_package(tmp_path: Path, package: Path) -> None:
    """The finished, stripped and relinked libraries."""
    from rattler.package_streaming import extract

    extract(package, tmp_path)
    assert_promise_is_kept(sorted(tmp_path.glob("lib/vllm_kernels/*.so")))


@needs_build
def test_lowest_tier_has_its_section() -> None:
    libraries = built("cpu")
    level, allowed = promised(libraries)
    found = tiers_of(libraries[0])
    # A tier with tables only, no code of its own, has no section.
    assert set(found) <= {name.removeprefix(TIER_PREFIX) for name in allowed if name}
    assert TARGETS.level(FAMILY, level).tiers[0] in found


@needs_compiler
@needs_build
def test_leak_planted_into_the_built_library(tmp_path: Path) -> None:
    """One zmm instruction written over common code is found, also without symbols."""
    path = Path(shutil.copy(built("cpu")[0], tmp_path))
    subprocess.run(["strip", path], check=True)
    with path.open("rb") as stream:
        text = ELFFile(stream).get_section_by_name(".text")
        offset, address = text["sh_offset"], text["sh_addr"]
    with path.open("r+b") as stream:
        stream.seek(offset)
        stream.write(bytes.fromhex("62f17d48efc0"))  # vpxord %zmm0, %zmm0, %zmm0
    _, allowed = promised([path])
    leaks = isa.survey(path, allowed)
    assert [leak.address for leak in leaks if leak.features == ("AVX512F",)] == [address]


@needs_compiler
@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("zmm", "AVX512F"),
        ("mask", "AVX512F"),
        ("xmm16", "AVX512VL"),
        ("bf16", "AVX512_BF16"),
        ("fp16", "AVX512_FP16"),
        ("vnni", "AVX512_VNNI"),
        ("avxvnni", "AVX_VNNI"),
        ("tile", "AMX_BF16"),
    ],
)
@pytest.mark.parametrize("stripped", [False, True])
def test_leak_into_common_code(tmp_path: Path, name: str, feature: str, stripped: bool) -> None:
    path = library(tmp_path, ["v3", name])
    if stripped:
        subprocess.run(["strip", "--strip-all", path], check=True)
    leaks = isa.survey(path, V3)
    assert leaks
    assert all(feature in leak.features for leak in leaks)
    assert {leak.section for leak in leaks} == {".text"}
    assert leaks[0].function == name  # exported, so the dynamic symbols still name it


@needs_compiler
def test_bytes_that_are_no_instruction_are_refused(tmp_path: Path) -> None:
    leaks = isa.survey(library(tmp_path, ["byte"]), V3)
    assert leaks[0].features == ("INVALID",)
    assert str(leaks[0]).startswith(".text: ")


@needs_compiler
@pytest.mark.parametrize(
    ("tier", "names", "found"),
    [
        ("avx2", ["zmm"], {"zmm"}),
        ("avx512", ["zmm", "mask", "xmm16"], set()),
        ("avx512", ["zmm", "bf16"], {"bf16"}),
        ("avx512_bf16", ["zmm", "bf16", "vnni"], set()),
        ("avx512_bf16", ["tile"], {"tile"}),
        ("avx512_bf16", ["avxvnni"], {"avxvnni"}),
        ("amx", ["zmm", "bf16", "vnni", "fp16", "tile"], set()),
    ],
)
def test_tier_may_use_its_own_flags_only(
    tmp_path: Path, tier: str, names: list[str], found: set[str]
) -> None:
    path = library(tmp_path, ["v3"], {tier: names})
    assert tiers_of(path) == [tier]
    assert {leak.function for leak in isa.survey(path, V3)} == found


@needs_compiler
def test_library_without_tiers_may_use_level_1_only(tmp_path: Path) -> None:
    path = library(tmp_path, ["v3"])
    level, allowed = promised([path])
    assert level is None
    assert {"FMA"} == {feature for leak in isa.survey(path, allowed) for feature in leak.features}


@needs_compiler
def test_static_initialiser_in_a_tier_is_found(tmp_path: Path) -> None:
    source = tmp_path / "init.cc"
    source.write_text(
        '__attribute__((constructor, section(".tier.avx512"))) static void start() {}\n'
        "__attribute__((constructor)) static void common() {}\n"
    )
    path = tmp_path / "init.so"
    subprocess.run(["g++", "-shared", "-fPIC", source, "-o", path], check=True)
    subprocess.run(["strip", path], check=True)
    assert isa.tier_initialisers(path) == [".tier.avx512"]


def test_unknown_flag_is_an_error() -> None:
    with pytest.raises(ConfigError, match="Did you mean '-mavx512fp16'"):
        isa.flag_features(["-mavx512fp61"])


def test_not_a_library(tmp_path: Path) -> None:
    path = tmp_path / "lib.so"
    path.write_text("hello")
    with pytest.raises(AuditFailure, match="is not an ELF file"):
        isa.survey(path, V3)
