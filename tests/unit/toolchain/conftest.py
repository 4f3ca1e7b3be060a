"""The real pip takes the small catalog's wheels from a local folder: no network is used."""

from __future__ import annotations

from pathlib import Path

import pytest
from toolchain_fakes import CATALOG, make_wheels

from vllm_conda.toolchain import model


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks: no network is used."""
    folder = tmp_path / "wheels"
    make_wheels(folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def small_catalog(monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes ``ensure`` read the small catalog."""
    monkeypatch.setattr(model, "catalog_text", lambda: CATALOG)
    return CATALOG
