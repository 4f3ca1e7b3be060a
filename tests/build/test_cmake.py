"""The build's options: each is truly ON, OFF or AUTO, and a conflict names both options."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from configuring import NEEDS_CMAKE, make_prefix, message_of

from vllm_conda.generate.build import tiers_cmake
from vllm_conda.targets import load_targets

ROOT = Path(__file__).parents[2]
ALL_TIERS = ["avx2", "avx512", "avx512_bf16", "amx"]

pytestmark = NEEDS_CMAKE


@pytest.fixture
def externals(tmp_path: Path) -> Path:
    """A prefix with just enough of Highway, oneDNN and PyTorch to configure against."""
    prefix = tmp_path / "prefix"
    files = {
        "include/hwy/highway.h": "",
        "include/hwy/base.h": "#define HWY_MAJOR 1\n#define HWY_MINOR 2\n",
        "include/oneapi/dnnl/dnnl.hpp": "",
        "lib/libdnnl.so": "",
    }
    return make_prefix(prefix, files)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A copy of what the CPU build reads."""
    copy = tmp_path / "sources"
    for name in ("cmake", "csrc/core", "csrc/cpu", "csrc/torch"):
        shutil.copytree(ROOT / name, copy / name)
    for name in ("CMakeLists.txt", "targets.toml"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def configure(
    tmp_path: Path,
    externals: Path,
    *definitions: str,
    source: Path = ROOT,
    **environment: str,
) -> subprocess.CompletedProcess[str]:
    command = ["cmake", "-S", source, "-B", tmp_path / "build", "-G", "Ninja"]
    command += [f"-DCMAKE_PREFIX_PATH={externals}", *[f"-D{text}" for text in definitions]]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def tiers_of(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stderr
    match = re.search(r"tiers: (\S+)", result.stdout)
    assert match, result.stdout
    return match[1].split(";")


@pytest.mark.parametrize(
    ("definitions", "expected"),
    [
        ([], ALL_TIERS),
        (["VLLM_CPU_LEVEL=4"], ALL_TIERS[1:]),
        (["VLLM_CPU_AMXBF16=OFF"], ALL_TIERS[:3]),
        (["VLLM_CPU_AMXBF16=ON"], ALL_TIERS),
        (["VLLM_CPU_AVX512BF16=OFF"], ALL_TIERS[:2]),
        (["VLLM_CPU_DISABLE_AVX512=true"], ALL_TIERS[:1]),
        (["VLLM_CPU_DISABLE_AVX512=0"], ALL_TIERS),
    ],
)
def test_tier_options(
    tmp_path: Path, externals: Path, definitions: list[str], expected: list[str]
) -> None:
    assert tiers_of(configure(tmp_path, externals, *definitions)) == expected


def test_option_from_the_environment(tmp_path: Path, externals: Path) -> None:
    result = configure(tmp_path, externals, VLLM_CPU_DISABLE_AVX512="1")
    assert tiers_of(result) == ["avx2"]


def test_the_environment_counts_at_each_configure(tmp_path: Path, externals: Path) -> None:
    assert tiers_of(configure(tmp_path, externals)) == ALL_TIERS
    off = configure(tmp_path, externals, VLLM_CPU_DISABLE_AVX512="1")
    assert tiers_of(off) == ["avx2"]
    assert 'VLLM_CPU_DISABLE_AVX512=ON, where it was "OFF"' in off.stdout
    given = configure(
        tmp_path, externals, "VLLM_CPU_DISABLE_AVX512=OFF", VLLM_CPU_DISABLE_AVX512="1"
    )
    assert tiers_of(given) == ALL_TIERS
    bogus = configure(tmp_path, externals, VLLM_CPU_DISABLE_AVX512="maybe")
    assert "VLLM_CPU_DISABLE_AVX512=maybe is not one of: ON, OFF, AUTO" in message_of(bogus)
    assert tiers_of(configure(tmp_path, externals)) == ALL_TIERS


@pytest.mark.parametrize("value", ["OFF", "AUTO"])
def test_vnni_is_really_left_out(tmp_path: Path, externals: Path, value: str) -> None:
    assert tiers_of(
        configure(tmp_path, externals, f"VLLM_CPU_AVX512VNNI={value}", "VLLM_CPU_AMXBF16=OFF")
    )
    rules = (tmp_path / "build" / "build.ninja").read_text()
    assert ("-mavx512vnni" in rules) == (value == "AUTO")


@pytest.mark.parametrize(
    ("definitions", "sentence"),
    [
        (
            ["VLLM_CPU_DISABLE_AVX512=ON", "VLLM_CPU_AMXBF16=ON"],
            "VLLM_CPU_AMXBF16=ON conflicts with VLLM_CPU_DISABLE_AVX512=ON",
        ),
        (
            ["VLLM_CPU_AVX512BF16=OFF", "VLLM_CPU_AMXBF16=ON"],
            "VLLM_CPU_AMXBF16=ON conflicts with VLLM_CPU_AVX512BF16=OFF: the amx tier uses both",
        ),
        (
            ["VLLM_CPU_AVX512VNNI=OFF", "VLLM_CPU_AMXBF16=ON"],
            "VLLM_CPU_AMXBF16=ON conflicts with VLLM_CPU_AVX512VNNI=OFF: the amx tier uses both",
        ),
        (
            ["VLLM_CPU_DISABLE_AVX512=ON", "VLLM_CPU_AVX512VNNI=ON"],
            "VLLM_CPU_AVX512VNNI=ON conflicts with VLLM_CPU_DISABLE_AVX512=ON",
        ),
        (["VLLM_TARGET_DEVICE=tpu"], "VLLM_TARGET_DEVICE=tpu is not one of: cpu, cuda, rocm"),
        (["VLLM_CPU_LEVEL=2"], "VLLM_CPU_LEVEL=2 is not a level of x86_64"),
        (["MAX_JOBS=many"], "MAX_JOBS=many is not a positive number"),
        (["VLLM_INSTALL_LAYOUT=conda"], "needs VLLM_PYTHON_SITE"),
    ],
)
def test_bad_option(tmp_path: Path, externals: Path, definitions: list[str], sentence: str) -> None:
    result = configure(tmp_path, externals, *definitions)
    assert result.returncode != 0
    assert sentence in message_of(result)


def test_disabling_avx512_keeps_other_tiers(tmp_path: Path, externals: Path, sources: Path) -> None:
    table = sources / "cmake/generated/tiers.cmake"
    text = table.read_text().replace("x86_64_3 avx2 avx512 ", "x86_64_3 avx2 avx_vnni avx512 ")
    text += "set(VLLM_TIER_FLAGS_avx_vnni -march=x86-64-v3 -mavxvnni)\n"
    table.write_text(text + "set(VLLM_TIER_NEEDS_avx_vnni avx2 avx_vnni)\n")
    result = configure(tmp_path, externals, "VLLM_CPU_DISABLE_AVX512=ON", source=sources)
    assert tiers_of(result) == ["avx2", "avx_vnni"]


@pytest.mark.parametrize("missing", ["rope.h", "rope_tier.cc", "binding.cc"])
def test_cpu_family_without_a_part(
    tmp_path: Path, externals: Path, sources: Path, missing: str
) -> None:
    (sources / "csrc/cpu/rope" / missing).unlink()
    result = configure(tmp_path, externals, source=sources)
    assert result.returncode != 0
    assert "targets.toml has the CPU family rope, but csrc/cpu/rope/" in message_of(result)


def test_cpu_folder_that_is_no_family(tmp_path: Path, externals: Path, sources: Path) -> None:
    shutil.copytree(sources / "csrc/cpu/rope", sources / "csrc/cpu/softmax")
    result = configure(tmp_path, externals, source=sources)
    assert result.returncode != 0
    assert "csrc/cpu/softmax is no CPU family of targets.toml" in message_of(result)
    assert "add softmax to [families] and run `vllm-conda generate`" in message_of(result)


def test_added_cpu_family_is_in_every_tier(tmp_path: Path, externals: Path, sources: Path) -> None:
    folder = sources / "csrc/cpu/softmax"
    folder.mkdir()
    for name in ("softmax.h", "softmax.cc", "softmax_tier.cc", "binding.cc"):
        (folder / name).touch()
    targets = load_targets(ROOT)
    table = tiers_cmake(replace(targets, families={**targets.families, "softmax": ""}))
    (sources / "cmake/generated/tiers.cmake").write_text(table)
    assert tiers_of(configure(tmp_path, externals, source=sources)) == ALL_TIERS
    rules = (tmp_path / "build/build.ninja").read_text()
    for tier in ALL_TIERS:
        built = f"vllm_tier_{tier}.dir/softmax/softmax_tier.cc.o" in rules
        assert built == (not targets.tiers["x86_64"][tier].only)


def test_switch_that_is_no_option(tmp_path: Path, externals: Path, sources: Path) -> None:
    table = sources / "cmake/generated/tiers.cmake"
    table.write_text(table.read_text() + "set(VLLM_TIER_SWITCH_avx2 VLLM_CPU_AVX2)\n")
    result = configure(tmp_path, externals, source=sources)
    assert result.returncode != 0
    assert "VLLM_CPU_AVX2 switch tier avx2, which is no option" in message_of(result)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("include/hwy/highway.h", "install libhwy (conda)"),
        ("include/torch/csrc/stable/library.h", "PyTorch 2.11 or newer is missing"),
    ],
)
def test_missing_library(tmp_path: Path, externals: Path, missing: str, sentence: str) -> None:
    (externals / missing).unlink()
    result = configure(tmp_path, externals, "CMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF")
    assert result.returncode != 0
    assert sentence in message_of(result)


