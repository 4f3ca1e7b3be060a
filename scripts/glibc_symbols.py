#!/usr/bin/env python3
"""Write audit/data/glibc_symbols.tsv: which glibc brought which function, for each CPU family.

Reads the table of the wheel ``ziglang`` that the toolchain's catalog pins.

Example:
  pip download --no-deps -d wheels ziglang==0.15.2
  python scripts/glibc_symbols.py wheels/ziglang-*.whl
"""

from __future__ import annotations

import sys
from pathlib import Path

from vllm_conda import platforms
from vllm_conda.toolchain import glibc_symbols

OUTPUT = Path(__file__).resolve().parents[1] / "src/vllm_conda/audit/data/glibc_symbols.tsv"
# Every function up to this one is on all machines that packages are made for.
OLDEST = (2, 17)


def table(wheel: Path) -> str:
    """The file's text."""
    columns = {
        family: glibc_symbols(wheel, entry.triplet)
        for family, entry in platforms.families().items()
    }
    newer = {
        name for column in columns.values() for name, since in column.items() if since > OLDEST
    }
    rows = [("symbol", *columns)]
    for name in sorted(newer):
        sinces = (column.get(name) for column in columns.values())
        rows.append((name, *(f"{since[0]}.{since[1]}" if since else "" for since in sinces)))
    head = "# Written by scripts/glibc_symbols.py: the first glibc that has a symbol.\n"
    return head + "".join("\t".join(row) + "\n" for row in rows)


def main(wheel: str) -> int:
    """Write the file out of the wheel."""
    OUTPUT.write_text(table(Path(wheel)), encoding="utf-8")
    print(OUTPUT)
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1]))
