#!/usr/bin/env python3
"""Run the kernels' tests in an environment that holds the finished packages.

    python scripts/test_installed.py [pytest arguments]

First the kernels as installed, without the checkout's sources on the path; then the tests of the
Python package, the engine's plugin and the benchmark harness, which start interpreters with the
checkout's sources on the installed libraries. A process for each core, up to four (`-n 0`: none).
Exit code: that of the step that failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = ["-o", "pythonpath=", "tests/kernels"]
SIDE_BY_SIDE = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
SOURCES = ["tests/unit/kernels", "tests/unit/benchmarks", "tests/engine"]


def main(arguments: list[str]) -> int:
    """Both runs; the second is left out where the first fails."""
    # Threads that wait for each other by spinning take the cores from the other processes.
    # https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    libraries = Path(sys.prefix) / "lib" / "vllm_kernels"
    for tests, variables in (
        (INSTALLED, {}),
        (SOURCES, {"VLLM_KERNELS_LIBRARY_DIR": str(libraries)}),
    ):
        command = [sys.executable, "-m", "pytest", *SIDE_BY_SIDE, *arguments, *tests]
        code = subprocess.run(
            command, cwd=ROOT, env=environment | variables, check=False
        ).returncode
        if code != 0:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
