"""Malformed TOML, YAML, JSON, ELF, .conda and repodata: a sentence and its exit code, or an answer.

The slow ring (VLLM_CONDA_TEST_SLOW=1) draws 5,000 inputs a format.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import support
import yaml
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import contents, documents, fields

from vllm_conda.audit.registry import CHECKS
from vllm_conda.audit.run import Request, audit
from vllm_conda.audit.settings import load_settings
from vllm_conda.builder import proof
from vllm_conda.builder.channel import toolchain_for
from vllm_conda.builder.session import end_orphans
from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import Workspace
from vllm_conda.downloads import fetch
from vllm_conda.downloads.store import Store as Cache
from vllm_conda.errors import VllmError
from vllm_conda.families import read_families
from vllm_conda.matrix import load_costs, rows, table
from vllm_conda.progress import Mode, Reporter
from vllm_conda.recipe import RECIPE_FILE, load_recipe
from vllm_conda.site.channels import Channels, default_channels
from vllm_conda.site.model import load_site
from vllm_conda.solve import solve_specs, virtual_packages
from vllm_conda.targets import parse_targets, read_table

BUDGET = 5000 if os.environ.get("VLLM_CONDA_TEST_SLOW") == "1" else 40
LONGEST = 300
JOB = "linux-64-cpu-x86-64-v3"
FAMILY = "csrc/cuda/attention/family.toml"

# The next line of a sentence is no part of it: names of tests, a solver's tree.
many = settings(
    max_examples=BUDGET,
    deadline=None,
    database=None,
    derandomize=BUDGET < 5000,
    suppress_health_check=list(HealthCheck),
)


def answer(call: Callable[[], object]) -> None:
    """Runs ``call``, which may refuse its input by a sentence and by nothing else."""
    try:
        call()
    except VllmError as error:
        lines = error.message.splitlines()
    else:
        return
    assert lines
    assert max(map(len, lines)) <= LONGEST, lines


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.checkout(tmp_path_factory.mktemp("malformed") / "checkout")


@contextmanager
def replaced(file: Path, content: bytes) -> Iterator[None]:
    """``file`` with another content, by renames: rattler's gateway maps an index into memory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft, kept = file.with_name("draft"), file.with_name("kept")
    draft.write_bytes(content)
    if known := file.exists():
        file.rename(kept)
    draft.rename(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        if known:
            kept.rename(file)


# TOML

TABLE = read_table(support.ROOT)
TABLE_TEXT = (support.ROOT / "targets.toml").read_bytes()
FAMILY_TEXT = (support.ROOT / FAMILY).read_bytes()
AUDIT_TEXT = (support.ROOT / "audit.toml").read_bytes()


def _jobs(data: dict[str, Any]) -> None:
    targets = parse_targets(data)
    table(list(rows(targets, load_costs(support.ROOT))))


@many
@given(
    st.one_of(
        documents(TABLE),
        contents(TABLE_TEXT).map(lambda content: ("targets.toml", content)),
        contents(FAMILY_TEXT).map(lambda content: (FAMILY, content)),
        contents(AUDIT_TEXT).map(lambda content: ("audit.toml", content)),
    )
)
def test_toml(root: Path, drawn: Any) -> None:
    if isinstance(drawn, dict):
        answer(lambda: _jobs(drawn))
        return
    file, content = drawn
    with replaced(root / file, content):
        if file == "audit.toml":
            answer(lambda: load_settings(root / file, tuple(CHECKS)))
        elif file == FAMILY:
            answer(lambda: read_families(root))
        else:
            answer(lambda: _jobs(read_table(root)))


# YAML

RECIPE = (support.ROOT / RECIPE_FILE).read_text()
SITE = next((support.ROOT / "src/vllm_conda/site/examples").glob("*.yaml")).read_text()
VARIANT_FILE = f"variants/{JOB}.yaml"
VARIANT = (support.ROOT / VARIANT_FILE).read_text()
YAML_FILES = ((str(RECIPE_FILE), RECIPE), ("site.yaml", SITE), (VARIANT_FILE, VARIANT))


def _as_yaml(document: object) -> bytes:
    return yaml.safe_dump(document, sort_keys=False).encode(errors="surrogatepass")


@many
@given(
    st.sampled_from(
        ((str(RECIPE_FILE), RECIPE), ("site.yaml", SITE), (VARIANT_FILE, VARIANT))
    ).flatmap(
        lambda pair: st.tuples(
            st.just(pair[0]),
            st.one_of(documents(yaml.safe_load(pair[1])).map(_as_yaml), contents(pair[1].encode())),
        )
    )
)
def test_yaml(root: Path, drawn: tuple[str, bytes]) -> None:
    file, content = drawn
    with replaced(root / file, content):
        if file == "site.yaml":
            answer(lambda: load_site(root / file))
        elif file == VARIANT_FILE:
            answer(lambda: support.plan(root, [JOB]))
        else:
            answer(lambda: load_recipe(root) and support.plan(root, [JOB]))


# JSON: what the toolkit wrote and something else may have changed

STATE = {
    "schema": 1,
    "packages": {
        "a-1-0.conda": {
            "jobs": [JOB], "fingerprint": "a", "sha256": "b", "size": 1, "mtime_ns": 1,
            "tested": "passed",
        }
    },
    "installed": "x",
    "channels": ["file:///nowhere"],
}  # fmt: skip
ARTIFACT = {"name": "a", "version": "1", "file": "a.whl", "sha256": "0" * 64, "size": 1}
COSTS = json.loads((support.ROOT / "benchmarks/results/build/jobs.json").read_text())


def _as_json(document: object) -> bytes:
    return json.dumps(document).encode(errors="surrogatepass")


def _read_state(root: Path) -> None:
    Store(root / "output", "linux-64", Workspace(root / "work", root / "cache"))
    default_channels(root)


def _read_artifact(root: Path) -> None:
    found = fetch.cached(Cache(root / "cache"), "pip", "a")
    assert found is None or not fetch.intact(found)


READERS: dict[str, tuple[object, Callable[[Path], object]]] = {
    "output.build/build-state.json": (STATE, _read_state),
    "cache/downloads/pip/a/artifact.json": (ARTIFACT, _read_artifact),
    "benchmarks/results/build/jobs.json": (COSTS, load_costs),
    "session.json": ({"session": 4194000}, end_orphans),
}


@many
@given(
    st.sampled_from(sorted(READERS)).flatmap(
        lambda file: st.tuples(
            st.just(file),
            st.one_of(
                documents(READERS[file][0]).map(_as_json), contents(_as_json(READERS[file][0]))
            ),
        )
    )
)
def test_json(root: Path, drawn: tuple[str, bytes]) -> None:
    file, content = drawn
    with replaced(root / file, content):
        answer(lambda: READERS[file][1](root))


# ELF

LIBRARY = Path(find_spec("_ctypes").origin).read_bytes()  # type: ignore[union-attr,arg-type]
SECTIONS = int.from_bytes(LIBRARY[40:48], "little")
STARTS = (16, 64, 64 + 56 * 4, *range(SECTIONS, len(LIBRARY) - 64, 64))


def _check(path: Path) -> None:
    (report,) = audit([path], Request()).packages
    for finding in report.findings:
        assert len(finding.message) <= 500, finding.message


@many
@given(st.one_of(fields(LIBRARY, STARTS, 64), contents(LIBRARY, first=4)))
def test_elf(root: Path, content: bytes) -> None:
    path = root / "library.so"
    with replaced(path, content):
        answer(lambda: _check(path))


# .conda

INDEX = {
    "name": "a", "version": "1", "build": "h0_0", "build_number": 0, "subdir": "linux-64",
    "depends": ["python >=3.10", "__glibc >=2.28"], "license": "MIT", "timestamp": 1,
}  # fmt: skip
PATHS = {
    "paths_version": 1,
    "paths": [
        {
            "_path": "bin/a", "path_type": "hardlink", "size_in_bytes": 2, "sha256": "0" * 64,
            "prefix_placeholder": "/opt/placeholder", "file_mode": "text",
        }
    ],
}  # fmt: skip


def _tar(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _conda(index: bytes, paths: bytes, info: Callable[[bytes], bytes] = bytes) -> bytes:
    stream = io.BytesIO()
    pack = zstandard.ZstdCompressor().compress
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("metadata.json", b'{"conda_pkg_format_version": 2}')
        archive.writestr("pkg-a-1-h0_0.tar.zst", pack(_tar({"bin/a": b"hi"})))
        members = {"info/index.json": index, "info/paths.json": paths}
        archive.writestr("info-a-1-h0_0.tar.zst", pack(info(_tar(members))))
    return stream.getvalue()


PACKAGE = _conda(_as_json(INDEX), _as_json(PATHS))
INFO = _tar({"info/index.json": _as_json(INDEX), "info/paths.json": _as_json(PATHS)})


@many
@given(
    st.one_of(
        documents(INDEX).map(lambda index: _conda(_as_json(index), _as_json(PATHS))),
        documents(PATHS).map(lambda paths: _conda(_as_json(INDEX), _as_json(paths))),
        contents(INFO).map(
            lambda info: _conda(_as_json(INDEX), _as_json(PATHS), lambda real: info)
        ),
        contents(PACKAGE),
    )
)
def test_conda(root: Path, content: bytes) -> None:
    path = root / "a-1-h0_0.conda"
    with replaced(path, content):
        answer(lambda: _check(path))
        answer(lambda: proof.open_package(path))


# repodata

RECORD = {
    **INDEX, "md5": "0" * 32, "sha256": "0" * 64, "size": 1, "constrains": ["b <2"],
    "track_features": "", "depends": ["b >=1", "__glibc >=2.17"],
}  # fmt: skip
REPODATA = {
    "info": {"subdir": "linux-64"},
    "packages": {"b-1-0.tar.bz2": {**RECORD, "name": "b", "build": "0", "depends": []}},
    "packages.conda": {"a-1-h0_0.conda": RECORD},
    "removed": [],
    "repodata_version": 1,
}


def _solve(channel: Path) -> None:
    address = channel.as_uri()
    solve_specs([address], ["a"], "linux-64", virtual_packages())
    Channels([address]).names("linux-64")
    toolchain_for("linux-64", [address], Reporter(Mode.JSON, io.StringIO()))
    Store(channel, "linux-64", Workspace(channel, channel)).settle({}, set())


@many
@given(st.one_of(documents(REPODATA).map(_as_json), contents(_as_json(REPODATA))))
def test_repodata(root: Path, content: bytes) -> None:
    channel = root / "channel"
    empty = replaced(channel / "noarch/repodata.json", b'{"packages": {}, "packages.conda": {}}')
    with empty, replaced(channel / "linux-64/repodata.json", content):
        answer(lambda: _solve(channel))
