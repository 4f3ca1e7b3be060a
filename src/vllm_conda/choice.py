"""Which of the rendered CUDA builds a node takes, and which it should.

A node is a GPU and a driver of the table. What a build asks of both is read from its metadata as it
was rendered, as a solver does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rattler import Version, VersionSpec

from vllm_conda.jobs import CUDA, Job, compiled_archs
from vllm_conda.render import Output
from vllm_conda.targets import Targets
from vllm_cuda_plan.arch import parse_version

_CUDA, _CUDA_ARCH = "__cuda", "__cuda_arch"


@dataclass(frozen=True)
class GpuNode:
    """``cuda``: the newest that the driver supports; ``gpu``: the capability."""

    platform: str
    cuda: str
    gpu: str

    def __str__(self) -> str:
        return f"a {self.platform} node with a GPU of {self.gpu} and a driver for CUDA {self.cuda}"


def drivers(targets: Targets) -> list[str]:
    """Each toolkit's version and the oldest of its major version, which runs its packages too."""
    versions = {parse_version(version) for version in targets.cuda.toolkits}
    versions |= {(major, 0) for major, _ in versions}
    return [f"{major}.{minor}" for major, minor in sorted(versions)]


def gpu_nodes(targets: Targets, platform: str) -> list[GpuNode]:
    """Every GPU of the table under every driver of the table."""
    pairs = itertools.product(drivers(targets), targets.cuda.gpus(platform))
    return [GpuNode(platform, cuda, gpu) for cuda, gpu in pairs]


class Choices:
    """What each node may take of all rendered outputs."""

    def __init__(self, targets: Targets, outputs: Sequence[Output]) -> None:
        self.targets = targets
        self.outputs = outputs
        self._asked: dict[tuple[Job, str], list[tuple[str, VersionSpec]]] = {}
        for output in outputs:
            asked = self._asked.setdefault((output.job, self._alone(output)), [])
            # A package of a job pulls in the others, so what one of them asks holds for all; one
            # with a slice of its own is nobody's dependency.
            for spec in (*output.run, *output.constraints):
                name, _, bound = spec.partition(" ")
                if name in (_CUDA, _CUDA_ARCH):
                    asked.append((name, VersionSpec(bound or "*")))

    def _alone(self, output: Output) -> str:
        """Its name where what it asks is its own; empty for those that are installed together."""
        return output.name if self._kind(output) else ""

    def _kind(self, output: Output) -> str:
        return self.targets.packages[output.name].slice

    def _archs(self, output: Output) -> Sequence[str]:
        kind = self._kind(output)
        if kind:
            return self.targets.cuda.slices[kind].archs
        return compiled_archs(self.targets, output.job)

    def runs(self, output: Output, node: GpuNode) -> bool:
        """Whether a client lets ``node`` have ``output``."""
        machine = {_CUDA: Version(node.cuda), _CUDA_ARCH: Version(node.gpu)}
        asked = self._asked[output.job, self._alone(output)]
        return all(bound.matches(machine[name]) for name, bound in asked)

    def has_code(self, output: Output, node: GpuNode) -> bool:
        return self.targets.cuda.has_code(self._archs(output), node.gpu)

    def serves(self, output: Output, node: GpuNode) -> bool:
        return self.targets.cuda.serves(self._archs(output), node.gpu)

    def opt_in(self, output: Output) -> bool:
        """Whether no one gets it who does not ask for its slice."""
        return output.job.opt_in and not self._kind(output)

    def offered(self, name: str, node: GpuNode) -> list[Output]:
        """Builds of the CUDA package ``name`` that ``node`` may take, the solver's choice first."""
        found: dict[str, Output] = {}
        for output in self.outputs:
            asked = (output.name, output.job.platform, output.job.device)
            if asked == (name, node.platform, CUDA) and self.runs(output, node):
                # Several jobs make one package of a slice of its own.
                found.setdefault(output.file_name, output)
        return sorted(found.values(), key=lambda output: -output.build_number)


def wrong_choices(targets: Targets, outputs: Sequence[Output]) -> Iterator[str]:
    """Nodes that cannot run what they get, or that have a better build or one of equal rank."""
    choices = Choices(targets, outputs)
    names = {o.name for o in outputs if o.job.device == CUDA and _by_cuda(targets, o.name)}
    seen: set[tuple[str, ...]] = set()
    for platform in targets.platforms:
        for node, name in itertools.product(gpu_nodes(targets, platform), sorted(names)):
            for key, text in _wrong(choices, node, name):
                # One node is enough to show what is wrong with a pair of builds.
                if key not in seen:
                    seen.add(key)
                    yield text


def _by_cuda(targets: Targets, name: str) -> bool:
    package = targets.packages[name]
    return package.device == CUDA or bool(package.chooses)


def _wrong(choices: Choices, node: GpuNode, name: str) -> Iterator[tuple[tuple[str, ...], str]]:
    found = choices.offered(name, node)
    for output in found:
        if not choices.serves(output, node):
            text = f"{name} of {output.job.name} holds no code for {node}, which may take it."
            yield (output.job.name, name, node.gpu), text
    # Any two of them, since a channel may lack all others.
    for one, other in itertools.combinations(found, 2):
        jobs = f"{name} of {one.job.name} and of {other.job.name}"
        key = (one.job.name, other.job.name, name)
        if one.build_number == other.build_number:
            if _rivals(choices, one, other):
                text = f"{jobs} have build number {one.build_number}, and {node} may take either."
                yield key, text
        elif choices.opt_in(other) or not choices.has_code(other, node):
            continue
        elif not choices.has_code(one, node):
            text = f"of {jobs}, {node} gets the first; the second alone has machine code for it."
            yield key, text
        elif (
            parse_version(other.job.cuda) <= parse_version(node.cuda) < parse_version(one.job.cuda)
        ):
            text = f"of {jobs}, {node} gets the first, whose CUDA is newer than its driver."
            yield key, text


def _rivals(choices: Choices, one: Output, other: Output) -> bool:
    """Slices for different GPUs are asked for by their names, so that no solver compares them."""
    asked_for = choices.opt_in(one) and choices.opt_in(other)
    return one.job.slice == other.job.slice or not asked_for
