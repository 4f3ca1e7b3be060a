"""What a check knows besides the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vllm_conda import packages, platforms
from vllm_conda.audit.promise import Overrides, Promise
from vllm_conda.audit.settings import Settings
from vllm_conda.audit.subject import Subject
from vllm_conda.platforms import Platform
from vllm_conda.targets import Targets


@dataclass(frozen=True)
class Context:
    """The run: ``targets`` is None outside a checkout, ``subjects`` are all packages of the run.

    ``secrets`` are words that must not occur in a package because they identify this machine.
    """

    promise: Promise
    settings: Settings
    targets: Targets | None = None
    overrides: Overrides = field(default_factory=Overrides)
    subjects: Sequence[Subject] = ()
    secrets: tuple[tuple[str, str], ...] = ()

    def own(self, subject: Subject) -> bool:
        """Whether the package is ours: our packages promise more than their metadata states."""
        return subject.package in packages.table()

    def platform(self, subject: Subject) -> Platform | None:
        """The platform of one of our packages; None of a foreign one, and where none is named."""
        return platforms.table().get(subject.subdir) if self.own(subject) else None
