#!/usr/bin/env python3
"""Build with AddressSanitizer and UBSan, and run the kernel tests and the fuzzer on that build.

    python scripts/asan.py [-D...] [pytest arguments]
    python scripts/asan.py [-D...] --fuzz=4000 [--jobs 8 --report FILE ...]

With --fuzz, the fuzzer alone makes as many calls of each family; its other options follow.

Runs on the Python that starts it, which needs PyTorch, pytest and hypothesis; Highway and oneDNN
are looked for in its prefix and in CMAKE_PREFIX_PATH. The build is kept in build/asan. Arguments
that name tests leave the fuzzer out. Exit code: that of the step that failed; a sanitizer's finding
ends pytest with its report on stderr.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "asan"
TESTS = ["tests/kernels"]


def build(definitions: list[str]) -> int:
    """Configure and build; the exit code of the first step that fails, else 0."""
    prefixes = [sys.prefix, *filter(None, [os.environ.get("CMAKE_PREFIX_PATH", "")])]
    configure = [
        *("cmake", "-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"),
        "-DVLLM_SANITIZE=ON",
        f"-DVLLM_PYTHON_EXECUTABLE={sys.executable}",
        f"-DCMAKE_PREFIX_PATH={';'.join(prefixes).replace(':', ';')}",
        *definitions,
    ]
    return (
        subprocess.run(configure, check=False).returncode
        or subprocess.run(["cmake", "--build", str(BUILD)], check=False).returncode
    )


def preload() -> str:
    """The sanitizer's run-time library, and libstdc++.

    Python is linked with neither. ASan must come first in the process, and it can only wrap the
    throwing of exceptions if libstdc++ is there when it starts.
    """
    cache = (BUILD / "CMakeCache.txt").read_text(encoding="utf-8")
    match = re.search(r"^CMAKE_CXX_COMPILER:\w+=(.+)$", cache, re.MULTILINE)
    compiler = match[1] if match else "c++"
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        asked = [compiler, f"-print-file-name={name}"]
        path = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        if not Path(path).is_absolute():
            sys.exit(f"asan: {compiler} has no {name}; install its sanitizer run-time library")
        found.append(path)
    return ":".join(found)


# Half of the input's storage is given back, so the kernel reads past the end of what is left.
PLANTED = """
import sys, torch, vllm_kernels
vllm_kernels.set_cpu_isa(sys.argv[1])
x, out = torch.ones(1, 2048), torch.empty(1, 2048)
x.untyped_storage().resize_(x.nbytes // 2)
torch.ops.vllm_kernels.rms_norm(out, x, None, 1e-6)
"""
TIERS = "from vllm_kernels.selftest import runnable_tiers; print(*runnable_tiers())"


def prove(environment: dict[str, str]) -> None:
    """Exit where the sanitizer misses a planted overflow: clean tests would mean nothing then."""

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    listed = python(TIERS)
    if listed.returncode != 0:
        sys.exit(f"asan: the build does not load: {listed.stderr[-2000:]}")
    tiers = listed.stdout.split()
    with ThreadPoolExecutor() as pool:
        for tier, done in zip(tiers, pool.map(python, [PLANTED] * len(tiers), tiers), strict=True):
            if "heap-buffer-overflow" not in done.stderr:
                sys.exit(f"asan: an overflow planted in tier {tier} was not reported")
    print(f"asan: planted overflows are reported in {listed.stdout.strip()}", flush=True)


def main(arguments: list[str]) -> int:
    """Build, prove that faults are seen, then test."""
    definitions = [word for word in arguments if word.startswith("-D")]
    if code := build(definitions):
        return code
    environment = {
        **os.environ,
        "LD_PRELOAD": preload(),
        # CPython and PyTorch free little at exit; leaks of ours would drown among theirs.
        # What does not fit into memory is refused with std::bad_alloc, as without the sanitizer.
        # GCC 13 puts 64-byte vectors on fake stack frames that are aligned to 32.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1"
        ":detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "VLLM_KERNELS_LIBRARY_DIR": str(BUILD / "lib"),
        "PYTHONPATH": str(ROOT / "src"),
    }
    prove(environment)
    fuzz = [sys.executable, "-m", "tests.fuzz"]
    rest = [word for word in arguments if word not in definitions]
    for word in (word for word in rest if word.startswith("--fuzz=")):
        options = [other for other in rest if other != word]
        command = [*fuzz, "--calls", word.partition("=")[2], "--batch", "1000", *options]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    paths = [] if any(not word.startswith("-") for word in rest) else TESTS
    pytest = [sys.executable, "-m", "pytest", *rest, *paths]
    code = subprocess.run(pytest, cwd=ROOT, env=environment, check=False).returncode
    if code or not paths:
        return code
    return subprocess.run(
        [*fuzz, "--seconds", "300"], cwd=ROOT, env=environment, check=False
    ).returncode


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
