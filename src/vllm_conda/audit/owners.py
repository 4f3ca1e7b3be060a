"""`owners`: no file belongs to two packages that can be installed together."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_conda.audit.context import Context
from vllm_conda.audit.finding import Finding, error, some
from vllm_conda.audit.subject import CONDA, WHEEL, Subject


def check_owners(subject: Subject, context: Context) -> Iterator[Finding]:
    """Across the packages of one run: no file is owned by two packages of different names."""
    if subject.kind not in (CONDA[0], WHEEL[0]):
        return
    own = {subject.installed(name) for name in subject.files}
    reported: set[str] = set()
    for other in context.subjects:
        # Builds of one package replace each other; platforms never meet.
        if other.package in ("", subject.package, *reported) or other.subdir != subject.subdir:
            continue
        both = own & {other.installed(name) for name in other.files}
        if both:
            reported.add(other.package)
            yield error(
                "owners",
                min(both),
                f"{len(both)} files are owned by {other.label} too: {some(both)}",
                "leave them in one package and let the other depend on it",
            )
