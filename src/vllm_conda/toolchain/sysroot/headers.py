"""Headers of one glibc version out of Zig's, which are those of its newest with some conditions.

Zig leaves ``__GLIBC_MINOR__`` to the compiler's command line, and guards only part of what is
newer. So the version is written in, declarations of functions that the version lacks are taken out,
and headers that it lacks are left out: a call of such a function does not compile, and code that
asks ``__has_include`` or ``__GLIBC_PREREQ`` gets the right answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from vllm_conda.errors import BuildFailure
from vllm_conda.toolchain.sysroot.abilist import Version

# Headers that are younger than some version a floor may name; from glibc's NEWS.
# Declare what libmvec has, which Zig does not make. Every platform's generic ones declare nothing.
GENERIC = ("bits/math-vector.h", "finclude/math-vector-fortran.h")
SINCE: dict[str, Version] = {
    "threads.h": (2, 28),
    "sys/ifunc.h": (2, 30),
    "sys/single_threaded.h": (2, 32),
    "sys/platform/x86.h": (2, 33),
    "sys/rseq.h": (2, 35),
    "sys/pidfd.h": (2, 36),
    "stdbit.h": (2, 39),
    "sys/hwprobe.h": (2, 40),
}
# libstdc++ was configured with the suite's C library. What follows its configuration takes back
# what its headers, which compile into every user, would call of a newer one.
CXX_CONFIG = """
#if !__GLIBC_PREREQ (2, 30)
# undef _GLIBCXX_USE_PTHREAD_COND_CLOCKWAIT
# undef _GLIBCXX_USE_PTHREAD_MUTEX_CLOCKLOCK
# undef _GLIBCXX_USE_PTHREAD_RWLOCK_CLOCKLOCK
#endif
#if !__GLIBC_PREREQ (2, 36)
# undef _GLIBCXX_USE_UCHAR_C8RTOMB_MBRTOC8_FCHAR8_T
# undef _GLIBCXX_USE_UCHAR_C8RTOMB_MBRTOC8_CXX20
#endif
"""
_MAJOR = re.compile(r"^(#define\s+__GLIBC__\s+2)$", re.M)
_WORD = re.compile(r"\b[A-Za-z_]\w*\b")
_TOKEN = re.compile(
    r"""
    (?P<skip> /\*.*?\*/ | //[^\n]* | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')
  | (?P<directive> ^[ \t]*\#(?:\\\n|/\*.*?\*/|[^\n])* )
  | (?P<bare> ^[ \t]*__(?:BEGIN|END)_(?:DECLS|NAMESPACE_\w+)\b )
  | (?P<linkage> extern\s*"C(?:\+\+)?"\s*\{ )
  | (?P<mark> [;{}()] )
    """,
    re.M | re.S | re.X,
)


def read(folders: Collection[Path]) -> dict[str, Path]:
    """Header files by their path below ``include``; the first folder that has one wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise BuildFailure(f"The wheel has no headers in {folder.name}.")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def of_version(name: str, text: str, version: Version, absent: Collection[str]) -> str | None:
    """What the header ``name`` is in glibc ``version``; None where that lacks it.

    Args:
        absent: Functions and variables that the version does not have.
    """
    if SINCE.get(name, version) > version:
        return None
    if name == "features.h":
        text, count = _MAJOR.subn(rf"\1\n#define __GLIBC_MINOR__ {version[1]}", text)
        if count != 1:
            raise BuildFailure("features.h of the wheel does not define __GLIBC__ as expected.")
    return prune(text, absent)


def prune(text: str, absent: Collection[str]) -> str:
    """Take out every declaration that names one of ``absent``; directives in it stay."""
    if not any(word in absent for word in _WORD.findall(text)):
        return text
    kept = []
    for statement in _statements(text):
        code = _TOKEN.sub(lambda m: "" if m["skip"] or m["directive"] else m[0], statement)
        if any(word in absent for word in _WORD.findall(code)):
            lines = [m[0] for m in _TOKEN.finditer(statement) if m["directive"]]
            statement = "".join(f"\n{line}" for line in lines) + "\n"
        kept.append(statement)
    return "".join(kept)


def _statements(text: str) -> Iterator[str]:
    """Cut at the end of each declaration or definition; nothing is lost."""
    start = depth = braces = 0
    for match in _TOKEN.finditer(text):
        if match["linkage"] or (match["bare"] and not depth + braces):
            yield text[start : match.end()]
            start = match.end()
        if not (mark := match["mark"]):
            continue
        if mark in "()":
            depth += 1 if mark == "(" else -1
        elif mark == "{":
            braces += 1
        elif mark == "}":
            braces -= 1
        ends = mark == ";" or (mark == "}" and _is_body(text[start : match.start()], braces))
        if braces <= 0 and depth == 0 and ends:
            yield text[start : match.end()]
            start, braces = match.end(), 0
    yield text[start:]


def _is_body(before: str, braces: int) -> bool:
    """Whether a closing brace ends a function, not a type: ``)`` stands before its opening one."""
    if braces < 0:
        return True  # of extern "C"
    code = _TOKEN.sub(lambda m: "" if m["skip"] or m["directive"] else m[0], before)
    head, _, _ = code.partition("{")
    return head.rstrip().endswith((")", "__THROW", "__attribute_pure__"))
