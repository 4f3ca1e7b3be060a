"""The figures that are recorded: one document a family and machine, in benchmarks/results.

Three kinds of cases share the document: kernels beside their peers, an engine beside others, and
builds. benchmarks/results/schema.json is the format for other readers. Times are seconds, rates
are a second's. Standard library only: every environment that measures writes these files.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import statistics
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

# The toolkit's table of jobs reads what builds cost, so their cases are defined there.
from vllm_conda.costs import Build, FamilyCost
from vllm_conda.paths import write_atomic

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA = 2
ENGINE = "engine"
BUILD = "build"
# No cache of a core's share holds so much.
UNCACHED_BYTES = 64 << 20


@dataclass(frozen=True)
class Machine:
    """What measured, by properties that many machines share.

    Attributes:
        name: Folder of the results and page of the documentation.
        tier: Instruction-set tier of the CPU kernels.
        capability: Compute capability of the GPU.
    """

    name: str
    cpu: str | None = None
    gpu: str | None = None
    cores: int | None = None
    threads: int | None = None
    memory_gib: int | None = None
    tier: str | None = None
    capability: str | None = None
    multiprocessors: int | None = None

    @property
    def title(self) -> str:
        """The model; of a CPU also what its kernels were dispatched to; a name of its own."""
        model = self.gpu or self.cpu or self.name
        tier = f", tier {self.tier}" if self.tier else ""
        own = "" if self.name == slug(model, self.tier or "") else f" ({self.name})"
        return f"{model.replace('(R)', '').removesuffix(' Processor')}{tier}{own}"


@dataclass(frozen=True)
class Timing:
    """Seconds a call, over blocks."""

    median: float
    least: float | None = None


def label(op: str, variant: str, shape: Mapping[str, int], dtype: str) -> str:
    """How a case is called in tables."""
    sizes = "x".join(str(size) for size in shape.values())
    return " ".join(word for word in (op, variant, sizes, dtype) if word)


@dataclass(frozen=True)
class KernelCase:
    """One shape and dtype of one op, ours and its peers.

    Attributes:
        forms: Our op asked for in another way, timed in the same turns; no peer.

    The others are those of ``harness.Case``.
    """

    op: str
    variant: str
    shape: dict[str, int]
    dtype: str
    group: str
    bytes_moved: int | None
    flops: int | None
    ours: Timing
    peers: dict[str, Timing]
    forms: dict[str, Timing] = field(default_factory=dict)

    @property
    def label(self) -> str:
        return label(self.op, self.variant, self.shape, self.dtype)

    @property
    def ratios(self) -> dict[str, float]:
        """Each peer's median over ours, the fastest peer first; above 1, ours is faster."""
        found = {name: peer.median / self.ours.median for name, peer in self.peers.items()}
        return dict(sorted(found.items(), key=lambda item: item[1]))

    @property
    def best_peer(self) -> str | None:
        return next(iter(self.ratios), None)

    @property
    def ratio(self) -> float | None:
        """The fastest peer's median over ours."""
        return next(iter(self.ratios.values()), None)

    @property
    def bytes_per_s(self) -> float | None:
        return self.bytes_moved / self.ours.median if self.bytes_moved else None

    @property
    def flops_per_s(self) -> float | None:
        return self.flops / self.ours.median if self.flops else None

    def document(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "ratios": self.ratios}

    @classmethod
    def read(cls, document: dict[str, Any]) -> KernelCase:
        given = {key: value for key, value in document.items() if key != "ratios"}
        peers, forms = (
            {name: Timing(**one) for name, one in given[kind].items()}
            for kind in ("peers", "forms")
        )
        ours = Timing(**given["ours"])
        return cls(**{**given, "ours": ours, "peers": peers, "forms": forms})


@dataclass(frozen=True)
class Round:
    """One start of an engine.

    Attributes:
        decode_tokens_per_second: While every request decodes.
        first_token: Seconds until a request has its first token, the median of requests.
        between_tokens: Seconds between a request's tokens, the median.
    """

    tokens_per_second: float
    decode_tokens_per_second: float
    first_token: float
    between_tokens: float


@dataclass(frozen=True)
class EngineCase:
    """A number of requests of one length, by contender.

    Attributes:
        threads: Of the model.
        step_bytes: The least that a step of decoding reads.
        read_bytes_per_s: The most that these threads were seen to read in the same runs.
    """

    model: str
    dtype: str
    batch: int
    prompt: int
    threads: int
    step_bytes: int
    read_bytes_per_s: float
    contenders: dict[str, tuple[Round, ...]]

    @property
    def label(self) -> str:
        return f"{self.batch} x {self.prompt}"

    @property
    def key(self) -> tuple[str, str]:
        """What distinguishes it in a document."""
        return self.model, self.label

    @property
    def bound(self) -> float:
        """Seconds in which a step's bytes can be read."""
        return self.step_bytes / self.read_bytes_per_s

    def medians(self) -> dict[str, Round]:
        """Of each contender's rounds, figure by figure."""
        names = [one.name for one in dataclasses.fields(Round)]
        return {
            who: Round(*(statistics.median(getattr(one, name) for one in rounds) for name in names))
            for who, rounds in self.contenders.items()
        }

    def document(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, document: dict[str, Any]) -> EngineCase:
        contenders = {
            name: tuple(Round(**one) for one in rounds)
            for name, rounds in document["contenders"].items()
        }
        return cls(**{**document, "contenders": contenders})


