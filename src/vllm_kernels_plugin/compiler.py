"""Compilers that code generation needs: what happens, and is said, where there is none.

Without a C++ compiler torch.compile runs graphs as traced on a CPU, instead of a traceback from a
worker. On a GPU the engine cannot do without Triton, which needs a C compiler.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil

DEFAULT_COMPILER = "g++"
# In the order in which Triton looks for them.
C_COMPILERS = ("gcc", "clang")
SUPPRESS_VARIABLE = "TORCHDYNAMO_SUPPRESS_ERRORS"
# Set for child processes, so that they do not repeat the warning.
SAID_VARIABLE = "VLLM_KERNELS_NO_COMPILER_SAID"


def name() -> str:
    """The compiler that PyTorch would run."""
    return os.environ.get("CXX") or DEFAULT_COMPILER


@functools.lru_cache(maxsize=1)
def backend() -> str:
    """Back end of torch.compile that works here.

    Inductor, the default, writes C++ for a CPU. `eager` runs the traced graph as it is, with our
    ops in it, and still saves the model's Python code at every step.
    """
    return "inductor" if shutil.which(name()) else "eager"


def prepare(logger: logging.Logger) -> None:
    """Let functions that ask for Inductor by name run uncompiled, here and in child processes."""
    if backend() == "inductor":
        return
    if SUPPRESS_VARIABLE not in os.environ:
        os.environ[SUPPRESS_VARIABLE] = "1"
        # PyTorch has read the variable already.
        import torch._dynamo

        torch._dynamo.config.suppress_errors = True
    # For each such function PyTorch logs a traceback of a hundred lines that says no more than
    # this.
    logging.getLogger("torch._dynamo.convert_frame").addFilter(_keep)
    if not os.environ.get(SAID_VARIABLE):
        os.environ[SAID_VARIABLE] = "1"
        logger.warning(
            "no C++ compiler (%s) was found, so torch.compile traces the model without generating "
            "code for it; `conda install cxx-compiler` enables that",
            name(),
        )


def prepare_triton(logger: logging.Logger) -> None:
    """Warn where Triton finds no C compiler: the engine always runs Triton kernels on a GPU."""
    names = (os.environ["CC"],) if os.environ.get("CC") else C_COMPILERS
    if any(shutil.which(name) for name in names) or os.environ.get(SAID_VARIABLE):
        return
    os.environ[SAID_VARIABLE] = "1"
    logger.warning(
        "no C compiler (%s) was found, which Triton needs to load the engine's own GPU kernels; "
        "`conda install c-compiler` brings one",
        ", ".join(names),
    )


def _keep(record: logging.LogRecord) -> bool:
    """Whether to keep a record: all but the report that the compiler is missing."""
    cause = record.exc_info[1] if record.exc_info else None
    while cause is not None:
        if "InvalidCxxCompiler" in f"{type(cause).__name__} {cause}":
            return False
        cause = cause.__cause__
    return True
