"""What a release requires of its environment."""

from __future__ import annotations

import re
from collections.abc import Iterator

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from vllm_conda.engine.interface.sources import Sources

COMMON = "common"
_FILES = {COMMON: "requirements/common.txt", "cpu": "requirements/cpu.txt"}
_CUDA = "requirements/cuda.txt"
# Of the devices' files only this: the rest is for kernels that are not upstream's here.
_TORCH = "torch"


def requirements(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """``common``, ``cpu`` or ``cuda``, the distribution's name, and the versions that it takes."""
    found: dict[tuple[str, str], set[str]] = {}
    for group, file in {**_FILES, "cuda": _CUDA}.items():
        for one in _parsed(sources.texts.get(file, "")):
            name: str = canonicalize_name(one.name)
            if group != COMMON and name != _TORCH:
                continue
            extras = f"[{','.join(sorted(one.extras))}] " if one.extras else ""
            marker = f"; {one.marker}" if one.marker else ""
            found.setdefault((group, name), set()).add(f"{extras}{one.specifier or '*'}{marker}")
    for (group, name), values in sorted(found.items()):
        yield group, name, " | ".join(sorted(values))


def _parsed(text: str) -> Iterator[Requirement]:
    for line in text.splitlines():
        try:
            yield Requirement(re.sub(r"\s+#.*|^#.*", "", line).strip())
        except InvalidRequirement:
            continue  # an option of pip, such as -r, or an empty line
