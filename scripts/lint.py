#!/usr/bin/env python3
"""Run every linter over the tracked and new files; the exit code says whether all are content."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def files(*patterns: str) -> list[str]:
    """Tracked files that match the git path patterns, and new ones that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def main() -> int:
    """Run them all, so that one run shows everything."""
    python = sys.executable
    cmake = files("*.cmake", "*CMakeLists.txt", ":!cmake/generated")
    linters = {
        "ruff": [python, "-m", "ruff", "check", "--quiet", "."],
        "ruff format": [python, "-m", "ruff", "format", "--quiet", "--diff", "."],
        "mypy": [python, "-m", "mypy", "--no-error-summary"],
        "generated files": [python, "-m", "vllm_conda", "generate", "--check"],
        "recorded figures": [python, "-m", "benchmarks.report", "--check"],
        "feedstock files": [python, "-m", "vllm_conda", "rerender", "--check"],
        "rendered jobs": [python, "-m", "vllm_conda", "lint"],
        "clang-format": ["clang-format", "--dry-run", "--Werror",
                         *files("*.cc", "*.h", "*.cu", "*.cuh")],
        "cmake-lint": ["cmake-lint", "--suppress-decorations", "-c", ".cmake-format.yaml", "--",
                       *cmake],
        "shellcheck": ["shellcheck", *files("*.sh", ".ci/run")],
    }  # fmt: skip
    failed = []
    for name, command in linters.items():
        print(f"lint: {name}", flush=True)
        if not shutil.which(command[0]):
            print(f"lint: {command[0]} is not installed; ./run lint installs it", file=sys.stderr)
            failed.append(name)
        elif subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
            failed.append(name)
    if failed:
        print(f"lint: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
