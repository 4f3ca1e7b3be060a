"""Decode and prefill rates of an engine on our CUDA kernels, against a wheel's own.

    VLLM_KERNELS_LIBRARY_DIR=build/cuda/lib python -m benchmarks.cuda.bench_engine \\
        --wheel vllm-0.26.0-cp312-abi3-manylinux_2_28_x86_64.whl --results FOLDER

Run it with the Python of an environment in which the engine finds our kernels. The wheel is an
upstream build with native libraries; it is unpacked and put before the import path of processes
that are otherwise the same. Weights are made up by the engine (`load_format=dummy`); each round
starts every contender once, another first, and goes into the file as it ends. The bound of a step
is what it must read, over the bandwidth of a large copy in the same run.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.engine.bench_engine import Contender, Record, run
from benchmarks.harness.cuda import CudaTimer
from benchmarks.harness.measure import in_turn
from benchmarks.record import RESULTS, EngineCase

MODELS = (
    "llama_8b",
    "llama_8b_fp8",
    "llama_8b_gptq",
    "mixtral_12_layers",
    "qwen3_moe_12_layers",
    "deepseek_v3_4_layers",
)
SHAPES = ("1x128", "32x128", "128x1024")
TOKENS = 64


def contenders(wheel: Path | None, scratch: Path) -> dict[str, Contender]:
    """Ours, and the wheel's: the same interpreter with its files in front."""
    found = {"kernels": Contender(sys.executable)}
    if wheel is not None:
        folder = scratch / wheel.stem
        if not folder.is_dir():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
        path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))
        variables = {"PYTHONPATH": path, "VLLM_KERNELS_PLUGIN": "0"}
        found["upstream"] = Contender(sys.executable, variables)
    return found


def report(case: EngineCase) -> None:
    """A line a contender: what it decodes and reads in a second, beside ours."""
    rows = case.medians()
    ours = rows["kernels"]
    for name, row in rows.items():
        prefill = case.batch * case.prompt / row.first_token
        print(
            f"{case.model:22} {case.label:10} {name:9} decode {row.decode_tokens_per_second:9.1f} "
            f"tok/s (kernels {ours.decode_tokens_per_second / row.decode_tokens_per_second:5.2f}x) "
            f" prefill {prefill:11.1f} tok/s (kernels {row.first_token / ours.first_token:5.2f}x)  "
            f"step {row.between_tokens * 1e3:7.2f} ms, reads at least {case.bound * 1e3:.2f} ms",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="upstream's build with native libraries")
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all of them")
    parser.add_argument("--shape", action="append", help=f"batch x prompt; default: {SHAPES}")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="that each request gives")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=1, help="of each shape in a start")
    parser.add_argument("--eager", action="store_true", help="without torch.compile and graphs")
    parser.add_argument("--arguments", default="{}", help="more of the engine's, as JSON")
    parser.add_argument("--scratch", type=Path, help="keeps models, wheel and compiled code")
    parser.add_argument("--add", action="store_true", help="to the rounds in the file")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the figures go")
    parser.add_argument("--machine", default="", help="its name in the results")
    arguments = parser.parse_args()
    shapes = arguments.shape or list(SHAPES)
    eager = ("--eager",) if arguments.eager else ()
    repeats = ("--rounds", str(arguments.repeats))
    more = ("--device", "cuda", "--arguments", arguments.arguments, *repeats, *eager)
    timer = CudaTimer()
    rate = timer.copy_bytes_per_s(timer.quick) or 0.0
    timer.tidy()
    record = Record(arguments.results, arguments.machine, arguments.add, "cuda", timer)
    with ExitStack() as stack:
        scratch = arguments.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.mkdir(parents=True, exist_ok=True)
        chosen = contenders(arguments.wheel, scratch)
        for number in range(arguments.rounds):
            for model in arguments.model or MODELS:
                for name in in_turn(list(chosen), number):
                    found = run(chosen[name], shapes, arguments.tokens, scratch, model, more)
                    for shape in shapes:
                        record.add(shape, name, found[shape], rate, 1, model)
                    record.write()
    for case in record.document.cases:
        report(case)


if __name__ == "__main__":
    main()
