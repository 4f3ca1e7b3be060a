"""``python -m vllm_kernels``: what is installed, what is in use, and what stands in the way."""

from __future__ import annotations

import argparse
import json

from vllm_kernels import _doctor


def main(argv: list[str] | None = None) -> int:
    """Print the report; 0 where no problem was found, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m vllm_kernels",
        description="Say which kernels of vllm_kernels are in use, and why not better ones.",
        epilog="Exit code: 0 no problem, 1 a problem, 2 wrong usage.",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args(argv)
    report = _doctor.diagnose()
    print(json.dumps(report.document(), indent=1) if arguments.json else _doctor.text(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
