"""Fixtures of the channel's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_conda.channel.folder import ChannelFolder, create


@pytest.fixture
def channel(tmp_path: Path) -> ChannelFolder:
    return create(tmp_path / "channel")
