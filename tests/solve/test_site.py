"""Node types of a site: the right build, or the one property that is missing."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import site_channel
import support
from rattler import LockFile
from rattler.explicit_environment.environment import ExplicitEnvironmentSpec

from vllm_conda import solve as solving
from vllm_conda.errors import UnservedError
from vllm_conda.site.channels import Channels
from vllm_conda.site.examples import example_names, example_path
from vllm_conda.site.model import Site, load_site, parse_site
from vllm_conda.site.overrides import Advice, advise
from vllm_conda.site.preflight import NodeResult, check_site, exact

V4 = "0.26.0 h4_400"
V3 = "0.26.0 h3_300"
CUDA12 = "0.26.0 cuda128_1120"
CUDA13 = "0.26.0 cuda130_1130"

# (example, node type) -> package that it must get, build of it
SERVED = {
    ("ac922", "login"): ("vllm-cpu", "0.26.0 h9_900"),
    ("ac922", "compute"): ("vllm-cpu", "0.26.0 h9_900"),
    ("avx2", "epyc"): ("vllm-cpu", V3),
    ("frontier", "login"): ("vllm-cpu", V3),
    ("frontier", "compute"): ("vllm-cpu", V3),
    ("graviton", "graviton2"): ("vllm-cpu", "0.26.0 h1_100"),
    ("graviton", "graviton3"): ("vllm-cpu", "0.26.0 h1_100"),
    ("graviton", "graviton4"): ("vllm-cpu", "0.26.0 h1_100"),
    ("h200", "login"): ("vllm-cpu", V3),
    ("h200", "server"): ("vllm-cuda", CUDA13),
    ("jupiter", "login"): ("vllm-cuda", CUDA13),
    ("jupiter", "booster"): ("vllm-cuda", CUDA13),
    ("leonardo", "login"): ("vllm-cpu", V4),
    ("leonardo", "booster"): ("vllm-cuda", CUDA12),
    ("leonardo", "dcgp"): ("vllm-cpu", V4),
    ("mixed", "login"): ("vllm-cpu", V4),
    ("mixed", "gpu"): ("vllm-cuda", CUDA12),
    ("workstation", "workstation"): ("vllm-cuda", CUDA13),
}
REFUSED = {("avx2", "centos7"): "needs glibc >= 2.28, the node has 2.17"}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("channels")
    own = site_channel.own_channel(folder / "own")
    return [own, site_channel.library_channel(folder / "libraries")]


@pytest.fixture(scope="module")
def channels(addresses: list[str]) -> Channels:
    return Channels(addresses)


def site_of(nodes: str, **keys: str) -> Site:
    head = {"schema": "1", "site": "test", **keys}
    lines = [f"{key}: {value}" for key, value in head.items()]
    return parse_site("\n".join([*lines, "nodes:", nodes]), "site.yaml")


def node(**keys: str) -> str:
    values = {"platform": "linux-64", "glibc": "2.34", "archspec": "zen4", **keys}
    return "  a: {" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def one(channels: Channels, specs: list[str], **keys: str) -> NodeResult:
    return check_site(site_of(node(**keys)), channels, specs)[0]


def refusal(channels: Channels, specs: list[str], **keys: str) -> str:
    found = one(channels, specs, **keys).answers[0].refusal
    assert found is not None
    return found.text


def test_every_node_of_every_example_is_expected() -> None:
    nodes = {
        (name, node) for name in example_names() for node in load_site(example_path(name)).nodes
    }
    assert nodes == {*SERVED, *REFUSED}


@pytest.mark.parametrize("example", example_names())
def test_examples(channels: Channels, example: str) -> None:
    for result in check_site(load_site(example_path(example)), channels):
        answer = result.answers[0]
        if (example, result.name) in REFUSED:
            assert answer.refusal is not None
            assert answer.refusal.text == REFUSED[example, result.name]
            assert not result.served
            continue
        assert answer.refusal is None, answer.refusal
        package, build = SERVED[example, result.name]
        assert answer.builds[package] == build
        other = {"vllm-cpu": "vllm-cuda", "vllm-cuda": "vllm-cpu"}[package]
        assert other not in answer.builds
        # Every package is one that the solver takes under exactly these virtual packages.
        again = channels.solve(exact(answer.records), result.node.platform, result.machine)
        assert sorted(exact(again)) == sorted(exact(answer.records))


GPU = {"cuda": "12.8", "cuda_arch": "[9.0]"}


@pytest.mark.parametrize(
    ("specs", "keys", "text"),
    [
        (["vllm-cpu"], {"glibc": "2.17"}, "needs glibc >= 2.28, the node has 2.17"),
        (
            ["vllm-cpu"],
            {"archspec": "nehalem"},
            "needs x86_64 level 3, the node's CPU nehalem is level 2",
        ),
        (
            ["vllm-cpu ==0.26.0 h4_400"],
            {"archspec": "zen2"},
            "needs x86_64 level 4, the node's CPU zen2 is level 3",
        ),
        (
            ["vllm-cpu"],
            {"platform": "linux-ppc64le", "archspec": "power8le"},
            "needs ppc64le level 9, the node's CPU power8le is level 8",
        ),
        (
            ["vllm-cpu"],
            {"platform": "linux-aarch64", "archspec": "cortex_a72"},
            "needs Armv8.2-A, the node's CPU cortex_a72 is the aarch64 baseline",
        ),
        (["vllm-cuda"], {}, "needs __cuda >= 12, the node has no GPU driver"),
        (
            ["vllm-cuda"],
            {**GPU, "cuda": "11.4"},
            "needs __cuda >= 12, the node's driver supports CUDA 11.4",
        ),
        (
            ["vllm-cuda ==0.26.0 cuda130_1130"],
            GPU,
            "needs __cuda >= 13, the node's driver supports CUDA 12.8",
        ),
        (
            ["vllm-cuda"],
            {**GPU, "cuda_arch": "[7.0]"},
            "needs __cuda_arch >= 7.5, the node's GPU has 7.0",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[8.0]"},
            "needs __cuda_arch >= 9.0, the node's GPU has 8.0",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[12.0]"},
            "needs __cuda_arch < 10.0, the node's GPU has 12.0",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[8.9, 9.0]"},
            "needs __cuda_arch >= 9.0, the node's lowest GPU has 8.9 (of 8.9, 9.0)",
        ),
        (
            ["vllm-flashmla"],
            {**GPU, "cuda_arch": "[9.0, 12.0]"},
            "needs __cuda_arch < 10.0, but the node also has a GPU of 12.0",
        ),
        (
            ["vllm-cuda"],
            {"platform": "linux-ppc64le", "archspec": "power9le"},
            "no package vllm-cuda for linux-ppc64le in the channels, only for linux-64, "
            "linux-aarch64",
        ),
        (["vlm-cuda"], {}, "no package vlm-cuda in the channels. Did you mean 'vllm-cuda'?"),
        (
            ["vllm-cpu 0.27.*"],
            {},
            "no package matches 'vllm-cpu 0.27.*' for linux-64, the channels have 0.26.0",
        ),
        (
            ["vllm-cuda", "vllm-cpu"],
            {"glibc": "2.17"},
            "needs glibc >= 2.28, the node has 2.17; "
            "needs __cuda >= 12, the node has no GPU driver",
        ),
    ],
)
def test_refusals(channels: Channels, specs: list[str], keys: dict[str, str], text: str) -> None:
    assert refusal(channels, specs, **keys) == text


def test_what_is_asked_for_solves(channels: Channels) -> None:
    """The named property, and no other, makes the difference."""
    assert one(channels, ["vllm-cpu"], glibc="2.28").served
    assert one(channels, ["vllm-cpu"], archspec="x86_64_v3").served
    assert one(channels, ["vllm-cuda"], cuda="12.0", cuda_arch="[7.5]").served
    assert one(channels, ["vllm-flashmla"], cuda="12.8", cuda_arch="[9.0]").served


def test_missing_dependency_is_not_blamed_on_the_node(tmp_path: Path, addresses: list[str]) -> None:
    library = site_channel.library_channel(
        tmp_path / "libraries", [("linux-ppc64le", "pytorch"), ("linux-ppc64le", "libtorch")]
    )
    keys = {"platform": "linux-ppc64le", "archspec": "power9le"}
    text = refusal(Channels([addresses[0], library]), ["vllm-cpu"], **keys)
    assert "torch >=2.11" in text
    assert "for linux-ppc64le in the channels, only for linux-64, linux-aarch64" in text


def test_cpu_that_the_level_packages_do_not_list(tmp_path: Path) -> None:
    channel = site_channel.Channel(tmp_path / "channel")
    names = '__archspec 1.*[build="^(haswell|x86_64_v3|x86_64_v4)$"]'
    channel.add("noarch", "_x86_64-microarch-level", "3", "h0_0", [names])
    channel.add("linux-64", "tool", "1", "h0_0", ["_x86_64-microarch-level >=3"])
    text = refusal(Channels([channel.write()]), ["tool"], archspec="zen5")
    assert "do not list the node's CPU zen5" in text
    assert "CONDA_OVERRIDE_ARCHSPEC=x86_64_v4" in text


@pytest.mark.parametrize(
    ("depends", "constrains", "keys", "text"),
    [
        (["__linux >=5.10"], [], {"linux": "4.18.0-553.el8"}, "needs a Linux kernel >= 5.10"),
        (["__linux >=5.10"], [], {}, "is not declared (key linux)"),
        ([], ["__cuda 12.*"], {"cuda": "13.1", "cuda_arch": "[9.0]"}, "needs __cuda < 13"),
        (["__cuda_arch ==9.0"], [], {"cuda": "13.1", "cuda_arch": "[10.0]"}, "__cuda_arch <= 9.0"),
        (["__glibc >2.34"], [], {}, "needs glibc > 2.34, the node has 2.34"),
        (["__cuda"], [], {}, "needs __cuda, the node has no GPU driver"),
        (["__win"], [], {}, "needs __win, which no linux-64 node has"),
        (["a >=2", "b"], [], {}, "needs a >=2: no package a in the channels"),
        (["part >=2"], [], {}, "needs part >=2, which the channels lack for linux-64"),
        (
            ["__archspec 1.*[build='^(a64fx)$']"],
            [],
            {"platform": "linux-aarch64", "archspec": "neoverse_n1"},
            "needs a CPU such as a64fx, the node's is neoverse_n1",
        ),
    ],
)
def test_bounds_of_every_form(
    tmp_path: Path, depends: list[str], constrains: list[str], keys: dict[str, str], text: str
) -> None:
    channel = site_channel.Channel(tmp_path / "channel")
    channel.add("linux-64", "part", "1", "h0_0")
    channel.add(keys.get("platform", "linux-64"), "tool", "1", "h0_0", depends, constrains)
    assert text in refusal(Channels([channel.write()]), ["tool"], **keys)


def test_gpu_node_with_the_cpu_build_is_pointed_out(channels: Channels) -> None:
    result = check_site(load_site(example_path("ac922")), channels)[1]
    assert result.served
    assert "gets the CPU build although it has GPUs: no package vllm-cuda" in result.notes[0]
    asked_for = one(channels, ["vllm-cpu"], **GPU)
    assert not asked_for.notes


def test_channels_without_cuda_packages(tmp_path: Path) -> None:
    channel = site_channel.Channel(tmp_path / "channel")
    channel.add("linux-64", "vllm-cpu", "1", "h0_0")
    channel.add("linux-64", "vllm-kernels", "1", "h0_0", ["vllm-cpu"])
    result = one(Channels([channel.write()]), ["vllm-kernels"], **GPU)
    assert result.notes == (
        "gets the CPU build although it has GPUs: the channels have no vllm-cuda",
    )


def test_each_spec_by_itself(channels: Channels) -> None:
    result = check_site(site_of(node()), channels, ["vllm-cpu", "vllm-cuda"], each=True)[0]
    assert [answer.refusal is None for answer in result.answers] == [True, False]


def test_specs_of_the_file_and_of_a_node(channels: Channels) -> None:
    nodes = node() + "\n" + node(specs="[vllm-core]").replace("  a:", "  b:")
    results = check_site(site_of(nodes, specs="[vllm-cpu]"), channels)
    assert [list(r.answers[0].builds) for r in results] == [
        ["vllm-cpu", "vllm-core"],
        ["vllm-core"],
    ]


def advice_for(channels: Channels, site: Site, *specs: str) -> list[Advice]:
    return advise(check_site(site, channels, specs), channels)


def test_override_line_for_a_login_node(channels: Channels) -> None:
    advice = advice_for(channels, load_site(example_path("leonardo")))
    assert {a.compute: a.line for a in advice} == {
        ("booster",): "CONDA_OVERRIDE_CUDA=12.2 CONDA_OVERRIDE_CUDA_ARCH=8.0",
        ("dcgp",): "",
    }
    assert all(a.verified for a in advice)
    assert "one environment each for booster; dcgp" in advice[-1].warnings[0]


def test_login_node_with_the_same_gpu_needs_no_override(channels: Channels) -> None:
    (advice,) = advice_for(channels, load_site(example_path("jupiter")))
    assert (advice.line, advice.warnings) == ("", ())


def test_what_the_login_node_cannot_run_is_said(channels: Channels) -> None:
    site = load_site(example_path("h200"))
    (advice,) = advice_for(channels, site, "vllm-cpu", "vllm-kernels")
    assert advice.line == (
        "CONDA_OVERRIDE_GLIBC=2.35 CONDA_OVERRIDE_ARCHSPEC=sapphirerapids "
        "CONDA_OVERRIDE_CUDA=13.0 CONDA_OVERRIDE_CUDA_ARCH=9.0"
    )
    assert advice.verified
    assert "does not run on login itself" in advice.warnings[0]
    assert "x86_64 level 4, login's CPU zen3 is level 3" in advice.warnings[0]


def test_mixed_node_names_the_lowest_gpu(channels: Channels) -> None:
    (advice,) = advice_for(channels, load_site(example_path("mixed")))
    assert advice.line == "CONDA_OVERRIDE_CUDA=12.8 CONDA_OVERRIDE_CUDA_ARCH=8.9"
    assert "gpu is mixed (8.9, 9.0)" in advice.warnings[0]


def test_login_node_of_another_platform(channels: Channels) -> None:
    nodes = node(role="login") + "\n  b: {platform: linux-aarch64, glibc: 2.34, cuda: 13.1, "
    nodes += "archspec: neoverse_v2, cuda_arch: [9.0]}"
    (advice,) = advice_for(channels, site_of(nodes), "vllm-kernels")
    assert advice.line == (
        "CONDA_SUBDIR=linux-aarch64 CONDA_OVERRIDE_ARCHSPEC=neoverse_v2 "
        "CONDA_OVERRIDE_CUDA=13.1 CONDA_OVERRIDE_CUDA_ARCH=9.0"
    )
    assert advice.verified
    assert "a is linux-64, b linux-aarch64" in advice.warnings[0]


def test_login_node_with_a_gpu_hides_it_for_cpu_nodes(channels: Channels) -> None:
    nodes = node(role="login", **GPU) + "\n" + node().replace("  a:", "  b:")
    (advice,) = advice_for(channels, site_of(nodes), "vllm-kernels")
    assert advice.line == "CONDA_OVERRIDE_CUDA="
    assert advice.verified


@pytest.mark.parametrize(("example", "compute"), [("h200", "server"), ("mixed", "gpu")])
def test_the_variables_do_what_they_say(
    channels: Channels,
    addresses: list[str],
    monkeypatch: pytest.MonkeyPatch,
    example: str,
    compute: str,
) -> None:
    """A client on this very machine, as a login node, solves to the compute node's packages."""
    results = {r.name: r for r in check_site(load_site(example_path(example)), channels)}
    (advice,) = advise(list(results.values()), channels)
    node = results[compute].node
    everything = {
        "CONDA_OVERRIDE_GLIBC": node.glibc,
        "CONDA_OVERRIDE_ARCHSPEC": node.archspec,
        **advice.variables,
    }
    for name, value in everything.items():
        monkeypatch.setenv(name, value)
    records = solving.solve_specs(
        addresses, ["vllm-kernels"], "linux-64", solving.virtual_packages()
    )
    assert sorted(exact(records)) == sorted(exact(results[compute].answers[0].records))


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
        "vllm-cpu",
        "vllm-cuda",
    ]
    booster = next(row for row in rows if row.startswith("booster"))
    assert "0.26.0 cuda128_1120" in booster
    assert "CONDA_OVERRIDE_CUDA=12.2 CONDA_OVERRIDE_CUDA_ARCH=8.0" in done.stdout
    refused = run("--example", "avx2", *options(addresses), cwd=tmp_path)
    assert refused.returncode == UnservedError.exit_code
    assert "centos7: refused vllm-kernels: needs glibc >= 2.28, the node has 2.17" in refused.stdout
    assert "1 of 2 node types are not served: centos7" in refused.stderr


