"""Packages leave the index: yanked ones stay as files, removed ones go after a while."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_conda.channel.folder import ChannelFolder, Mark, Package
from vllm_conda.channel.publish import GRACE_SECONDS, locked, now, publish, workplace


def yank(folder: ChannelFolder, names: Sequence[str], reason: str) -> list[str]:
    """Offer packages to no solver any more; locks and explicit files that name them still work.

    Args:
        names: File names, or ``SUBDIR/FILE``.

    Returns:
        What was yanked, as ``SUBDIR/FILE``.

    Raises:
        UsageError: The channel has no such package.
    """
    with workplace(folder) as place, locked(folder):
        found = _all(folder, names)
        for package in found:
            folder.mark("yanked", package.key, Mark(reason, now(folder)))
        publish(folder, place)
    return [package.key for package in found]


def offer_again(folder: ChannelFolder, names: Sequence[str]) -> list[str]:
    """Undo :func:`yank`."""
    with workplace(folder) as place, locked(folder):
        found = _all(folder, names)
        for package in found:
            folder.unmark("yanked", package.key)
        publish(folder, place)
    return [package.key for package in found]


def remove(
    folder: ChannelFolder, names: Sequence[str], reason: str, grace: float = GRACE_SECONDS
) -> list[str]:
    """Take packages out of the index, and delete their files ``grace`` seconds later.

    The files go with the first publication after that time.
    """
    with workplace(folder) as place, locked(folder):
        found = _all(folder, names)
        remove_packages(folder, found, reason, grace)
        publish(folder, place)
    return [package.key for package in found]


def remove_packages(
    folder: ChannelFolder, packages: Sequence[Package], reason: str, grace: float
) -> None:
    """Mark packages as removed; the caller holds the lock and publishes."""
    moment = now(folder)
    for package in packages:
        folder.mark("removed", package.key, Mark(reason, moment, moment + grace))


def _all(folder: ChannelFolder, names: Sequence[str]) -> list[Package]:
    return [package for name in names for package in folder.find(name)]
