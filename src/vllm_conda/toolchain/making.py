"""Makes a channel unless the cache has it: the same way for all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vllm_conda.downloads.store import Store
from vllm_conda.paths import cache_root
from vllm_conda.progress import Reporter
from vllm_conda.toolchain.channel import Channel, finished, request_file
from vllm_conda.toolchain.host import Host
from vllm_conda.toolchain.model import Catalog

Make = Callable[[Store, Path], Channel]


def once(
    host: Host, text: str, make: Make, *, reporter: Reporter, cache: Path | None = None
) -> Channel:
    """The channel of an earlier run, returned at once, or else what ``make`` makes.

    Args:
        text: Everything that decides what the channel holds, besides the machine.
        make: Called under the cache's lock, with the cache and the request that it answers.
        cache: The default is ``$VLLM_CONDA_CACHE`` or the user's cache.
    """
    store = Store(cache or cache_root())
    request = request_file(store, host, text)
    if (channel := finished(store, request)) is not None:
        return channel
    with store.locked(reporter):
        if (channel := finished(store, request)) is not None:
            return channel
        return make(store, request)


def make_packages(
    store: Store,
    host: Host,
    reporter: Reporter,
    catalog: Catalog,
    request: Path,
    title: str,
    foreign: Sequence[str] = (),
) -> Channel:
    """Make a channel of a catalog's packages; the caller holds the cache's lock.

    Args:
        title: What it is, in the line that says that it is done.
        foreign: Wheels that are taken for the platform, not for this machine.
    """
    # Imported late: importing rattler-build and installer takes longer than returning a finished
    # answer.
    from vllm_conda.toolchain.maker import Maker

    return Maker(store, host, reporter, catalog, foreign).make(request, title)
