"""Mistakes in documents and files, as hypothesis draws them: few, and anywhere in the structure."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Keys = tuple[Any, ...]

# What people and programs put where something else is wanted.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, math.inf, math.nan,
    "", " ", "x" * 5000, "1" * 5000, "a b", "12,4", "1.2.3.", ">=", "[", "{py}", "${{ x }}",
    "../..", "/", "~nouser", "*", "(", "\n", "\0", "\ud7ff", "ä", "%s", "-", "file://", "linux-64",
    [], {}, [[]], [None], {"": ""}, {"a": {"b": []}}, [1, "a"], ["x"] * 300,
)  # fmt: skip
JUNK = (
    b"\0", b"\xff\xfe", b"[", b"]", b"{", b"}", b'"', b"'", b"=", b":", b",", b"\n", b"\t", b"#",
    b"&a", b"*a", b"!!x", b"- ", b"? ", b"| ", b"%", b"@", b"`", b"null", b"[[", b'"""', b"9" * 400,
    b"x" * 400, b"[" * 5000, b"{a: " * 5000, b"\r\n", b"\xc3", b"---\n", b"<<: ", b"2026-13-45"
    b"1e999", b"0x",
)  # fmt: skip


def places(document: Any, above: Keys = ()) -> Iterator[Keys]:
    """Every place of a document: keys and indices from the top."""
    rows = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    for key, value in rows:
        yield (*above, key)
        yield from places(value, (*above, key))


def parent(document: Any, keys: Keys) -> Any:
    """What holds the value at ``keys``."""
    for key in keys[:-1]:
        document = document[key]
    return document


@st.composite
def documents(draw: st.DrawFn, real: Any) -> Any:
    """``real`` with one to three mistakes in its structure."""
    changed = copy.deepcopy(real)
    for _ in range(draw(st.integers(1, 3))):
        every = list(places(changed))
        if not every:
            break
        keys = draw(st.sampled_from(every))
        holder, key = parent(changed, keys), keys[-1]
        kind = draw(st.sampled_from(("odd", "text", "lost", "moved", "misspelt", "wrapped")))
        if kind == "odd":
            holder[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif kind == "text":
            holder[key] = draw(st.text(st.characters(codec="utf-8"), max_size=12))
        elif kind == "lost":
            del holder[key]
        elif kind == "moved":
            other = draw(st.sampled_from(every))
            holder[key] = copy.deepcopy(parent(changed, other)[other[-1]])
        elif kind == "misspelt" and isinstance(holder, dict):
            name = str(key) + draw(st.sampled_from((" ", "s", "_", ".", "x" * 999)))
            holder[name] = holder.pop(key)
        else:
            holder[key] = [holder[key]]
    return changed


def as_json(document: object) -> bytes:
    return json.dumps(document).encode(errors="surrogatepass")


def json_texts(real: bytes) -> st.SearchStrategy[bytes]:
    """A JSON text with mistakes in its structure or in its bytes."""
    return st.one_of(documents(json.loads(real)).map(as_json), contents(real))


@st.composite
def contents(draw: st.DrawFn, real: bytes, first: int = 0) -> bytes:
    """``real`` with one to four damaged places.

    Args:
        first: Bytes at the start that stay, such as a format's magic number.
    """
    changed = bytearray(real)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(min(first, len(changed)), len(changed)))
        size = draw(st.sampled_from((0, 1, 2, 4, 8, 40)))
        kind = draw(st.sampled_from(("flip", "cut", "junk", "twice", "end", "bytes")))
        if kind == "flip":
            for index in range(at, min(at + size, len(changed))):
                changed[index] ^= draw(st.integers(1, 255))
        elif kind == "cut":
            del changed[at : at + size]
        elif kind == "junk":
            changed[at:at] = draw(st.sampled_from(JUNK))
        elif kind == "twice":
            changed[at:at] = changed[at : at + size * 8]
        elif kind == "end":
            del changed[max(at, first) :]
        else:
            changed[at : at + size] = draw(st.binary(min_size=size, max_size=size))
    return bytes(changed)


@st.composite
def fields(draw: st.DrawFn, real: bytes, starts: tuple[int, ...], size: int) -> bytes:
    """``real`` with odd numbers in one to four fields of the tables that begin at ``starts``."""
    changed = bytearray(real)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.sampled_from(starts)) + draw(st.integers(0, size - 1))
        width = draw(st.sampled_from((1, 2, 4, 8)))
        number = draw(
            st.one_of(
                st.sampled_from((0, 1, 2**63, 2**64 - 1, 2**32 - 1, len(real), len(real) - 1)),
                st.integers(0, 2**64 - 1),
            )
        )
        changed[at : at + width] = (number % 256**width).to_bytes(width, "little")
    return bytes(changed[: len(real)])
