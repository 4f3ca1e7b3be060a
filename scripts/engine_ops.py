#!/usr/bin/env python3
"""Write the ops that a vLLM release registers: device, namespace and schema of each.

    python scripts/engine_ops.py vllm-VERSION.tar.gz [--output FILE]

The archive is the release's source distribution (`pip download --no-deps --no-binary vllm
vllm==VERSION`); an unpacked folder serves as well. The ops are read from the sources, since a
build of them shows only those of its own device. Without --output the table goes to
tests/engine/ops-VERSION.tsv.
"""

from __future__ import annotations

import argparse
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("*.cpp", "*.cu", "*.cc")
# Built for other devices than those that the kernels serve.
LEFT_OUT = {"rocm", "xpu"}

_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_LIBRARY = re.compile(
    r"\b(?:STABLE_)?TORCH_LIBRARY(?:_FRAGMENT|_EXPAND)?"
    r"\(\s*(CONCAT\([^)]*\)|\w+)\s*,\s*(\w+)\s*\)\s*\{"
)
_DEFINITION = re.compile(r'\.\s*def\(\s*((?:"(?:\\.|[^"\\])*"\s*)+)')
_TEXT = re.compile(r'"((?:\\.|[^"\\])*)"')
_ROCM = re.compile(
    r"^[ \t]*#[ \t]*ifdef[ \t]+USE_ROCM\b.*?^[ \t]*#[ \t]*(?:else|endif)\b[^\n]*",
    re.DOTALL | re.MULTILINE,
)


def without_comments(text: str) -> str:
    return _COMMENT.sub(lambda match: match[0] if match[0].startswith('"') else " ", text)


def block(text: str, start: int) -> str:
    """From ``start``, which follows a brace, to the brace that closes it."""
    depth = 1
    # Braces inside of schemas would mislead the count, but no schema has any.
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start : start + match.start()]
    raise ValueError("a library's block is never closed")


def namespace(word: str) -> str:
    """`CONCAT(TORCH_EXTENSION_NAME, _custom_ar)` -> `_C_custom_ar`."""
    parts = re.findall(r"\w+", word.removeprefix("CONCAT"))
    return "".join("_C" if part == "TORCH_EXTENSION_NAME" else part for part in parts)


def ops_of(text: str) -> Iterator[tuple[str, str]]:
    """Namespace and schema of every op that a source file defines."""
    text = _ROCM.sub("", without_comments(text))
    for library in _LIBRARY.finditer(text):
        for found in _DEFINITION.finditer(block(text, library.end())):
            schema = "".join(_TEXT.findall(found[1])).replace('\\"', '"').replace("->", " -> ")
            yield namespace(library[1]), " ".join(schema.split())


def table(release: Path) -> list[tuple[str, str, str]]:
    """Every op of an unpacked release, sorted."""
    rows = set()
    for pattern in SOURCES:
        for file in (release / "csrc").rglob(pattern):
            folder = file.relative_to(release / "csrc").parts[0]
            if folder not in LEFT_OUT:
                device = "cpu" if folder == "cpu" else "cuda"
                rows |= {(device, *op) for op in ops_of(file.read_text(encoding="utf-8"))}
    return sorted(rows)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the table of a release's ops.")
    parser.add_argument("release", type=Path, help="source distribution, or its folder")
    parser.add_argument("--output", type=Path, help="the table")
    chosen = parser.parse_args(arguments)
    name = chosen.release.resolve().name.removesuffix(".tar.gz")
    match = re.fullmatch(r"vllm-(\d[\w.]*)", name)
    if match is None:
        parser.error(f"{chosen.release} is not named vllm-VERSION")
    with tempfile.TemporaryDirectory() as scratch:
        release = chosen.release
        if release.is_file():
            with tarfile.open(release) as archive:
                archive.extractall(scratch, filter="data")
            release = Path(scratch) / name
        rows = table(release)
    if not rows:
        print(f"engine-ops: {chosen.release} registers no op: csrc is missing", file=sys.stderr)
        return 1
    output = chosen.output or ROOT / f"tests/engine/ops-{match[1]}.tsv"
    head = (
        f"# Ops that vLLM {match[1]} registers (scripts/engine_ops.py): device, namespace, schema."
    )
    output.write_text("\n".join([head, *("\t".join(row) for row in rows)]) + "\n")
    print(f"engine-ops: {len(rows)} ops in {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
