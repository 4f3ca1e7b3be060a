"""The ops that a release registers, read from its sources.

Not from a build: that shows only the ops of its own device.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vllm_conda.engine.interface.sources import Sources

DEVICES = ("cpu", "cuda")
# Built for other devices than those that the kernels serve.
_LEFT_OUT = {"rocm", "xpu"}

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


def ops(sources: Sources) -> Iterator[tuple[str, str, str, str]]:
    """Device, namespace, name and signature of every op of a release."""
    for path, text in sources.under("csrc", ".cpp", ".cu", ".cc"):
        folder = path.parts[1]
        if folder not in _LEFT_OUT:
            device = "cpu" if folder == "cpu" else "cuda"
            for namespace, schema in ops_of(text):
                name, _, signature = schema.partition("(")
                yield device, namespace, name, f"({signature}"


def ops_of(text: str) -> Iterator[tuple[str, str]]:
    """Namespace and schema of every op that a source file defines."""
    text = _ROCM.sub("", _without_comments(text))
    for library in _LIBRARY.finditer(text):
        for found in _DEFINITION.finditer(_block(text, library.end())):
            schema = "".join(_TEXT.findall(found[1])).replace('\\"', '"').replace("->", " -> ")
            yield _namespace(library[1]), _plain(" ".join(schema.split()))


def _plain(schema: str) -> str:
    """One spelling: `Tensor! x, int y`, wherever upstream puts its spaces."""
    schema = re.sub(r"\( -> ", "(->", schema)
    schema = re.sub(r"\s*,\s*", ", ", schema.replace(" !", "! "))
    return re.sub(r"\(\s+", "(", re.sub(r"\s+\)", ")", schema))


def _without_comments(text: str) -> str:
    return _COMMENT.sub(lambda match: match[0] if match[0].startswith('"') else " ", text)


def _block(text: str, start: int) -> str:
    """From ``start``, which follows a brace, to the brace that closes it."""
    depth = 1
    # Braces inside of schemas would mislead the count, but no schema has any.
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return text[start : start + match.start()]
    return text[start:]


def _namespace(word: str) -> str:
    """`CONCAT(TORCH_EXTENSION_NAME, _custom_ar)` -> `_C_custom_ar`."""
    parts = re.findall(r"\w+", word.removeprefix("CONCAT"))
    return "".join("_C" if part == "TORCH_EXTENSION_NAME" else part for part in parts)
