#!/usr/bin/env python3
"""Stands before a compiler (ccache's prefix) and records what the compile cost.

One JSON line a compile in the file that VLLM_COMPILE_LOG names: output, wall and processor seconds,
and the largest resident memory of one of its processes. Standard library only.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

started = time.monotonic()
code = subprocess.run(sys.argv[1:], check=False).returncode
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
output = next((b for a, b in zip(sys.argv, sys.argv[1:], strict=False) if a == "-o"), "")
row = {
    "output": output,
    "seconds": round(time.monotonic() - started, 2),
    "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
    "memory_mib": usage.ru_maxrss // 1024,
}
with Path(os.environ["VLLM_COMPILE_LOG"]).open("a", encoding="utf-8") as log:
    log.write(json.dumps(row) + "\n")
sys.exit(code)
