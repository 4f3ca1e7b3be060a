"""Malformed packages, of both formats: what audits, tests, adds, signs and indexes them."""

from __future__ import annotations

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard
from answers import answer, answered, audited, many, replaced
from hypothesis import given
from hypothesis import strategies as st
from mutations import as_json, contents, documents

from packages import tar
from vllm_conda.builder import check, proof
from vllm_conda.builder.store import Entry
from vllm_conda.channel import index
from vllm_conda.channel.add import Source, add
from vllm_conda.channel.folder import create
from vllm_conda.engine.interface import facts, sources
from vllm_conda.signing import statement

STEM = "a-1-h0_0"
INDEX = {
    "name": "a", "version": "1", "build": "h0_0", "build_number": 0, "subdir": "linux-64",
    "depends": ["python >=3.10", "__glibc >=2.28", "x86_64-microarch-level >=3"],
    "license": "MIT", "timestamp": 1,
}  # fmt: skip
PATHS = {
    "paths_version": 1,
    "paths": [
        {
            "_path": "bin/a", "path_type": "hardlink", "size_in_bytes": 2,
            "sha256": "8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4",
            "prefix_placeholder": "/opt/placeholder", "file_mode": "text",
        }
    ],
}  # fmt: skip
LINK = {
    "noarch": {"type": "python", "entry_points": ["a = a:main"]}, "package_metadata_version": 1,
}  # fmt: skip
BUILT_FOR = {
    "schema": 1, "platform": "linux-64", "glibc": "2.28", "libstdcxx": 9,
    "tiers": {"avx2": ["-mavx2"]}, "cuda": {"norm": {"archs": ["9.0a"], "ptx": ["9.0"]}},
}  # fmt: skip
RENDERED = {
    "recipe": {"package": {"name": "a"}, "requirements": {"host": ["b"]}},
    "finalized_dependencies": {
        "host": {"resolved": [{
            "name": "b", "version": "1", "build": "0", "subdir": "noarch", "sha256": "0" * 64,
        }]},
    },
}  # fmt: skip
CUDA = {
    "schema": 1, "cuda": "13.0", "request": "9.0a",
    "families": {"norm": {"archs": ["9.0a"], "ptx": [], "parts": [], "parts_left_out": []}},
    "left_out": {},
}  # fmt: skip
# Member → its document, of which each in turn has mistakes.
MEMBERS: dict[str, Any] = {
    "info/index.json": INDEX,
    "info/paths.json": PATHS,
    "info/link.json": LINK,
    "info/run_exports.json": {"weak": ["a >=1"]},
    "info/about.json": {"home": "x", "extra": {"sha": "0"}, "channels": ["x"]},
    "info/hash_input.json": {"cuda": "13.0"},
    "info/built_for.json": BUILT_FOR,
    "info/recipe/rendered_recipe.yaml": RENDERED,
    "lib/vllm_kernels/cuda.json": CUDA,
}
ENTRY = Entry(("job",), "f", "0" * 64, 1, 1, "passed", "abc+")


def _text(name: str, document: object) -> bytes:
    if name.endswith(".json"):
        return as_json(document)
    return yaml.safe_dump(document).encode(errors="surrogatepass")


FILES = {name: _text(name, document) for name, document in MEMBERS.items()}
INSTALLED = {"bin/a": b"hi"}


def _members(files: dict[str, bytes], info: bool) -> bytes:
    chosen = {**INSTALLED, **files}
    return tar({name: data for name, data in chosen.items() if name.startswith("info/") == info})


def _conda(files: dict[str, bytes], info: bytes | None = None) -> bytes:
    stream = io.BytesIO()
    pack = zstandard.ZstdCompressor().compress
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("metadata.json", b'{"conda_pkg_format_version": 2}')
        archive.writestr(f"pkg-{STEM}.tar.zst", pack(_members(files, False)))
        archive.writestr(f"info-{STEM}.tar.zst", pack(info or _members(files, True)))
    return stream.getvalue()


def _bz2(files: dict[str, bytes]) -> bytes:
    return bz2.compress(tar({**INSTALLED, **files}), 1)


def mistaken(pack: Callable[[dict[str, bytes]], bytes]) -> st.SearchStrategy[bytes]:
    """A whole archive with mistakes in one of its documents."""

    def with_mistakes(name: str) -> st.SearchStrategy[bytes]:
        return st.one_of(
            documents(MEMBERS[name]).map(lambda one: _text(name, one)), contents(FILES[name])
        ).map(lambda text: pack({**FILES, name: text}))

    return st.sampled_from(sorted(MEMBERS)).flatmap(with_mistakes)


