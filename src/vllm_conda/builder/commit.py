"""Which commit a build is made from."""

from __future__ import annotations

from pathlib import Path

from vllm_conda import processes


def source_commit(folder: Path) -> str:
    """Commit of the checkout that ``folder`` lies in, with a ``+`` where tracked files differ.

    Empty outside of git, as in an unpacked source archive.
    """
    head = git(folder, "rev-parse", "HEAD")
    if not head:
        return ""
    changed = git(folder, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+" if changed else head


def git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing where there is no git, or it fails."""
    try:
        done = processes.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True)
    except OSError:  # no git
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
