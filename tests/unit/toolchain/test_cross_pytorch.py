"""Another platform's PyTorch becomes one folder, from the Debian packages that apt brings."""

from __future__ import annotations

import shutil
import subprocess
from io import StringIO
from pathlib import Path

import pytest

from vllm_conda.downloads import fetch
from vllm_conda.downloads.store import sha256
from vllm_conda.errors import ConfigError, NetworkError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.toolchain.apt_client import AptClient
from vllm_conda.toolchain.cross import pytorch
from vllm_conda.toolchain.model import AptSet

TRIPLET = "powerpc64le-linux-gnu"
FILES = {
    "python3-torch": ["usr/lib/python3/dist-packages/torch/__init__.py"],
    "libtorch9.9": [f"usr/lib/{TRIPLET}/libtorch.so.9.9"],
    "libfastblas": [f"usr/lib/{TRIPLET}/fastblas/libblas.so.3"],
    "python3-minimal": ["usr/bin/python3", f"lib/{TRIPLET}/libc.so.6", "lib64/ld64.so.2"],
}


def make_deb(folder: Path, name: str, files: list[str]) -> fetch.Artifact:
    tree = folder / name
    for path in files:
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(name)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        f"Package: {name}\nVersion: 9.9+dfsg-1\nArchitecture: ppc64el\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: for a test\n"
    )
    deb = folder / f"{name}.deb"
    command = ["dpkg-deb", "--root-owner-group", "--build", str(tree), str(deb)]
    subprocess.run(command, check=True, capture_output=True)
    return fetch.Artifact("apt", name, "9.9+dfsg-1", deb, sha256(deb), deb.stat().st_size)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[AptSet]:
    """The sets that were fetched."""
    folder = tmp_path / "debs"
    debs = [make_deb(folder, name, files) for name, files in FILES.items()]
    found: list[AptSet] = []

    def answer(_: AptClient, wanted: AptSet) -> list[fetch.Artifact]:
        found.append(wanted)
        return debs

    monkeypatch.setattr(AptClient, "cached", lambda *_: None)
    monkeypatch.setattr(AptClient, "fetch", answer)
    return found


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="a Debian system is needed")
def test_one_folder_stands_for_the_platform(tmp_path: Path, asked: list[AptSet]) -> None:
    reporter = Reporter(Mode.PLAIN, StringIO())
    root = pytorch.ensure("linux-ppc64le", reporter, tmp_path / "cache")
    assert asked[0].arch == "ppc64el"
    assert root.version == "9.9"
    assert root.python.read_text() == "python3-minimal"
    # Under the names that programs use: merged folders, BLAS, upstream's name of the library.
    for path, content in (
        ("lib64/ld64.so.2", "python3-minimal"),
        (f"lib/{TRIPLET}/libc.so.6", "python3-minimal"),
        (f"usr/lib/{TRIPLET}/libblas.so.3", "libfastblas"),
        (f"usr/lib/{TRIPLET}/libtorch.so", "libtorch9.9"),
    ):
        assert (root.path / path).read_text() == content, path
    assert list((tmp_path / "cache/tmp").iterdir()) == []


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="a Debian system is needed")
def test_it_is_unpacked_once(
    tmp_path: Path, asked: list[AptSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = Reporter(Mode.PLAIN, StringIO())
    first = pytorch.ensure("linux-ppc64le", reporter, tmp_path / "cache")
    monkeypatch.setattr(pytorch, "unpack_deb", lambda *_: pytest.fail("unpacked again"))
    assert pytorch.ensure("linux-ppc64le", reporter, tmp_path / "cache") == first


def test_a_failed_download_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> list[fetch.Artifact]:
        raise NetworkError("no mirror")

    monkeypatch.setattr(AptClient, "fetch", fail)
    with pytest.raises(NetworkError):
        pytorch.ensure("linux-aarch64", Reporter(Mode.PLAIN, StringIO()), tmp_path)
    assert not (tmp_path / "pytorch").exists()


def test_only_cross_compiled_platforms_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="linux-64"):
        pytorch.ensure("linux-64", Reporter(Mode.PLAIN, StringIO()), tmp_path)
