"""Malformed target files: one sentence each, which names file, table and key, and no traceback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from vllm_conda import __version__
from vllm_conda.cli import main
from vllm_conda.errors import ConfigError

TEXT = (ROOT / "targets.toml").read_text()
VERSION = f'version = "{__version__}"'

# Name: (what stands in the file, what is written instead, what the sentence must say).
FAULTS: dict[str, tuple[str, str, list[str]]] = {
    # unknown keys, in every kind of table
    "root key": ("schema = 1", "schema = 1\nschma = 2", ["'schma'", "'schema'?"]),
    "root table": ("[project]", "[projects]", ["'projects'", "'project'?"]),
    "project key": ("python_min =", "python_mn =", ["[project]", "'python_min'?"]),
    "platform key": ("levels = [3, 4]", "level = [3, 4]", ["[platforms.linux-64]", "'levels'?"]),
    "variant key": ("c_stdlib =", "c_stdlb =", [".variant]", "'c_stdlib'?"]),
    "level key": ('tiers = ["avx2"', 'tires = ["avx2"', ["[levels.x86_64.3]", "'tiers'?"]),
    "tier key": ('needs = ["avx2"', 'need = ["avx2"', ["[tiers.x86_64.avx2]", "'needs'?"]),
    "cuda key": ('minimum = "12.4"', 'minimun = "12.4"', ["[cuda]", "'minimum'?"]),
    "arch key": ('gpus = "V100"', 'gpu = "V100"', ["[cuda.archs.7.0]", "'gpus'?"]),
    "toolkit key": ("gcc = [9, 13]", "gc = [9, 13]", ["[cuda.toolkits.12.4]", "'gcc'?"]),
    "slice key": ('below = "8.7"', 'bellow = "8.7"', ["[cuda.slices.sm80]", "'below'?"]),
    "feedstock key": ('image = "alma10"', 'imag = "alma10"', ["[feedstock]", "'image'?"]),
    "device key": ("minutes = 120", "minuts = 120", ["[feedstock.devices.cpu]", "'minutes'?"]),
    "runner key": ("cores = 4", "core = 4", ["[feedstock.runners.ubuntu-24.04]", "'cores'?"]),
    # missing keys and tables
    "no schema": ("schema = 1\n", "", ["[schema]", "missing"]),
    "no version": (VERSION, "", ["[project.version]", "missing"]),
    "no such version": (VERSION, 'version = "x.1"', ["[project]: version", "'x.1' is no version"]),
    "no such release": ('release = "', 'release = "v', ["[engine]: release", "is no version"]),
    "no family": ('family = "x86_64"', "", ["[platforms.linux-64.family]", "missing"]),
    "no machines": ('machines = ["x86_64", "amd64", "x86-64"]', "", [".machines]", "missing"]),
    "no name of a level": (
        'archspec = "x86_64", ',
        "",
        ["[platforms.linux-64.cpu_levels", "missing"],
    ),
    "no driver": ('driver = "580.65.06"\ngcc = [9, 15]', "gcc = [9, 15]", [".driver]", "missing"]),
    "no image": ('image = "alma10"', "", ["[feedstock.image]", "missing"]),
    "no device": ("[feedstock.devices.cuda]", "[feedstock.devices.gpu]", ["cuda is missing"]),
    # wrong types
    "schema text": ("schema = 1", 'schema = "1"', ["[schema]", "expected int", "'1'"]),
    "version number": (VERSION, "version = 26", ["[project.version]", "int 26"]),
    "levels text": ("levels = [3, 4]", 'levels = ["3"]', [".levels]", "expected int", "'3'"]),
    "levels number": ("levels = [3, 4]", "levels = 3", [".levels]", "expected an array"]),
    "flags text": (
        'flags = ["-march=x86-64-v3"]',
        'flags = "-march=x86-64-v3"',
        ["[tiers.x86_64.avx2.flags]", "expected an array"],
    ),
    "table as value": ("[platforms.linux-64.variant]", "[platforms.linux-64.other]", ["'other'"]),
    "tegra platform": (
        'tegra_platform = "linux-aarch64"',
        'tegra_platform = "linux-aarch46"',
        ["[cuda]", "unknown platform 'linux-aarch46'", "Did you mean 'linux-aarch64'?"],
    ),
    "tegra text": ("tegra = true", 'tegra = "yes"', ["[cuda.archs.7.2.tegra]", "expected bool"]),
    "refused list": (
        "[cuda.refused]",
        "[cuda.refused]\n11_7 = []",
        ["[cuda.refused.11_7]", "expected str"],
    ),
    "minutes text": ("minutes = 120", 'minutes = "2h"', [".minutes]", "expected int"]),
    "runners list": (
        'runners = { linux-64 = "ubuntu-24.04"',
        'runners = ["ubuntu-24.04"]\nx = { linux-64 = "ubuntu-24.04"',
        ["[feedstock.devices.cpu]"],
    ),
    # names that point nowhere
    "unknown family": ('family = "x86_64"', 'family = "x86-64"', ["family 'x86-64'", "'x86_64'?"]),
    "unknown level": ("levels = [3, 4]", "levels = [3, 5]", ["level '5'", "Known: 3, 4"]),
    "unknown tier": (
        'tiers = ["avx512", "avx512_bf16"',
        'tiers = ["avx513", "avx512_bf16"',
        ["[levels.x86_64.4]", "'avx512'?"],
    ),
    "unknown arch": ('archs = ["8.9"]', 'archs = ["8.4"]', ["[cuda.slices.sm89]", "'8.4'"]),
    "unknown platform": (
        'platforms = ["linux-64"',
        'platforms = ["linux-46"',
        ["[cuda.toolkits.", "platform 'linux-46'", "'linux-64'?"],
    ),
    "unknown arch family": (
        'family = "10.0"',
        'family = "10.00"',
        ["[cuda.archs.'10.3']", "family '10.00'"],
    ),
    "unknown runner": (
        'linux-64 = "ubuntu-24.04"',
        'linux-64 = "ubuntu-2404"',
        ["[feedstock.devices.cpu]", "'ubuntu-24.04'?"],
    ),
    "unknown disk word": (
        'free_disk_space = "skip"',
        'free_disk_space = "skipp"',
        ["[feedstock.devices.cpu]", "'skip'?"],
    ),
    "unknown build machine": (
        'cross_from = "linux-64"',
        'cross_from = "linux-65"',
        ["[platforms.linux-aarch64]", "cross_from 'linux-65'", "'linux-64'?"],
    ),
    # values that make no sense
    "machines empty": ('machines = ["aarch64", "arm64"]', "machines = []", ["machines is empty"]),
    "cross from cross": (
        'levels = [9, 10]\ncross_from = "linux-64"',
        'levels = [9, 10]\ncross_from = "linux-aarch64"',
        ["linux-ppc64le", "itself cross compiled"],
    ),
    "levels without a baseline": (
        '{ archspec = "aarch64", words',
        '{ archspec = "aarch64*", words',
        ["[platforms.linux-aarch64]", "cpu_levels needs one name without `*`"],
    ),
    "descending levels": ("levels = [3, 4]", "levels = [4, 3]", ["ascending", "[4, 3]"]),
    "twice a level": ("levels = [3, 4]", "levels = [3, 3]", ["distinct", "[3, 3]"]),
    "no levels": ("levels = [3, 4]", "levels = []", ["[platforms.linux-64]", "levels"]),
    "newer schema": ("schema = 1", "schema = 2", ["schema is 2", "reads 1"]),
    "gcc range": ("gcc = [9, 13]", "gcc = [13, 9]", ["'12.4'", "gcc must be"]),
    "version word": ('since = "9.0"', 'since = "nine"', ["[cuda.archs.'7.0']", "since", "'nine'"]),
    "arch not compiled": (
        'archs = ["7.5", "8.0", "8.6", "8.9", "9.0+PTX"]',
        'archs = ["7.5", "12.0+PTX"]',
        ["[cuda.toolkits.'12.4']", "CUDA 12.4 does not compile 12.0"],
    ),
    "slice without bound": (
        'archs = ["8.9"]\nlowest = "8.9"',
        'archs = ["8.9"]',
        ["[cuda.slices.sm89]", "lowest is missing"],
    ),
    "minutes beyond": ("minutes = 360", "minutes = 1600", [".cuda]", "1 to 360", "1600"]),
    "negative swap": ("swap_gib = 16", "swap_gib = -1", ["swap_gib", "-1"]),
    "no cores": ("cores = 4", "cores = 0", ["[feedstock.runners.'ubuntu-24.04']", "cores"]),
    "pin with a dash": ('libhwy = "1.4"', 'lib-hwy = "1.4"', ["[feedstock.pins]", "'lib_hwy'"]),
    "newer C library": (
        'driver = "525.60.13"\ngcc = [9, 13]',
        'driver = "525.60.13"\nc_stdlib_version = "2.34"\ngcc = [9, 13]',
        ["[cuda.toolkits.'12.4']", "2.34 is newer than linux-64's"],
    ),
    # no TOML at all
    "half a line": ("schema = 1", "schema = ", ["not valid TOML", "line"]),
    "twice a table": ("[project]", "[project]\na = 1\n[project]", ["not valid TOML"]),
    "open string": ('image = "alma10"', 'image = "alma10', ["not valid TOML", "line"]),
}


# The same of csrc/cuda/attention/family.toml.
FAMILY = (ROOT / "csrc/cuda/attention/family.toml").read_text()
FAMILY_FAULTS: dict[str, tuple[str, str, list[str]]] = {
    "key": ("title =", "titel =", ["family.toml: unknown key 'titel'", "'title'?"]),
    "part key": ("define =", "defin =", ["family.toml: [parts.sm90]", "'define'?"]),
    "no title": ("title =", "lowest =", ["not valid TOML"]),
    "no archs": ('archs = ["all"]\n', "", ["family.toml: [archs]", "missing"]),
    "mib text": ("mib = 512", 'mib = "2 GiB"', ["[mib]", "expected int", "'2 GiB'"]),
    "empty list": ('archs = ["9.0a"]', "archs = []", ["[parts.sm90]: archs is empty"]),
    "lowest": ('lowest = "7.5"', 'lowest = "old"', ["family.toml: lowest must be", "'old'"]),
    "unknown arch": ('archs = ["9.0a"]', 'archs = ["9.9a"]', ["[parts.sm90]", "'9.9'"]),
    "no TOML": ("mib = 512", "mib = ", ["family.toml is not valid TOML"]),
}


def test_there_are_fifty() -> None:
    assert len(FAULTS) + len(FAMILY_FAULTS) >= 50


@pytest.mark.parametrize("name", FAMILY_FAULTS)
def test_malformed_family_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    old, new, parts = FAMILY_FAULTS[name]
    assert old in FAMILY, "the table has changed: plant the fault anew"
    said = refusal_of_family(tmp_path, capsys, FAMILY.replace(old, new, 1))
    assert said.startswith("error: csrc/cuda/attention/family.toml"), said
    for part in parts:
        assert part in said


def refusal_of_family(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str | None, source: str = "a.cu"
) -> str:
    family = folder / "csrc/cuda/attention"
    family.mkdir(parents=True)
    (family / source).touch()
    if text is not None:
        (family / "family.toml").write_text(text)
    (folder / "targets.toml").write_text(TEXT)
    assert main(["matrix", "--root", str(folder)]) == ConfigError.exit_code
    return capsys.readouterr().err


def test_sources_without_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal_of_family(tmp_path, capsys, None)
    assert "csrc/cuda/attention/family.toml is missing, and attention has sources" in said


def test_table_without_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal_of_family(tmp_path, capsys, FAMILY, "a.cuh")
    assert "csrc/cuda/attention/family.toml: the family has no sources" in said


def test_family_in_the_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "targets.toml").write_text(TEXT + '\n[cuda.families.norm]\ntitle = "norm"\n')
    assert main(["matrix", "--root", str(tmp_path)]) == ConfigError.exit_code
    assert "Move each to csrc/cuda/FAMILY/family.toml" in capsys.readouterr().err


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_table_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    old, new, parts = FAULTS[name]
    assert old in TEXT, "the table has changed: plant the fault anew"
    (tmp_path / "targets.toml").write_text(TEXT.replace(old, new, 1))
    code = main(["matrix", "--root", str(tmp_path)])
    captured = capsys.readouterr()
    assert code == ConfigError.exit_code, captured.err
    assert captured.out == ""
    message = captured.err.splitlines()[0]
    assert re.match(r"error: targets\.toml(: | is not valid TOML)", message), message
    for part in parts:
        assert part in captured.err, captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) <= 2


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "targets.toml").write_bytes(b"\xff\xfe\x00schema")
    done = subprocess.run(
        [sys.executable, "-m", "vllm_conda", "matrix", "--root", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == ConfigError.exit_code
    assert "targets.toml is not UTF-8" in done.stderr
    assert "Traceback" not in done.stderr