INFO = _members(FILES, True)
CONDA, BZ2 = _conda(FILES), _bz2(FILES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


def _tested(path: Path) -> None:
    package = proof.open_package(path)
    check.host_refusal([], package.depends, str(package.subdir))
    proof.cuda_of(package.depends, ["13.0"])


def _published(path: Path) -> None:
    channel = create(path.with_name("channel"))
    try:
        add(channel, [Source(path)])
    finally:
        for one in channel.path.glob("*/*.conda"):
            one.unlink()
        for one in channel.state.rglob("*.json"):
            one.unlink()


READERS: tuple[Callable[[Path], object], ...] = (
    audited,
    _tested,
    index.run_exports,
    lambda path: statement.provenance(statement.Subject("a", "0" * 64), path, ENTRY),
    _published,
)


def test_the_whole_ones_pass(folder: Path) -> None:
    """What is changed below is a package that every reader takes."""
    for name, content in ((f"{STEM}.conda", CONDA), (f"{STEM}.tar.bz2", BZ2)):
        path = folder / name
        with replaced(path, content):
            for read in READERS:
                read(path)
            assert index.run_exports(path)


@pytest.mark.parametrize("change", [{"subdir": None}, {"depends": ["", " "]}])
def test_fields_without_a_value(folder: Path, change: dict[str, object]) -> None:
    path = folder / f"{STEM}.conda"
    text = as_json({**INDEX, **change})
    with replaced(path, _conda({**FILES, "info/index.json": text})):
        for read in READERS:
            answer(lambda read=read: read(path))  # type: ignore[misc]


@many
@given(
    st.one_of(
        mistaken(_conda), mistaken(_conda), contents(INFO).map(lambda info: _conda(FILES, info)),
        contents(CONDA),
    ),
    st.sampled_from(READERS),
)  # fmt: skip
def test_conda(folder: Path, content: bytes, read: Callable[[Path], object]) -> None:
    answered(folder / f"{STEM}.conda", content, read)


@many
@given(st.one_of(mistaken(_bz2), contents(BZ2)), st.sampled_from(READERS))
def test_tar_bz2(folder: Path, content: bytes, read: Callable[[Path], object]) -> None:
    answered(folder / f"{STEM}.tar.bz2", content, read)


# Wheels and source distributions

WHEEL_FILE, RELEASE_FILE = "a-1-py3-none-any.whl", "vllm-1.0.0.tar.gz"
WHEEL = {
    "a/__init__.py": b"",
    "a-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: a\nVersion: 1\nRequires-Dist: b\n",
    "a-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nTag: py3-none-any\n",
    "a-1.dist-info/RECORD": b"a/__init__.py,,\n",
}
RELEASE = {
    "PKG-INFO": b"Metadata-Version: 2.1\nName: vllm\nVersion: 1.0.0\n",
    "requirements/common.txt": b"torch==2.13.0\n",
    "csrc/torch_bindings.cpp": b'TORCH_LIBRARY(x, ops) { ops.def("f(Tensor a) -> Tensor"); }\n',
    "vllm/_custom_ops.py": b"import torch\n\ndef f(a):\n    return torch.ops._C.f(a)\n",
}


def _zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream.getvalue()


def _sdist(files: dict[str, bytes]) -> bytes:
    return gzip.compress(tar({f"vllm-1.0.0/{name}": data for name, data in files.items()}), 1)


def spoilt(
    files: dict[str, bytes], pack: Callable[[dict[str, bytes]], bytes]
) -> st.SearchStrategy[bytes]:
    """An archive with one damaged file in it, or a damaged archive."""
    inside = st.sampled_from(sorted(files)).flatmap(
        lambda name: contents(files[name]).map(lambda data: pack({**files, name: data}))
    )
    return st.one_of(inside, contents(pack(files)))


def test_an_entry_without_a_name(folder: Path) -> None:
    """zipfile fails otherwise than for all other damage."""
    content = _zip(WHEEL).replace(b"a/__init__.py", b"\0/__init__.py")
    answered(folder / WHEEL_FILE, content, audited)


@many
@given(spoilt(WHEEL, _zip))
def test_wheel(folder: Path, content: bytes) -> None:
    answered(folder / WHEEL_FILE, content, audited)


def _facts(path: Path) -> None:
    facts.facts(sources.read(path), "0" * 64)


def test_the_whole_release_passes(folder: Path) -> None:
    path = folder / RELEASE_FILE
    with replaced(path, _sdist(RELEASE)):
        _facts(path)


@many
@given(spoilt(RELEASE, _sdist))
def test_source_distribution(folder: Path, content: bytes) -> None:
    answered(folder / RELEASE_FILE, content, _facts)
