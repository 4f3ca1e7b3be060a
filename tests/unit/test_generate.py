from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import pytest
import yaml
from support import ROOT

from vllm_conda import errors
from vllm_conda.errors import StaleFileError
from vllm_conda.generate import check, generate, generated_files
from vllm_conda.generate.build import tiers_cmake, tiers_inc
from vllm_conda.jobs import jobs
from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)


def test_committed_files_are_current() -> None:
    # A checkout has the build options, pyproject.toml, the absent ops and recorded runs besides.
    assert check(ROOT, TARGETS) == len(list(generated_files(TARGETS))) + 4


def test_first_line_names_generator_and_input() -> None:
    for path, text in generated_files(TARGETS):
        first = text.splitlines()[0]
        assert "vllm-conda generate" in first, path
        assert re.search(r"targets\.toml|(errors|switches)\.py", first), path


@pytest.mark.parametrize("change", ["edit", "delete", "extra variant"])
def test_check_names_the_stale_file_and_generate_repairs_it(tmp_path: Path, change: str) -> None:
    shutil.copy(ROOT / "targets.toml", tmp_path)
    generate(tmp_path, TARGETS)
    check(tmp_path, TARGETS)
    victim = tmp_path / "variants" / "linux-64-cpu-x86-64-v3.yaml"
    if change == "edit":
        victim.write_text(victim.read_text() + "python: ['3.12']\n")
    elif change == "delete":
        victim.unlink()
    else:
        victim = tmp_path / "variants" / "linux-64-cpu-x86-64-v2.yaml"
        victim.write_text("microarch_level: ['2']\n")
    with pytest.raises(StaleFileError, match=victim.name) as caught:
        check(tmp_path, TARGETS)
    assert "vllm-conda generate" in caught.value.hint
    assert [path.name for path in generate(tmp_path, TARGETS)] == [victim.name]
    check(tmp_path, TARGETS)
    assert victim.exists() == (change != "extra variant")


def test_every_job_has_one_complete_variant_file() -> None:
    for job in jobs(TARGETS):
        keys = yaml.safe_load((ROOT / job.variant_file).read_text())
        assert keys["target_platform"] == [job.platform]
        for axis, value in job.axes().items():
            assert keys[axis] == [value]
        assert all(isinstance(v, list) and len(v) == 1 for v in keys.values())


def test_tier_macro_lists_each_tier_once_lowest_first() -> None:
    blocks = re.split(r"^#(?:el)?if defined\(\w+\)$", tiers_inc(TARGETS), flags=re.M)[1:]
    assert len(blocks) == len(TARGETS.tiers)
    for block, (family, tiers) in zip(blocks, TARGETS.tiers.items(), strict=True):
        rows = re.findall(r"^VK_CPU_TIER\((\w+), (.+)\)$", block, re.M)
        assert [name for name, _ in rows] == list(tiers), family
        masks = [set(mask.split(" | ")) for _, mask in rows]
        # No tier stands for the same CPUs as one above it, or the higher would never be taken.
        for low, high in itertools.combinations(masks, 2):
            assert not high <= low, family


def test_feature_names_exist_in_the_header() -> None:
    header = (ROOT / "csrc" / "core" / "cpu_features.h").read_text()
    known = set(re.findall(r'X\(\w+, "(\w+)"', header))
    for tier in TARGETS.tiers["x86_64"].values():
        assert set(tier.needs) <= known


def test_cmake_lists_match_the_table() -> None:
    text = tiers_cmake(TARGETS)
    for name, tier in TARGETS.tiers["x86_64"].items():
        assert f"set(VLLM_TIER_FLAGS_{name} {' '.join(tier.flags)})\n" in text
    for level, entry in TARGETS.levels["x86_64"].items():
        assert f"set(VLLM_LEVEL_TIERS_x86_64_{level} {' '.join(entry.tiers)})\n" in text


def test_exit_codes_are_distinct_and_documented() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(codes)
    page = (ROOT / "docs" / "packagers" / "exit-codes.md").read_text()
    for kind in kinds:
        assert f"| {kind.exit_code} | `{kind.kind}` |" in page
