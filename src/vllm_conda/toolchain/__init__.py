"""The embedded toolchain channel: conda-forge's names, made from pip and apt.

``ensure`` makes it, ``plan`` says what it would fetch through which client.
"""

from vllm_conda.toolchain.channel import Channel, PackageFile, ensure
from vllm_conda.toolchain.plan import Plan, Step, plan

__all__ = ["Channel", "PackageFile", "Plan", "Step", "ensure", "plan"]
