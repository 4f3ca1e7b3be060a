"""The comparison of the installed engine with upstream's distribution."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from vllm_conda.engine import files

UPSTREAM = {"vllm/__init__.py": b"x = 1\n", "vllm/a/b.json": b"{}", "vllm/_version.py": b"old"}


@pytest.fixture
def sdist(tmp_path: Path) -> Path:
    path = tmp_path / "vllm-1.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**UPSTREAM, "setup.py": b""}.items():
            member = tarfile.TarInfo(f"vllm-1/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An environment's site-packages as the package installs it."""
    site = tmp_path / "prefix/lib/python3.11/site-packages"
    for name, content in {**UPSTREAM, "vllm/_version.py": b"new", "other/x.py": b""}.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(content)
    (site / "vllm/__pycache__").mkdir()
    (site / "vllm/__pycache__/a.cpython-311.pyc").write_bytes(b"")
    return site


def test_upstreams_files_with_its_own_version(site: Path, sdist: Path) -> None:
    assert files.differences(site.parents[2], sdist) == (2, [])


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("vllm/__init__.py", b"x = 2\n", "vllm/__init__.py is not what upstream's"),
        ("vllm/a/b.json", None, "vllm/a/b.json is missing"),
        ("vllm/_C.abi3.so", b"", "vllm/_C.abi3.so is not in upstream's"),
    ],
)
def test_what_is_not_upstreams_is_named(
    site: Path, sdist: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is None:
        (site / name).unlink()
    else:
        (site / name).write_bytes(content)
    _, found = files.differences(site.parents[2], sdist)
    assert len(found) == 1
    assert found[0].startswith(sentence)
