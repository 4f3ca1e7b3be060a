"""What a check knows besides the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vllm_conda import packages, platforms
from vllm_conda.audit.built_for import BuiltFor, tiers_of
from vllm_conda.audit.promise import Overrides, Promise
from vllm_conda.audit.settings import Settings
from vllm_conda.audit.subject import Subject
from vllm_conda.targets import Targets


@dataclass(frozen=True)
class Context:
    """The run: ``targets`` is None outside a checkout, ``subjects`` are all packages of the run.

    What a package says of itself (``info/built_for.json``) goes before ``targets``.

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
        return packages.ours(subject.package)

    def built_for(self, subject: Subject) -> BuiltFor | None:
        """What one of our packages was built for; None of a foreign one.

        One that does not say it itself is held to the toolkit's own table.
        """
        entry = platforms.table().get(subject.subdir)
        if not self.own(subject) or entry is None:
            return None
        return subject.built_for or BuiltFor(subject.subdir, entry.glibc, entry.libstdcxx)

    def tiers(
        self, subject: Subject, family: str, level: int | None
    ) -> Mapping[str, Sequence[str]]:
        """Tiers of ``level`` and their compiler options."""
        if self.own(subject) and subject.built_for is not None:
            return subject.built_for.tiers
        return tiers_of(self.targets, family, level) if self.targets else {}
