"""`vllm-conda solve` as a command: matrix, exit codes, JSON, locks, wrong use."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import support
from rattler import LockFile
from rattler.explicit_environment.environment import ExplicitEnvironmentSpec
from site_cases import node
from support import VERSION

from vllm_conda import solve as solving
from vllm_conda.errors import UnservedError
from vllm_conda.site.examples import example_path
from vllm_conda.site.model import load_site, parse_site


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(support.ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-m", "vllm_conda", "solve", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=120,
    )


def options(addresses: list[str]) -> list[str]:
    return [word for address in addresses for word in ("--channel", address)]


def test_command_prints_the_matrix_and_its_code(tmp_path: Path, addresses: list[str]) -> None:
    done = run("--example", "leonardo", *options(addresses), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split() == [
        "node",
        "role",
        "platform",
        "vllm-kernels",
        "vllm-core",
        "vllm-kernels-cpu",
        "vllm-kernels-cuda",
    ]
    booster = next(row for row in rows if row.startswith("booster"))
    assert f"{VERSION} cuda124_all_h0_112400" in booster
    assert "CONDA_OVERRIDE_CUDA=12.2 CONDA_OVERRIDE_CUDA_ARCH=8.0" in done.stdout
    refused = run("--example", "avx2", *options(addresses), cwd=tmp_path)
    assert refused.returncode == UnservedError.exit_code
    assert "centos7: refused vllm-kernels: needs glibc >= 2.28, the node has 2.17" in refused.stdout
    assert "1 of 2 node types are not served: centos7" in refused.stderr


def test_login_node_is_served_by_its_override_line(tmp_path: Path, addresses: list[str]) -> None:
    done = run("--example", "mixed", "vllm-kernels-cuda", *options(addresses), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "login: refused vllm-kernels-cuda: needs __cuda >= 12, the node has no GPU driver"
        in done.stdout
    )
    assert "on login, for gpu: CONDA_OVERRIDE_CUDA=12.8" in done.stdout
    # No line helps against what the compute node itself lacks.
    other = run("--example", "mixed", "vllm-flashmla", *options(addresses), cwd=tmp_path)
    assert other.returncode == UnservedError.exit_code
    assert "2 of 2 node types are not served: login, gpu" in other.stderr


def test_each_spec_has_a_row_of_its_own(tmp_path: Path, addresses: list[str]) -> None:
    """vllm-core comes with each of them, and no row shows another's packages."""
    words = [
        "--example",
        "workstation",
        "--each",
        "vllm-kernels-cpu",
        "vllm-kernels-cuda",
        *options(addresses),
    ]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line.split("  ") for line in done.stdout.splitlines()[:3]]
    head, cpu, cuda = ([cell.strip() for cell in line if cell.strip()] for line in lines)
    assert head == [
        "node",
        "role",
        "platform",
        "spec",
        "vllm-kernels-cpu",
        "vllm-kernels-cuda",
        "vllm-core",
    ]
    core = f"{VERSION} h0_0"
    assert cpu[3:] == ["vllm-kernels-cpu", f"{VERSION} h4_400", "-", core]
    assert cuda[3:] == ["vllm-kernels-cuda", "-", f"{VERSION} cuda130_all_h0_113000", core]


def test_json_is_one_document(tmp_path: Path, addresses: list[str]) -> None:
    done = run("--example", "avx2", "--json", *options(addresses), cwd=tmp_path)
    assert done.returncode == UnservedError.exit_code
    document: dict[str, Any] = json.loads(done.stdout)
    assert not document["served"]
    epyc, centos7 = document["nodes"]
    assert [
        p["build"] for p in epyc["requests"][0]["packages"] if p["name"] == "vllm-kernels-cpu"
    ] == ["h3_300"]
    assert "__archspec=1=zen2" in epyc["virtual_packages"]
    refusal = centos7["requests"][0]["refusal"]
    assert (refusal["missing"], refusal["needs"], refusal["has"]) == (
        ["__glibc"],
        ">= 2.28",
        "2.17",
    )


def test_lock_and_explicit_files(tmp_path: Path, addresses: list[str]) -> None:
    locks = tmp_path / "locks"
    locks.mkdir()
    (locks / "centos7.txt").write_text("of an earlier run\n")
    run("--example", "avx2", "--lock", "locks", *options(addresses), cwd=tmp_path)
    assert sorted(path.name for path in locks.iterdir()) == ["epyc.lock", "epyc.txt"]
    lock = LockFile.from_path(locks / "epyc.lock")
    (locked,) = lock.platforms()
    assert "__glibc=2.34=0" in locked.virtual_packages
    environment = lock.default_environment()
    assert environment is not None
    assert [str(c).rstrip("/") for c in environment.channels()] == addresses
    records = environment.conda_repodata_records_for_platform(locked)
    assert records is not None
    assert f"vllm-kernels-cpu-{VERSION}-h3_300.conda" in [record.file_name for record in records]
    explicit = ExplicitEnvironmentSpec.from_path(locks / "epyc.txt")
    assert str(explicit.platform) == "linux-64"
    order = [p.url.rpartition("/")[2].partition("#")[0] for p in explicit.packages]
    assert sorted(order) == sorted(record.file_name for record in records)
    assert order.index("python-3.12.1-h0_0.conda") < order.index(f"vllm-core-{VERSION}-h0_0.conda")


