"""Which commit and time a build is of."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vllm_conda import processes
from vllm_conda.errors import ConfigError

EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"


@dataclass(frozen=True)
class Origin:
    """What a package says of its sources.

    Attributes:
        epoch: Time of everything in it, in seconds since 1970: ``$SOURCE_DATE_EPOCH``, else of the
            last commit to any of the sources. Outside a git checkout it is when targets.toml was
            changed, which an archive keeps.
        revision: The last commit to any of the sources, with a ``+`` where they differ from it;
            empty outside of git.
    """

    epoch: int
    revision: str


def origin(root: Path, sources: Iterable[Path]) -> Origin:
    """What a package made of ``sources`` says of them.

    A commit that leaves them alone changes neither.

    Raises:
        ConfigError: ``$SOURCE_DATE_EPOCH`` is no number.
    """
    names = [str(path) for path in sources]
    revision, _, committed = git(root, "log", "-1", "--format=%H %ct", "--", *names).partition(" ")
    # A new file is compiled too, whether git knows it or not.
    if revision and git(root, "status", "--porcelain", "--", *names):
        revision += "+"
    return Origin(_epoch(root, committed), revision)


def _epoch(root: Path, committed: str) -> int:
    named = os.environ.get(EPOCH_VARIABLE, "")
    if not (named or committed):
        return int((root / "targets.toml").stat().st_mtime)
    try:
        return int(named or committed)
    except ValueError:
        raise ConfigError(
            f"{EPOCH_VARIABLE} is {named!r}, and no number of seconds since 1970.",
            "Unset it, or set it as https://reproducible-builds.org/specs/source-date-epoch says.",
        ) from None


def source_commit(folder: Path, sources: Iterable[Path] = ()) -> str:
    """Commit of the checkout that ``folder`` lies in, with a ``+`` where files differ.

    Files that git does not know count below ``sources`` alone. Empty outside of git, as in an
    unpacked source archive.
    """
    head = git(folder, "rev-parse", "HEAD")
    if not head:
        return ""
    places = [["--untracked-files=no"]]
    if names := [str(path) for path in sources]:
        places.append(["--", *names])
    changed = any(git(folder, "status", "--porcelain", *place) for place in places)
    return f"{head}+" if changed else head


def git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing where there is no git, or it fails."""
    try:
        done = processes.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
