"""A platform is a table of targets.toml and few files more (docs/developers/adding.md)."""

from __future__ import annotations

import re

import pytest
from handwritten import files_with
from support import ROOT

from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)
MOST = 6
ALLOWED = {
    "targets.toml",
    # What the running CPU offers.
    "csrc/core/cpu_features.cc",
    "csrc/core/cpu_features.h",
    # Where the registries have a CUDA toolkit for it.
    "src/vllm_conda/toolchain/cuda/12.toml",
    "src/vllm_conda/toolchain/cuda/13.toml",
}
# By family: what reads its instructions, and what makes the table that it reads.
OWN = {
    "aarch64": {"src/vllm_conda/audit/isa_aarch64.py"},
    "ppc64le": {"src/vllm_conda/audit/isa_ppc64le.py", "scripts/power_levels.py"},
}
# What describes, what is chosen of several, and what is read from elsewhere for all platforms.
ASIDE = re.compile(
    r"(docs|tests|variants|benchmarks|src/vllm_conda/audit/data)/|\.ci_support/"
    r"|src/vllm_conda/site/examples/|src/vllm_kernels_plugin/engines\.tsv|.*\.md$|pixi\.toml$"
)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
@pytest.mark.parametrize("platform", [n for n, p in TARGETS.platforms.items() if p.cross_from])
def test_files_that_name_a_platform(platform: str) -> None:
    entry = TARGETS.platforms[platform]
    words = {
        platform, entry.family, *entry.machines, entry.triplet, entry.deb_arch, entry.cuda_target,
        entry.elf_machine, entry.macro, entry.loader,
    }  # fmt: skip
    pattern = re.compile(rf"(?<![a-z0-9])({'|'.join(map(re.escape, sorted(words)))})(?![a-z0-9])")
    found = files_with(pattern, ASIDE)
    allowed = ALLOWED | OWN[entry.family]
    assert found <= allowed, "a fact of the platform belongs in targets.toml"
    assert len(found) <= MOST
