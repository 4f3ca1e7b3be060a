"""Malformed site files: one sentence each, with file, line, node and key; never a traceback."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support import ROOT

from vllm_conda.cli import main
from vllm_conda.errors import ConfigError
from vllm_conda.site.examples import example_names, example_path
from vllm_conda.site.model import Node, Site, load_site, parse_site

HEAD = "schema: 1\nsite: test\n"
NODE = "nodes:\n  gpu:\n    platform: linux-64\n    glibc: 2.34\n    archspec: zen4\n"
CUDA = "    cuda: 12.4\n    cuda_arch: [9.0]\n"
GOOD = HEAD + NODE + CUDA


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


# name: (file, what the message must say)
MALFORMED: dict[str, tuple[str | bytes, list[str]]] = {
    # Not YAML
    "empty": ("", ["is empty"]),
    "only a comment": ("# nothing\n", ["is empty"]),
    "unclosed list": (changed("[9.0]", "[9.0"), [":9: not valid YAML"]),
    "unclosed quote": (changed("site: test", 'site: "test'), ["not valid YAML", "quoted scalar"]),
    "tab": (changed("    glibc", "\tglibc"), [":6: not valid YAML", "Indent with spaces."]),
    "colon in text": (
        changed("site: test", "site: test: 2"),
        [":2: not valid YAML", "Check the indentation"],
    ),
    "indentation": (changed("    glibc", "   glibc"), ["not valid YAML"]),
    "two documents": (GOOD + "---\nschema: 1\n", [":10: not valid YAML", "single document"]),
    "unknown alias": (changed("[9.0]", "*gpus"), [":9: not valid YAML", "gpus"]),
    "not UTF-8": (GOOD.replace("test", "t\xe9st").encode("latin-1"), [":2: not UTF-8"]),
    "control character": (changed("test", "te\x07st"), ["not valid YAML"]),
    "python object": (
        changed("test", "!!python/object/apply:os.system [ls]"),
        [":2: site", "!!python/object/apply:os.system", "not allowed"],
    ),
    "number tag": (changed("2.34", '!!float "2.34"'), [":6: nodes.gpu.glibc", "!!float"]),
    "key twice": (
        GOOD + "    glibc: 2.28\n",
        [":10: nodes.gpu.glibc stands twice, first in line 6"],
    ),
    "node twice": (
        GOOD + NODE.removeprefix("nodes:\n"),
        [":10: nodes.gpu stands twice, first in line 4"],
    ),
    "key is a list": (GOOD + "[a, b]: 1\n", [":10: a key must be a word"]),
    "alias in itself": (HEAD + "nodes: &n\n  gpu: *n\n", ["inside its own anchor"]),
    "aliases without end": (
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{new}: &{new} [{','.join([f'*{old}'] * 10)}]\n"
            for old, new in zip("abcde", "bcdef", strict=True)
        ),
        ["more than 20000 values"],
    ),
    "too large": ("#" * (1 << 20) + "\n" + GOOD, ["larger than 1 MiB"]),
    "deep": ("[" * 5000 + "]" * 5000, ["nested too deeply"]),
    # The wrong shape
    "a list": ("- schema: 1\n", ["expected a mapping"]),
    "a word": ("leonardo\n", ["expected a mapping"]),
    "JSON number": ("7\n", ["expected a mapping"]),
    "nodes as a list": (HEAD + "nodes:\n  - gpu\n", [":3: nodes: expected a mapping"]),
    "nodes as a word": (HEAD + "nodes: gpu\n", [":3: nodes: expected a mapping"]),
    "nodes empty": (HEAD + "nodes: {}\n", [":3: nodes: no node type is declared"]),
    "nodes without value": (HEAD + "nodes:\n", [":3: nodes: expected a mapping"]),
    "node as a word": (HEAD + "nodes:\n  gpu: zen4\n", [":4: nodes.gpu: expected a mapping"]),
    "node without value": (HEAD + "nodes:\n  gpu:\n", [":4: nodes.gpu: expected a mapping"]),
    "no nodes": (HEAD, ["nodes: the key is missing"]),
    "no schema": (GOOD.removeprefix("schema: 1\n"), ["schema: the key is missing"]),
    "no site": (changed("site: test\n", ""), ["site: the key is missing"]),
    "site without value": (changed("site: test", "site:"), [":2: site: expected text"]),
    "site empty": (changed("test", '""'), [":2: site: the site has no name"]),
    "newer schema": (changed("schema: 1", "schema: 2"), [":1: schema", "reads schema 1, got '2'"]),
    "schema in words": (changed("schema: 1", "schema: one"), [":1: schema", "got 'one'"]),
    # Unknown and missing keys
    "unknown key": (GOOD + "node: {}\n", [":10: node: unknown key", "Did you mean 'nodes'?"]),
    "key of a node": (
        changed("glibc", "glib"),
        [":6: nodes.gpu.glib: unknown key", "Did you mean 'glibc'?", "Known keys: platform"],
    ),
    "another key of a node": (
        changed("cuda_arch", "cuda_archs"),
        [":9: nodes.gpu.cuda_archs", "Did you mean 'cuda_arch'?"],
    ),
    "merge key": (
        GOOD + "  b:\n    <<: {glibc: 2.17}\n",
        [":11: nodes.b.<<: unknown key '<<'"],
    ),
    "no platform": (
        changed("    platform: linux-64\n", ""),
        [":4: nodes.gpu.platform: the key is missing"],
    ),
    "no glibc": (changed("    glibc: 2.34\n", ""), [":4: nodes.gpu.glibc: the key is missing"]),
    "no archspec": (
        changed("    archspec: zen4\n", ""),
        [":4: nodes.gpu.archspec: the key is missing"],
    ),
    # Values
    "node name": (changed("  gpu:", "  GPU nodes:"), [":4: nodes.GPU nodes", "lower case"]),
    "node name leaves the folder": (changed("  gpu:", "  ../gpu:"), [":4: nodes.../gpu"]),
    "platform by machine": (
        changed("linux-64", "x86_64"),
        [":5: nodes.gpu.platform", "'x86_64'", "Did you mean 'linux-64'?"],
    ),
    "platform misspelt": (
        changed("linux-64", "linux-aarch46"),
        ["nodes.gpu.platform", "Did you mean 'linux-aarch64'?"],
    ),
    "platform of another system": (
        changed("linux-64", "win-64"),
        ["nodes.gpu.platform", "Known: linux-64, linux-aarch64, linux-ppc64le"],
    ),
    "glibc in words": (changed("2.34", "new"), [":6: nodes.gpu.glibc", "'new'", "ldd --version"]),
    "glibc without minor": (changed("2.34", "2"), ["nodes.gpu.glibc", "such as 2.28"]),
    "glibc as a list": (changed("2.34", "[2.34]"), ["nodes.gpu.glibc: expected text, got a list"]),
    "glibc without value": (changed(" 2.34", ""), ["nodes.gpu.glibc: expected text, got nothing"]),
    "cpu without a name": (changed("zen4", '""'), ["nodes.gpu.archspec", "archspec cpu"]),
    "cpu of another family": (
        changed("zen4", "power9le"),
        ["nodes.gpu.archspec: power9le is a ppc64le CPU, the platform is linux-64"],
    ),
    "big-endian POWER": (
        changed("linux-64", "linux-ppc64le").replace("zen4", "power9"),
        ["nodes.gpu.archspec: power9 is a ppc64 CPU", "Did you mean 'power9le'?"],
    ),
    "role": (GOOD + "    role: logn\n", [":10: nodes.gpu.role", "Did you mean 'login'?"]),
    "linux": (GOOD + "    linux: el8\n", [":10: nodes.gpu.linux", "uname -r"]),
    "driver's version": (
        changed("12.4", "550.54.15"),
        [":8: nodes.gpu.cuda: 550.54.15 is the driver's own version", "nvidia-smi"],
    ),
    "cuda in words": (changed("12.4", "cu124"), ["nodes.gpu.cuda", "'cu124'", "such as 12.4"]),
    "cuda without cuda_arch": (
        changed("    cuda_arch: [9.0]\n", ""),
        [":8: nodes.gpu.cuda: a driver without GPUs: cuda_arch is missing"],
    ),
    "cuda_arch without cuda": (
        changed("    cuda: 12.4\n", ""),
        [":8: nodes.gpu.cuda_arch: GPUs without a driver: cuda is missing"],
    ),
    "cuda_arch alone": (
        changed("[9.0]", "9.0"),
        [":9: nodes.gpu.cuda_arch: expected a list", "got '9.0'"],
    ),
    "cuda_arch empty": (changed("[9.0]", "[]"), ["nodes.gpu.cuda_arch: the list is empty"]),
    "cuda_arch nested": (changed("[9.0]", "[[9.0]]"), ["nodes.gpu.cuda_arch: entry 1", "a list"]),
    "cuda_arch as sm": (
        changed("[9.0]", "[sm_90a]"),
        ["nodes.gpu.cuda_arch: 'sm_90a'", "Did you mean '9.0'?"],
    ),
    "cuda_arch without point": (changed("[9.0]", "[120]"), ["Did you mean '12.0'?"]),
    "cuda_arch by product": (changed("[9.0]", "[H200]"), ["'H200'", "compute_cap"]),
    "more kinds than GPUs": (
        changed("[9.0]", "[8.9, 9.0]") + "    gpus: 1\n",
        ["nodes.gpu.cuda_arch: 2 kinds of GPU, but gpus is 1"],
    ),
    "gpus in words": (
        GOOD + "    gpus: four\n",
        [":10: nodes.gpu.gpus: expected a whole number, got 'four'"],
    ),
    "gpus negative": (GOOD + "    gpus: -1\n", ["nodes.gpu.gpus: expected a whole number"]),
    "gpus zero": (GOOD + "    gpus: 0\n", ["nodes.gpu.gpus: 0, but cuda and cuda_arch"]),
    "gpus without cuda": (
        HEAD + NODE + "    gpus: 4\n",
        [":8: nodes.gpu.gpus: GPUs are counted, but neither cuda and cuda_arch nor amdgpu"],
    ),
    "amdgpu as a version": (
        HEAD + NODE + "    amdgpu: 9.4.2\n",
        [":8: nodes.gpu.amdgpu: '9.4.2' is no gfx target such as gfx90a.", "`rocminfo`"],
    ),
    "count zero": (GOOD + "    count: 0\n", [":10: nodes.gpu.count: a node type without a node"]),
    "count huge": (GOOD + "    count: 1000000000000\n", ["nodes.gpu.count: expected a whole"]),
    "specs as a word": (GOOD + "specs: vllm-kernels-cpu\n", [":10: specs: expected a list"]),
    "bad spec": (
        GOOD + "specs: ['vllm-kernels-cpu >']\n",
        [":10: specs: 'vllm-kernels-cpu >' is not a package"],
    ),
    "spec with a quote": (
        GOOD + 'specs: ["vllm\'cpu"]\n',
        [":10: specs", "not a valid package name"],
    ),
    "spec of a node": (
        GOOD + "    specs: ['>=1']\n",
        [":10: nodes.gpu.specs: '>=1' is not a package spec: missing package name"],
    ),
    "virtual package as spec": (GOOD + "specs: [__cuda]\n", [":10: specs", "virtual packages"]),
    "channels as a word": (GOOD + "channels: conda-forge\n", [":10: channels: expected a list"]),
    "channel empty": (GOOD + "channels: ['']\n", [":10: channels: a channel is empty"]),
}


def test_the_base_is_good() -> None:
    node = parse_site(GOOD, "site.yaml").nodes["gpu"]
    assert (node.glibc, node.cuda, node.cuda_arch) == ("2.34", "12.4", ("9.0",))
    assert len(MALFORMED) >= 50


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_file_is_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, parts = MALFORMED[name]
    path = tmp_path / "site.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main(["solve", str(path), "-c", "unused"]) == ConfigError.exit_code
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *rest = captured.err.splitlines()
    assert first.startswith(f"error: {path}"), captured.err
    assert all(line.startswith("  -> ") for line in rest), captured.err
    assert len(rest) <= 1
    for part in parts:
        assert part in captured.err
    for leak in ("Traceback", "cattrs", "structuring", "Site.", "Node."):
        assert leak not in captured.err


def test_malformed_file_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "site.yaml"
    path.write_text(changed("zen4", "power9le"))
    assert main(["solve", str(path), "--json"]) == ConfigError.exit_code
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] == "config"
    assert "nodes.gpu.archspec" in error["message"]


@pytest.mark.parametrize("name", ["folder", "unreadable"])
def test_unreadable(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    assert main(["solve", str(path)]) == ConfigError.exit_code
    assert "cannot be read" in capsys.readouterr().err


def test_versions_stay_text() -> None:
    """2.30 is not 2.3, and quotes change nothing."""
    site = parse_site(changed("2.34", "2.30").replace("12.4", '"12.10"'), "site.yaml")
    assert (site.nodes["gpu"].glibc, site.nodes["gpu"].cuda) == ("2.30", "12.10")


@pytest.mark.parametrize(
    ("archs", "lowest"), [("[9.0, 8.9]", "8.9"), ("[12.0, 9.0]", "9.0"), ("[10.0]", "10.0")]
)
def test_lowest_capability_is_compared_as_a_version(archs: str, lowest: str) -> None:
    site = parse_site(changed("[9.0]", archs), "site.yaml")
    assert site.nodes["gpu"].lowest_arch == lowest


@pytest.mark.parametrize("name", example_names())
def test_examples_are_marked_as_such(name: str) -> None:
    site = load_site(example_path(name))
    assert site.site == name
    assert site.description.endswith("an example")
    assert example_path(name).read_text().startswith("# An example")


def test_guide_lists_every_key_and_its_example_is_good() -> None:
    guide = (ROOT / "docs" / "users" / "sites.md").read_text()
    for field in (*dataclasses.fields(Site), *dataclasses.fields(Node)):
        assert f"\n| `{field.name}` | " in guide
    example = guide.partition("```yaml\n")[2].partition("```")[0]
    assert list(parse_site(example, "docs/users/sites.md").nodes) == ["login", "a100", "old"]
