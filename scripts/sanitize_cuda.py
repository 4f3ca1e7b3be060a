#!/usr/bin/env python3
"""Run the GPU tests of the CUDA kernels under compute-sanitizer, one process a test file.

    VLLM_KERNELS_LIBRARY_DIR=build/cuda/lib PYTHONPATH=src python scripts/sanitize_cuda.py \
        [--tool memcheck] [--cases 20] [--jobs 8] [--seconds 300] [FILE...]

A tool makes kernels 10 to 100 times slower, so each file runs a sample of its cases, drawn evenly.
Only our kernels are checked, not PyTorch's. A planted overflow must be reported first. Exit code:
1 where a tool finds an error or a test fails, 3 where the planted overflow is not seen.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "kernels" / "cuda"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
CASES_VARIABLE = "VLLM_SANITIZE_CASES"
FOUND = 66
# Everything of ours is in the namespace vk, and so is a parameter of CUTLASS's kernels.
OURS = "kns=2vk"
SUMMARY = re.compile(r"========= (?:ERROR|RACECHECK) SUMMARY: (\d+)")
# Half of the input's storage is given back, so the kernel reads past the end of what is left.
PLANTED = """
import torch, vllm_kernels
x, out = torch.ones(1, 65536, device="cuda"), torch.empty(1, 65536, device="cuda")
x.untyped_storage().resize_(x.nbytes // 2)
torch.ops.vllm_kernels.rms_norm(out, x, None, 1e-6)
torch.cuda.synchronize()
"""


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Keep a sample of the tests (pytest loads this file as a plugin)."""
    # A tool runs one kernel at a time: kernels that wait for each other would wait without end.
    together = [item for item in items if item.get_closest_marker("meets")]
    if together:
        config.hook.pytest_deselected(items=together)
        items[:] = [item for item in items if item not in together]
    wanted = int(os.environ[CASES_VARIABLE])
    if wanted < len(items):
        kept = [items[number * len(items) // wanted] for number in range(wanted)]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@dataclass(frozen=True)
class Result:
    """What one file's run found; ``errors`` is None where the tool did not get to its end."""

    name: str
    code: int
    errors: int | None
    tests: str
    output: str

    @property
    def clean(self) -> bool:
        return self.code == 0 and self.errors == 0 and "passed" in self.tests

    def line(self) -> str:
        errors = "not finished" if self.errors is None else f"{self.errors} errors"
        return f"{self.name}: {errors}; {self.tests or 'no tests ran'}"


def environment(cases: int) -> dict[str, str]:
    """Every tensor an allocation of its own, or an overflow would end in a neighbour."""
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", str(ROOT / "src"))]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
        CASES_VARIABLE: str(cases),
    }


def checked(tool: str, command: Sequence[str], cases: int, seconds: int) -> tuple[int, str]:
    """Exit code and output of a Python command under the tool; 124 where its time is over."""
    words = [
        "compute-sanitizer",
        "--tool",
        tool,
        "--kernel-name",
        OURS,
        "--require-cuda-init",
        "no",
    ]
    words += ["--error-exitcode", str(FOUND), "--print-limit", "5", sys.executable, *command]
    with subprocess.Popen(
        words,
        env=environment(cases),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            # The tool's child too.
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return 124, output
    return process.returncode, output


def run(file: Path, tool: str, cases: int, seconds: int) -> Result:
    """One test file."""
    plugin = Path(__file__).stem
    pytest = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", plugin, str(file)]
    code, output = checked(tool, pytest, cases, seconds)
    errors = SUMMARY.search(output)
    tests = re.search(r"^\d+ (?:passed|failed|skipped).*$", output, re.MULTILINE)
    name = file.stem.removeprefix("test_")
    return Result(name, code, int(errors[1]) if errors else None, tests[0] if tests else "", output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tool", choices=TOOLS, default="memcheck")
    parser.add_argument("--cases", type=int, default=20, help="of each file")
    parser.add_argument("--jobs", type=int, default=8, help="files at once")
    parser.add_argument("--seconds", type=int, default=300, help="limit of one file")
    parser.add_argument("files", nargs="*", type=Path)
    options = parser.parse_args()
    if shutil.which("compute-sanitizer") is None:
        sys.exit("sanitize_cuda: compute-sanitizer is not on PATH; it is part of the CUDA toolkit")
    files = options.files or [
        path
        for path in sorted(TESTS.glob("test_*.py"))
        if not path.stem.endswith(("_emulation", "_without_gpu"))
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        # Beside the files: its start costs as much as one of them.
        planted = pool.submit(checked, "memcheck", ["-c", PLANTED], 1, options.seconds)
        found = [
            pool.submit(run, file, options.tool, options.cases, options.seconds) for file in files
        ]
        code, output = planted.result()
        if code != FOUND or "Invalid __global__ read" not in output:
            print(output[-3000:])
            print(f"sanitize_cuda: a planted overflow was not reported (exit code {code})")
            return 3
        print("planted overflow: reported", flush=True)
        results = []
        for future in found:
            result = future.result()
            results.append(result)
            print(f"{options.tool} {result.line()}", flush=True)
            if not result.clean:
                print(result.output[-3000:], flush=True)
    return 0 if all(result.clean for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
