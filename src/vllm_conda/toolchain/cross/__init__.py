"""Cross compilers to a platform, and what that platform's packages are linked with, as a channel.

It stands beside the embedded toolchain channel of this machine, which has the build tools, and is
made when a job of such a platform asks for it.
"""

from __future__ import annotations

from importlib.resources import files as resource_files
from pathlib import Path

from vllm_conda import platforms
from vllm_conda.downloads.store import Store
from vllm_conda.microarch import levels
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.making import make_packages, once

DATA_FILE = "cross.toml"


def catalog_text(host: Host) -> str:
    """Text of the data file with the platform's names filled in."""
    text = (resource_files(__package__) / DATA_FILE).read_text(encoding="utf-8")
    variables = {
        "platform": host.platform,
        "machine": platforms.table()[host.platform].machine,
        "deb": host.deb_arch,
        "build_deb": host.build_deb_arch,
        "build_platform": host.build_platform,
        "gnu": host.triplet,
        "build_gnu": platforms.table()[host.build_platform].triplet,
        # An array's items: "1", "2" with the outer quotes in the file.
        "levels": '", "'.join(str(level) for level in sorted(set(levels(host.family).values()))),
    }
    for name, value in variables.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def ensure(platform: str, *, reporter: Reporter, cache: Path | None = None) -> Channel:
    """Make the channel of one platform, or return the one that is there.

    Raises:
        ConfigError: No cross compiler is known for the platform.
        VllmError: As the toolchain's ``ensure``.
    """
    host = host_module.detect_cross(platform)
    text = catalog_text(host)

    def make(store: Store, request: Path) -> Channel:
        title = f"Channel for {platform}"
        return make_packages(store, host, reporter, model.parse(text), request, title)

    return once(host, text, make, reporter=reporter, cache=cache)
