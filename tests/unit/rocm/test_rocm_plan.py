"""What a ROCm build compiles: request, compiler and family; and what is refused."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from vllm_conda.audit.rocm import bundled_targets, check_declared
from vllm_conda.recipe import load_recipe
from vllm_conda.targets import Targets, load_targets
from vllm_cuda_plan.errors import ConfigError
from vllm_cuda_plan.rocm import (
    Compiler,
    Rocm,
    arch_name,
    arch_version,
    choose_families,
    read_request,
)

ROOT = Path(__file__).resolve().parents[3]
CLANG = Compiler("19.1.7", ("gfx90a", "gfx942", "gfx1100", "gfx1201"), "/usr/bin/clang++-19")


@pytest.fixture(scope="module")
def targets() -> Targets:
    return load_targets(ROOT)


@pytest.fixture(scope="module")
def rocm(targets: Targets) -> Rocm:
    return targets.rocm


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("gfx90a", "gfx942", "gfx1100", "gfx1201")),
        ("all", ("gfx90a", "gfx942", "gfx1100", "gfx1201")),
        ("gfx1100;gfx90a", ("gfx90a", "gfx1100")),
        ("gfx942, gfx942", ("gfx942",)),
    ],
)
def test_request(rocm: Rocm, text: str, expected: tuple[str, ...]) -> None:
    assert read_request(rocm, CLANG, text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("gfx94", "Unknown gfx target 'gfx94'. Did you mean 'gfx942'"),
        ("gfx9O8", "Unknown gfx target 'gfx9O8'"),
        ("sm90", "Unknown gfx target 'sm90'"),
        ("gfx942:xnack+", "'gfx942:xnack+' names features"),
        ("gfx950", "clang 19.1.7 (/usr/bin/clang++-19) cannot compile for gfx950 (MI350, MI355); "
                   "clang 20 is the oldest that can"),
    ],
)  # fmt: skip
def test_refused_request(rocm: Rocm, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_request(rocm, CLANG, text)


def test_old_compiler_is_named(rocm: Rocm) -> None:
    old = Compiler("14.0.6", ("gfx90a",), "/usr/bin/clang++-14")
    sentence = "clang 14.0.6 (/usr/bin/clang++-14) is too old for HIP; clang 17 or newer is needed."
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_request(rocm, old, "gfx90a")


def test_families(targets: Targets) -> None:
    known = targets.cuda.families
    portable = [name for name, entry in known.items() if entry.rocm]
    assert choose_families(known, portable, ()) == tuple(portable)
    assert choose_families(known, portable, ("norm",)) == ("norm",)
    with pytest.raises(ConfigError, match=r"no family nrom\. Did you mean 'norm'"):
        choose_families(known, portable, ("nrom",))
    with pytest.raises(ConfigError, match="attention is made of NVIDIA's instructions"):
        choose_families(known, portable, ("attention",))


@pytest.mark.parametrize(
    ("name", "version"),
    [("gfx90a", "9.0.10"), ("gfx942", "9.4.2"), ("gfx1100", "11.0.0"), ("gfx1201", "12.0.1")],
)
def test_version_as_the_virtual_package_has_it(name: str, version: str) -> None:
    assert arch_version(name) == version


def bundle(*names: str, code: bytes = b"\x7fELF....") -> bytes:
    """A bundle of clang's offload bundler."""
    entries = [("host-x86_64-unknown-linux--", b""), *((name, code) for name in names)]
    start = 32 + sum(24 + len(name) for name, _ in entries)
    table, body = b"", b""
    for name, content in entries:
        table += struct.pack("<QQQ", start + len(body), len(content), len(name)) + name.encode()
        body += content
    return b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", len(entries)) + table + body


GFX942, GFX1201 = "hipv4-amdgcn-amd-amdhsa--gfx942", "hipv4-amdgcn-amd-amdhsa--gfx1201"


def test_targets_of_bundles() -> None:
    both = bundle(GFX942, GFX1201)
    padded = both + bytes(4096 - len(both)) + bundle(GFX942 + ":xnack-", GFX1201)
    assert bundled_targets(padded) == {"gfx942", "gfx1201"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bundle(GFX942) + bundle(GFX1201), "different targets: gfx1201; gfx942"),
        (bundle(GFX942, code=b"no code."), "is no ELF file"),
        (bundle(GFX942)[:-4], "reaches past its section"),
        (b"CCOB" + bytes(60), "compressed"),
        (bytes(64), "does not start with a bundle"),
    ],
)
def test_damaged_bundles(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        bundled_targets(data)


def test_undeclared_and_missing_targets_are_found() -> None:
    found = {"lib/a.so": frozenset({"gfx942", "gfx1201"}), "lib/b.so": frozenset({"gfx942"})}
    declared = frozenset({"gfx942", "gfx90a"})
    said = [one.message for one in check_declared(found, {"lib/a.so"}, declared)]
    assert said == [
        "code for gfx90a is declared and missing",
        "code for gfx1201 is not declared",
        "it holds AMD GPU code, and rocm.json does not name it",
    ]


def test_recipe_compiles_the_families_of_the_table(targets: Targets) -> None:
    """Their folders alone are sources, so that no other kernel's edit makes a new package."""
    recipe = load_recipe(ROOT)
    (staging,) = (one for one in recipe.stagings if one.name == "rocm-build")
    folder = ROOT / "csrc" / "cuda"
    listed = {path.name for path in staging.sources if path.parent == folder}
    wanted = {name for name, family in targets.cuda.families.items() if family.rocm}
    assert listed == {*wanted, "common"}


def test_targets_by_version_and_back() -> None:
    for name in ("gfx90a", "gfx942", "gfx1030", "gfx1100", "gfx1201"):
        assert arch_name(arch_version(name)) == name
    assert arch_version("gfx90a") == "9.0.10"
