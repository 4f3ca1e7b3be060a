"""PyTorch of another platform, to run ops in under emulation.

Debian's development suite builds it without CUDA for more machines than any other registry. Its
packages and all that they need become one folder that stands for ``/``. Nothing of it reaches a
package or a channel.
"""

from __future__ import annotations

from pathlib import Path

from vllm_conda.downloads.fetch import Artifact
from vllm_conda.downloads.store import Store, disk_errors, key_of, remove
from vllm_conda.paths import cache_root
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain.apt_client import AptClient
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.model import AptSet
from vllm_conda.toolchain.root import Root
from vllm_conda.toolchain.unpack import graft, unpack_deb

SUITE = "sid"
NAMES = ("python3-torch", "python3-numpy")


def ensure(platform: str, reporter: Reporter, cache: Path | None = None) -> Root:
    """Fetch and unpack it once.

    Raises:
        ConfigError: The platform is not cross compiled.
        MissingToolError, NetworkError, DiskError: The suite cannot be had here.
    """
    host = host_module.detect_cross(platform)
    store = Store(cache or cache_root())
    store.prepare()
    wanted = AptSet(suite=SUITE, names=NAMES, closure=True, arch=host.deb_arch)
    client = AptClient(store, host, reporter)
    # What is in the cache serves, since the suite moves every day.
    found = client.cached(wanted)
    if found and (root := _root(store, found, host)).path.is_dir():
        return root
    with store.locked(reporter):
        found = client.cached(wanted) or client.fetch(wanted)
        root = _root(store, found, host)
        if not root.path.is_dir():
            _unpack(store, found, root.path, host.triplet, reporter)
    return root


def _root(store: Store, debs: list[Artifact], host: Host) -> Root:
    key = key_of(host.platform, *(f"{deb.name}={deb.version}" for deb in debs))
    version = next(deb.version for deb in debs if deb.name == NAMES[0])
    return Root(store.root / "pytorch" / key, host.triplet, version.partition("+")[0])


def _unpack(
    store: Store, debs: list[Artifact], root: Path, triplet: str, reporter: Reporter
) -> None:
    scratch = store.scratch("pytorch")
    made = scratch / "root"
    with reporter.task(f"unpack PyTorch of {triplet}", len(debs)) as task, disk_errors(scratch):
        for deb in debs:
            unpack_deb(deb.path, scratch / deb.name)
            graft(scratch / deb.name, made)
            remove(scratch / deb.name)
            task.advance(1)
        for folder in ("bin", "lib", "lib64"):
            if (made / "usr" / folder).is_dir():
                (made / folder).symlink_to(f"usr/{folder}")
        libraries = made / "usr/lib" / triplet
        # What installation scripts would link: BLAS by update-alternatives.
        for name in ("libblas.so.3", "liblapack.so.3"):
            places = sorted(libraries.glob(f"*/{name}"))
            if places and not (libraries / name).exists():
                (libraries / name).symlink_to(places[0].relative_to(libraries))
        # Debian's library bears its version in its name; the kernels want upstream's name.
        for library in libraries.glob("libtorch.so.*"):
            if not (libraries / "libtorch.so").exists():
                (libraries / "libtorch.so").symlink_to(library.name)
    store.publish(made, root)
    remove(scratch)
