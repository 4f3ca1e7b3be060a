"""The embedded toolchain channel: conda-forge's names, made from pip and apt.

``ensure`` makes it, ``plan`` says what it would install through which client.
"""

from vllm_conda.toolchain.channel import Channel, PackageFile, ensure

__all__ = ["Channel", "PackageFile", "ensure"]
