"""Whether the installed engine's files are upstream's, byte for byte."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

PACKAGE = "vllm"
# Upstream's setup writes it, with the version that it was built as.
GENERATED = frozenset({f"{PACKAGE}/_version.py"})


def differences(prefix: Path, sdist: Path) -> tuple[int, list[str]]:
    """Compare ``vllm/`` of an environment with that of upstream's source distribution.

    Args:
        prefix: The environment.
        sdist: ``vllm-VERSION.tar.gz``, whose hash the caller has checked.

    Returns:
        How many files are the same, and a sentence for each that is not upstream's or is missing.
    """
    upstream = dict(_upstream(sdist))
    installed = dict(_installed(prefix))
    found = [f"{name} is missing" for name in sorted(upstream.keys() - installed.keys())]
    same = 0
    for name, digest in sorted(installed.items()):
        if name in GENERATED:
            continue
        if name not in upstream:
            found.append(f"{name} is not in upstream's distribution")
        elif digest != upstream[name]:
            found.append(f"{name} is not what upstream's distribution holds")
        else:
            same += 1
    return same, found


def _upstream(sdist: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(sdist) as archive:
        for member in archive:
            _, _, name = member.name.partition("/")
            if not name.startswith(f"{PACKAGE}/"):
                continue
            if (stream := archive.extractfile(member)) is not None:  # None: a folder
                yield name, sha256(stream.read()).digest()


def _installed(prefix: Path) -> Iterator[tuple[str, bytes]]:
    for site in prefix.glob("lib/python3.*/site-packages"):
        for path in (site / PACKAGE).rglob("*"):
            if path.is_file() and path.parent.name != "__pycache__":
                yield path.relative_to(site).as_posix(), sha256(path.read_bytes()).digest()
