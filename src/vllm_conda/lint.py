"""Rules that hold for all rendered jobs together, which no single render can show.

A staging build is keyed by its rendered script and requirements, a package by the variant keys that
it uses. Where the two disagree, two variants share one binary, or one binary gets two names.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vllm_conda.choice import wrong_choices
from vllm_conda.errors import RecipeError
from vllm_conda.jobs import CPU, CUDA
from vllm_conda.matrix import packages
from vllm_conda.render import Output
from vllm_conda.targets import Targets
from vllm_cuda_plan.arch import parse_version

_SOURCE_HASH = "_source_hash"
_SHOWN = 20


@dataclass(frozen=True)
class Violation:
    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


def _staging(output: Output) -> dict[str, Any] | None:
    """The staging build that a package takes its files from."""
    for cache in output.rendered.recipe.staging_caches:
        document: dict[str, Any] = cache.to_dict()
        return document
    return None


def _environment(output: Output) -> dict[str, str] | None:
    staging = _staging(output)
    if staging is None:
        return None
    found: dict[str, str] = staging["build"]["script"].get("env", {})
    return found


def _content(output: Output) -> str:
    """What the recipe says of a package, without the names that follow from its variant."""
    data = output.rendered.recipe.to_dict()
    data["build"] = {key: value for key, value in data["build"].items() if key != "string"}
    return json.dumps(data, sort_keys=True, default=str)


def _by_package(outputs: Sequence[Output]) -> Iterator[list[Output]]:
    """Outputs of one name on one platform, from all jobs."""

    def key(output: Output) -> tuple[str, str]:
        return output.job.platform, output.name

    for _, group in itertools.groupby(sorted(outputs, key=key), key):
        yield list(group)


def _complete(targets: Targets, outputs: Sequence[Output]) -> Iterator[str]:
    for _, group in itertools.groupby(outputs, lambda output: output.job):
        found = list(group)
        names, wanted = [output.name for output in found], list(packages(targets, found[0].job))
        if names != wanted:
            yield f"{found[0].job.name} renders {', '.join(names)}; wanted {', '.join(wanted)}."


def _staging_keys(_targets: Targets, outputs: Sequence[Output]) -> Iterator[str]:
    for output in outputs:
        environment = _environment(output)
        if environment is None:
            continue
        where = f"{output.name} ({output.job.name})"
        written = set(environment.values())
        for axis, value in output.job.axes().items():
            if axis in output.variant and value not in written:
                yield (
                    f"{where} has {axis} in its hash, but script.env of staging "
                    f"{output.staging!r} does not hold its value {value!r}: all values would "
                    "share one build."
                )
        hashes = {k: v for k, v in output.variant.items() if k.endswith(_SOURCE_HASH)}
        if not hashes:
            yield f"{where} has no {_SOURCE_HASH} in its hash: an edited source keeps the name."
        for key, value in hashes.items():
            if value not in written:
                yield (
                    f"{where} has {key} in its hash, but script.env of staging "
                    f"{output.staging!r} does not: an edited source would not be built."
                )
    for group in _by_package(outputs):
        for one, other in itertools.combinations(group, 2):
            if one.file_name == other.file_name or _environment(one) is None:
                continue
            own = {key for key in one.job.axes() if key in one.variant}
            differing = [key for key in sorted(own) if one.variant[key] != other.variant.get(key)]
            if differing and _environment(one) == _environment(other):
                yield (
                    f"{one.name} of {one.job.name} and of {other.job.name} differ in "
                    f"{', '.join(differing)}, but staging {one.staging!r} has the same script.env: "
                    "both would hold one binary."
                )


def _hashes(_targets: Targets, outputs: Sequence[Output]) -> Iterator[str]:
    for group in _by_package(outputs):
        first: dict[str, Output] = {}
        for output in group:
            other = first.setdefault(_content(output), output)
            if other.file_name != output.file_name:
                keys = sorted(
                    key
                    for key in {*output.variant, *other.variant}
                    if output.variant.get(key) != other.variant.get(key)
                )
                yield (
                    f"{output.name} is {other.file_name} in {other.job.name} and "
                    f"{output.file_name} in {output.job.name}, with the same content: its hash "
                    f"depends on {', '.join(keys)}, which it does not use."
                )


def _pins(_targets: Targets, outputs: Sequence[Output]) -> Iterator[str]:
    made = {(o.job.name, o.name): o for o in outputs}
    names = {output.name for output in outputs}
    pinned: dict[tuple[str, str], dict[str, str]] = {}
    for output in outputs:
        for spec in output.run:
            name, _, rest = spec.partition(" ")
            if name not in names or not rest.startswith("==") or "*" in rest:
                continue
            version, _, build = rest.removeprefix("==").partition(" ")
            target = made.get((output.job.name, name))
            where = f"{output.name} ({output.job.name}) requires {spec}"
            if target is None:
                yield f"{where}, which that job does not make."
            elif version != target.version or (build and build != target.build_string):
                yield f"{where}, but that job makes {target.file_name}."
            elif build:
                seen = pinned.setdefault((output.job.platform, name), {})
                seen.setdefault(build, output.job.name)
    for (platform, name), builds in pinned.items():
        if len(builds) > 1:
            found = "; ".join(f"{build} in {job}" for build, job in builds.items())
            yield (
                f"{name} of {platform} is pinned to different builds ({found}), so that packages "
                "of these jobs cannot be installed together."
            )


def _numbers(targets: Targets, outputs: Sequence[Output]) -> Iterator[str]:
    for group in _by_package(outputs):
        for one, other in itertools.permutations(group, 2):
            one_kind = bool(targets.packages[one.name].slice)
            if _preferred(one, other, one_kind) and one.build_number <= other.build_number:
                yield (
                    f"{one.name} of {one.job.name} has build number {one.build_number}, that of "
                    f"{other.job.name} {other.build_number}: the first must be higher."
                )
    kernels = [output for output in outputs if targets.packages[output.name].device]
    for one, other in itertools.permutations(kernels, 2):
        if not _rivals(targets, one, other) or _rank(targets, one) <= _rank(targets, other):
            continue
        if one.build_number <= other.build_number:
            yield (
                f"{one.name} of {one.job.name} has build number {one.build_number}, not above "
                f"{other.name}'s {other.build_number} of {other.job.name}."
            )


def _rivals(targets: Targets, one: Output, other: Output) -> bool:
    """Whether they stand for the same thing on one platform: kernels, or what serves."""
    entries = (targets.packages[one.name], targets.packages[other.name])
    return one.job.platform == other.job.platform and entries[0].serves == entries[1].serves


def _rank(targets: Targets, output: Output) -> int:
    return targets.devices.index(targets.packages[output.name].device)


def _preferred(one: Output, other: Output, one_kind: bool) -> bool:
    """Whether the solver shall take ``one`` where both can run.

    Args:
        one_kind: They hold code for one kind of GPU, whichever their jobs are for.
    """
    if one.file_name == other.file_name:
        return False
    if one.job.device != other.job.device:
        return one.job.device == CUDA
    if one.job.device == CPU:
        return one.job.level > other.job.level
    if one.job.slice != other.job.slice and not one_kind:
        return not one.job.opt_in and other.job.opt_in
    return parse_version(one.job.cuda) > parse_version(other.job.cuda)


def _names(_targets: Targets, outputs: Sequence[Output]) -> Iterator[str]:
    seen: dict[tuple[str, str], Output] = {}
    for output in outputs:
        other = seen.setdefault((output.job.platform, output.file_name), output)
        if other is not output and (
            other.job == output.job or other.fingerprint != output.fingerprint
        ):
            yield (
                f"{output.file_name} comes from {other.job.name} and from {output.job.name} with "
                "different content."
            )


RULES: dict[str, Callable[[Targets, Sequence[Output]], Iterator[str]]] = {
    "complete": _complete,
    "staging key": _staging_keys,
    "hash": _hashes,
    "pin": _pins,
    "build number": _numbers,
    "file name": _names,
    "choice": wrong_choices,
}


def violations(targets: Targets, outputs: Sequence[Output]) -> list[Violation]:
    """Every broken rule of the rendered jobs."""
    return [
        Violation(name, text) for name, rule in RULES.items() for text in rule(targets, outputs)
    ]


def check(targets: Targets, outputs: Sequence[Output]) -> None:
    """Check the rendered jobs together.

    Raises:
        RecipeError: Names rule, package and jobs of what is wrong.
    """
    found = violations(targets, outputs)
    if found:
        lines = "\n  ".join(str(item) for item in found[:_SHOWN])
        more = f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise RecipeError(
            f"The rendered jobs break {len(found)} rules of the recipe:\n  {lines}{more}\n",
            "See the comments at the top of recipe/recipe.yaml.",
        )
