"""Which engines have been run: the recorded results, and a page of them.

A document of :mod:`vllm_conda.engine.runs` is recorded without what differs from run to run; a
later run replaces the cells that it has, and leaves the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cattrs

from vllm_conda.engine import gaps
from vllm_conda.engine.cases import FEATURES, Case
from vllm_conda.engine.left_out import LEFT_OUT
from vllm_conda.engine.runs import why_wrong, words
from vllm_conda.errors import ConfigError
from vllm_conda.paths import disk_errors, write_atomic
from vllm_conda.structure import GROUPS, load_json

FOLDER = Path("docs/users/runs")
PAGE = Path("docs/users/generated/runs.md")
TRIAL = "trial"
NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """What one run found.

    Attributes:
        program: ``trial``, ``features``, ``server``, ``faults`` or ``refusal``.
        found: What it found, in words; of a wrong one the reason.
        date: Of the run.
        versions: What else it depends on.
    """

    program: str
    model: str
    dtype: str
    mode: str
    right: bool
    found: str
    date: str
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, ...]:
        return self.program, self.model, self.dtype, self.mode


@dataclass(frozen=True)
class Runs:
    """The cells of one engine on one machine.

    Attributes:
        name: The GPU, or the CPU with the tier of its kernels.
    """

    engine: str
    device: str
    name: str
    cells: tuple[Cell, ...]

    @property
    def path(self) -> Path:
        """Where it is recorded."""
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.engine} {self.name}".lower()).strip("-")
        return FOLDER / f"{slug}.json"

    def text(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"


def _structure(document: object, path: Path) -> Runs:
    try:
        return cattrs.Converter(forbid_extra_keys=True).structure(document, Runs)
    except (*GROUPS, AttributeError, TypeError, ValueError, KeyError):
        raise ConfigError(f"{path} holds no recorded runs of an engine.") from None


def _read(path: Path) -> Any:
    try:
        return load_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from None


def recorded(root: Path) -> list[Runs]:
    """Every engine and machine of the checkout.

    Raises:
        ConfigError: A file is malformed.
    """
    paths = sorted((root / FOLDER).glob("*.json"))
    found = [_structure(_read(path), path) for path in paths]
    return sorted(found, key=lambda one: (_number(one.engine), one.device, one.name))


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def from_results(path: Path) -> Runs:
    """The cells of a test's document.

    Raises:
        ConfigError: It is no such document.
    """
    document = _read(path)
    try:
        cells = tuple(
            Cell(
                row["program"], row["model"], row["dtype"], row["mode"], bool(row["right"]),
                _in_a_cell((words if row["right"] else why_wrong)(row)),
                row.get("date", document["date"]),
                document["versions"],
            )
            for row in document["rows"]
        )  # fmt: skip
        return Runs(document["engine"], document["device"], document["name"], cells)
    except (TypeError, KeyError):
        raise ConfigError(
            f"{path} is not what `vllm-conda engine test` writes.",
            "Results: output.build/engine-test.json or engine-test-cuda.json.",
        ) from None


def _in_a_cell(text: str) -> str:
    """On one line, without what would end a cell of a table or name a place on a machine."""
    # What pydantic puts around the sentence of a refusal.
    text = re.sub(r"^\d+ validation errors? for \w+ Value error, ", "", " ".join(text.split()))
    text = re.sub(r"(?<![\w.])(?:/[\w.+-]+){2,}/?", "…", text.split(" [type=")[0])
    return text.replace("|", "\\|")


def record(root: Path, path: Path) -> Path:
    """Add the results of a test to the recorded ones; returns the file.

    Raises:
        ConfigError: ``path`` holds no results.
    """
    new = from_results(path)
    place = root / new.path
    before = _structure(_read(place), place).cells if place.is_file() else ()
    cells = {cell.key: cell for cell in (*before, *new.cells)}
    found = Runs(new.engine, new.device, new.name, tuple(cells.values()))
    with disk_errors("the recorded runs", place):
        place.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(place, found.text())
    return place


def page(root: Path) -> str:
    """The page of everything recorded."""
    found = recorded(root)
    lines = [
        "# Engines that have been run, on which device, with which models and modes",
        "",
        "Small models with random weights against transformers with its plainest attention;",
        "[engine.md](../engine.md#what-has-been-run) says what counts as right. A number is how",
        "many of the tokens are transformers' own choice; near ties and misses within the bounds",
        "make up the rest. A cell that is not right says why, and so does [what is left",
        "out](#left-out); an empty one is no run of a full test. *Not run* is what a full test",
        "makes and nobody has recorded: the oldest and the newest engine take every model, those",
        "between a small Llama, and a GPU without optional packages the models that they change.",
        "`vllm-conda engine test` makes results, `vllm-conda engine record` puts them here.",
        "",
        "| engine | device | right | not right | not run |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    missing = {one.path: _missing(one, found) for one in found}
    for one in found:
        right = sum(cell.right for cell in one.cells)
        counts = f"{right} | {len(one.cells) - right} | {len(missing[one.path])}"
        lines.append(f"| {one.engine} | {one.name} | {counts} |")
    lines += _left_out()
    for one in found:
        lines += ["", f"## vLLM {one.engine} on {one.name}", "", _made(one.cells), ""]
        rows: list[Cell | Case] = [*one.cells, *missing[one.path]]
        lines += _models([row for row in rows if row.program == TRIAL])
        lines += _others([row for row in rows if row.program != TRIAL])
    return "\n".join(lines) + "\n"


def known_right(root: Path, engine: str, name: str) -> frozenset[tuple[str, ...]]:
    """The keys of what is recorded as right of an engine on a machine."""
    return frozenset(
        cell.key
        for one in recorded(root)
        if (one.engine, one.name) == (engine, name)
        for cell in one.cells
        if cell.right
    )


def missing(root: Path) -> dict[Path, tuple[Case, ...]]:
    """What a full test makes and nobody has recorded, by the file that would hold it."""
    found = recorded(root)
    return {one.path: _missing(one, found) for one in found}


def _missing(one: Runs, found: Sequence[Runs]) -> tuple[Case, ...]:
    """Of the oldest and the newest engine of ``found`` everything is expected."""
    engines = sorted({_number(other.engine) for other in found})
    packages = frozenset(name for cell in one.cells for name in cell.versions)
    have = {cell.key for cell in one.cells}
    asked = gaps.expected(
        one.engine, one.device, one.name, packages,
        whole=_number(one.engine) in (engines[0], engines[-1]),
    )  # fmt: skip
    return tuple(case for case in asked if case.key not in have)


def _left_out() -> Iterator[str]:
    """A row a reason why a full test does not make some runs."""
    yield from ("", "## Left out", "", "Runs that a full test does not make.", "")
    yield "| model or feature | type | device | engines | why |"
    yield "| --- | --- | --- | --- | --- |"
    for one in LEFT_OUT:
        names = ", ".join(_spoken(name) for name in one.names)
        dtypes = ", ".join(one.dtypes) or "all"
        yield f"| {names} | {dtypes} | {one.device or 'all'} | {one.engines} | {one.reason} |"


def _spoken(name: str) -> str:
    """As the tables below name it."""
    return name.replace("_", " ") if name in FEATURES else name


def _made(cells: Sequence[Cell]) -> str:
    dates = sorted({cell.date for cell in cells})
    versions = sorted({f"{name} {one}" for cell in cells for name, one in cell.versions.items()})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{when}; {', '.join(versions)}."


def _models(cells: Sequence[Cell | Case]) -> Iterator[str]:
    """A row a model and type, a column a mode."""
    modes = list(dict.fromkeys(cell.mode for cell in cells))
    by_key = {(cell.model, cell.dtype, cell.mode): cell for cell in cells}
    if not modes:
        return
    yield f"| model | type | {' | '.join(modes)} |"
    yield f"| --- | --- | {' | '.join('---' for _ in modes)} |"
    for model, dtype in dict.fromkeys((cell.model, cell.dtype) for cell in cells):
        columns = (by_key.get((model, dtype, mode)) for mode in modes)
        yield f"| {model} | {dtype} | {' | '.join(map(_cell, columns))} |"


def _cell(cell: Cell | Case | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Case):
        return NOT_RUN
    if not cell.right:
        return f"**wrong**: {cell.found}"
    return cell.found.split(";")[0].replace(" tokens", "", 1)


def _others(cells: Sequence[Cell | Case]) -> Iterator[str]:
    """A row a run of a feature or server."""
    if not cells:
        return
    yield from ("", "| what | model | type | found |", "| --- | --- | --- | --- |")
    for cell in cells:
        name = cell.mode.replace("_", " ")
        what = f"{cell.program}, {name}" if cell.program == "server" else name
        if isinstance(cell, Case):
            found = NOT_RUN
        else:
            found = cell.found if cell.right else f"**wrong**: {cell.found}"
        yield f"| {what} | {cell.model} | {cell.dtype} | {found} |"
