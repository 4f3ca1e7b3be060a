"""Solving on a login node for the compute nodes: which overrides are right, and which would lie."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from vllm_conda import microarch
from vllm_conda.errors import SolveError
from vllm_conda.site.channels import Channels
from vllm_conda.site.explain import explain
from vllm_conda.site.preflight import NodeResult, exact
from vllm_conda.site.virtual import (
    AMDGPU,
    AMDGPU_ARCH,
    ARCHSPEC,
    CUDA,
    CUDA_ARCH,
    GLIBC,
    GPUS,
    Machine,
)

VARIABLES = {
    GLIBC: "CONDA_OVERRIDE_GLIBC",
    ARCHSPEC: "CONDA_OVERRIDE_ARCHSPEC",
    CUDA: "CONDA_OVERRIDE_CUDA",
    CUDA_ARCH: "CONDA_OVERRIDE_CUDA_ARCH",
    AMDGPU: "CONDA_OVERRIDE_AMDGPU",
    AMDGPU_ARCH: "CONDA_OVERRIDE_AMDGPU_ARCH",
}
# What a node without such a GPU lacks: one of them, or both.
_GPU_LACKS = frozenset(lack for pair in GPUS for lack in (pair[:1], pair[1:], pair))


@dataclass(frozen=True)
class Advice:
    """What to set on login node type ``login`` to solve for ``compute`` node types.

    ``variables`` is empty where the login node solves to the same without; ``verified`` says
    that a solve under them gave each compute node type its very packages.
    """

    login: str
    compute: tuple[str, ...]
    variables: dict[str, str]
    verified: bool
    warnings: tuple[str, ...]

    @property
    def line(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.variables.items())


def advise(results: Sequence[NodeResult], channels: Channels) -> list[Advice]:
    """Advice for every login node type, one for each set of variables that it needs."""
    logins = [result for result in results if result.node.role == "login"]
    computes = [result for result in results if result.node.role == "compute" and result.served]
    found = []
    for login in logins:
        groups: dict[str, list[Advice]] = {}
        for compute in computes:
            advice = _pair(login, compute, channels)
            groups.setdefault(advice.line, []).append(advice)
        merged = [_merge(group) for group in groups.values()]
        if len(merged) > 1:
            names = "; ".join(", ".join(advice.compute) for advice in merged)
            warning = (
                f"no one line is right for all compute nodes: one environment each for {names}"
            )
            merged[-1] = _warn(merged[-1], warning)
        found += merged
    return found


def unserved(results: Sequence[NodeResult], advice: Sequence[Advice]) -> list[str]:
    """Node types that get nothing.

    A login node that is refused for its lack of a GPU alone is served: packages for the compute
    nodes are solved there under a line of ``advice`` that was seen to work.
    """
    usable = {one.login for one in advice if one.verified and one.variables}
    return [
        result.name
        for result in results
        if not result.served and not (result.name in usable and _lacks_gpu_only(result))
    ]


def _lacks_gpu_only(result: NodeResult) -> bool:
    missing = {answer.refusal.missing for answer in result.answers if answer.refusal}
    return not {CUDA, AMDGPU} & set(result.machine) and missing <= _GPU_LACKS


def _pair(login: NodeResult, compute: NodeResult, channels: Channels) -> Advice:
    variables = _variables(login, compute)
    machine = _overridden(login.machine, variables)
    warnings = []
    if login.node.platform != compute.node.platform:
        warnings.append(
            f"{login.name} is {login.node.platform}, {compute.name} {compute.node.platform}: the "
            "environment can be made but not run there, nor can packages' install scripts; "
            "CONDA_SUBDIR is conda's word for it, pixi and mamba take --platform"
        )
    elif reason := _not_here(login, compute, channels):
        warnings.append(
            f"the environment for {compute.name} does not run on {login.name} itself, so do not "
            f"test it there: it {reason}"
        )
    verified = True
    for answer in compute.answers:
        try:
            records = channels.solve(answer.specs, compute.node.platform, machine)
        except SolveError:
            records = []
        if sorted(exact(records)) != sorted(exact(answer.records)):
            verified = False
            names = ", ".join(answer.specs)
            warnings.append(
                f"under these, {names} still solves to other packages than on "
                f"{compute.name}: solve there, or install from its lock file"
            )
    kinds = sorted(set(compute.node.cuda_arch))
    if len(kinds) > 1 and "CONDA_OVERRIDE_CUDA_ARCH" in variables:
        warnings.append(
            f"{compute.name} is mixed ({', '.join(kinds)}): the lowest is given, as the node "
            "itself reports; naming another GPU would let in packages that fail on the lowest"
        )
    return Advice(login.name, (compute.name,), variables, verified, tuple(warnings))


def _variables(login: NodeResult, compute: NodeResult) -> dict[str, str]:
    """Those in which the nodes differ; a CPU only where its level is another one."""
    found = {}
    if login.node.platform != compute.node.platform:
        found["CONDA_SUBDIR"] = compute.node.platform
    for name, variable in VARIABLES.items():
        here, there = login.machine.get(name), compute.machine.get(name)
        if here == there:
            continue
        if name == ARCHSPEC and here and there and _same_level(here, there):
            continue
        if name == ARCHSPEC and there and not microarch.known(there):
            continue  # a client would not know it either
        if name in (CUDA_ARCH, AMDGPU_ARCH) and there is None:
            continue  # gone with __cuda, or __amdgpu
        # An empty override says that there is none.
        found[variable] = there or ""
    if "CONDA_OVERRIDE_CUDA_ARCH" in found and CUDA in compute.machine:
        found.setdefault("CONDA_OVERRIDE_CUDA", compute.machine[CUDA])
    elif found.get("CONDA_OVERRIDE_CUDA"):
        found["CONDA_OVERRIDE_CUDA_ARCH"] = compute.machine[CUDA_ARCH]
    order = ("CONDA_SUBDIR", *VARIABLES.values())
    return {name: found[name] for name in order if name in found}


def _same_level(first: str, second: str) -> bool:
    if not microarch.known(first) or not microarch.known(second):
        return False
    same_family = microarch.family(first) == microarch.family(second)
    return same_family and microarch.level_of(first) == microarch.level_of(second)


def _overridden(machine: Machine, variables: dict[str, str]) -> dict[str, str]:
    found = dict(machine)
    for name, variable in VARIABLES.items():
        if variable not in variables:
            continue
        if variables[variable]:
            found[name] = variables[variable]
        else:
            found.pop(name, None)
    for gpu, arch in GPUS:
        if gpu not in found:
            found.pop(arch, None)  # CEP 46: no driver, no capability
    return found


def _not_here(login: NodeResult, compute: NodeResult, channels: Channels) -> str:
    """What of the compute node's packages the login node cannot run, its lack of a GPU aside."""
    machine = dict(login.machine)
    for name in itertools.chain(*GPUS):
        if name in compute.machine:
            machine[name] = compute.machine[name]
    for answer in compute.answers:
        pinned = exact(answer.records)
        try:
            channels.solve(pinned, compute.node.platform, machine)
        except SolveError as error:
            text = explain(channels, pinned, login.node, machine, error).text
            return text.replace("the node", login.name)
    return ""


def _merge(group: Sequence[Advice]) -> Advice:
    return Advice(
        login=group[0].login,
        compute=tuple(name for advice in group for name in advice.compute),
        variables=group[0].variables,
        verified=all(advice.verified for advice in group),
        warnings=tuple(dict.fromkeys(text for advice in group for text in advice.warnings)),
    )


def _warn(advice: Advice, text: str) -> Advice:
    warnings = (*advice.warnings, text)
    return Advice(advice.login, advice.compute, advice.variables, advice.verified, warnings)
