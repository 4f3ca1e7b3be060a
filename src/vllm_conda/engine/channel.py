"""The engine's dependencies as a local channel, beside the embedded toolchain channel."""

from __future__ import annotations

from pathlib import Path

from vllm_conda.engine import wheels as data
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import host as host_module
from vllm_conda.toolchain import model
from vllm_conda.toolchain.channel import Channel, finished, request_file
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.model import Catalog, Package
from vllm_conda.toolchain.store import Store, default_cache


def ensure(platform: str, *, reporter: Reporter, cache: Path | None = None) -> Channel:
    """Make the channel of the engine's dependencies, or return the one that is there.

    It holds what the toolchain channel does not; the two are used together.

    Raises:
        VllmError: As the toolchain's ``ensure``.
    """
    host = host_module.detect(platform)
    store = Store(cache or default_cache())
    code = Path(data.__file__).read_text(encoding="utf-8")
    request = request_file(store, host, "\n".join((data.text(), model.catalog_text(), code)))
    if (channel := finished(store, request)) is not None:
        return channel
    with store.locked(reporter):
        return _make(store, host, reporter, request)


def _make(store: Store, host: Host, reporter: Reporter, request: Path) -> Channel:
    # Imported late: importing rattler-build and installer takes longer than returning a finished
    # answer.
    from vllm_conda.toolchain.maker import Maker

    wheels = data.load()
    # A wheel's dependencies are recorded in the wheel, so all wheels are fetched before the catalog
    # of their packages is written.
    bare = tuple(Package(name=name, summary=name, license="", wheel=name) for name in wheels.pins)
    first = Maker(store, host, reporter, _catalog(host, wheels, bare))
    first.fetch()
    offered = {wheels.conda_name(name) for name in wheels.pins}
    offered |= {package.name for package in model.load().packages}
    packages = tuple(
        data.package(name, first.sources[f"pip:{name}"][0].path, wheels, host.py, offered)
        for name in wheels.pins
    )
    maker = Maker(store, host, reporter, _catalog(host, wheels, packages))
    return maker.make(request, "Channel of the engine's dependencies")


def _catalog(host: Host, wheels: data.Wheels, packages: tuple[Package, ...]) -> Catalog:
    return Catalog((host.platform,), wheels.pins, {}, packages)
