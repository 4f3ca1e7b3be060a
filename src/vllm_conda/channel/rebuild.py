"""Making the index anew from the files that are there."""

from __future__ import annotations

from vllm_conda.channel.add import Added, Source, bring, enter_packages
from vllm_conda.channel.folder import PACKAGE_SUFFIXES, PUBLICATION, ChannelFolder, Package
from vllm_conda.channel.publish import workplace
from vllm_conda.downloads.store import sha256
from vllm_conda.errors import ConfigError, IntegrityError


def rebuild(folder: ChannelFolder) -> Added:
    """Check every file against its record, take in files without one, and index.

    Raises:
        ConfigError: The folder is no channel.
        IntegrityError: The first file that is damaged or gone; the index stays as it is.
    """
    if not (folder.path / PUBLICATION).is_file():
        raise ConfigError(
            f"{folder.path} is no channel: it has no {PUBLICATION}.",
            f"Make it one with `vllm-conda channel create {folder.path}`.",
        )
    known = {one.key: one for one in folder.packages()}
    for package in known.values():
        if reason := file_problem(folder, package):
            raise IntegrityError(
                f"{package.key} {reason}.",
                f"Bring it back with `vllm-conda channel add {folder.path} PACKAGE`, or take it "
                f"out with `vllm-conda channel remove`.",
            )
    removed = folder.marks("removed")
    found = [
        Source(path, path.parent.name)
        for path in sorted(folder.path.glob("*/*"))
        if path.name.endswith(PACKAGE_SUFFIXES)
        and f"{path.parent.name}/{path.name}" not in known.keys() | removed.keys()
    ]
    with workplace(folder) as place:
        return enter_packages(folder, bring(folder, found, place), place)


def file_problem(folder: ChannelFolder, package: Package) -> str:
    """What is wrong with a package's file, as the rest of a sentence; empty if nothing is."""
    path = folder.package_path(package)
    try:
        size = path.stat().st_size
        if size != package.size:
            return f"has {size} bytes, not {package.size}"
        if sha256(path) != package.sha256:
            return "does not have its recorded SHA-256"
    except FileNotFoundError:
        return "is gone"
    return ""
