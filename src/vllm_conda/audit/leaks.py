"""`paths`: nothing in a package tells who built it, where and on which machine.

This is not only a matter of privacy: a path of the build machine makes two builds differ and works
nowhere else.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding, error, warning
from vllm_conda.audit.subject import Subject

# A source file with its full path. The character before the slash must not continue a relative
# path, and the compiler's own headers are the same everywhere.
_SOURCE = re.compile(
    rb"(?<![\w.$}~/:+@-])/(?!usr/|rustc/|opt/rh/|lib/|include/)(?:[\w.+@-]+/)+[\w.+@-]+"
    rb"\.(?:c|cc|cpp|cxx|cu|cuh|h|hh|hpp|inl|ipp|f|f90|F90|rs|S|o)(?![\w.])"
)
# Folders that conda packages are built in.
_MARKS = (
    b"/conda-bld/",
    b"/rattler-build_",
    b"/feedstock_root/",
    b"build_env_placehold",
    b"host_env_placehold",
    b"/_build_env/",
    b"/_h_env_placehold",
)
# What a build's folders are called in finished packages, on every machine.
NEUTRAL_FOLDER = "/usr/local/src/conda"
_NEUTRAL = NEUTRAL_FOLDER.encode() + b"/"
_BUILD = re.compile(rb"/[^\s\0\"':;,]{0,300}(?:" + rb"|".join(_MARKS) + rb")[^\s\0\"':;,]{0,300}")
# Where a path may begin. A slash first, so that the search jumps from one to the next.
_CANDIDATE = re.compile(rb"/(?<![\w.$}~/:+@-]/)[\x20-\x7e]{4,}")
_HOME = re.compile(
    rb"(?<![\w.$}~/-])/(?:(?:home|Users)/(?!linuxbrew/)([\w.-]+)|root)/[^\s\0\"'<>:;,)]*"
)
# Names as documentation writes them.
_EXAMPLES = frozenset(
    {b"user", b"username", b"me", b"you", b"name", b"foo", b"bar", b"alice", b"bob", b"example"}
)
# Accounts and hosts that identify nobody.
_GENERIC = frozenset(
    {"root", "user", "users", "admin", "build", "builder", "buildbot", "conda", "runner", "docker"}
    | {"jenkins", "vagrant", "ubuntu", "debian", "fedora", "gitlab", "github", "nobody", "daemon"}
    | {"localhost", "python", "torch", "vllm", "linux", "test", "work"}
)
_SHORTEST_NAME = 4
_TEXT_LIMIT = 16 << 20


def machine_secrets() -> tuple[tuple[str, str], ...]:
    """Kind and word for what names this machine, where it is telling."""
    found = []
    with suppress(KeyError, OSError):  # a container may run under a user id without a name
        found.append(("user name", getpass.getuser()))
    found.append(("host name", socket.gethostname()))
    return tuple(
        (kind, word)
        for kind, word in found
        if len(word) >= _SHORTEST_NAME and word.lower() not in _GENERIC
    )


def check_paths(subject: Subject, context: Context) -> Iterator[Finding]:
    """No build folder, home folder, user or host name in libraries, text files and metadata."""
    words = [(kind, os.fsencode(word)) for kind, word in context.secrets]
    patterns = [
        (kind, word, re.compile(rb"(?<![\w-])" + re.escape(word) + rb"(?![\w-])"))
        for kind, word in words
    ]
    elf = {library.file for library in subject.libraries}
    for name in (*subject.files, *subject.metadata):
        path = subject.root / name
        if path.is_symlink() or not path.is_file():
            continue
        content = _content(path, name in elf)
        for placeholder in _placeholders(subject, name):
            content = content.replace(placeholder.encode(), b"")
        yield from _search(name, content, name in elf, patterns)


def _placeholders(subject: Subject, name: str) -> set[str]:
    """What installing replaces in the file; info/ lists it for all files."""
    if name in subject.metadata:
        return set(subject.placeholders.values())
    return {subject.placeholders[name]} if name in subject.placeholders else set()


def _content(path: Path, whole: bool) -> bytes:
    """The file's bytes; nothing where it is neither a library nor text."""
    with path.open("rb") as stream:
        if whole:
            return stream.read()
        start = stream.read(4096)
        return b"" if b"\0" in start else start + stream.read(_TEXT_LIMIT)


def _search(
    name: str, content: bytes, binary: bool, patterns: list[tuple[str, bytes, re.Pattern[bytes]]]
) -> Iterator[Finding]:
    found: dict[str, set[bytes]] = {}
    if any(mark in content for mark in _MARKS):
        for match in _BUILD.finditer(content):
            if match[0].startswith(_NEUTRAL):
                continue
            found.setdefault("build path", set()).add(match[0])
    paths = content
    if binary:
        paths = b"\n".join(match[0] for match in _CANDIDATE.finditer(content))
        for match in _SOURCE.finditer(paths):
            found.setdefault("build path", set()).add(match[0])
    for match in _HOME.finditer(paths):
        example = match[1] in _EXAMPLES
        if not example and not any(match[0] in known for known in found.get("build path", ())):
            found.setdefault("home folder", set()).add(match[0])
    for kind, word, pattern in patterns:
        if word in content and pattern.search(content):
            found.setdefault(kind, set()).add(word)
    for kind, texts in found.items():
        first = min(texts).decode("utf-8", "replace")
        more = f" and {len(texts) - 1} more" if len(texts) > 1 else ""
        # A home folder in text may be an example in documentation.
        certain = binary or kind != "home folder" or name.startswith("info/")
        make = error if certain else warning
        hint = "compile with -ffile-prefix-map" if binary else "leave it out of the file"
        yield make("paths", name, f"holds a {kind}: {first}{more}", hint)
