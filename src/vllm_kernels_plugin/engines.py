"""The engines that are served, and the ops of each: engines.tsv, read at run time.

The table is written by `vllm-conda engine add`; docs/developers/engines.md explains it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

_FILE = Path(__file__).with_name("engines.tsv")
_GONE = "-"
# The engine's CPU build registers some ops without arguments, only so that imports find them.
PLACEHOLDER = "() -> ()"

Version = tuple[int, ...]
# Namespace and signature, by op.
Ops = Mapping[str, tuple[str, str]]


def parse(version: str) -> Version:
    """The numbers that a version begins with; empty where it begins with none."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()


@functools.cache
def _rows() -> tuple[tuple[Version, str, str, str, str], ...]:
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    cells = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return tuple((parse(since), *rest) for since, *rest in cells)  # type: ignore[misc]


@functools.cache
def releases() -> tuple[Version, ...]:
    """The releases whose interface is known, oldest first."""
    return tuple(sorted({row[0] for row in _rows()}))


def oldest() -> str:
    """The oldest minor version that is served."""
    return _minor(releases()[0])


def newest() -> str:
    """The newest minor version that is served."""
    return _minor(releases()[-1])


def _minor(version: Version) -> str:
    return ".".join(map(str, version[:2]))


def is_served(version: str) -> bool:
    """Whether the engine's minor version is in the table's range."""
    return releases()[0][:2] <= parse(version)[:2] <= releases()[-1][:2]


@functools.cache
def ops(version: str, device: str) -> Ops:
    """The ops that an engine registers on ``device``.

    A version between two releases of the table counts as the older one, but never as one of
    another minor version where its own is known; one outside of the range as the nearest.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    wanted = parse(version)
    same = [one for one in releases() if one[:2] == wanted[:2]]
    before = [one for one in same or releases() if one <= wanted]
    until = before[-1] if before else (same or releases())[0]
    found: dict[str, tuple[str, str]] = {}
    for since, kind, namespace, name, signature in _rows():
        if since > until or kind != device:
            continue
        if signature == _GONE:
            if found.get(name, ("",))[0] == namespace:
                del found[name]
        else:
            found[name] = (namespace, signature)
    return found
