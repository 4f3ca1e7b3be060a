"""Which property a node type lacks, found by solving again with one property after the other open.

The solver alone decides. An open property has every value that the channel's packages compare
with, so one more solve says whether anything there would help; then the nearest such value is
looked for. Nothing here knows how versions or constraints are matched.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rattler import MatchSpec, Version

from vllm_conda import microarch, packages, platforms
from vllm_conda.errors import SolveError, did_you_mean
from vllm_conda.site.channels import Channels
from vllm_conda.site.model import Node
from vllm_conda.site.virtual import (
    AMDGPU,
    AMDGPU_ARCH,
    ARCHSPEC,
    CUDA,
    CUDA_ARCH,
    GLIBC,
    LINUX,
    Machine,
)
from vllm_cuda_plan.rocm import arch_name

# Where either of two would do, the sentence names the first: software before hardware.
PROPERTIES = (GLIBC, CUDA, LINUX, ARCHSPEC, CUDA_ARCH, AMDGPU, AMDGPU_ARCH)
_MISSING = re.compile(r"─ (\S[^\n]*?), for which no candidates were found")
# One comparison of a version spec: `>=9.0`, `<10.0a0`, `12.*`.
_COMPARISON = re.compile(r"([<>=!~]*)\s*(\d+(?:\.\d+)*)")
# Below everything that a package asks for, so that it stands for "any version".
_ANY = "0"

Opened = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Refusal:
    """Why a node type gets nothing.

    Args:
        missing: ``__glibc`` and the like, mostly one; none where the channels lack something.
        needs: What of the first would do, such as ``>= 2.28``.
        has: What of it the node has; empty for nothing.
        text: The sentence.
        solver: The solver's own explanation.
    """

    missing: tuple[str, ...]
    needs: str
    has: str
    text: str
    solver: str


def explain(
    channels: Channels, specs: Sequence[str], node: Node, machine: Machine, error: SolveError
) -> Refusal:
    """Say why ``specs`` cannot be solved for ``machine``, a node of type ``node``."""
    solver = error.message
    absent = _absent(channels, specs, node.platform)
    if absent:
        return Refusal((), absent[0], "", absent[1], solver)
    search = _Search(channels, specs, node, machine)
    missing = search.smallest()
    if not missing:
        return _not_the_node(search, node, solver)
    found = [search.requirement(name, missing) for name in missing]
    return Refusal(
        missing=tuple(missing),
        needs=found[0].needs,
        has=found[0].has,
        text="; ".join(refusal.text for refusal in found),
        solver=solver,
    )


def _absent(channels: Channels, specs: Sequence[str], platform: str) -> tuple[str, str] | None:
    for spec in specs:
        name = MatchSpec(spec).name.normalized
        if name not in channels.names(platform):
            return spec, _no_package(channels, name, platform)
        if not channels.records([spec], platform):
            versions = {str(record.version) for record in channels.records([name], platform)}
            there = ", ".join(sorted(versions, key=Version))
            return spec, f"no package matches '{spec}' for {platform}, the channels have {there}"
    return None


def _no_package(channels: Channels, name: str, platform: str) -> str:
    kernels = packages.kernels_of(name)
    known = platforms.table().get(platform)
    if kernels and known and not known.engine:
        return (
            f"no package {name} for {platform}, where what the engine depends on does not exist; "
            f"{kernels} has the kernels alone"
        )
    elsewhere = channels.platforms_with(name)
    if elsewhere:
        return f"no package {name} for {platform} in the channels, only for {', '.join(elsewhere)}"
    near = did_you_mean(name, channels.names(platform))
    return f"no package {name} in the channels.{near}"


def _not_the_node(search: _Search, node: Node, solver: str) -> Refusal:
    """The channels contradict themselves or lack a dependency, so no node could get it."""
    explanation = search.failure(search.everything()) or solver
    lacking = list(dict.fromkeys(_MISSING.findall(explanation)))
    if lacking:
        name = lacking[0].split()[0]
        if name.startswith("__"):
            text = f"needs {lacking[0].removesuffix(' *')}, which no {node.platform} node has"
        elif name not in search.channels.names(node.platform):
            text = f"needs {lacking[0].removesuffix(' *')}: " + _no_package(
                search.channels, name, node.platform
            )
        else:
            text = f"needs {lacking[0]}, which the channels lack for {node.platform}"
        return Refusal((), lacking[0], "", text, solver)
    lines = [line.strip("│├└─ ") for line in explanation.splitlines()[1:]]
    reason = "; ".join(line for line in lines if line) or explanation
    return Refusal((), "", "", f"no node could have it: {reason}", solver)


class _Search:
    """Solves with properties of the node opened."""

    def __init__(
        self,
        channels: Channels,
        specs: Sequence[str],
        node: Node,
        machine: Machine,
    ) -> None:
        self.channels = channels
        self.specs = specs
        self.node = node
        self.machine = machine
        bounds = channels.bounds(specs, node.platform)
        # What the node has in another version comes before what it has not, such as a GPU.
        names = sorted(
            (name for name in PROPERTIES if name in bounds), key=lambda name: name not in machine
        )
        self.values: dict[str, list[str]] = {}
        self.floors: dict[str, list[str]] = {}
        for name in names:
            if name == ARCHSPEC:
                self.values[name] = list(microarch.cpus(microarch.family_of(node.platform)))
            else:
                self._candidates(name, bounds[name])

    def _candidates(self, name: str, specs: Iterable[str]) -> None:
        """Lowest first: ``values`` around every bound, ``floors`` where a range may begin."""
        values, floors = {_ANY}, {_ANY}
        bounds = set()
        for spec in specs:
            for operator, bound in _COMPARISON.findall(spec):
                floors.add(_above(bound) if operator in (">", "!=") else bound)
                values |= {_above(bound), _below(bound), str(_key(bound)[0] + 1)}
                bounds.add(bound)
        if name in self.machine:
            values.add(self.machine[name])
        # Of 10 and 10.0, the spelling that a package uses.
        found = {_key(value): value for value in (*values, *bounds) if value}
        self.values[name] = [found[key] for key in sorted(found)]
        self.floors[name] = sorted(floors, key=_key)

    def everything(self) -> Opened:
        return self.values

    def failure(self, opened: Opened, machine: Machine | None = None) -> str:
        """The solver's explanation, empty where it finds a solution."""
        try:
            self.channels.solve(self.specs, self.node.platform, machine or self.machine, opened)
        except SolveError as error:
            return error.message
        return ""

    def smallest(self) -> tuple[str, ...]:
        """The fewest properties that must be others; none where that does not help."""
        for size in range(1, len(self.values) + 1):
            if size == 2 and self.failure(self.everything()):
                return ()
            for names in itertools.combinations(self.values, size):
                if not self.failure({name: self.values[name] for name in names}):
                    return names
        return ()

    def requirement(self, name: str, missing: Sequence[str]) -> Refusal:
        """What ``name`` must be while the others of ``missing`` stay open."""
        opened = {other: self.values[other] for other in missing if other != name}

        def solves(value: str) -> bool:
            return not self.failure(opened, {**self.machine, name: value})

        if name == ARCHSPEC and not microarch.known(self.machine[ARCHSPEC]):
            return self._unknown_cpu(opened)
        if name == ARCHSPEC:
            return self._cpu(solves)
        has = self.machine.get(name, "")
        if name == AMDGPU_ARCH:
            return self._amdgpu(has, solves)
        own = _key(has) if has else ()
        higher = [value for value in self.floors[name] if not has or _key(value) > own]
        lowest = next((value for value in higher if solves(value)), None)
        if lowest is not None and has and lowest == _above(has) and solves(_below(has)):
            return self._version(name, f"!= {has}", has)
        if lowest is not None:
            return self._version(name, _at_least(lowest), has)
        lower = [value for value in self.values[name] if has and _key(value) < own]
        highest = next((value for value in reversed(lower) if solves(value)), None)
        return self._version(name, _at_most(highest, self.values[name]), has)

    def _version(self, name: str, needs: str, has: str) -> Refusal:
        node = self.node
        wanted = f"{name} {needs}".strip()
        if name == GLIBC:
            text = f"needs glibc {needs}, the node has {has}"
        elif name == LINUX and node.linux is None:
            text = f"needs a Linux kernel {needs}, the node's is not declared (key linux)"
        elif name == LINUX:
            text = f"needs a Linux kernel {needs}, the node's is {has}"
        elif name == AMDGPU:
            text = f"needs {wanted}, the node has no AMD GPU"
        elif not has:
            text = f"needs {wanted}, the node has no GPU" + (" driver" if name == CUDA else "")
        elif name == CUDA:
            text = f"needs {wanted}, the node's driver supports CUDA {has}"
        elif len(set(node.cuda_arch)) > 1:
            kinds = ", ".join(sorted(set(node.cuda_arch), key=_key))
            text = f"needs {wanted}, the node's lowest GPU has {has} (of {kinds})"
        else:
            text = f"needs {wanted}, the node's GPU has {has}"
        return Refusal((name,), needs, has, text, "")

    def _amdgpu(self, has: str, solves: Callable[[str], bool]) -> Refusal:
        """Code of one gfx target runs on no other, so those that would do are listed."""
        targets = [arch_name(value) for value in self.floors[AMDGPU_ARCH] if solves(value)]
        needs = " or ".join(targets)
        own = f"the node's GPU is {arch_name(has)}" if has else "the node has none"
        text = f"needs a GPU of {needs} ({AMDGPU_ARCH}), {own}"
        return Refusal((AMDGPU_ARCH,), needs, has, text, "")

    def _unknown_cpu(self, opened: Opened) -> Refusal:
        """Name the override for each level with packages of its own."""
        family = microarch.family_of(self.node.platform)
        overrides, before = [], None
        for level in microarch.level_names(family):
            machine = {**self.machine, ARCHSPEC: level}
            try:
                found = self.channels.solve(self.specs, self.node.platform, machine, opened)
            except SolveError:
                continue
            packages = {record.file_name for record in found}
            if packages != before:
                overrides.append(f"{level} if it runs {microarch.level_words(level)}")
            before = packages
        own = self.node.archspec
        text = f"needs a CPU level, and archspec knows no CPU {own!r}."
        text += microarch.near(own, family) or " `archspec cpu` on the node prints its name."
        if overrides:
            text += f" CONDA_OVERRIDE_ARCHSPEC is to name its level: {', '.join(overrides)}"
        needs = overrides[0].partition(" ")[0] if overrides else ""
        return Refusal((ARCHSPEC,), needs, own, text.rstrip("."), "")

    def _cpu(self, solves: Callable[[str], bool]) -> Refusal:
        own = self.machine[ARCHSPEC]
        family = microarch.family_of(self.node.platform)
        mine = microarch.level_of(own)
        levels = [
            mine,
            *(name for name in microarch.level_names(family) if not microarch.runs(own, name)),
        ]
        level = next((name for name in levels if solves(name)), None)
        if level is None:
            cpus = [name for name in microarch.cpus(family) if solves(name)]
            needs = " or ".join(cpus[:3])
            text = f"needs a CPU such as {needs}, the node's is {own}"
            return Refusal((ARCHSPEC,), needs, own, text, "")
        if level == mine and level != own:
            text = (
                f"the channels' level packages do not list the node's CPU {own}; "
                f"CONDA_OVERRIDE_ARCHSPEC={mine} names its level"
            )
            return Refusal((ARCHSPEC,), level, own, text, "")
        needs = microarch.level_words(level)
        has = microarch.level_words(mine)
        # "x86_64 level 3 ... level 2" rather than the family's name twice.
        has = has.removeprefix(f"{family} ")
        text = f"needs {needs}, the node's CPU {own} is {has}"
        return Refusal((ARCHSPEC,), level, own, text, "")


def _key(version: str) -> tuple[int, ...]:
    """Orders versions; trailing zeros do not count, as for the solver."""
    parts = [int(part) for part in re.findall(r"\d+", version)]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _below(version: str) -> str:
    """Just below: 10.0 -> 9.99."""
    parts = list(_key(version))
    if parts == [0]:
        return ""
    parts[-1] -= 1
    return ".".join(str(part) for part in (*parts, 99))


def _above(version: str) -> str:
    return f"{version}.0.1"


def _at_least(lowest: str) -> str:
    if _key(lowest) == _key(_ANY):
        return ""
    bound = lowest.removesuffix(".0.1")
    return f">= {bound}" if bound == lowest else f"> {bound}"


def _at_most(highest: str | None, values: Sequence[str]) -> str:
    if highest is None:
        return "of another kind"
    above = next((value for value in values if _key(value) > _key(highest)), "")
    if above == _above(highest):
        return f"<= {highest}"
    return f"< {above}"