def test_torch_too_old(tmp_path: Path, externals: Path) -> None:
    version = externals / "include/torch/headeronly/version.h"
    version.write_text(version.read_text().replace("11", "9"))
    result = configure(tmp_path, externals)
    assert result.returncode != 0
    assert "PyTorch 2.9 is too old" in message_of(result)


def test_compiler_too_old(tmp_path: Path, externals: Path) -> None:
    """A real compiler that says it is GCC 9."""
    compiler = tmp_path / "g++-9"
    compiler.write_text('#!/bin/sh\nexec g++ -U__GNUC__ -D__GNUC__=9 "$@"\n')
    compiler.chmod(0o755)
    result = configure(tmp_path, externals, f"CMAKE_CXX_COMPILER={compiler}")
    assert result.returncode != 0
    assert re.search(r"compiler GNU 9\S* is too old; 11 or newer", message_of(result))


def test_python_that_does_not_run(tmp_path: Path, externals: Path) -> None:
    result = configure(tmp_path, externals, "VLLM_PYTHON_EXECUTABLE=/nonexistent/python")
    assert result.returncode != 0
    assert "does not run" in message_of(result)


def test_jobs_are_bounded_by_max_jobs(tmp_path: Path, externals: Path) -> None:
    result = configure(
        tmp_path, externals, f"VLLM_PYTHON_EXECUTABLE={sys.executable}", MAX_JOBS="7"
    )
    assert "7 compile jobs (MAX_JOBS)" in result.stdout


def test_device_empty_needs_no_library(tmp_path: Path, externals: Path) -> None:
    shutil.rmtree(externals)
    externals.mkdir()
    assert configure(tmp_path, externals, "VLLM_TARGET_DEVICE=empty").returncode == 0
