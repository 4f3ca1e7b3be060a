"""How the plugin fails: an engine that it cannot serve, a call that no kernel serves."""

from __future__ import annotations

from typing import NoReturn


class PluginError(Exception):
    """The engine cannot be served; one sentence that says why and what to do."""


def no_kernel(name: str, what: str) -> NoReturn:
    """NotImplementedError: ``name`` was asked for ``what``."""
    raise NotImplementedError(f"{name}: {what} is not served by vllm_kernels")
