#!/usr/bin/env python3
"""Stands in for micromamba: installs an explicit file, offline, by rattler's own installer.

client.py create --yes --offline --prefix PREFIX --file FILE
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from hashlib import md5
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from rattler import Channel, Gateway, RepoDataRecord, install
from rattler.explicit_environment import ExplicitEnvironmentSpec
from rattler.platform import Subdir


async def records(addresses: list[str], platform: str, cache: Path) -> list[RepoDataRecord]:
    """What the channel's index says of the packages at ``addresses``."""
    (channel,) = {address.rsplit("/", 2)[0] for address in addresses}
    gateway = Gateway(cache_dir=cache)
    names = {address.rsplit("/", 1)[1].rsplit("-", 2)[0] for address in addresses}
    found = await gateway.query(
        [Channel(channel)], [Subdir(platform), Subdir("noarch")], sorted(names), recursive=False
    )
    by_address = {record.url: record for source in found for record in source}
    return [by_address[address] for address in addresses]


async def main() -> int:
    """Refuse what would have to be fetched, and a file whose MD5 is not the listed one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["create"])
    parser.add_argument("--yes", action="store_true", required=True)
    parser.add_argument("--offline", action="store_true", required=True)
    parser.add_argument("--prefix", type=Path, required=True)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args()
    addresses = []
    for package in ExplicitEnvironmentSpec.from_path(options.file).packages:
        address, _, listed = package.url.partition("#")
        parts = urlsplit(address)
        if parts.scheme != "file":
            print(f"offline: {address}", file=sys.stderr)
            return 1
        data = Path(url2pathname(parts.path)).read_bytes()
        if md5(data, usedforsecurity=False).hexdigest() != listed:
            print(f"damaged: {address}", file=sys.stderr)
            return 1
        addresses.append(address)
    platform = os.environ["CONDA_SUBDIR"]
    cache = options.prefix.parent / ".client-cache"
    await install(
        await records(addresses, platform, cache),
        target_prefix=options.prefix,
        cache_dir=cache / "pkgs",
        platform=Subdir(platform),
        show_progress=False,
    )
    print(f"installed {len(addresses)} packages")
    return 0


if __name__ == "__main__":
    code = asyncio.run(main())
    sys.stdout.flush()
    os._exit(code)
