"""Plots of the recorded figures, as SVG.

A drawn file carries the hash of what it shows and of this file, so that a check needs neither the
plotting library nor its version: it compares hashes.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import (
    ROOT,
    Document,
    EngineCase,
    KernelCase,
    builds,
    engines,
    kernels,
)
from vllm_conda.costs import Build

FOLDER = ROOT / "docs" / "performance" / "plots"
ENGINES, BUILDS = "engine", "builds"
# Okabe and Ito's colours, told apart with every kind of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#666666"
# Fixed names of elements instead of random ones, text as text, no date: the same file every time.
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "vllm-kernels",
    "svg.fonttype": "none",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        data: Everything that it shows, as JSON would have it.
        paint: Draws the data; given a `matplotlib.figure.Figure`.
    """

    name: str
    data: Any
    size: tuple[float, float]
    paint: Callable[[Any, Any], None]

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.name}.svg"

    @property
    def mark(self) -> str:
        """What the file says of its origin."""
        text = json.dumps(self.data, sort_keys=True) + Path(__file__).read_text(encoding="utf-8")
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def stale(plot: Plot) -> bool:
    return not plot.path.is_file() or plot.mark not in plot.path.read_text(encoding="utf-8")


def draw(plot: Plot) -> None:
    """Write the plot's file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=plot.size, layout="constrained")
        plot.paint(figure, plot.data)
        plot.path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(plot.path, metadata={"Source": plot.mark, "Date": None, "Creator": None})


def plots() -> Iterator[Plot]:
    """All plots of what is recorded."""
    measured: dict[str, list[Document[KernelCase]]] = {}
    for document in kernels():
        measured.setdefault(document.machine.name, []).append(document)
    for name, documents in measured.items():
        if has_plot(documents):
            data = kernels_data(documents)
            yield Plot(kernels_name(name), data, (8, 1.6 + 0.28 * len(data)), paint_kernels)
    yield Plot(ENGINES, engines_data(engines()), (8, 4.2), paint_engines)
    yield Plot(BUILDS, builds_data(builds()), (10, 7.5), paint_builds)


def kernels_name(machine: str) -> str:
    return f"kernels-{machine}"


def has_plot(documents: Sequence[Document[KernelCase]]) -> bool:
    """One family alone shows in its table as well."""
    return len(documents) > 1


def kernels_data(documents: Sequence[Document[KernelCase]]) -> list[dict[str, Any]]:
    """Ratios to the fastest peer, by family and group."""
    rows = []
    for document in documents:
        groups = sorted({case.group for case in document.cases})
        for group in groups:
            found = [case.ratio for case in document.cases if case.group == group and case.ratio]
            if found:
                rows.append({"family": document.name, "group": group, "ratios": found})
    return rows


def paint_kernels(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """A bar to the geometric mean; a dot for each case."""
    axes = figure.subplots()
    colours = {"decode": BLUE, "prefill": ORANGE}
    for place, row in enumerate(rows):
        ratios = row["ratios"]
        mean = statistics.geometric_mean(ratios)
        colour = colours[row["group"].partition(",")[0]]
        axes.barh(place, mean - 1, left=1, height=0.66, color=colour, alpha=0.55)
        axes.scatter(ratios, [place] * len(ratios), s=9, color="black", alpha=0.45, linewidths=0)
        axes.annotate(f"{mean:.2f}", (1.01, place), xycoords=("axes fraction", "data"), va="center")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    ticks = [tick for tick in (0.5, 0.7, 1, 1.5, 2, 3, 5, 7, 10, 15, 20) if _within(rows, tick)]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_yticks(range(len(rows)), [f"{row['family']}: {row['group']}" for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("fastest peer's time / ours (right of 1: ours is faster)")
    axes.set_title("bar and number: geometric mean; dots: cases", loc="left", fontsize=10)


def _within(rows: Sequence[dict[str, Any]], tick: float) -> bool:
    ratios = [ratio for row in rows for ratio in row["ratios"]]
    return bool(min(ratios) * 0.9 <= tick <= max(ratios) * 1.1)


def engines_data(documents: Sequence[Document[EngineCase]]) -> list[dict[str, Any]]:
    """Our decode throughput over each contender's, by machine and shape."""
    rows = []
    for document in documents:
        shapes = {}
        for case in document.cases:
            medians = case.medians()
            ours = medians["kernels"].decode_tokens_per_second
            shapes[case.label] = {
                name: ours / row.decode_tokens_per_second
                for name, row in medians.items()
                if name != "kernels"
            }
        rows.append({"machine": document.machine.title, "shapes": shapes})
    return rows


