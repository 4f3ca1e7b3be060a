"""The compiler's first errors in a failed build's log, not its four thousand lines."""

from __future__ import annotations

import re

from vllm_conda.errors import (
    BuildFailure,
    DiskError,
    MissingToolError,
    NetworkError,
    SolveError,
    VllmError,
)

_ERROR = re.compile(
    r"(: (fatal )?error: |^CMake Error|: undefined reference to |internal compiler error"
    r"|multiple definition of|: command not found|cannot find -l|^ninja: error"
    r"|vllm-kernels: .* (missing|too old|is not|conflicts))"
)
# Lines after a hit that explain it: the source line, the caret, CMake's indented text.
_CONTEXT = re.compile(r"^\s+(\d+ )?\||^  +\S")
_WORK = re.compile(r"\S*[/]work[/](?=\S)|\S*\$SRC_DIR/")
_EXCEPTION = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Exit|Interrupt|Warning): ")
_MAX_LINES = 12
_MAX_WIDTH = 300

_CAUSES: tuple[tuple[re.Pattern[str], type[VllmError], str, str], ...] = (
    (
        re.compile(r"No space left on device|os error 28\b", re.I),
        DiskError,
        "the disk is full",
        "Free space (a build needs about 5 GiB) or choose another cache with VLLM_CONDA_CACHE.",
    ),
    (
        re.compile(r"Read-only file system|os error 30\b|Permission denied \(os error 13\)", re.I),
        DiskError,
        "a folder is not writable",
        "Choose another cache with VLLM_CONDA_CACHE.",
    ),
    (
        re.compile(r"error sending request|dns error|could not resolve host|timed out", re.I),
        NetworkError,
        "the channel cannot be reached",
        "Check the network, or leave --channel out to use the embedded toolchain channel.",
    ),
    (
        re.compile(r"No CMAKE_CXX_COMPILER could be found|CMAKE_CXX_COMPILER-NOTFOUND", re.I),
        MissingToolError,
        "no C++ compiler works",
        "Run `vllm-conda doctor`.",
    ),
    (
        re.compile(r"compiler \S+\s+\S+\s+is\s+too\s+old"),
        MissingToolError,
        "the C++ compiler is too old",
        "Use GCC 11 or newer, or leave --channel out to use the embedded toolchain channel.",
    ),
    (
        re.compile(r"failed to (resolve dependencies|setup test environment)", re.I),
        SolveError,
        "the environment cannot be solved",
        "Check what the channels hold.",
    ),
)


def compiler_errors(lines: list[str]) -> list[str]:
    """Return the first errors in ``lines`` with their context, at most twelve lines.

    The build machine's work folder is cut off, so that names read as in the checkout.
    """
    found: list[str] = []
    keep = False
    for line in lines:
        line = line.rstrip()
        if line.startswith("+"):  # bash's trace of the script repeats commands
            continue
        keep = bool(_ERROR.search(line)) or (keep and bool(_CONTEXT.match(line)))
        text = _WORK.sub("", line)
        if keep and (text not in found or _CONTEXT.match(line)):
            found.append(text)
        if len(found) == _MAX_LINES:
            break
    return found


def script_errors(lines: list[str]) -> list[str]:
    """Return why a package's test failed: Python's exceptions, else what it printed last."""
    ends = [n for n, line in enumerate(lines) if line.startswith("Script failed")]
    lines = lines[: ends[0] if ends else None]
    # bash's trace starts the last command's output.
    starts = [n for n, line in enumerate(lines) if line.startswith("+ ")]
    lines = [line[:_MAX_WIDTH] for line in lines[starts[-1] if starts else 0 :] if line.strip()]
    raised = [line for line in lines if _EXCEPTION.match(line)]
    return (raised or lines)[-_MAX_LINES:]


def failure(what: str, message: str, lines: list[str], log: str) -> VllmError:
    """Turn a failed worker into the exception that names cause, first errors and log.

    Args:
        what: What was being built, for the sentence.
        message: The worker's error.
        lines: The log.
        log: Where the log is kept.
    """
    errors = compiler_errors(lines)
    text = "\n".join([message, *lines[-40:]])
    for pattern, kind, reason, hint in _CAUSES:
        # A compiler's own message is better than a pattern's guess, except for a full disk.
        if pattern.search(text) and (not errors or kind in (DiskError, MissingToolError)):
            return kind(f"Building {what} failed: {reason}.", f"{hint} Log: {log}")
    if errors:
        block = "\n  ".join(errors)
        return BuildFailure(f"Building {what} failed:\n  {block}\n", f"Full log: {log}")
    tail = "\n  ".join([line for line in lines if line.strip()][-6:])
    return BuildFailure(f"Building {what} failed: {message}\n  {tail}\n", f"Full log: {log}")
