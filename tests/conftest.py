"""Fixtures of several test folders; its place puts `support` on the import path."""

from __future__ import annotations

from pathlib import Path

import pytest
import support


@pytest.fixture(scope="session")
def dummies(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a channel of dummy compilers and libraries."""
    return support.dummy_channel(tmp_path_factory.mktemp("dummies") / "channel")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small checkout with the real recipe and table."""
    return support.checkout(tmp_path / "checkout")
