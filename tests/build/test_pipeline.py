"""`vllm-conda build` on the real recipe, with dummy compilers and small sources."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import support
from rattler_build import Package

from vllm_conda import toolchain
from vllm_conda.audit import built_for
from vllm_conda.builder.pipeline import Report
from vllm_conda.builder.workspace import KEPT_STAGINGS, workspace_for
from vllm_conda.packages import table
from vllm_conda.progress import Mode, Reporter
from vllm_conda.solve import folder_of
from vllm_conda.targets import load_targets

V3, V4 = "linux-64-cpu-x86-64-v3", "linux-64-cpu-x86-64-v4"
TARGETS = load_targets(support.ROOT)
ADDRESS = "https://example.org/kernels"
# Slices of a CUDA version that make packages under one name.
SLICES = ("all", "sm90")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RATTLER_CACHE_DIR", str(tmp_path / "cache" / "rattler"))
    monkeypatch.setenv("PYTHONPATH", str(support.ROOT / "src"))
    # What is tested here must not depend on the machine's CPU.
    monkeypatch.setenv("CONDA_OVERRIDE_ARCHSPEC", "x86_64_v4")


def run(root: Path, channel: str, *variants: str, events: io.StringIO | None = None) -> Report:
    reporter = Reporter(Mode.JSON, events or io.StringIO())
    return support.build(root, (channel,), variants, reporter)


def packages(root: Path) -> dict[str, Path]:
    return {path.name: path for path in sorted((root / "output" / "linux-64").glob("*.conda"))}


def by_name(root: Path, name: str) -> list[Path]:
    return [path for file, path in packages(root).items() if file.rsplit("-", 2)[0] == name]


def indexed(root: Path, subdir: str = "linux-64") -> dict[str, dict[str, Any]]:
    text = (root / "output" / subdir / "repodata.json").read_text()
    records: dict[str, dict[str, Any]] = json.loads(text)["packages.conda"]
    return records


def content(package: Path, folder: Path, file: str) -> str:
    from rattler.package_streaming import extract

    extract(package, folder)
    return (folder / file).read_text()


def test_full_build_then_nothing_then_one_kernel_file(
    checkout: Path, dummies: str, tmp_path: Path
) -> None:
    first = run(checkout, dummies)
    assert support.names(first.built) == [
        "vllm-core",
        "vllm-kernels-cpu",
        "vllm-kernels",
        "vllm-cpu",
        "vllm-kernels-cpu",
    ]
    assert all(item.tests == "passed" for item in first.built)
    assert set(indexed(checkout)) == set(packages(checkout))
    assert indexed(checkout, "noarch") == {}
    assert first.install_command.endswith(" vllm-kernels-cpu")
    assert (checkout / "output").as_uri() in first.install_command
    # The solver takes the level-4 package on a level-4 machine.
    assert any(name.endswith("_400.conda") for name in first.installed)

    before = {name: path.stat().st_mtime_ns for name, path in packages(checkout).items()}
    second = run(checkout, dummies)
    assert second.built == []
    assert second.installed == []
    assert sorted(second.unchanged) == sorted(before)
    assert {n: p.stat().st_mtime_ns for n, p in packages(checkout).items()} == before

    (checkout / "csrc/cpu/norm/norm.cc").write_text("norm, second edition\n")
    third = run(checkout, dummies)
    assert support.names(third.built) == ["vllm-kernels-cpu", "vllm-kernels-cpu"]
    assert len(third.removed) == 2
    assert set(indexed(checkout)) == set(packages(checkout))
    for number, package in enumerate(by_name(checkout, "vllm-kernels-cpu")):
        text = content(package, tmp_path / str(number), "lib/vllm_kernels/libvllm_kernels_cpu.so")
        assert "norm, second edition" in text


def test_two_variants_never_share_a_binary(checkout: Path, dummies: str, tmp_path: Path) -> None:
    run(checkout, dummies)
    for package in by_name(checkout, "vllm-kernels-cpu"):
        level = Package.from_file(package).build_number // 100
        folder = tmp_path / str(level)
        text = content(package, folder, "lib/vllm_kernels/libvllm_kernels_cpu.so")
        assert text.splitlines()[0] == f"level={level}"


def test_python_only_change_rebuilds_core_and_repackages_cpu_without_compiling(
    checkout: Path, dummies: str
) -> None:
    run(checkout, dummies)
    (checkout / "src/vllm_kernels/__init__.py").write_text("version = 2\n")
    report = run(checkout, dummies)
    assert support.names(report.built) == ["vllm-core", "vllm-kernels-cpu", "vllm-kernels-cpu"]
    logs = {item.package.rsplit("-", 2)[0]: Path(item.log).read_text() for item in report.built}
    assert "Building new staging cache" in logs["vllm-core"]
    assert "Building new staging cache" not in logs["vllm-kernels-cpu"]
    assert "Restored" in logs["vllm-kernels-cpu"]


def test_core_is_the_same_from_either_job_alone(checkout: Path, dummies: str) -> None:
    run(checkout, dummies, V3)
    core = [path.name for path in by_name(checkout, "vllm-core")]
    report = run(checkout, dummies, V4)
    assert [path.name for path in by_name(checkout, "vllm-core")] == core
    assert support.names(report.built) == ["vllm-kernels-cpu"]
    assert report.removed == []


def test_one_variant_keeps_what_the_other_needs(checkout: Path, dummies: str) -> None:
    run(checkout, dummies)
    (checkout / "csrc/torch/ops.cc").write_text("ops, second edition\n")
    run(checkout, dummies, V3)
    cores = {path.name for path in by_name(checkout, "vllm-core")}
    assert len(cores) == 2, "the level-4 package still pins the old core"
    run(checkout, dummies)
    assert len(by_name(checkout, "vllm-core")) == 1
    assert set(indexed(checkout)) == set(packages(checkout))


def test_no_file_is_owned_twice(checkout: Path, dummies: str) -> None:
    run(checkout, dummies, V4)
    owners: dict[str, str] = {}
    for name, path in packages(checkout).items():
        for file in Package.from_file(path).files:
            assert file not in owners, f"{file} is in {name} and {owners[file]}"
            owners[file] = name
    assert {f for f in owners if f.startswith("site-packages/vllm_kernels/")}
    assert "lib/vllm_kernels/libvllm_kernels_cpu.so" in owners


def test_dependencies_of_the_finished_packages(checkout: Path, dummies: str) -> None:
    run(checkout, dummies)
    core = Package.from_file(by_name(checkout, "vllm-core")[0])
    assert core.noarch == "python"
    assert core.subdir == "linux-64"
    assert set(core.depends) == {
        "python >=3.10",
        "pytorch >=2.11",
        "libtorch >=2.11",
        "__glibc >=2.17",
    }
    for path in by_name(checkout, "vllm-kernels-cpu"):
        package = Package.from_file(path)
        level = package.build_number // 100
        names = {spec.split()[0] for spec in package.depends}
        assert f"_x86_64-microarch-level >={level}" in package.depends
        assert f"vllm-core =={core.version} {core.build_string}" in package.depends
        assert "__glibc >=2.17" in package.depends
        assert "libtorch >=2.11" in package.depends
        assert not names & {"python", "pytorch", "libhwy", "python_abi", "_openmp_mutex"}


def test_foreign_packages_in_the_output_are_kept_and_indexed(
    checkout: Path, dummies: str, tmp_path: Path
) -> None:
    run(checkout, dummies, V3)
    source = Path(dummies.removeprefix("file://")) / "linux-64"
    foreign = next(source.glob("cmake-*.conda"))
    target = checkout / "output" / "linux-64" / foreign.name
    target.write_bytes(foreign.read_bytes())
    run(checkout, dummies, V3)
    assert foreign.name in indexed(checkout)
    (checkout / "csrc/cpu/norm/norm.cc").write_text("again\n")
    run(checkout, dummies, V3)
    assert target.is_file()
    assert set(indexed(checkout)) == set(packages(checkout))


def test_a_package_that_changed_in_the_output_is_built_again(checkout: Path, dummies: str) -> None:
    run(checkout, dummies, V3)
    victim = by_name(checkout, "vllm-kernels-cpu")[0]
    whole = victim.read_bytes()
    victim.write_bytes(whole[: len(whole) // 2])
    report = run(checkout, dummies, V3)
    assert support.names(report.built) == ["vllm-kernels-cpu"]
    Package.from_file(victim)


def test_level_above_the_machine_is_built_but_its_tests_are_skipped_with_the_reason(
    checkout: Path, dummies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_ARCHSPEC", "haswell")
    report = run(checkout, dummies)
    tests = {item.job: item.tests for item in report.built if "vllm-kernels-cpu" in item.package}
    assert tests[V3] == "passed"
    assert "below _x86_64-microarch-level >=4" in tests[V4]
    assert any(name.endswith("_300.conda") for name in report.installed)


def test_cpu_below_the_floor_builds_but_neither_tests_nor_installs(
    checkout: Path, dummies: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_OVERRIDE_ARCHSPEC", "nehalem")
    events = io.StringIO()
    report = run(checkout, dummies, V3, events=events)
    assert report.installed == []
    assert len(packages(checkout)) == 4
    assert "skip  install vllm-kernels-cpu: not run: this CPU is below" in events.getvalue()


def test_old_staging_builds_are_removed(checkout: Path, dummies: str) -> None:
    for number in range(KEPT_STAGINGS + 2):
        (checkout / "csrc/cpu/norm/norm.cc").write_text(f"edition {number}\n")
        run(checkout, dummies, V3)
    kept = list((workspace_for(checkout).folder / "build_cache").glob("staging_*"))
    assert len(kept) == KEPT_STAGINGS


def test_progress_events_name_each_package_and_stage(checkout: Path, dummies: str) -> None:
    events = io.StringIO()
    run(checkout, dummies, V3, events=events)
    lines = [json.loads(line) for line in events.getvalue().splitlines()]
    ended = [event["task"] for event in lines if event["event"] == "end"]
    assert f"build vllm-core ({V3})" in ended
    assert f"test vllm-kernels-cpu ({V3})" in ended
    stages = {event["stage"] for event in lines if event["event"] == "stage"}
    assert {"set up the environments", "compress"} <= stages


def test_what_a_package_says_of_itself(
    checkout: Path, dummies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CONDA_ADDRESS", ADDRESS)
    run(checkout, dummies, V3)
    for name, licences in (
        ("vllm-core", {"LICENSE", "licenses"}),
        ("vllm-kernels-cpu", {"LICENSE", "licenses"}),
        ("vllm-kernels", {"LICENSE"}),
    ):
        (package,) = by_name(checkout, name)
        folder = tmp_path / name
        about = json.loads(content(package, folder, "info/about.json"))
        assert about["description"]
        assert about["home"] == about["dev_url"] == ADDRESS
        assert about["doc_url"] == f"{ADDRESS}#readme"
        # A metapackage takes nothing from a channel.
        assert about["channels"] == ([] if name == "vllm-kernels" else [f"{dummies}/"])
        assert "sha" not in about.get("extra", {})  # this checkout has no git
        promise = json.loads((folder / built_for.FILE).read_text())
        assert promise["glibc"] == TARGETS.platforms["linux-64"].glibc
        assert bool(promise["tiers"]) == (name == "vllm-kernels-cpu")
        assert about["license"].startswith("Apache-2.0")
        found = folder / "info/licenses"
        assert {path.name for path in found.iterdir()} == licences
        assert (found / "licenses/PyTorch.txt").is_file() == ("licenses" in licences)
        recipe = {path.name for path in (folder / "info/recipe").iterdir()}
        assert {"recipe.yaml", "rendered_recipe.yaml"} <= recipe
        assert not recipe & {"engine", "tests"}


def test_a_package_is_of_the_commit_of_its_own_sources(
    checkout: Path, dummies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name never changes its bytes: a commit to what a package is made of gives it another."""

    def built_after(file: str, text: str) -> tuple[str, dict[str, str], dict[str, bytes]]:
        """Commit a change and build as a machine does that never built before."""
        (checkout / file).write_text(text)
        support.git(checkout, "add", "-A")
        support.git(checkout, "commit", "-q", "-m", file)
        head = support.git(checkout, "rev-parse", "HEAD")
        cache = tmp_path / head
        monkeypatch.setenv("VLLM_CONDA_CACHE", str(cache))
        monkeypatch.setenv("RATTLER_CACHE_DIR", str(cache / "rattler"))
        report = run(checkout, dummies, V3)
        assert report.built or file == "README.md"
        found = packages(checkout)
        said = {}
        for name, path in found.items():
            about = json.loads(content(path, cache / "content" / name, "info/about.json"))
            said[name.rsplit("-", 2)[0]] = about["extra"]["sha"]
        files = {name: path.read_bytes() for name, path in found.items()}
        shutil.rmtree(checkout / "output")
        shutil.rmtree(checkout / "output.build")
        return head, said, files

    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    (checkout / ".gitignore").write_text("output*/\n")
    support.git(checkout, "init", "-q")
    first, said, files = built_after("README.md", "read\n")
    assert set(said.values()) == {first}
    _, _, again = built_after("README.md", "read again\n")
    assert again == files
    kernel, said, again = built_after("csrc/cpu/norm/norm.cc", "norm, second edition\n")
    assert {name for name, sha in said.items() if sha == kernel} == {"vllm-kernels-cpu"}
    assert {
        name: data for name, data in again.items() if name in files and files[name] != data
    } == {}
    assert len(set(files) - set(again)) == 1
    # Every package holds the recipe's text.
    text = (checkout / "recipe/recipe.yaml").read_text()
    recipe, said, last = built_after("recipe/recipe.yaml", f"{text}# a comment\n")
    assert set(said.values()) == {recipe}
    assert not set(last) & set(again)


