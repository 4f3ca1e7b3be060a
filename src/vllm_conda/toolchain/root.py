"""A folder with another platform's programs and libraries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Root:
    """A folder that stands for ``/`` of the platform.

    Attributes:
        version: PyTorch's, as Debian has it.
    """

    path: Path
    triplet: str
    version: str

    @property
    def python(self) -> Path:
        return self.path / "usr/bin/python3"

    @property
    def libraries(self) -> Path:
        return self.path / "usr/lib" / self.triplet
