"""Channels that the tests of node types solve from."""

from __future__ import annotations

import pytest
import site_channel

from vllm_conda.site.channels import Channels


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("channels")
    own = site_channel.own_channel(folder / "own")
    return [own, site_channel.library_channel(folder / "libraries")]


@pytest.fixture(scope="module")
def channels(addresses: list[str]) -> Channels:
    return Channels(addresses)
