"""Tokens a second, time to first token and between tokens of an engine on our kernels.

The same unmodified engine and the same random-weight Llama of half a billion parameters, once on
the kernels and once on the PyTorch reference ops; with --upstream also an environment in which
upstream's own CPU build is installed. A shape is measured by all contenders in one run, in rounds:
each round starts every contender once, another first, and goes into the file as it ends; --add
keeps the rounds that the file has.
The bound of a shape is what it must read in a step, over the bandwidth that one process with the
engine's threads reads at in the same run. Run it with the Python of an environment that has
vllm-engine and vllm-kernels-cpu:

    vllm-conda exec --with vllm-engine --with vllm-kernels-cpu -- \\
        python -m benchmarks.engine.bench_engine
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.cpu import CpuTimer
from benchmarks.harness.measure import in_turn
from benchmarks.harness.timer import Timer
from benchmarks.record import (
    ENGINE,
    RESULTS,
    ROOT,
    Document,
    EngineCase,
    Machine,
    Round,
    commit,
    read,
    today,
)

PROGRAMS = ROOT / "src" / "vllm_conda" / "engine" / "inside"
MODEL, DTYPE = "llama_500m", "bf16"
SHAPES = [f"{batch}x{length}" for length in (128, 2048) for batch in (1, 8, 32)]


@dataclass(frozen=True)
class Contender:
    """An environment and the variables that it runs with."""

    python: str
    variables: dict[str, str] = field(default_factory=dict)


def upstream(python: str) -> Contender:
    """Upstream's CPU build, with the OpenMP library that it asks for where it is installed."""
    openmp = Path(python).absolute().parents[1] / "lib" / "libiomp5.so"
    preload = {"LD_PRELOAD": str(openmp)} if openmp.is_file() else {}
    return Contender(python, {"VLLM_KERNELS_PLUGIN": "0", **preload})


def start(command: list[str], result: Path, variables: dict[str, str]) -> Any:
    """Run a program that writes ``result``; return what it wrote."""
    result.unlink(missing_ok=True)
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    if done.returncode or not result.is_file():
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return json.loads(result.read_text(encoding="utf-8"))


