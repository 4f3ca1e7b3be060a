"""How a release differs from the one of the table that is nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from vllm_conda.engine.interface import facts
from vllm_conda.engine.interface.ops import DEVICES
from vllm_conda.engine.interface.table import RELEASE, Facts, Key

ADDED, DROPPED, CHANGED, MOVED = "added", "dropped", "changed", "moved"


@dataclass(frozen=True)
class Difference:
    """One fact that is not the same.

    Attributes:
        kind: Device of an op, ``call``, ``hook``, ``module`` or ``requires``.
        place: Namespace, file or group; where it moved, that of the release.
        how: ``added``, ``dropped``, ``changed`` or ``moved``, seen from the table's release.
        before: The table's value, or the place that it moved from; empty where it is added.
        after: The release's value; empty where it is dropped.
    """

    kind: str
    place: str
    name: str
    how: str
    before: str = ""
    after: str = ""

    @property
    def is_op(self) -> bool:
        return self.kind in DEVICES

    def words(self) -> str:
        """What is different, in a line."""
        if self.how == MOVED:
            return f"moved from {self.before}"
        if self.how == CHANGED:
            compare = _signatures if self.is_op else _excerpts
            return f"changed: {compare(self.before, self.after)}"
        return self.how + (f": {self.after}" if self.after else "")


def differences(table: Facts, release: Facts) -> list[Difference]:
    """Every difference, ops first."""
    found: list[Difference] = []
    moved = _moved(table, release)
    for key in sorted(table.keys() | release.keys(), key=_order):
        kind, place, name = key
        before, after = table.get(key, ""), release.get(key, "")
        if kind == RELEASE or before == after or key in moved.values():
            continue
        if key in moved:
            target = moved[key]
            found.append(Difference(kind, target[1], name, MOVED, place, release[target]))
        else:
            how = CHANGED if before and after else ADDED if after else DROPPED
            found.append(Difference(kind, place, name, how, before, after))
    return found


def _order(key: Key) -> tuple[int, Key]:
    kinds = (*DEVICES, facts.CALL, facts.HOOK, facts.MODULE, facts.REQUIRES)
    return (kinds.index(key[0]) if key[0] in kinds else len(kinds), key)


def _moved(table: Facts, release: Facts) -> dict[Key, Key]:
    """Ops and hooks that have the same name in another namespace or file, by their old key."""
    gone = [key for key in table.keys() - release.keys() if key[0] in (*DEVICES, facts.HOOK)]
    new = {(kind, name): (kind, place, name) for kind, place, name in release.keys() - table.keys()}
    return {key: new[key[0], key[2]] for key in gone if (key[0], key[2]) in new}


def arguments(signature: str) -> list[tuple[str, str]]:
    """Type and name of each argument of an op's signature, without marks of what is written."""
    inside = signature[1 : signature.rindex(" -> ")].rstrip()[:-1]
    found = []
    for argument in _split(inside):
        words = argument.partition("=")[0].split()
        if words and words != ["*"]:
            found.append((_plain(" ".join(words[:-1])), words[-1]))
    return found


def _plain(kind: str) -> str:
    """`Tensor?` of `Tensor(a2!)?`."""
    while "(" in kind:
        start = kind.index("(")
        kind = kind[:start] + kind[kind.index(")", start) + 1 :]
    return kind.replace("!", "").replace("SymInt", "int")


def _split(text: str) -> Sequence[str]:
    """At the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
    return [part for part in (*parts, text[start:]) if part.strip()]


def _excerpts(before: str, after: str) -> str:
    """The words that only one of two texts has, where they stand."""
    old, new = before.split(), after.split()
    found = []
    for kind, start, end, first, last in SequenceMatcher(None, old, new, False).get_opcodes():
        if kind != "equal":
            found += [f"- {' '.join(old[start:end])}"] * (end > start)
            found += [f"+ {' '.join(new[first:last])}"] * (last > first)
    return " ".join(found)


def _signatures(before: str, after: str) -> str:
    """What an op's new signature has more, less or otherwise."""
    old, new = arguments(before), arguments(after)
    words = [f"- {' '.join(one)}" for one in old if one not in new]
    words += [f"+ {' '.join(one)}" for one in new if one not in old]
    if not words and old != new:
        words.append("order of arguments")
    results = [text.rpartition(" -> ")[2] for text in (before, after)]
    if results[0] != results[1]:
        words.append(f"returns {results[1]} instead of {results[0]}")
    return ", ".join(words) or f"defaults or marks: {after}"
