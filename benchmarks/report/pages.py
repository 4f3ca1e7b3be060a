"""One page a machine: every kernel case and engine figure that was measured on it; and builds."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Mapping

from benchmarks.record import (
    ROOT,
    Document,
    EngineCase,
    KernelCase,
    builds,
    engines,
    kernels,
    rate,
)
from benchmarks.report import loops
from benchmarks.report.markdown import HEADER, microseconds, table
from benchmarks.report.plots import BUILDS, ENGINES, has_plot, kernels_name
from vllm_conda.costs import Build

FOLDER = ROOT / "docs" / "performance" / "generated"
ENGINE_PEERS = {
    "cpu": {"reference": "PyTorch reference ops", "upstream": "upstream's CPU build"},
    "cuda": {"upstream": "upstream's wheel"},
}


def pages() -> dict[str, str]:
    """Texts of all pages by name."""
    found: dict[str, str] = {"builds.md": builds_page(builds()), **loops.page()}
    measured: dict[str, list[Document[KernelCase]]] = {}
    for document in kernels():
        measured.setdefault(document.machine.name, []).append(document)
    running = {
        document.machine.name: document for document in (*engines(), *engines(device="cuda"))
    }
    for name in {**measured, **running}:
        found[f"{name}.md"] = machine_page(name, measured.get(name, []), running.get(name))
    return found


def machine_page(
    name: str, measured: list[Document[KernelCase]], engine: Document[EngineCase] | None
) -> str:
    """Everything that was measured on one machine."""
    (machine, *_) = (document.machine for document in (*measured, engine) if document)
    text = f"{HEADER}# {machine.title}\n"
    if measured:
        text += (
            "\nMedians of contenders that take turns in one run a family. Ratio: the fastest "
            "peer's time over ours, above 1 where ours is faster. `eager` and `compile` are "
            "PyTorch, the latter torch.compile. [How it is measured](../method.md).\n\n"
        )
        if has_plot(measured):
            text += f"![Ratios by family](../plots/{kernels_name(name)}.svg)\n\n"
        head = ("family", "group", "not slower", "smallest ratio>", "geometric mean>")
        text += table(head, (row for document in measured for row in _summary(document)))
        text += "".join(_family(document) for document in measured)
    if engine:
        text += _engine(engine)
    return text


def _summary(document: Document[KernelCase]) -> Iterator[tuple[str, ...]]:
    """One row a group: how often ours is not slower, and by how much."""
    for group in sorted({case.group for case in document.cases}):
        ratios = [case.ratio for case in document.cases if case.group == group and case.ratio]
        if ratios:
            yield (
                document.name,
                group,
                f"{sum(ratio >= 1 for ratio in ratios)} of {len(ratios)}",
                f"{min(ratios):.2f}",
                f"{statistics.geometric_mean(ratios):.2f}",
            )


def _provenance(document: Document[KernelCase] | Document[EngineCase] | Document[Build]) -> str:
    machine = document.machine
    words = [f"{name} {version}" for name, version in document.versions.items()]
    if machine.threads:
        words.append(f"{machine.threads} threads")
    if document.copy_bytes_per_s:
        words.append(f"a copy runs at {document.copy_bytes_per_s * 1e-9:,.0f} GB/s")
    if document.read_bytes_per_s:
        words.append(f"memory is read at {document.read_bytes_per_s * 1e-9:,.1f} GB/s")
    return f"{document.date}, commit {document.commit}; {', '.join(words)}."


def _family(document: Document[KernelCase]) -> str:
    head = ("case", "group", "ours, µs>", "best peer, µs>", "peer", "ratio>", "other peers", "rate")
    rows = (row for case in document.cases for row in _case_rows(case, document))
    note = f"{document.note}\n\n" if document.note else ""
    sizes = dict.fromkeys(" x ".join(case.shape) for case in document.cases)
    return (
        f"\n## {document.name}\n\n{_provenance(document)} Sizes: {', '.join(sizes)}.\n\n{note}"
        + table(head, rows)
    )


def _case_rows(case: KernelCase, document: Document[KernelCase]) -> Iterator[tuple[str, ...]]:
    """The case's own row, then one a form of our op."""
    yield _case_row(case.label, case, document)
    for name, timing in case.forms.items():
        form = dataclasses.replace(case, ours=timing, forms={})
        yield _case_row(f"… {name}", form, document)