def paint_engines(figure: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Two bars a shape, one panel a machine."""
    contenders = {
        "reference": ("engine on PyTorch reference ops", BLUE),
        "upstream": ("upstream's CPU build", ORANGE),
    }
    widths = [len(row["shapes"]) for row in rows]
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False, width_ratios=widths)[0]
    for axes, row in zip(panels, rows, strict=True):
        for offset, (name, (label, colour)) in enumerate(contenders.items()):
            for place, ratios in enumerate(row["shapes"].values()):
                if name in ratios:
                    bar = axes.bar(
                        place + 0.4 * offset - 0.2, ratios[name], 0.38, color=colour, label=label
                    )
                    axes.bar_label(bar, fmt="%.2f", fontsize=8, padding=2)
        axes.axhline(1, color="black", linewidth=1)
        axes.set_xticks(range(len(row["shapes"])), row["shapes"], fontsize=9)
        axes.set_title(row["machine"].replace(" (", "\n("), fontsize=10)
        axes.set_xlabel("requests x prompt")
    panels[0].margins(y=0.1)
    panels[0].set_ylabel("our decode tokens/s over theirs")
    handles, labels = [], []
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            if label not in labels:
                handles.append(handle)
                labels.append(label)
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)


def builds_data(found: dict[str, Document[Build]]) -> dict[str, Any]:
    """Compiles of each CUDA family, and the size of what each job packs."""
    compiles = {
        case.name: {
            name: [family.cpu_seconds, family.memory_mib] for name, family in case.families.items()
        }
        for case in found["compile"].cases
    }
    sizes = {
        case.name: max(case.package_mib.values())
        for case in found["jobs"].cases
        if case.package_mib
    }
    return {"compiles": compiles, "sizes": sizes}


def paint_builds(figure: Any, data: dict[str, Any]) -> None:
    """Processor time and memory by family; below, sizes by job."""
    panels = figure.subplot_mosaic([["time", "memory"], ["size", "size"]], height_ratios=[1.9, 1])
    labels = {"sm90": "sm90 alone", "all": "all architectures"}
    colours = {"sm90": BLUE, "all": ORANGE}
    titles = {"time": "processor time of compiling, s", "memory": "largest process, MiB"}
    for column, (name, title) in enumerate(titles.items()):
        axes = panels[name]
        for offset, (slice_, families) in enumerate(data["compiles"].items()):
            places = [place + 0.4 * offset - 0.2 for place in range(len(families))]
            values = [figures[column] for figures in families.values()]
            bars = axes.barh(places, values, 0.38, color=colours[slice_], label=labels[slice_])
            axes.bar_label(bars, fmt="{:,.0f}", fontsize=8, padding=2)
        axes.set_yticks(range(len(families)), families)
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=10)
        axes.margins(x=0.14)
    panels["memory"].set_yticks([])
    panels["time"].legend(frameon=False, loc="center right")
    axes = panels["size"]
    bars = axes.barh(range(len(data["sizes"])), data["sizes"].values(), 0.7, color=GREEN)
    axes.bar_label(bars, fmt="%.2f", fontsize=8, padding=2)
    axes.set_xscale("log")
    ticks = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(0.1, 1.6 * max(data["sizes"].values()))
    axes.set_yticks(range(len(data["sizes"])), data["sizes"])
    axes.invert_yaxis()
    axes.set_title("size of the kernels' package by job, MiB", loc="left", fontsize=10)
