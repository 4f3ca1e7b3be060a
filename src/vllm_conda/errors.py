"""One exception class and one exit code per kind of failure.

Every message is one sentence that says what failed and why; ``hint`` is the
next command or edit. The command line prints both and no traceback.
"""

from __future__ import annotations

from vllm_cuda_plan.errors import ConfigError as ConfigError
from vllm_cuda_plan.errors import VllmError as VllmError
from vllm_cuda_plan.errors import check_known as check_known
from vllm_cuda_plan.errors import did_you_mean as did_you_mean


def reason(error: BaseException) -> str:
    """An exception's text as the end of a sentence, on one line."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


class UsageError(VllmError):
    """The command line itself is wrong (click uses the same code)."""

    exit_code = 2
    kind = "usage"


class RecipeError(VllmError):
    """The recipe does not parse, render or pass the recipe rules."""

    exit_code = 4
    kind = "recipe"


class MissingToolError(VllmError):
    """A compiler, registry client or library is missing or too old."""

    exit_code = 5
    kind = "missing-tool"


class NetworkError(VllmError):
    """A download failed and the cache does not hold the file."""

    exit_code = 6
    kind = "network"


class IntegrityError(VllmError):
    """A file is damaged, hostile, or not the one that its record names."""

    exit_code = 7
    kind = "integrity"


class DiskError(VllmError):
    """A file cannot be read or written: full, read-only, no permission."""

    exit_code = 8
    kind = "disk"


class SolveError(VllmError):
    """No set of packages satisfies the request."""

    exit_code = 9
    kind = "solve"


class BuildFailure(VllmError):
    """Configure, compile or packaging failed."""

    exit_code = 10
    kind = "build"
    longest_line = None  # the lines of a compiler or linker are repeated whole


class TestFailure(VllmError):
    """A package's own tests failed."""

    __test__ = False  # the name makes pytest collect it otherwise
    exit_code = 11
    kind = "test"
    longest_line = None  # as of a build


class AuditFailure(VllmError):
    """A finished package breaks a promise (symbols, instructions, paths, size)."""

    exit_code = 12
    kind = "audit"


class StaleFileError(VllmError):
    """A generated file differs from what its generator writes."""

    exit_code = 13
    kind = "stale"


class BusyError(VllmError):
    """Another process holds the lock of a cache or an output folder."""

    exit_code = 14
    kind = "busy"


class UnservedError(VllmError):
    """A node type of a site gets no packages from the channels."""

    exit_code = 15
    kind = "unserved"


class SignatureError(VllmError):
    """A signature is missing, of another signer, or of something else."""

    exit_code = 16
    kind = "signature"


class FreshnessError(VllmError):
    """A signature or key has expired, an index is older than one seen, or the clock is wrong."""

    exit_code = 17
    kind = "freshness"


class ClusterError(VllmError):
    """A cluster's scheduler refuses a task or does not answer."""

    exit_code = 18
    kind = "cluster"


INTERRUPTED_EXIT_CODE = 130
