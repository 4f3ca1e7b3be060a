"""`instructions`: no instruction above the package's CPU level outside tiers' own sections.

One module a CPU family knows its instructions: audit/isa_FAMILY.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from vllm_conda import platforms
from vllm_conda.audit.code import TIER_PREFIX, Excess
from vllm_conda.audit.context import Context
from vllm_conda.audit.elf import Library
from vllm_conda.audit.finding import Finding, error, warning
from vllm_conda.audit.subject import Subject
from vllm_conda.errors import ConfigError, MissingToolError

Allowed = Mapping[str, frozenset[str]]


def check_instructions(subject: Subject, context: Context) -> Iterator[Finding]:
    """No instruction above the level outside the sections of run-time dispatched tiers."""
    level = context.promise.level
    # A package that promises no level has to run on every CPU, but a foreign one may choose at run
    # time in a way of its own.
    certain = level is not None or context.own(subject)
    families = {entry.elf_machine: name for name, entry in platforms.families().items()}
    for library in subject.libraries:
        if library.machine not in families:
            continue
        family = families[library.machine]
        module = _module(family)
        tiers = context.tiers(subject, family, level)
        try:
            allowed, words = allowed_features(family, level, tiers)
        except ConfigError as failure:  # a package of a newer toolkit
            yield error("instructions", library.file, failure.message, failure.hint)
            continue
        yield from _tiers(module, library, allowed, words)
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
    """One line for the whole library: which CPU runs which of these instructions cannot be told."""
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


def _module(family: str) -> ModuleType:
    try:
        return importlib.import_module(f"vllm_conda.audit.isa_{family}")
    except ImportError as missing:
        raise MissingToolError(
            f"Reading {family} instructions needs {missing.name}.",
            f"Install it: pip install {(missing.name or '').replace('_', '-')}.",
        ) from None


def allowed_features(
    family: str, level: int | None, tiers: Mapping[str, Sequence[str]]
) -> tuple[Allowed, str]:
    """What common code (``""``) and each tier's section may use, and the promise in words."""
    module, platform = _module(family), platforms.families()[family]
    number = platform.baseline if level is None else level
    allowed = {"": module.flag_features([platform.level_flag(number)])}
    for name, flags in tiers.items():
        allowed[f"{TIER_PREFIX}{name}"] = module.flag_features(flags)
    return allowed, platform.compiler_name(number)


def _tiers(module: ModuleType, library: Library, allowed: Allowed, words: str) -> Iterator[Finding]:
    unknown = {n for n in library.sections if n.startswith(TIER_PREFIX)} - allowed.keys()
    for name in sorted(unknown):
        yield error(
            "instructions",
            library.file,
            f"section {name} belongs to no tier of {words}",
            f"tiers there: {', '.join(filter(None, allowed)) or 'none'}",
        )
    if unknown or not hasattr(module, "tier_initialisers"):
        return
    for name in module.tier_initialisers(library.path):
        yield error(
            "instructions",
            library.file,
            f"code of {name} runs when the library is loaded, before dispatch",
            "keep static initialisers out of tiers",
        )
