"""Every fact of a release that the table of engines holds."""

from __future__ import annotations

from vllm_conda.engine.interface import calls, hooks, ops, requirements
from vllm_conda.engine.interface.sources import Sources
from vllm_conda.engine.interface.table import RELEASE, SDIST, Key

CALL, HOOK, MODULE, REQUIRES = "call", "hook", "module", "requires"


def facts(sources: Sources, sdist_sha256: str) -> dict[Key, str]:
    """By kind, place and name: the release itself, its ops by device, calls, hooks and so on.

    Args:
        sdist_sha256: Hash of the source distribution, hexadecimal.
    """
    found: dict[Key, str] = {(RELEASE, "vllm", SDIST): sdist_sha256}
    for device, namespace, name, signature in ops.ops(sources):
        found[device, namespace, name] = signature
    for namespace, name, sites in calls.calls(sources):
        found[CALL, namespace, name] = sites
    for module, files in calls.native_modules(sources):
        found[MODULE, "vllm", module] = files
    for path, name, text in hooks.hooks(sources):
        found[HOOK, path, name] = text
    for group, name, versions in requirements.requirements(sources):
        found[REQUIRES, group, name] = versions
    return found
