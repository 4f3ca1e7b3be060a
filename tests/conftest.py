"""Fixtures of several test folders; its place puts `support` on the import path.

`support` is imported where it is used: the kernels' tests run without the toolkit.
"""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def dummies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a channel of dummy compilers and libraries."""
    import support

    return support.dummy_channel(tmp_path_factory.mktemp("dummies") / "channel")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with the real recipe and table."""
    import support

    return support.checkout(tmp_path / "checkout")
