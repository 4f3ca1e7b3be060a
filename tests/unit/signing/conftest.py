"""A small signed channel, copied for each test."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import support
from rattler.index import index_fs
from signed_site import Site

from vllm_conda.signing import keys

URL = "https://example.org/channels/site"


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unsigned channel of three packages."""
    folder = tmp_path_factory.mktemp("signing") / "channel"
    for name in ("alpha", "beta", "gamma"):
        support.build_dummy(folder, name, "1.0", {}, "")
    for left in ("bld", "src_cache", "build_cache", "recipes"):
        shutil.rmtree(folder / left, ignore_errors=True)
    for log in folder.glob("*.txt"):
        log.unlink()
    asyncio.run(index_fs(folder))
    return folder


@pytest.fixture(scope="session")
def signed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Signed once; tests work on copies."""
    folder = tmp_path_factory.mktemp("signed")
    shutil.copytree(built, folder / "channel")
    site = Site(folder / "channel", folder / "key.pem", folder / "root.json", folder / "state")
    keys.generate(site.key)
    shutil.copy(site.sign(url=URL).root, site.trusted)
    return site


@pytest.fixture
def copy(signed: Site, tmp_path: Path) -> Callable[[str], Site]:
    """A copy of the signed channel under a name of one's own."""

    def make(name: str = "channel") -> Site:
        shutil.copytree(signed.channel, tmp_path / name)
        return Site(tmp_path / name, signed.key, signed.trusted, tmp_path / "state")

    return make


@pytest.fixture
def site(copy: Callable[[str], Site]) -> Site:
    return copy("channel")
