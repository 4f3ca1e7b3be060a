"""CPU names of a level: a level package must install on that level and above only."""

from __future__ import annotations

import re

import pytest

from vllm_conda import platforms
from vllm_conda.errors import ConfigError
from vllm_conda.microarch import build_matcher, level_cpu, levels


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


@pytest.mark.parametrize(
    ("family", "cpu", "highest"),
    [
        ("aarch64", "aarch64", 0), ("aarch64", "cortex_a72", 0), ("aarch64", "thunderx2", 1),
        ("aarch64", "a64fx", 2), ("aarch64", "neoverse_n1", 2), ("aarch64", "neoverse_v1", 4),
        ("aarch64", "neoverse_v2", 5), ("aarch64", "ampere1", 6), ("aarch64", "armv9.2a", 7),
        ("ppc64le", "ppc64le", 8), ("ppc64le", "power9le", 9), ("ppc64le", "power10le", 10),
    ],
)  # fmt: skip
def test_level_of_arm_and_power_cpus(family: str, cpu: str, highest: int) -> None:
    assert levels(family)[cpu] == highest
    for level in set(levels(family).values()):
        assert bool(re.search(build_matcher(family, level), cpu)) is (level <= highest)


@pytest.mark.parametrize(
    ("family", "level", "cpu", "flag"),
    [
        ("x86_64", 1, "x86_64", "-march=x86-64"), ("x86_64", 3, "x86_64_v3", "-march=x86-64-v3"),
        ("aarch64", 0, "aarch64", "-march=armv8-a"), ("aarch64", 2, "armv8.2a", "-march=armv8.2-a"),
        ("ppc64le", 9, "power9le", "-mcpu=power9"),
    ],
)  # fmt: skip
def test_what_a_level_is_compiled_and_solved_for(
    family: str, level: int, cpu: str, flag: str
) -> None:
    assert level_cpu(family, level) == cpu
    assert platforms.families()[family].level_flag(level) == flag


def test_a_name_is_matched_as_a_whole() -> None:
    assert not re.search(build_matcher("x86_64", 2), "x86_64")
    assert not re.search(build_matcher("x86_64", 4), "zen40")


def test_an_unknown_family_or_level_is_an_error() -> None:
    with pytest.raises(ConfigError):
        build_matcher("x86_64", 9)
    with pytest.raises(ConfigError):
        build_matcher("vax", 1)