def test_shown_example_is_a_site_file(tmp_path: Path, addresses: list[str]) -> None:
    done = run("--example", "workstation", "--show", cwd=tmp_path)
    (tmp_path / "site.yaml").write_text(done.stdout)
    solved = run("site.yaml", "vllm-kernels-cuda", *options(addresses), cwd=tmp_path)
    assert solved.returncode == 0, solved.stderr
    assert "cuda130_all_h0_113000" in solved.stdout


@pytest.mark.skipif(platform.machine() != "x86_64", reason="describes itself as a Zen 4")
def test_this_machine_as_a_site_file(
    tmp_path: Path, addresses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = run("--describe", cwd=tmp_path)
    assert real.returncode == 0, real.stderr
    here = parse_site(real.stdout, "here").nodes["this-node"]
    detected = {p.name.normalized: p for p in solving.virtual_packages()}
    assert here.glibc == str(detected["__glibc"].version)
    assert here.archspec == str(detected["__archspec"].build_string)
    for name, value in {
        "GLIBC": "2.35",
        "ARCHSPEC": "zen4",
        "CUDA": "12.8",
        "CUDA_ARCH": "9.0",
    }.items():
        monkeypatch.setenv(f"CONDA_OVERRIDE_{name}", value)
    (tmp_path / "site.yaml").write_text(run("--describe", cwd=tmp_path).stdout)
    node = load_site(tmp_path / "site.yaml").nodes["this-node"]
    assert (node.glibc, node.archspec, node.cuda) == ("2.35", "zen4", "12.8")
    assert node.cuda_arch == ("9.0",)
    done = run("site.yaml", "vllm-kernels-cuda", *options(addresses), cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_channels_of_the_site_file_are_relative_to_it(tmp_path: Path, addresses: list[str]) -> None:
    for address in addresses:
        source = Path(address.removeprefix("file://"))
        (tmp_path / source.name).symlink_to(source)
    text = example_path("frontier").read_text() + "channels: [own, libraries]\n"
    (tmp_path / "site.yaml").write_text(text)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run("../site.yaml", cwd=elsewhere)
    assert done.returncode == 0, done.stderr
    assert "h3_300" in done.stdout


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ([], 2, "No site file is named."),
        (["--example", "leonrado"], 2, "Did you mean 'leonardo'?"),
        (["--example", "avx2", "vllm cpu >="], 2, "is not a package spec"),
        (
            ["--example", "avx2", f"vllm-kernels-cpu {VERSION} h4_400"],
            2,
            f"Did you mean '=={VERSION}'",
        ),
        (["--example", "avx2", "__cuda"], 2, "virtual packages describe the node"),
        (["--example", "avx2", "--each", "--lock", "x"], 2, "Leave one of them out."),
        (["missing.yaml"], 3, "missing.yaml does not exist."),
        (["--example", "avx2"], 3, "not a checkout of the project"),
        (["--example", "avx2", "-c", "file:///nowhere"], 2, "there is no such folder"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path: Path, words: list[str], code: int, part: str) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_guide_shows_what_is_printed(tmp_path: Path, addresses: list[str]) -> None:
    guide = (support.ROOT / "docs" / "users" / "sites.md").read_text()
    _, _, rest = guide.partition("```yaml\n")
    example, _, rest = rest.partition("```\n")
    shown = rest.partition("```\n")[2].partition("```\n")[0]
    (tmp_path / "site.yaml").write_text(example)
    done = run("site.yaml", *options(addresses), cwd=tmp_path)
    printed = (done.stdout + done.stderr).splitlines()
    assert [line.rstrip() for line in printed] == shown.splitlines()


@pytest.mark.slow
def test_built_channel(tmp_path: Path) -> None:
    """The checkout's own packages: a level-3 and a level-4 CPU with this machine's C library."""
    if not (support.ROOT / "output.build" / "build-state.json").is_file():
        pytest.skip("no output/ here: run ./run build first")
    nodes = node(glibc="2.40") + "\n" + node(glibc="2.40", archspec="zen2").replace("a:", "b:")
    (tmp_path / "site.yaml").write_text(f"schema: 1\nsite: test\nnodes:\n{nodes}\n")
    done = run("site.yaml", "vllm-kernels-cpu", "--json", "--root", str(support.ROOT), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = [
        package["build_number"]
        for found in json.loads(done.stdout)["nodes"]
        for package in found["requests"][0]["packages"]
        if package["name"] == "vllm-kernels-cpu"
    ]
    assert [number // 100 for number in numbers] == [4, 3]