def test_the_core_is_the_same_whichever_machine_makes_it(
    dummies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    made = []
    for job, glibc, linux in ((V3, "2.30", "5.4"), (V4, "2.36", "6.1")):
        monkeypatch.setenv("CONDA_OVERRIDE_GLIBC", glibc)
        monkeypatch.setenv("CONDA_OVERRIDE_LINUX", linux)
        root = support.checkout(tmp_path / job)
        run(root, dummies, job)
        (core,) = by_name(root, "vllm-core")
        made.append((core.name, core.read_bytes()))
    assert made[0] == made[1]


def test_a_package_of_several_jobs_is_the_same_from_each(
    dummies: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a job has a channel that another has not, as CUDA's have of our toolchain."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.delenv("CONDA_OVERRIDE_CUDA", raising=False)
    versions = ("12.4", "13.0")
    cuda = {one: support.cuda_dummies(tmp_path / one, [one], pytorch=False) for one in versions}
    monkeypatch.setattr(toolchain, "ensure", embedded(dummies, cuda))
    jobs = (V3, V4, *(f"linux-64-cuda-{one}-{slice_}" for one in versions for slice_ in SLICES))
    makers: dict[str, dict[str, bytes]] = {}
    for job in jobs:
        root = support.checkout(tmp_path / job)
        support.build(root, (), (job,))
        for name, path in packages(root).items():
            makers.setdefault(name, {})[job] = path.read_bytes()
    shared = {name: made for name, made in makers.items() if len(made) > 1}
    found = {name.rsplit("-", 2)[0]: set(made) for name, made in shared.items()}
    cpu, hopper = {V3, V4}, {f"linux-64-cuda-13.0-{slice_}" for slice_ in SLICES}
    assert found["vllm-core"] == set(jobs)
    assert found["vllm-cpu"] == found["vllm-kernels"] == cpu
    of_a_kind = {name for name, package in table().items() if package.slice}
    assert of_a_kind
    assert all(found[name] == hopper for name in of_a_kind)
    assert set(found) == {"vllm-core", "vllm-cpu", "vllm-kernels"} | of_a_kind
    differ = {name: list(made) for name, made in shared.items() if len(set(made.values())) > 1}
    assert not differ


def embedded(base: str, cuda: dict[str, str]) -> Callable[..., toolchain.Channels]:
    """Stands for `toolchain.ensure`: a channel for all, and one for each CUDA version asked for."""

    def channel(address: str, name: str) -> toolchain.Channel:
        return toolchain.Channel(folder_of(address), address, (), f"fingerprint-{name}")

    def ensure(platform: str, versions: Iterable[str] = (), **_: object) -> toolchain.Channels:
        made = {one: channel(cuda[one], one) for one in versions}
        return toolchain.Channels((channel(base, "base"),), made)

    return ensure


def test_logs_are_kept_per_job_and_package(checkout: Path, dummies: str) -> None:
    run(checkout, dummies)
    logs = checkout / "output.build" / "logs"
    found = {str(path.relative_to(logs)) for path in logs.rglob("*.log")}
    assert f"{V3}/vllm-core-build.log" in found
    assert f"{V4}/vllm-kernels-cpu-build.log" in found
    assert f"{V4}/vllm-kernels-cpu-test.log" in found


def test_nothing_but_the_channel_in_the_output(checkout: Path, dummies: str) -> None:
    run(checkout, dummies)
    names = {entry.name for entry in os.scandir(checkout / "output")}
    assert names == {"linux-64", "noarch"}
    assert {p.name for p in (checkout / "output.build").iterdir()} == {"logs", "build-state.json"}
