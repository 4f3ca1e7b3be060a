"""`rpath`: libraries are searched relative to the file and inside the prefix only."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding, error
from vllm_conda.audit.subject import FOLDER, LIBRARY, Subject

_ORIGINS = ("$ORIGIN", "${ORIGIN}")


def check_rpath(subject: Subject, context: Context) -> Iterator[Finding]:
    """RPATH and RUNPATH are `$ORIGIN`-relative and stay inside the prefix."""
    for library in subject.libraries:
        found = [problem for e in library.rpaths if (problem := _problem(subject, library.file, e))]
        if found:
            yield error(
                "rpath",
                library.file,
                "; ".join(dict.fromkeys(found)),
                "link with -Wl,-rpath,'$ORIGIN/...', or repair with patchelf --set-rpath",
            )


def _problem(subject: Subject, file: str, entry: str) -> str:
    if not entry:
        return "an empty RPATH entry: the current folder would be searched"
    origin = next((word for word in _ORIGINS if entry == word or entry.startswith(f"{word}/")), "")
    if not origin:
        kind = "is absolute" if entry.startswith("/") else "does not begin with $ORIGIN"
        return f"RPATH {entry} {kind}"
    # Where a single library will be installed is unknown, and a folder may be part of a prefix.
    if subject.kind in (FOLDER, LIBRARY):
        return ""
    folder = posixpath.dirname(subject.installed(file))
    target = posixpath.normpath(posixpath.join(folder, entry.removeprefix(origin).lstrip("/")))
    if target == ".." or target.startswith("../"):
        return f"RPATH {entry} leaves the prefix"
    return ""
