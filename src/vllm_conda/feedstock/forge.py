"""``conda-forge.yml``: what conda-smithy is told about the feedstock."""

from __future__ import annotations

from typing import Any

from vllm_conda.feedstock.config import feedstock_jobs
from vllm_conda.jobs import CUDA
from vllm_conda.targets import Targets


def forge_settings(targets: Targets) -> dict[str, Any]:
    """The file's content."""
    chosen = feedstock_jobs(targets)
    platforms = list(dict.fromkeys(job.platform for job in chosen))
    devices = {job.device: targets.feedstock.devices[job.device] for job in chosen}
    cuda = list(dict.fromkeys(_word(job.platform) for job in chosen if job.device == CUDA))
    runners = set(targets.feedstock.devices["cpu"].runners)
    settings: dict[str, Any] = {
        # A platform without a machine of its own is cross-compiled.
        "build_platform": {
            _word(name): _word(name if name in runners else targets.platforms[name].cross_from)
            for name in platforms
        },
        "conda_build": {"error_overlinking": True},
        "conda_build_tool": "rattler-build",
        "conda_forge_output_validation": True,
        "conda_install_tool": "pixi",
        "github_actions": {"timeout_minutes": max(one.minutes for one in devices.values())},
        "provider": {_word(name): "github_actions" for name in platforms if name in runners},
        "test": "native_and_emulated",
    }
    if cuda:
        # conda-smithy's settings go by platform: its CPU jobs get the room too.
        settings["workflow_settings"] = {
            "free_disk_space": [
                {"platform": cuda, "value": targets.feedstock.devices[CUDA].free_disk_space}
            ]
        }
    return settings


def _word(platform: str) -> str:
    return platform.replace("-", "_")
