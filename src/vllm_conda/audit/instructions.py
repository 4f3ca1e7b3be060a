"""`instructions`: no instruction above the package's CPU level outside tiers' own sections.

One module a CPU family knows the instructions: isa (x86-64), isa_arm, isa_power.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from vllm_conda.audit.code import TIER_PREFIX, Excess
from vllm_conda.audit.context import Context
from vllm_conda.audit.elf import Library
from vllm_conda.audit.finding import Finding, error, warning
from vllm_conda.audit.subject import Subject
from vllm_conda.errors import MissingToolError
from vllm_conda.targets import Targets

_MODULES = {"EM_X86_64": ("x86_64", "isa"), "EM_AARCH64": ("aarch64", "isa_arm"),
            "EM_PPC64": ("ppc64le", "isa_power")}  # fmt: skip
_X86_BASELINE, _POWER_BASELINE = 1, 8

Allowed = Mapping[str, frozenset[str]]


def check_instructions(subject: Subject, context: Context) -> Iterator[Finding]:
    """No instruction above the level outside the sections of run-time dispatched tiers."""
    level = context.promise.level
    # A package that promises no level has to run on every CPU, but a foreign one may choose at run
    # time in a way of its own.
    certain = level is not None or context.own(subject)
    for library in subject.libraries:
        if library.machine not in _MODULES:
            continue
        family, _ = _MODULES[library.machine]
        module = _module(library.machine)
        allowed, words = _allowed(module, family, level, context.targets)
        yield from _tiers(library, allowed, words)
        found = [
            excess
            for excess in module.survey(library.path, allowed)
            # Of an unknown tier the section as a whole is wrong.
            if not excess.section.startswith(TIER_PREFIX) or excess.section in allowed
        ]
        if found and not certain:
            yield _uncertain(library, found, words)
            continue
        for excess in found:
            hint = "compile it without the flag, or dispatch at run time from a tier"
            yield error("instructions", library.file, f"{excess}; promised is {words}", hint)


def _uncertain(library: Library, found: Sequence[Excess], words: str) -> Finding:
    """One line for all of a library: which of them run on what CPU cannot be told."""
    features = sorted({feature for excess in found for feature in excess.features})
    first = min(found, key=lambda excess: excess.address)
    where = f" in {first.function}" if first.function else ""
    return warning(
        "instructions",
        library.file,
        f"{sum(excess.count for excess in found)} instructions are above {words} "
        f"({', '.join(features)}), and no level is promised; first {first.first} at "
        f"{first.address:#x}{where}",
        "right if they are chosen at run time; else promise a level, or try --level",
    )


def _module(machine: str) -> ModuleType:
    name = _MODULES[machine][1]
    try:
        return importlib.import_module(f"vllm_conda.audit.{name}")
    except ImportError as missing:
        raise MissingToolError(
            f"Reading {_MODULES[machine][0]} instructions needs {missing.name}.",
            f"Install it: pip install {(missing.name or '').replace('_', '-')}.",
        ) from None


def _allowed(
    module: ModuleType, family: str, level: int | None, targets: Targets | None
) -> tuple[Allowed, str]:
    """What common code (``""``) and each tier's section may use, and the promise in words."""
    levels = targets.levels.get(family, {}) if targets else {}
    # Code for every CPU of the family has no tiers: nothing there may be above the baseline.
    if targets is not None and str(level) in levels:
        entry = levels[str(level)]
        option = "mcpu" if family == "ppc64le" else "march"
        common = module.flag_features([f"-{option}={entry.march}"])
        tiers = {
            f"{TIER_PREFIX}{name}": module.flag_features(targets.tiers[family][name].flags)
            for name in entry.tiers
        }
        return {"": common, **tiers}, entry.march
    if family == "x86_64":
        number = level or _X86_BASELINE
        return {"": module.level_features(number)}, f"x86-64-v{number}" if level else "x86-64"
    if family == "ppc64le":
        number = level or _POWER_BASELINE
        return {"": module.level_features(number)}, f"power{number}"
    return {"": module.BASELINE}, "armv8-a"


def _tiers(library: Library, allowed: Allowed, words: str) -> Iterator[Finding]:
    unknown = {n for n in library.sections if n.startswith(TIER_PREFIX)} - allowed.keys()
    for name in sorted(unknown):
        yield error(
            "instructions",
            library.file,
            f"section {name} belongs to no tier of {words}",
            f"tiers there: {', '.join(filter(None, allowed)) or 'none'}",
        )
    if library.machine != "EM_X86_64" or unknown:
        return
    from vllm_conda.audit import isa

    for name in isa.tier_initialisers(library.path):
        yield error(
            "instructions",
            library.file,
            f"code of {name} runs when the library is loaded, before dispatch",
            "keep static initialisers out of tiers",
        )
