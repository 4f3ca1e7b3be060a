"""Malformed TOML, YAML, JSON and ELF: a sentence and its exit code, or an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import support
import yaml
from answers import answer, answered, audited, many, replaced
from hypothesis import given
from hypothesis import strategies as st
from mutations import as_json, contents, documents, fields, json_texts

from vllm_conda.audit.registry import CHECKS
from vllm_conda.audit.settings import load_settings
from vllm_conda.builder.session import end_orphans
from vllm_conda.builder.store import Store
from vllm_conda.builder.workspace import Workspace
from vllm_conda.downloads import fetch
from vllm_conda.downloads.store import Store as Cache
from vllm_conda.families import read_families
from vllm_conda.matrix import load_costs, rows, table
from vllm_conda.recipe import RECIPE_FILE, load_recipe
from vllm_conda.site.channels import default_channels
from vllm_conda.site.model import load_site
from vllm_conda.targets import parse_targets, read_table
from vllm_conda.toolchain.elf import read as read_elf

JOB = "linux-64-cpu-x86-64-v3"
FAMILY = "csrc/cuda/attention/family.toml"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return support.checkout(tmp_path_factory.mktemp("malformed") / "checkout")


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
    st.sampled_from(YAML_FILES).flatmap(
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
        lambda file: st.tuples(st.just(file), json_texts(as_json(READERS[file][0])))
    )
)
def test_json(root: Path, drawn: tuple[str, bytes]) -> None:
    file, content = drawn
    with replaced(root / file, content):
        answer(lambda: READERS[file][1](root))


# ELF

# The smallest of Python's own: hypothesis keeps what it draws.
OWN = Path(find_spec("_ctypes").origin).parent.glob("*.so")  # type: ignore[union-attr,arg-type]
LIBRARY = min((path.read_bytes() for path in OWN), key=len)
SECTIONS = int.from_bytes(LIBRARY[40:48], "little")
STARTS = (16, 64, 64 + 56 * 4, *range(SECTIONS, len(LIBRARY) - 64, 64))


@many
@given(st.one_of(fields(LIBRARY, STARTS, 64), contents(LIBRARY, first=4)))
def test_elf(root: Path, content: bytes) -> None:
    answered(root / "library.so", content, audited)
    answered(root / "library.so", content, read_elf)
