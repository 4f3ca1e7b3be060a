"""What each difference asks of a maintainer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vllm_conda.engine.interface import calls, facts
from vllm_conda.engine.interface.difference import (
    ADDED,
    CHANGED,
    DROPPED,
    MOVED,
    Difference,
    arguments,
)
from vllm_conda.engine.interface.hooks import HOOKS
from vllm_conda.engine.interface.table import Facts
from vllm_conda.errors import ConfigError

OPS_FILE = Path("csrc/torch/ops.def")
ADAPT_FILE = Path("src/vllm_kernels_plugin/adapt.py")
ABSENT_FILE = Path("src/vllm_conda/engine/absent.toml")
# How pressing it is: the engine fails without it; it may fail; nothing happens.
MUST, LOOK, NOTHING = "must", "look", "nothing"


@dataclass(frozen=True)
class Ours:
    """What of the checkout decides whether a difference matters.

    Attributes:
        ops: Namespace and signature of the ops that we have, by name.
        adapted: Names that the plugin's rules mention.
    """

    ops: dict[str, tuple[str, str]]
    adapted: frozenset[str]


@dataclass(frozen=True)
class Task:
    """A difference and what it asks for: ``must``, ``look`` or ``nothing``, and a sentence."""

    difference: Difference
    urgency: str
    text: str


def ours(root: Path) -> Ours:
    """Read our ops and the plugin's rules.

    Raises:
        ConfigError: The checkout lacks the files.
    """
    row = re.compile(r'VK\w*_OP\(\w+, (\w+), (\w+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+)\)')
    try:
        text = (root / OPS_FILE).read_text(encoding="utf-8")
        rules = (root / ADAPT_FILE).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read: {error.strerror}.") from None
    ops = {
        name: (space, "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', parts)).replace('\\"', '"'))
        for space, name, parts in row.findall(text)
    }
    return Ours(ops, frozenset(re.findall(r'"(\w+)"', rules)))


def tasks(found: list[Difference], release: Facts, have: Ours) -> list[Task]:
    """A task for each difference, in their order."""
    return [_task(one, release, have) for one in found]


def _task(one: Difference, release: Facts, have: Ours) -> Task:
    if one.is_op:
        return _op(one, release, have)
    if one.kind == facts.HOOK:
        used = next(hook.used_in for hook in HOOKS if hook.name == one.name)
        return Task(one, MUST if one.how == DROPPED else LOOK, f"compare with {used}")
    if one.kind == facts.MODULE and one.how in (ADDED, MOVED):
        return Task(
            one, LOOK, "plant it in src/vllm_kernels_plugin/engine.py if it is imported bare"
        )
    if one.kind == facts.REQUIRES and one.how != DROPPED:
        return Task(one, LOOK, "follow in recipe/engine/recipe.yaml and wheels.toml to package it")
    if one.kind == facts.CALL:
        return _call(one, have)
    return Task(one, NOTHING, "")


def _op(one: Difference, release: Facts, have: Ours) -> Task:
    mine = one.name in have.ops
    sites = release.get((facts.CALL, one.place, one.name), "")
    if one.how == ADDED:
        if mine:
            return Task(one, NOTHING, f"{OPS_FILE} has it")
        if not sites or sites.split()[0] == calls.ASKED:
            return Task(one, LOOK, f"optional; a kernel, or its reason in {ABSENT_FILE}")
        return Task(one, MUST, f"called without being asked for ({sites}): kernel or reason")
    if one.how == DROPPED:
        return Task(one, NOTHING, "stays for other engines" if mine else "")
    if not mine:
        return Task(one, NOTHING, "not ours")
    if one.how == MOVED:
        return Task(one, NOTHING, "registered where the table says")
    known = {name for _, name in arguments(have.ops[one.name][1])}
    names = {name for _, name in arguments(one.after)}
    missing = sorted((names ^ known) - have.adapted)
    if missing or (one.name not in have.adapted and names != known):
        return Task(one, MUST, f"a rule in {ADAPT_FILE} for {', '.join(missing or [one.name])}")
    return Task(one, NOTHING, "the plugin's rule covers it" if names != known else "as ours")


def _call(one: Difference, have: Ours) -> Task:
    if one.how == CHANGED and one.name in have.ops:
        imported = f"@{calls.IMPORT}"
        if imported in one.after and imported not in one.before:
            return Task(one, LOOK, "now needed when the engine is imported")
    return Task(one, NOTHING, "")
