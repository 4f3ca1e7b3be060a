"""Which of a family's drawn calls the checks of its CUDA ops let pass, asked without a GPU.

A call that is refused on the host shows nothing of a kernel. A preloaded library (on_gpu.c) says
that tensors of the CPU are on a GPU; the driver, which is missing, ends each call that the checks
let pass before anything runs. Families of ranks, whose buffers must be on GPUs, are not sifted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from vllm_kernels import engine_api

from . import corpus
from .calls import Call
from .draws import Draw, drawn
from .gpu import shifted_place
from .guard import processes
from .memory import copied, plain, span
from .strategies import made
from .trust import kept

_ROOT = Path(__file__).resolve().parents[2]
_SOURCE = Path(__file__).with_name("on_gpu.c")
_NOT_SIFTED = ("all_reduce", "runtime")
# What is said once all checks have passed: CUDA's own word for a machine without a driver.
_PASSED = re.compile(
    r" failed: (CUDA driver version is insufficient for CUDA runtime version"
    r"|no CUDA-capable device is detected)"
)
# So many times as many calls as wanted are drawn, at most: of some ops none passes.
_TRIES = 40
# Numbers of hypothesis between the draws of one batch and the next.
_APART = 1 << 20


def preloaded(folder: Path) -> Path | None:
    """on_gpu.c, compiled; None where there is no C compiler."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "on_gpu.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(_SOURCE)], check=True)
    return library


def environment(library: Path) -> dict[str, str]:
    """That of a process in which ``library`` is preloaded, before what is preloaded anyway."""
    preload = ":".join(filter(None, [str(library), os.environ.get("LD_PRELOAD")]))
    return {**os.environ, "LD_PRELOAD": preload, "CUDA_VISIBLE_DEVICES": ""}


def passes(call: Call) -> bool:
    """Whether all checks on the host let the call pass."""
    if "CUDA" not in engine_api.dispatch_keys(call.op):
        return True  # of no tensors, on every device alike
    op = getattr(torch.ops.vllm_kernels, call.op).default
    try:
        op._op_dk(torch._C.DispatchKey.CUDA, *call.arguments)
    except (RuntimeError, TypeError, ValueError) as error:
        return bool(_PASSED.search(str(error)))
    return True


def _placed(call: Call, seed: int) -> Call:
    """The call with one tensor where a GPU's would begin, as far as checks see that."""
    for place, x in call.tensors():
        if place == shifted_place(call, seed) and plain(x) and x.numel() > 0:
            memory = torch.empty(span(x) + x.element_size(), dtype=torch.uint8)
            call = call.replaced(place, copied(x, memory, x.element_size()))
    return call


def sifted(family: str, number: int, calls: int) -> list[Draw]:
    """Draws of a batch, whose valid calls all pass; spoilt ones and those of a schema are as drawn.

    Of each op as many, where as many pass. In a process in which on_gpu.c is preloaded.
    """
    bases = corpus.bases(family, "cuda", None)
    ops = corpus.ops_of(family, "cuda")
    first = drawn(ops, number, calls, "cuda")
    found = [one for one in first if one[1] != "valid" or one[0] not in bases]
    wanted = calls - sum(count for *_, count in found)
    share = -(-wanted // max(1, len(bases)))
    passed, more = Counter[str](), list[Draw]()

    for again in range(_TRIES):
        for op, how, seed, count in drawn(ops, number + again * _APART, calls, "cuda"):
            if how != "valid" or op not in bases:
                continue
            for one in range(seed, seed + count):
                if passed[op] >= share and len(more) >= wanted:
                    break
                call = made(op, how, bases[op], one, "cuda")
                if not kept(call) or not passes(_placed(call, one)):
                    continue
                passed[op] += 1
                (found if passed[op] <= share else more).append((op, how, one, 1))
        if all(passed[op] >= share for op in bases):
            break
    return found + more[: max(0, wanted - sum(min(share, some) for some in passed.values()))]


def sift(family: str, numbers: range, calls: int) -> dict[str, list[Draw]] | None:
    """:func:`sifted` for each number, in a process of its own; None where the family cannot be."""
    name = engine_api.cuda_library(family)
    if family in _NOT_SIFTED or engine_api.find_library(name) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = preloaded(Path(folder))
        if library is None:
            return None
        path = Path(folder) / "draws.json"
        command = [sys.executable, "-m", "tests.fuzz.checks", family, str(calls), str(path)]
        processes.run(
            [*command, *map(str, numbers)],
            cwd=_ROOT,
            env=environment(library),
        ).check_returncode()
        found: dict[str, list[Draw]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(path: Path, families: list[str], numbers: range, calls: int, jobs: int) -> None:
    """The draws of batches of ``calls`` calls for a GPU, by family and seed."""

    def of(family: str) -> dict[str, list[Draw]]:
        found = sift(family, numbers, calls)
        if found is None:
            print(f"fuzz: {family}: valid calls are not sifted", file=sys.stderr)
            ops = corpus.ops_of(family, "cuda")
            found = {f"{family} {one}": drawn(ops, one, calls, "cuda") for one in numbers}
        return found

    with ThreadPoolExecutor(jobs) as pool:
        found = {name: draws for some in pool.map(of, families) for name, draws in some.items()}
    # A run that is cut short has made some calls of each.
    batches = {name: found[name] for one in numbers for name in (f"{f} {one}" for f in families)}
    path.write_text(json.dumps({"batches": batches}), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("family")
    parser.add_argument("calls", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("numbers", type=int, nargs="+")
    options = parser.parse_args()
    library = engine_api.find_library(engine_api.cuda_library(options.family))
    torch.ops.load_library(str(library))
    found = {
        f"{options.family} {number}": sifted(options.family, number, options.calls)
        for number in options.numbers
    }
    options.path.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
