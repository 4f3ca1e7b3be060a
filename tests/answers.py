"""What a malformed input may end in, and how many of them are drawn.

The slow ring (VLLM_CONDA_TEST_SLOW=1) draws 5,000 a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from support import SLOW

from vllm_conda.audit.run import Request, audit
from vllm_conda.errors import VllmError

BUDGET = 5000 if SLOW else 40
LONGEST = 300

many = settings(
    max_examples=BUDGET,
    deadline=None,
    database=None,
    derandomize=BUDGET < 5000,
    suppress_health_check=list(HealthCheck),
)


def answer(call: Callable[[], object]) -> None:
    """Runs ``call``, which may refuse its input by a sentence and by nothing else."""
    try:
        call()
    except VllmError as error:
        # The next line of a sentence is no part of it: names of tests, a solver's tree.
        lines = error.message.splitlines()
    else:
        return
    assert lines
    assert max(map(len, lines)) <= LONGEST, lines


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """``file`` with another content, by renames: rattler's gateway maps an index into memory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft, kept = file.with_name("draft"), file.with_name("kept")
    draft.write_bytes(content)
    if known := file.exists():
        file.rename(kept)
    draft.rename(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        if known:
            kept.rename(file)


def answered(file: Path, content: bytes, read: Callable[[Path], object]) -> None:
    """:func:`answer` of what reads ``file``, with this content."""
    with replaced(file, content):
        answer(lambda: read(file))


def audited(path: Path) -> None:
    """An audit, whose findings are sentences too."""
    (report,) = audit([path], Request()).packages
    for finding in report.findings:
        assert len(finding.message) <= LONGEST, finding.message
