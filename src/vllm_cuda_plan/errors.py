"""Failures that a user can act on: what the planner raises and the toolkit builds on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class VllmError(Exception):
    """Base of every failure that a user can act on.

    Args:
        message: What failed and why, one sentence.
        hint: The next command or edit; empty when there is none.
    """

    exit_code: ClassVar[int] = 1
    kind: ClassVar[str] = "error"
    # A message may repeat the user's input, a path or a library's words, which are of any size.
    longest_line: ClassVar[int | None] = 300

    def __init__(self, message: str, hint: str = "") -> None:
        if self.longest_line is not None:
            message = shortened(message, self.longest_line)
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(VllmError):
    """A TOML, YAML or variant file is malformed or holds an unknown key or value."""

    exit_code = 3
    kind = "config"


def shortened(text: str, most: int) -> str:
    """``text`` with the middle of each longer line left out."""
    mark = " ... "
    tail = most // 3
    head = most - tail - len(mark)
    return "\n".join(
        line if len(line) <= most else f"{line[:head]}{mark}{line[-tail:]}"
        for line in text.split("\n")
    )


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest choice, or an empty string."""
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


def check_known(where: str, what: str, word: str, choices: Iterable[str]) -> None:
    """Refuse a word of a table that points nowhere.

    Raises:
        ConfigError: ``word`` is none of ``choices``; with the nearest one, and all.
    """
    known = list(choices)
    if word not in known:
        raise ConfigError(
            f"{where}: unknown {what} {word!r}.{did_you_mean(word, known)}",
            f"Known: {', '.join(known)}.",
        )
