from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from vllm_conda.errors import ConfigError
from vllm_conda.targets import load_targets, parse_targets, read_table

TABLE = read_table(ROOT)


def broken(change: Callable[[dict[str, Any]], Any]) -> str:
    data = copy.deepcopy(TABLE)
    change(data)
    with pytest.raises(ConfigError) as caught:
        parse_targets(data)
    return str(caught.value)


def test_features_accumulate_from_lower_tiers() -> None:
    targets = load_targets(ROOT)
    tiers = list(targets.tiers["x86_64"])
    for lower, higher in itertools.pairwise(tiers):
        below = targets.features("x86_64", lower)
        assert targets.features("x86_64", higher)[: len(below)] == below
        assert len(targets.features("x86_64", higher)) > len(below)


def test_a_tier_has_every_family_unless_it_says_otherwise() -> None:
    """A family that nobody thought of must not be left to a slower tier."""
    data = copy.deepcopy(TABLE)
    data["families"]["softmax"] = "soft maximum"
    targets = parse_targets(data)
    for tiers in targets.tiers.values():
        for tier in tiers.values():
            assert ("softmax" in targets.kernel_families(tier)) == (not tier.only)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda d: d.update(tier={}), ["targets.toml", "'tier'", "Did you mean 'tiers'?"]),
        (
            lambda d: d["platforms"]["linux-64"].update(level=[3]),
            ["[platforms.linux-64]", "'level'", "Did you mean 'levels'?"],
        ),
        (
            lambda d: d["platforms"]["linux-64"]["variant"].update(c_compilr="gcc"),
            ["[platforms.linux-64.variant]", "Did you mean 'c_compiler'?"],
        ),
        (
            lambda d: d["tiers"]["x86_64"]["amx"].update(flag=[]),
            ["[tiers.x86_64.amx]", "Did you mean 'flags'?"],
        ),
        (
            lambda d: d["tiers"]["x86_64"]["amx"].update(flags="-mamx"),
            ["[tiers.x86_64.amx.flags]", "expected an array", "'-mamx'"],
        ),
        (
            lambda d: d["tiers"]["x86_64"]["amx"].update(flags=[1]),
            ["[tiers.x86_64.amx.flags]", "expected str, got int 1"],
        ),
        (
            lambda d: d["tiers"]["x86_64"]["amx"].pop("needs"),
            ["[tiers.x86_64.amx.needs]", "missing"],
        ),
        (
            lambda d: d["tiers"]["x86_64"]["amx"].update(only=["atention"]),
            ["[tiers.x86_64.amx] only", "unknown kernel family", "Did you mean 'attention'?"],
        ),
        (
            lambda d: d["tiers"]["x86_64"]["amx"].update(flag_switches={"VLLM_X": "-mamx-bf61"}),
            ["[tiers.x86_64.amx] flag_switches", "unknown flag", "Did you mean '-mamx-bf16'?"],
        ),
        (
            lambda d: d["levels"]["x86_64"]["4"].update(tiers=["avx513"]),
            ["[levels.x86_64.4]", "Did you mean 'avx512'?"],
        ),
        (lambda d: d["levels"]["x86_64"]["4"].update(tiers=[]), ["[levels.x86_64.4]", "no code"]),
        (
            lambda d: d["platforms"]["linux-64"].update(family="x86-64"),
            ["[platforms.linux-64]", "Did you mean 'x86_64'?"],
        ),
        (
            lambda d: d["platforms"]["linux-64"].update(levels=[3, 9]),
            ["[platforms.linux-64]", "unknown level '9'", "Known: 3, 4"],
        ),
        (lambda d: d["platforms"]["linux-64"].update(levels=[4, 3]), ["ascending", "[4, 3]"]),
        (lambda d: d["platforms"].update({"linux-64": 3}), ["[platforms.linux-64]", "a table"]),
        (lambda d: d.update(schema=2), ["schema is 2", "reads 1"]),
    ],
)
def test_bad_table_names_file_table_and_key(
    change: Callable[[dict[str, Any]], Any], parts: list[str]
) -> None:
    message = broken(change)
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", [b"schema = ", b"\xff\xfe"])
def test_unreadable_file(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "targets.toml").write_bytes(text)
    with pytest.raises(ConfigError, match=r"targets\.toml is not"):
        load_targets(tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_targets(tmp_path)
