"""The plugin's one kind of failure."""

from __future__ import annotations


class PluginError(Exception):
    """The engine cannot be served; one sentence that says why and what to do."""