def test_login_node_is_served_by_its_override_line(tmp_path: Path, addresses: list[str]) -> None:
    done = run("--example", "mixed", "vllm-cuda", *options(addresses), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "login: refused vllm-cuda: needs __cuda >= 12, the node has no GPU driver" in done.stdout
    assert "on login, for gpu: CONDA_OVERRIDE_CUDA=12.8" in done.stdout
    # No line helps against what the compute node itself lacks.
    other = run("--example", "mixed", "vllm-flashmla", *options(addresses), cwd=tmp_path)
    assert other.returncode == UnservedError.exit_code
    assert "2 of 2 node types are not served: login, gpu" in other.stderr


def test_json_is_one_document(tmp_path: Path, addresses: list[str]) -> None:
    done = run("--example", "avx2", "--json", *options(addresses), cwd=tmp_path)
    assert done.returncode == UnservedError.exit_code
    document: dict[str, Any] = json.loads(done.stdout)
    assert not document["served"]
    epyc, centos7 = document["nodes"]
    assert [p["build"] for p in epyc["requests"][0]["packages"] if p["name"] == "vllm-cpu"] == [
        "h3_300"
    ]
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
    assert "vllm-cpu-0.26.0-h3_300.conda" in [record.file_name for record in records]
    explicit = ExplicitEnvironmentSpec.from_path(locks / "epyc.txt")
    assert str(explicit.platform) == "linux-64"
    order = [p.url.rpartition("/")[2].partition("#")[0] for p in explicit.packages]
    assert sorted(order) == sorted(record.file_name for record in records)
    assert order.index("python-3.12.1-h0_0.conda") < order.index("vllm-core-0.26.0-h0_0.conda")


def test_shown_example_is_a_site_file(tmp_path: Path, addresses: list[str]) -> None:
    done = run("--example", "workstation", "--show", cwd=tmp_path)
    (tmp_path / "site.yaml").write_text(done.stdout)
    solved = run("site.yaml", "vllm-cuda", *options(addresses), cwd=tmp_path)
    assert solved.returncode == 0, solved.stderr
    assert "cuda130_1130" in solved.stdout


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
    done = run("site.yaml", "vllm-cuda", *options(addresses), cwd=tmp_path)
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
        (["--example", "avx2", "vllm-cpu 0.26.0 h4_400"], 2, "Did you mean '==0.26.0'"),
        (["--example", "avx2", "__cuda"], 2, "virtual packages describe the node"),
        (["--example", "avx2", "--each", "--lock", "x"], 2, "Leave one of them out."),
        (["missing.yaml"], 3, "missing.yaml does not exist."),
        (["--example", "avx2"], 3, "not a checkout of the project"),
        (["--example", "avx2", "-c", "file:///nowhere"], 6, "Cannot read the channels"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path: Path, words: list[str], code: int, part: str) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_guide_shows_what_is_printed(tmp_path: Path, addresses: list[str]) -> None:
    guide = (support.ROOT / "docs" / "site.md").read_text()
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
    if not (support.ROOT / "output" / "build-state.json").is_file():
        pytest.skip("no output/ here: run ./run build first")
    nodes = node(glibc="2.40") + "\n" + node(glibc="2.40", archspec="zen2").replace("a:", "b:")
    (tmp_path / "site.yaml").write_text(f"schema: 1\nsite: test\nnodes:\n{nodes}\n")
    done = run("site.yaml", "vllm-cpu", "--json", "--root", str(support.ROOT), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    numbers = [
        package["build_number"]
        for found in json.loads(done.stdout)["nodes"]
        for package in found["requests"][0]["packages"]
        if package["name"] == "vllm-cpu"
    ]
    assert [number // 100 for number in numbers] == [4, 3]
