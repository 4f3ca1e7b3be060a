#!/usr/bin/env python3
"""Write which POWER level each instruction form came with, as binutils' disassembler knows them.

Forms (see :data:`FORMS`) are disassembled as POWER8, POWER9 and POWER10 in turn; what the older
ones do not know is the newer one's. Run again when a new binutils knows more.

Example: scripts/power_levels.py --objdump powerpc64le-linux-gnu-objdump
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "src" / "vllm_conda" / "audit" / "data" / "power.json"
LEVELS = (8, 9, 10)
# Primary opcodes whose instructions are told apart by their low 11 bits, and for some of those by
# the five bits of the RA field. Opcode 1 begins the eight bytes of a prefixed instruction: POWER10.
EXTENDED = (4, 5, 6, 19, 30, 31, 56, 57, 58, 59, 60, 61, 62, 63)
PREFIX = 1
# Operands in the other fields: some values of them are invalid for some forms (BO of `bcctr`).
FILLS = (0x02800000, 0x00000800, 0x02801000, 0x00000000)


def words() -> Iterator[int]:
    for opcode in EXTENDED:
        for low in range(2048):
            for field in range(32):
                for fill in FILLS:
                    yield opcode << 26 | fill | field << 16 | low
    for opcode in range(64):
        if opcode not in (*EXTENDED, PREFIX):
            yield opcode << 26 | 0x02800000


def known(objdump: str, level: int, path: Path) -> list[bool]:
    """For each word of the file, whether the disassembler names an instruction."""
    command = [objdump, "-D", "-b", "binary", "-m", "powerpc:common64", "-EL"]
    command += ["-M", f"power{level}", "--no-show-raw-insn", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = (line.split("\t") for line in text.splitlines() if ":\t" in line)
    return [parts[1].strip() != ".long" and ".long" not in parts[1] for parts in lines]


def table(objdump: str) -> dict[str, object]:
    every = list(words())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "words.bin"
        path.write_bytes(struct.pack(f"<{len(every)}I", *every))
        knows = {level: known(objdump, level, path) for level in LEVELS}
    for level, found in knows.items():
        if len(found) != len(every):
            raise SystemExit(f"{objdump} printed {len(found)} of {len(every)} words at {level}")
    # (opcode, low) → RA field → oldest level with any operands
    forms: dict[tuple[int, int], dict[int, int]] = {}
    for index, word in enumerate(every):
        level = next((level for level in LEVELS if knows[level][index]), 0)
        key = (word >> 26, word & 0x7FF if word >> 26 in EXTENDED else 0)
        fields = forms.setdefault(key, {})
        field = word >> 16 & 31
        if level:
            fields[field] = min(level, fields.get(field, level))
    result: dict[str, dict[str, object]] = {}
    for (opcode, low), fields in sorted(forms.items()):
        newer = {field: level for field, level in fields.items() if level > LEVELS[0]}
        if not newer:
            continue
        same = set(fields.values()) == {min(newer.values())} and len(fields) == 32
        value: object = min(newer.values()) if same else {str(k): v for k, v in newer.items()}
        result.setdefault(str(opcode), {})[str(low)] = value
    return dict(result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objdump", default="powerpc64le-linux-gnu-objdump")
    objdump = parser.parse_args().objdump
    version = subprocess.run([objdump, "--version"], capture_output=True, text=True, check=True)
    document = {
        "generated_by": "scripts/power_levels.py; do not edit",
        "disassembler": version.stdout.splitlines()[0],
        "forms": table(objdump),
    }
    lines = json.dumps(document, separators=(",", ":")).replace('"},', '"},\n').split(",", 1)
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(",\n".join(lines) + "\n", encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
