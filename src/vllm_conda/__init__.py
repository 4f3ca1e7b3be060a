"""Toolkit that builds, proves and ships vLLM's native half as conda packages."""

__version__ = "0.26.0"
