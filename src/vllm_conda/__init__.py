"""Toolkit that builds, proves and ships vLLM's native half as conda packages."""

from vllm_conda.generated.version import __version__ as __version__