def _case_row(label: str, case: KernelCase, document: Document[KernelCase]) -> tuple[str, ...]:
    best, ratios = case.best_peer, case.ratios
    others = (f"{name} {ratio:.2f}" for name, ratio in ratios.items() if name != best)
    return (
        label,
        case.group,
        microseconds(case.ours.median),
        microseconds(case.peers[best].median) if best else "",
        best or "",
        f"{case.ratio:.2f}" if case.ratio else "",
        ", ".join(others),
        rate(case, document.copy_bytes_per_s, document.read_bytes_per_s),
    )


def _engine(document: Document[EngineCase]) -> str:
    """One row a shape and contender, with the ratio of our decode throughput to its own."""
    models = {f"{case.model} in {case.dtype}, random weights" for case in document.cases}
    threads = {str(case.threads) for case in document.cases}
    plot = f"![Decode throughput against others](../plots/{ENGINES}.svg)\n\n"
    text = (
        f"\n## The engine\n\n{plot if document.device == 'cpu' else ''}"
        f"{_provenance(document)} {', '.join(sorted(models))}; threads of the model: "
        f"{', '.join(sorted(threads))}. Shapes are batch x prompt; decode: while every request "
        "decodes; medians of the rounds. Ratio: our decode throughput over the contender's. The "
        "bound is the time in which a step's weights, as the checkpoint has them, keys and values "
        "can be read at the largest bandwidth measured in the same runs; the last column is what "
        "a decoder at the bound would reach. [Notes](../notes/engine.md) say what compact weights "
        "change.\n\n"
    )
    head = (
        *("shape", "on", "rounds>", "tokens/s>", "decode, tokens/s>", "first token, ms>"),
        *("between tokens, ms>", "ratio>", "bound, ms>", "ratio at the bound>"),
    )
    several = len({case.model for case in document.cases}) > 1
    peers = ENGINE_PEERS[document.device]
    rows = (row for case in document.cases for row in _engine_rows(case, peers, several))
    return text + table(head, rows)


def _engine_rows(
    case: EngineCase, peers: Mapping[str, str], several: bool
) -> Iterator[tuple[str, ...]]:
    contenders = case.medians()
    ours = contenders["kernels"].decode_tokens_per_second
    for name, row in contenders.items():
        peer = name in peers
        yield (
            f"{case.model} {case.label}" if several else case.label,
            peers.get(name, "the kernels"),
            str(len(case.contenders[name])),
            f"{row.tokens_per_second:.1f}",
            f"{row.decode_tokens_per_second:.1f}",
            f"{row.first_token * 1e3:,.0f}",
            f"{row.between_tokens * 1e3:.1f}",
            f"{ours / row.decode_tokens_per_second:.2f}" if peer else "",
            f"{case.bound * 1e3:.1f}",
            f"{row.between_tokens / case.bound:.2f}" if peer else "",
        )


def builds_page(found: dict[str, Document[Build]]) -> str:
    """What building costs; each job's own figures are the toolkit's table of jobs."""
    text = (
        f"{HEADER}# Builds\n\n![Compile costs by family, package sizes](../plots/{BUILDS}.svg)\n\n"
        "What each job of the matrix costs is in [matrix.md](../../packagers/generated/matrix.md); "
        "[notes](../notes/builds.md) say what else was seen.\n"
    )
    if document := found.get("build"):
        text += f"\n## From a clean clone\n\n{_machine_words(document)}\n\n"
        rows = (
            (case.name, f"{sum(case.seconds.values()):,.1f}", f"{case.limit_seconds or 0:.0f}")
            for case in document.cases
        )
        text += table(("`./run build`", "wall clock, s>", "may take, s>"), rows)
    if document := found.get("compile"):
        text += f"\n## CUDA compiles by family\n\n{_machine_words(document)} {document.note}\n"
        for case in document.cases:
            text += _compiles(case)
    return text


def _machine_words(document: Document[Build]) -> str:
    machine = document.machine
    words = [machine.title] if machine.cpu else []
    words += [f"{machine.cores} cores"] if machine.cores else []
    words += [f"{machine.memory_gib} GiB of memory"] if machine.memory_gib else []
    return f"{', '.join(words)}. {_provenance(document)}"


def _compiles(case: Build) -> str:
    text = (
        f"\n### `{case.name}`\n\n{sum(case.seconds.values()):.0f} s on {case.cores} cores, "
        f"{(case.cpu_seconds or 0) / 60:.0f} minutes of processor time.\n\n"
    )
    head = ("family", "files>", "processor time, s>", "longest file, s>", "largest process, MiB>")
    rows = (
        (
            f"`{name}`",
            str(family.files),
            f"{family.cpu_seconds:.0f}",
            f"{family.longest_cpu_seconds:.0f}",
            str(family.memory_mib),
        )
        for name, family in case.families.items()
    )
    return text + table(head, rows)
