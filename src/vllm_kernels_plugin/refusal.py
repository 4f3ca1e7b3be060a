"""What happens where the plugin cannot serve."""

from __future__ import annotations

import logging

from vllm_kernels_plugin.engine import native_modules
from vllm_kernels_plugin.errors import PluginError


class Refusal:
    """Stands for a platform where there is none: the engine's start fails with the sentence."""

    reason = ""

    def __init__(self) -> None:
        raise PluginError(self.reason)


def refuse(reason: str, logger: logging.Logger) -> str | None:
    """Log the reason; then None where the engine has a platform of its own, else ``Refusal``.

    With None and no platform the engine would complain about an empty device name.
    """
    logger.error("vllm_kernels cannot serve this engine: %s", reason)
    if _engine_has_platform():
        return None
    Refusal.reason = reason
    return f"{Refusal.__module__}.{Refusal.__qualname__}"


def _engine_has_platform() -> bool:
    from vllm.platforms import builtin_platform_plugins

    for name, probe in builtin_platform_plugins.items():
        try:
            # Its CUDA platform stands wherever there is a GPU, and cannot be imported without the
            # native modules that a pure package lacks.
            if probe() is not None and (name != "cuda" or native_modules()):
                return True
        except Exception:  # noqa: S112 - a probe that fails means: not this platform
            continue
    return False