def run(
    contender: Contender,
    shapes: list[str],
    tokens: int,
    scratch: Path,
    model: str = MODEL,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One start of one contender; what it found by shape.

    Args:
        more: Of the program's arguments.
    """
    result = scratch / "result.json"
    command = [
        contender.python, str(PROGRAMS / "measure.py"), model,
        "--models", str(scratch / "models"), "--result", str(result), "--tokens", str(tokens),
        *(word for shape in shapes for word in ("--shape", shape)), *more,
    ]  # fmt: skip
    variables = {"VLLM_CACHE_ROOT": str(scratch / "cache"), **contender.variables}
    found: dict[str, Any] = start(command, result, variables)
    return found


def bandwidth(scratch: Path) -> tuple[float, int]:
    """Bytes a second that a process reads with the engine's threads, and how many these are.

    The engine keeps one core for itself, where it has more than one.
    """
    threads = max(1, len(os.sched_getaffinity(0)) - 1)
    result = scratch / "bandwidth.json"
    command = [sys.executable, str(PROGRAMS / "bandwidth.py"), str(result)]
    return start(command, result, {"OMP_NUM_THREADS": str(threads)})["read_bandwidth"], threads


class Record:
    """The document on disk, which grows round by round.

    Args:
        add: Keep the rounds that it has of the shapes that are measured.
        device: "cpu" or "cuda", of which ``timer`` knows the machine.
    """

    def __init__(
        self,
        folder: Path,
        machine: str,
        add: bool,
        device: str = "cpu",
        timer: Timer | None = None,
    ) -> None:
        timer = timer or CpuTimer()
        # The engine chooses its threads itself; each case has them.
        where: Machine = dataclasses.replace(timer.machine(machine), threads=None)
        self._folder = folder
        self.document: Document[EngineCase] = Document(
            ENGINE, device, where, timer.versions(), commit(), today(), ()
        )
        path = folder / self.document.path
        if path.is_file():
            before = read(path, EngineCase.read)
            if (before.machine, before.versions) != (where, timer.versions()):
                sys.exit(f"{path} was measured elsewhere or with other versions; remove it first.")
            self.document = dataclasses.replace(self.document, cases=before.cases)
        self._kept = {case.key for case in self.document.cases} if add else set()

    def add(
        self,
        shape: str,
        name: str,
        found: dict[str, Any],
        rate: float,
        threads: int,
        model: str = MODEL,
    ) -> None:
        """Put a contender's rounds of a shape into the document."""
        batch, prompt = (int(number) for number in shape.split("x"))
        cases = {case.key: case for case in self.document.cases}
        case = EngineCase(model, DTYPE, batch, prompt, threads, found["step_bytes"], rate, {})
        if case.key in self._kept and (before := cases.get(case.key)):
            # The largest that was seen is the memory's.
            rate = max(rate, before.read_bytes_per_s)
            contenders = before.contenders
            case = dataclasses.replace(case, read_bytes_per_s=rate, contenders=contenders)
        self._kept.add(case.key)
        rounds = (*case.contenders.get(name, ()), *(Round(**one) for one in found["rounds"]))
        contenders = {**case.contenders, name: rounds}
        cases[case.key] = dataclasses.replace(case, contenders=contenders)
        order = sorted(cases.values(), key=lambda one: (one.model, one.prompt, one.batch))
        self.document = dataclasses.replace(self.document, cases=tuple(order))

    def write(self) -> None:
        """Cases that ours has not run yet are no results."""
        cases = tuple(case for case in self.document.cases if "kernels" in case.contenders)
        if cases:
            dataclasses.replace(self.document, cases=cases).write(self._folder)


def report(case: EngineCase) -> None:
    rows = case.medians()
    ours = rows.get("kernels")
    for name, row in rows.items():
        ratio = (ours or row).decode_tokens_per_second / row.decode_tokens_per_second
        print(
            f"{case.label:10} {name:10} {row.tokens_per_second:9.1f} tok/s  decode "
            f"{row.decode_tokens_per_second:9.1f} tok/s  first {row.first_token * 1e3:9.1f} ms  "
            f"between {row.between_tokens * 1e3:8.2f} ms  kernels {ratio:6.2f}x",
            flush=True,
        )
    print(f"{case.label:10} a step reads at least {case.bound * 1e3:.2f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", action="append", help=f"batch x prompt; default: {SHAPES}")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that each request gives")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--upstream", help="Python of an environment with upstream's CPU build")
    parser.add_argument("--scratch", type=Path, help="keeps the model and compiled code")
    parser.add_argument("--only", action="append", help="a contender to measure, not all of them")
    parser.add_argument("--add", action="store_true", help="to the rounds in the file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    parser.add_argument("--machine", default="", help="its name in the results")
    arguments = parser.parse_args()
    shapes = arguments.shape or SHAPES
    contenders = {
        "kernels": Contender(sys.executable),
        "reference": Contender(sys.executable, {"VLLM_KERNELS_BACKEND": "reference"}),
    }
    if arguments.upstream:
        contenders["upstream"] = upstream(arguments.upstream)
    names = [name for name in contenders if name in (arguments.only or contenders)]
    record = Record(arguments.results, arguments.machine, arguments.add)
    with ExitStack() as stack:
        scratch = arguments.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.mkdir(parents=True, exist_ok=True)
        rate, threads = bandwidth(scratch)
        for number in range(arguments.rounds):
            for name in in_turn(names, number):
                found = run(contenders[name], shapes, arguments.tokens, scratch)
                for shape in shapes:
                    record.add(shape, name, found[shape], rate, threads)
                record.write()
    for case in record.document.cases:
        report(case)


if __name__ == "__main__":
    main()
