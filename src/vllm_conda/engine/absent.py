"""Ops of the engines that we have, and the reasons for those that we do not have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_conda.engine.interface.ops import DEVICES
from vllm_conda.engine.interface.table import Table, load, minor
from vllm_conda.errors import ConfigError
from vllm_conda.structure import read_toml

FILE = "src/vllm_conda/engine/absent.toml"
OPS_FILE = Path("csrc/torch/ops.def")
# The engine's CPU build registers these without arguments, only so that imports find them.
_PLACEHOLDER = "() -> ()"
_ROW = re.compile(r"(VK\w*_OP)\(\w+, \w+, (\w+),")
_MACROS = {"VK_OP": DEVICES, "VK_CPU_OP": ("cpu",)}

# Device and name.
Op = tuple[str, str]


@dataclass(frozen=True)
class Reason:
    """Why ops of a device are absent."""

    device: str
    reason: str
    ops: tuple[str, ...]


def reasons(root: Path) -> list[Reason]:
    """The table of absent ops.

    Raises:
        ConfigError: It is malformed, or names an op twice.
    """
    found = [_reason(row) for row in read_toml(root, FILE).get("absent", [])]
    seen: set[Op] = set()
    for one in found:
        for name in one.ops:
            if (one.device, name) in seen:
                raise ConfigError(f"{FILE}: {name} stands twice for {one.device}.")
            seen.add((one.device, name))
    return found


def _reason(row: Any) -> Reason:
    try:
        one = Reason(row["device"], row["reason"], tuple(row["ops"]))
    except (KeyError, TypeError):
        raise ConfigError(f"{FILE}: an entry lacks device, reason or ops: {row}.") from None
    if one.device not in DEVICES or not one.reason or not one.ops:
        raise ConfigError(f"{FILE}: an entry has no device, reason or op: {row}.")
    return one


def kernels(root: Path) -> set[Op]:
    """The ops of csrc/torch/ops.def, by device."""
    rows = _ROW.findall((root / OPS_FILE).read_text(encoding="utf-8"))
    return {(device, name) for macro, name in rows for device in _MACROS.get(macro, ("cuda",))}


def engine_ops(engines: Table) -> dict[Op, list[str]]:
    """Every op of every release, with the minor versions that have it."""
    found: dict[Op, list[str]] = {}
    for version, facts in engines.releases.items():
        for (kind, _, name), signature in facts.items():
            if kind in DEVICES and signature != _PLACEHOLDER:
                versions = found.setdefault((kind, name), [])
                if minor(version) not in versions:
                    versions.append(minor(version))
    return found


def mistakes(root: Path) -> Iterator[str]:
    """A sentence for each op without kernel and reason, and for each reason without need."""
    have, known = kernels(root), engine_ops(load(root))
    listed = {(one.device, name) for one in reasons(root) for name in one.ops}
    for device, name in sorted(known.keys() - have - listed):
        yield f"{name} ({device}) has neither a kernel in {OPS_FILE} nor a reason in {FILE}"
    for device, name in sorted(listed & have):
        yield f"{name} ({device}) stands in {FILE} and in {OPS_FILE}"
    for device, name in sorted(listed - known.keys()):
        yield f"{name} ({device}) stands in {FILE}, but no engine has it"


def page(root: Path) -> str:
    """The table for the documentation."""
    known, engines = engine_ops(load(root)), load(root)
    have = kernels(root)
    minors = engines.minors()
    lines = [
        f"# Ops of the engines, {minors[0]} to {minors[-1]}, that no kernel serves",
        "",
        "| engine | ops for CPU | with kernel | ops for CUDA | with kernel |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for version in minors:
        counts = []
        for device in DEVICES:
            ops = {op for op, found in known.items() if op[0] == device and version in found}
            counts += [str(len(ops)), str(len(ops & have))]
        lines.append(f"| {version} | {' | '.join(counts)} |")
    lines += ["", "| device | ops | reason |", "| --- | --- | --- |"]
    for one in reasons(root):
        names = ", ".join(_shown(name, known[one.device, name], minors) for name in one.ops)
        lines.append(f"| {one.device} | {names} | {one.reason} |")
    return "\n".join(lines) + "\n"


def _shown(name: str, found: list[str], minors: list[str]) -> str:
    if found == minors:
        return f"`{name}`"
    if found[-1] == minors[-1]:
        return f"`{name}` (from {found[0]})"
    return f"`{name}` ({found[0]} to {found[-1]})"
