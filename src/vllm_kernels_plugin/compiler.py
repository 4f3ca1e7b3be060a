"""torch.compile without a C++ compiler: off, said once, instead of a traceback from a worker."""

from __future__ import annotations

import logging
import os
import shutil

# torch.compile's CPU backend writes C++ and compiles it when a model is first run.
DISABLE_VARIABLE = "TORCH_COMPILE_DISABLE"
DEFAULT_COMPILER = "g++"


def disable_where_missing(logger: logging.Logger) -> None:
    """Switch torch.compile off in this process and those it starts, where it could not work.

    The engine takes the variable for `--enforce-eager`: it then calls our ops where it would have
    had Inductor generate code.
    """
    name = os.environ.get("CXX") or DEFAULT_COMPILER
    if shutil.which(name) or os.environ.get(DISABLE_VARIABLE):
        return
    os.environ[DISABLE_VARIABLE] = "1"
    # PyTorch has read the variable already.
    import torch._dynamo

    torch._dynamo.config.disable = True
    logger.warning(
        "no C++ compiler (%s) was found, which torch.compile needs on the CPU: the model runs "
        "eagerly on the installed kernels; `conda install cxx-compiler` enables compilation",
        name,
    )
