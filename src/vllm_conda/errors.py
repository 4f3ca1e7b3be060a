"""One exception class and one exit code per kind of failure.

Every message is one sentence that says what failed and why; ``hint`` is the
next command or edit. The command line prints both and no traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class VllmCondaError(Exception):
    """Base of every failure that a user can act on.

    Args:
        message: What failed and why, one sentence.
        hint: The next command or edit; empty when there is none.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class UsageError(VllmCondaError):
    """The command line itself is wrong (click uses the same code)."""

    exit_code = 2
    kind = "usage"


class ConfigError(VllmCondaError):
    """A TOML, YAML or variant file is malformed or holds an unknown key or value."""

    exit_code = 3
    kind = "config"


class RecipeError(VllmCondaError):
    """The recipe does not parse, render or pass the recipe rules."""

    exit_code = 4
    kind = "recipe"


class MissingToolError(VllmCondaError):
    """A compiler, registry client or library is missing or too old."""

    exit_code = 5
    kind = "missing-tool"


class NetworkError(VllmCondaError):
    """A download failed and the cache does not hold the file."""

    exit_code = 6
    kind = "network"


class IntegrityError(VllmCondaError):
    """A file's hash is not the recorded one."""

    exit_code = 7
    kind = "integrity"


class DiskError(VllmCondaError):
    """Disk full, read-only or not writable."""

    exit_code = 8
    kind = "disk"


class SolveError(VllmCondaError):
    """No set of packages satisfies the request."""

    exit_code = 9
    kind = "solve"


class BuildFailure(VllmCondaError):
    """Configure, compile or packaging failed."""

    exit_code = 10
    kind = "build"


class TestFailure(VllmCondaError):
    """A package's own tests failed."""

    __test__ = False  # the name makes pytest collect it otherwise
    exit_code = 11
    kind = "test"


class AuditFailure(VllmCondaError):
    """A finished package breaks a promise (symbols, instructions, paths, size)."""

    exit_code = 12
    kind = "audit"


class StaleFileError(VllmCondaError):
    """A generated file differs from what its generator writes."""

    exit_code = 13
    kind = "stale"


class BusyError(VllmCondaError):
    """Another process holds the lock of a cache or an output folder."""

    exit_code = 14
    kind = "busy"


class UnservedError(VllmCondaError):
    """A node type of a site gets no packages from the channels."""

    exit_code = 15
    kind = "unserved"


INTERRUPTED_EXIT_CODE = 130


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest choice, or an empty string."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""
