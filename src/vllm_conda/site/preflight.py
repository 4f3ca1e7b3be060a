"""Solving every node type of a site: which build each gets, or what it lacks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rattler import MatchSpec, RepoDataRecord

from vllm_conda import microarch, packages
from vllm_conda.errors import SolveError
from vllm_conda.site.channels import Channels
from vllm_conda.site.explain import Refusal, explain
from vllm_conda.site.model import Node, Site, version_key
from vllm_conda.site.virtual import AMDGPU, ARCHSPEC, CUDA, CUDA_ARCH, Machine, machine_of
from vllm_cuda_plan.rocm import NEVER_RUN

OWN_PREFIX = "vllm-"


@dataclass(frozen=True)
class Answer:
    """What one request for ``specs`` came to: ``records`` or a ``refusal``."""

    specs: tuple[str, ...]
    records: tuple[RepoDataRecord, ...] = ()
    refusal: Refusal | None = None

    @property
    def builds(self) -> dict[str, str]:
        """Package -> ``version build``, the requested ones and the project's own."""
        wanted = [spec_name(spec) for spec in self.specs]
        found = {record.name.normalized: record for record in self.records}
        own = sorted(name for name in found if name.startswith(OWN_PREFIX))
        names = dict.fromkeys(name for name in (*wanted, *own) if name in found)
        return {name: f"{found[name].version} {found[name].build}" for name in names}


@dataclass(frozen=True)
class NodeResult:
    """A node type's answers, ``notes`` on them and the ``seconds`` that they took."""

    name: str
    node: Node
    machine: Machine
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def served(self) -> bool:
        return all(answer.refusal is None for answer in self.answers)


def spec_name(spec: str) -> str:
    return MatchSpec(spec).name.normalized


def exact(records: Sequence[RepoDataRecord]) -> list[str]:
    """Specs that only these very packages satisfy."""
    return [f"{r.name.normalized} =={r.version} {r.build}" for r in records]


def check_site(
    site: Site,
    channels: Channels,
    specs: Sequence[str] = (),
    each: bool = False,
    alone: Channels | None = None,
) -> list[NodeResult]:
    """Solve every node type.

    Args:
        specs: What to ask for instead of the site file's own specs.
        each: Ask for every spec by itself instead of one environment with all.
        alone: What there is without a mirror of conda-forge, where ``channels`` assume one.

    Raises:
        NetworkError: A channel cannot be read.
    """
    results = []
    for name, node in site.nodes.items():
        wanted = tuple(specs) or node.specs or site.specs
        requests = [(spec,) for spec in wanted] if each else [wanted]
        start = time.monotonic()
        machine = machine_of(node)
        answers = tuple(_ask(channels, request, node, machine) for request in requests)
        notes = _fallback(channels, node, machine, answers) + _rocm_note(machine, answers)
        notes += _cpu_note(node, machine, answers)
        if alone is not None:
            notes += _lacking(alone, node, machine, answers)
        seconds = time.monotonic() - start
        results.append(NodeResult(name, node, machine, answers, notes, seconds))
    return results


def _ask(channels: Channels, specs: tuple[str, ...], node: Node, machine: Machine) -> Answer:
    try:
        records = channels.solve(specs, node.platform, machine)
    except SolveError as error:
        return Answer(specs, refusal=explain(channels, specs, node, machine, error))
    refusal = _other_gpus(channels, records, node, machine)
    return Answer(specs, refusal=refusal) if refusal else Answer(specs, tuple(records))


def _lacking(
    alone: Channels, node: Node, machine: Machine, answers: Sequence[Answer]
) -> tuple[str, ...]:
    """What a node that conda-forge's packages serve would lack without them."""
    served = [answer.specs for answer in answers if answer.refusal is None]
    refused = (_ask(alone, specs, node, machine).refusal for specs in served)
    texts = dict.fromkeys(refusal.text for refusal in refused if refusal is not None)
    return tuple(f"without conda-forge: {text}" for text in texts)


def _other_gpus(
    channels: Channels, records: Sequence[RepoDataRecord], node: Node, machine: Machine
) -> Refusal | None:
    """The solver saw only the lowest GPU of a mixed node; check the others too."""
    for arch in sorted(set(node.cuda_arch) - {machine.get(CUDA_ARCH)}, key=version_key):
        other = {**machine, CUDA_ARCH: arch}
        pinned = exact(records)
        try:
            channels.solve(pinned, node.platform, other)
        except SolveError as error:
            found = explain(channels, pinned, node, other, error)
            text = f"needs {CUDA_ARCH} {found.needs}, but the node also has a GPU of {arch}"
            return Refusal((CUDA_ARCH,), found.needs, arch, text, error.message)
    return None


def _cpu_note(node: Node, machine: Machine, answers: Sequence[Answer]) -> tuple[str, ...]:
    """A name that archspec lacks is no obstacle to packages that ask for no CPU level."""
    if microarch.known(machine[ARCHSPEC]) or any(answer.refusal for answer in answers):
        return ()
    near = microarch.near(node.archspec, microarch.family_of(node.platform))
    return (
        f"archspec knows no CPU {node.archspec!r}, but these packages need no CPU level.{near}",
    )


def _rocm_note(machine: Machine, answers: Sequence[Answer]) -> tuple[str, ...]:
    """Kernels that have never run are nobody's choice but the user's."""
    rocm, cpu = packages.of_device(packages.ROCM), packages.of_device(packages.CPU)
    if any(rocm in answer.builds for answer in answers):
        return (
            f"{rocm} was {NEVER_RUN}, and conda-forge has no PyTorch for ROCm: it has to come from "
            "a channel of the site's",
        )
    if AMDGPU in machine and any(cpu in answer.builds for answer in answers):
        return (f"gets the CPU build although it has GPUs: {rocm}, {NEVER_RUN}, has to be named",)
    return ()


def _fallback(
    channels: Channels, node: Node, machine: Machine, answers: Sequence[Answer]
) -> tuple[str, ...]:
    """An administrator wants to know when a GPU node gets only the CPU build."""
    if CUDA not in machine:
        return ()
    cpu, cuda = packages.of_device(packages.CPU), packages.of_device(packages.CUDA)
    for answer in answers:
        builds = answer.builds
        if cpu not in builds or cuda in builds:
            continue
        if {cpu, packages.serving(packages.CPU)} & {spec_name(spec) for spec in answer.specs}:
            continue
        if not channels.platforms_with(cuda):
            why = f"the channels have no {cuda}"
        elif refusal := _ask(channels, (cuda,), node, machine).refusal:
            why = refusal.text
        else:
            continue
        return (f"gets the CPU build although it has GPUs: {why}",)
    return ()
