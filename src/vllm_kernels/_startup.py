"""What importing the package does."""

from __future__ import annotations

import itertools
import sys

import torch

from vllm_kernels import _arguments, _backends, _fake, _libraries

_library: torch.library.Library | None = None
_error: ImportError | None = None


def start() -> None:
    """Load libraries, then register references, fakes and refusals.

    Raises:
        ImportError: vllm-core's own libraries are absent, or an installed one cannot be loaded.
    """
    global _error, _library
    if _library is not None:
        return
    try:
        _libraries.core()
        if not _libraries.load_ops(_libraries.OPS):
            raise _libraries.LoadError(
                f"lib{_libraries.OPS}.so is missing beside {_libraries.core().path}: "
                "reinstall vllm-core"
            )
        _backends.load()
    except ImportError as error:
        # The report must still run then, and `-m` imports the package before it.
        if not _called_as_doctor():
            raise
        _error = error
        return
    _library = torch.library.Library(  # type: ignore[no-untyped-call]
        "vllm_kernels", "FRAGMENT"
    )
    _backends.register_references(_library)
    _fake.register(_library)
    _arguments.register(_library)


def error() -> ImportError | None:
    """Why the start failed, where the doctor made it go on."""
    return _error


def _called_as_doctor() -> bool:
    words = sys.orig_argv
    return any(pair == ("-m", "vllm_kernels") for pair in itertools.pairwise(words))
