"""CPU names of a level: a level package must install on that level and above only."""

from __future__ import annotations

import re

import pytest

from vllm_conda.errors import ConfigError
from vllm_conda.toolchain.microarch import build_matcher, levels


@pytest.mark.parametrize(
    ("cpu", "highest"),
    [
        ("x86_64", 1), ("nocona", 1), ("core2", 1),
        ("x86_64_v2", 2), ("nehalem", 2), ("ivybridge", 2),
        ("x86_64_v3", 3), ("haswell", 3), ("zen2", 3), ("mic_knl", 3),
        ("x86_64_v4", 4), ("skylake_avx512", 4), ("sapphirerapids", 4), ("zen4", 4),
    ],
)  # fmt: skip
def test_level_of_known_cpus(cpu: str, highest: int) -> None:
    assert levels("x86_64")[cpu] == highest
    matching = [n for n in (1, 2, 3, 4) if re.search(build_matcher("x86_64", n), cpu)]
    assert matching == list(range(1, highest + 1))


def test_a_name_is_matched_as_a_whole() -> None:
    assert not re.search(build_matcher("x86_64", 2), "x86_64")
    assert not re.search(build_matcher("x86_64", 4), "zen40")


def test_an_unknown_family_or_level_is_an_error() -> None:
    with pytest.raises(ConfigError):
        build_matcher("x86_64", 9)
    with pytest.raises(ConfigError):
        build_matcher("vax", 1)
