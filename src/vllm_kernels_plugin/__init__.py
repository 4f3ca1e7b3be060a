"""vLLM's platform plugin: an unmodified engine runs on the kernels of ``vllm_kernels``.

The entry point of the group ``vllm.platform_plugins`` is :func:`platform`. It is a package of its
own because importing ``vllm_kernels`` fails where its libraries cannot be loaded, and the engine
would turn that into a traceback of its plugin loader; here it becomes a sentence.

docs/users/environment.md lists the environment variables.
"""

from __future__ import annotations

import logging
import os

from vllm_kernels_plugin import engine, logs
from vllm_kernels_plugin.errors import PluginError
from vllm_kernels_plugin.refusal import refuse

PLUGIN_VARIABLE = "VLLM_KERNELS_PLUGIN"
MODES = ("auto", "0", "force")

# A child of the engine's logger, whose handlers print it.
logger = logging.getLogger("vllm.plugins.vllm_kernels")

# Importing `vllm` asks twice and every process anew; the answer is made once.
_answer: list[str | None] = []


def platform() -> str | None:
    """Qualified name of the platform class to use, or None to leave the engine alone.

    Whatever keeps the plugin from serving is logged once, in a sentence. Where the engine has no
    other platform to go on with, that sentence is also what its start fails with.
    """
    if not _answer:
        with logs.shown(logger):
            _answer.append(_decide())
    return _answer[0]


def _decide() -> str | None:
    try:
        mode = _mode()
        if mode == "0":
            logger.info("%s=0: the engine runs without vllm_kernels", PLUGIN_VARIABLE)
            return None
        own = engine.native_modules()
        if own and mode != "force":
            logger.info(
                "the engine brings kernels of its own (%s), so vllm_kernels does not serve it; "
                "set %s=force to replace them",
                ", ".join(own),
                PLUGIN_VARIABLE,
            )
            return None
        engine.check_version(logger)
        from vllm_kernels_plugin import devices

        return devices.activate()
    except (PluginError, ImportError) as error:
        return refuse(str(error), logger)


def _mode() -> str:
    mode = os.environ.get(PLUGIN_VARIABLE) or "auto"
    if mode not in MODES:
        raise PluginError(f"{PLUGIN_VARIABLE}={mode} is not one of: {', '.join(MODES)}")
    return mode
