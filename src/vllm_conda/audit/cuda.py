"""GPU code: what a CUDA package holds is what it declares, and what targets.toml declares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from vllm_conda.audit import modules
from vllm_conda.audit.built_for import SUMMARY, gpu_code
from vllm_conda.audit.built_for import GpuCode as GpuCodeFor
from vllm_conda.audit.context import Context
from vllm_conda.audit.fatbin import GpuCode, read_gpu_code
from vllm_conda.audit.finding import Finding, error
from vllm_conda.audit.subject import Subject
from vllm_conda.errors import AuditFailure, ConfigError
from vllm_conda.structure import load_json
from vllm_cuda_plan.arch import Code, parse_code

_NAME = "cuda"


def check_cuda(subject: Subject, context: Context) -> Iterator[Finding]:
    """GPU architectures and PTX of each library are the declared ones."""
    found: dict[str, GpuCode] = {}
    for library in subject.libraries:
        try:
            code = read_gpu_code(library.path)
        except AuditFailure as failure:
            yield error(_NAME, library.file, failure.message)
            continue
        if code is not None:
            found[library.file] = code
    if modules.FILE in subject.files:
        yield from _modules(subject, modules.FILE, found)
        return
    summaries = [name for name in subject.files if PurePosixPath(name).match(SUMMARY)]
    summaries = [name for name in summaries if _is_ours(name)]
    if not summaries:
        # A single library or a foreign package declares nothing.
        if context.own(subject):
            for name in found:
                yield error(_NAME, name, f"it holds GPU code, and no {SUMMARY} declares it")
        return
    for name in summaries:
        yield from _package(subject, context, name, found)


def _modules(subject: Subject, name: str, found: Mapping[str, GpuCode]) -> Iterator[Finding]:
    """FlashInfer's: what its summary declares is there, and is what the package was built for."""
    try:
        summary = modules.read((subject.root / name).read_bytes())
        archs = frozenset(parse_code(arch) for arch in summary.archs)
    except (ValueError, ConfigError) as reason:
        yield error(_NAME, name, f"it is damaged: {reason}")
        return
    folder = PurePosixPath(name).parent
    declared = {
        str(folder / one / f"{one}.so"): (archs, frozenset[Code]()) for one in summary.modules
    }
    yield from check_declared(found, declared)
    wanted = (subject.built_for and subject.built_for.cuda) or {}
    for one in summary.modules:
        if one not in wanted or wanted[one].archs != summary.archs:
            yield error(
                _NAME, name, f"{one} is declared for {' '.join(summary.archs)}, not built so"
            )


def _is_ours(name: str) -> bool:
    return PurePosixPath(name).parent.name in ("vllm_kernels", "lib")


def _package(
    subject: Subject, context: Context, name: str, found: Mapping[str, GpuCode]
) -> Iterator[Finding]:
    try:
        summary = load_json((subject.root / name).read_bytes())
        families: dict[str, dict[str, Any]] = summary["families"]
        folder = PurePosixPath(name).parent
        declared = {
            str(folder / entry["library"]): (
                family,
                frozenset(parse_code(arch) for arch in entry["archs"]),
                frozenset(parse_code(arch) for arch in entry["ptx"]),
            )
            for family, entry in families.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as reason:
        yield error(_NAME, name, f"it is damaged: {reason!r}")
        return
    yield from check_declared(found, {k: (a, p) for k, (_, a, p) in declared.items()})
    try:
        wanted = _wanted(subject, context, summary)
    except (ConfigError, KeyError, TypeError) as reason:
        yield error(_NAME, name, f"it cannot be compared with targets.toml: {reason}")
        return
    if wanted is not None:
        yield from _table(wanted, name, families)


def check_declared(
    found: Mapping[str, GpuCode],
    declared: Mapping[str, tuple[frozenset[Code], frozenset[Code]]],
) -> Iterator[Finding]:
    """Compare libraries with their declared machine code and PTX, both ways."""
    for library in sorted({*found, *declared}):
        if library not in declared:
            yield error(_NAME, library, f"it holds GPU code, and {SUMMARY} does not name it")
            continue
        if library not in found and not any(declared[library]):
            continue  # host code alone
        if library not in found:
            yield error(_NAME, library, "it is declared, and the package has no GPU code of it")
            continue
        for what, has, wants in (
            ("machine code", found[library].machine, declared[library][0]),
            ("PTX", found[library].ptx, declared[library][1]),
        ):
            if lacks := wants - has:
                yield error(_NAME, library, f"{what} for {_words(lacks)} is declared and missing")
            if more := has - wants:
                yield error(_NAME, library, f"{what} for {_words(more)} is not declared")


def _words(codes: Iterable[Code]) -> str:
    return ", ".join(str(code) for code in sorted(codes, key=lambda code: code.rank))


def _wanted(
    subject: Subject, context: Context, summary: Mapping[str, Any]
) -> Mapping[str, GpuCodeFor] | None:
    """What the table gave when the package was made, else what it gives now."""
    if context.own(subject) and subject.built_for is not None:
        return subject.built_for.cuda
    if context.targets is None:
        return None
    return gpu_code(context.targets, summary, subject.subdir)


def _table(
    wanted: Mapping[str, GpuCodeFor], name: str, families: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    """What the package declares is what the table makes of the same request."""
    for family, entry in families.items():
        if not entry["archs"] and not entry["ptx"]:
            continue
        if family not in wanted:
            yield error(_NAME, name, f"targets.toml has no family {family}")
            continue
        archs, ptx = wanted[family].archs, wanted[family].ptx
        if archs != tuple(entry["archs"]) or ptx != tuple(entry["ptx"]):
            yield error(
                _NAME,
                name,
                f"{family} declares {' '.join(entry['archs'])}, PTX "
                f"{' '.join(entry['ptx']) or 'none'}; targets.toml gives {' '.join(archs)}, "
                f"PTX {' '.join(ptx) or 'none'}",
            )