Entry = TypeVar("Entry", KernelCase, EngineCase, Build)


@dataclass(frozen=True)
class Document(Generic[Entry]):
    """One file of results.

    Attributes:
        name: The family of kernels, or what else was measured.
        device: "cpu" or "cuda"; "build" for builds.
        commit: Of the sources that were measured; where that was not recorded, the commit that
            brought the figures. None outside a checkout.
        copy_bytes_per_s: What a large copy reads and writes a second in the same run.
        read_bytes_per_s: The most that the same threads read a second from memory in the same run.
    """

    name: str
    device: str
    machine: Machine
    versions: dict[str, str]
    commit: str | None
    date: str
    cases: tuple[Entry, ...]
    copy_bytes_per_s: float | None = None
    read_bytes_per_s: float | None = None
    note: str = ""

    @property
    def path(self) -> Path:
        """Of the file, below the folder of results; builds of all machines share theirs."""
        folder = Path(self.device) / ("" if self.device == BUILD else self.machine.name)
        return folder / f"{self.name}.json"

    def text(self) -> str:
        head = {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.name not in ("machine", "cases")
        }
        document = {
            "schema": SCHEMA,
            **head,
            "machine": dataclasses.asdict(self.machine),
            "cases": [case.document() for case in self.cases],
        }
        return json.dumps(document, indent=1) + "\n"

    def write(self, folder: Path = RESULTS) -> Path:
        """Record the document; whoever reads meanwhile sees the old or the new one."""
        path = folder / self.path
        write_atomic(path, self.text())
        return path


def read(path: Path, case: Callable[[dict[str, Any]], Entry]) -> Document[Entry]:
    """A recorded document, whose cases ``case`` makes of theirs.

    Raises:
        ValueError: The file has another schema.
    """
    given = json.loads(path.read_text(encoding="utf-8"))
    if given.pop("schema", None) != SCHEMA:
        raise ValueError(f"{path}: not of schema {SCHEMA}; measure again.")
    return Document(
        **{
            **given,
            "machine": Machine(**given["machine"]),
            "cases": tuple(case(one) for one in given["cases"]),
        }
    )


def read_build(document: dict[str, Any]) -> Build:
    families = {name: FamilyCost(**one) for name, one in document["families"].items()}
    return Build(**{**document, "families": families})


def kernels(folder: Path = RESULTS) -> list[Document[KernelCase]]:
    """What was measured of kernels, by device, machine and family."""
    paths = sorted(folder.glob("*/*/*.json"))
    return [read(path, KernelCase.read) for path in paths if path.stem != ENGINE]


def engines(folder: Path = RESULTS, device: str = "cpu") -> list[Document[EngineCase]]:
    """What was measured of engines on a device, by machine."""
    paths = sorted(folder.glob(f"{device}/*/{ENGINE}.json"))
    return [read(path, EngineCase.read) for path in paths]


def builds(folder: Path = RESULTS) -> dict[str, Document[Build]]:
    """What builds cost, by what was built."""
    return {path.stem: read(path, read_build) for path in sorted((folder / BUILD).glob("*.json"))}


def rate(case: KernelCase, copy_bytes_per_s: float | None, read_bytes_per_s: float | None) -> str:
    """Arithmetic or traffic a second, the latter also as a share of a copy's or of reading.

    What caches may hold is not compared with reading from memory.
    """
    words = []
    if (flops := case.flops_per_s) is not None:
        words.append(
            f"{flops * 1e-12:.1f} TFLOP/s" if flops >= 1e13 else f"{flops * 1e-9:.1f} GFLOP/s"
        )
    if (moved := case.bytes_per_s) is not None:
        words.append(f"{moved * 1e-9:.1f} GB/s")
        if copy_bytes_per_s:
            words.append(f"{moved / copy_bytes_per_s:.1%} of copy")
        if read_bytes_per_s and case.bytes_moved and case.bytes_moved >= UNCACHED_BYTES:
            words.append(f"{moved / read_bytes_per_s:.0%} of reading")
    return ", ".join(words)


def slug(*words: str) -> str:
    """A machine's name: lower case, without trade marks."""
    text = " ".join(words).lower()
    text = re.sub(r"\(r\)|\(tm\)|\bprocessor\b|\bcpu\b|@.*", " ", text)
    return re.sub(r"[^a-z0-9]+", "-", text).strip("-")


def commit() -> str | None:
    """Of the checkout that measures."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def today() -> str:
    return datetime.datetime.now(datetime.timezone.utc).date().isoformat()
