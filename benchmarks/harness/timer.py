"""How a device is timed. A timer makes contenders; a contender gives one sample at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from benchmarks.harness.case import Call
from benchmarks.record import Machine


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes:
        block_seconds: What one sample should take: as many calls as fill it.
        seconds: Time for each contender, within the bounds on the number of blocks.
    """

    block_seconds: float
    min_blocks: int
    max_blocks: int
    seconds: float


class Contender(Protocol):
    """One contender's calls, over all sets of tensors."""

    def sample(self) -> float:
        """Seconds a call, in one block of calls."""


class Timer(Protocol):
    """Timing on one device."""

    full: Effort
    quick: Effort

    def now(self) -> float:
        """Seconds, for the length of a measurement."""

    def sets(self, bytes_moved: int | None) -> int:
        """Sets of tensors over which the calls of a case rotate."""

    def contender(self, calls: Sequence[Call], effort: Effort) -> Contender:
        """Get calls ready, one a set, that a sample runs in turn."""

    def copy_bytes_per_s(self, effort: Effort) -> float | None:
        """Bytes that a large copy reads and writes a second; None where it is no yardstick."""

    def read_bytes_per_s(self, effort: Effort) -> float | None:
        """Bytes that are read from memory a second; None where it is no yardstick."""

    def machine(self, name: str) -> Machine:
        """What the figures depend on; nothing that identifies the machine."""

    def versions(self) -> dict[str, str]:
        """Of what the figures depend on."""

    def tidy(self) -> None:
        """Free what a case has left."""
