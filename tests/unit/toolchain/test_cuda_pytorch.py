"""The channel of PyTorch for CUDA: what it holds, who gets it, and where the run time is."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from vllm_conda.builder import channel as build_channel
from vllm_conda.cli import main
from vllm_conda.errors import ConfigError, UsageError
from vllm_conda.progress import Mode, Reporter
from vllm_conda.solve import solve_specs
from vllm_conda.toolchain import cuda, cuda_pytorch, model, native

CATALOG = model.parse(cuda_pytorch.catalog_text())
PACKAGES = {package.name: package for package in CATALOG.packages}


class Made:
    """Stands in for a finished channel."""

    def __init__(self, name: str) -> None:
        self.url = self.path = f"file:///{name}"
        self.fingerprint = name


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes channels without content; returns the names of those that were asked for."""
    asked: list[str] = []

    def maker(name: str) -> object:
        def ensure(*words: object, **more: object) -> Made:
            asked.append(name)
            return Made(name)

        return ensure

    monkeypatch.setattr(native, "ensure", maker("base"))
    monkeypatch.setattr(cuda, "ensure", maker("toolkit"))
    monkeypatch.setattr(cuda_pytorch, "ensure", maker("pytorch"))
    monkeypatch.setattr(build_channel, "_sysroot_version", lambda *words: {})
    monkeypatch.setattr(build_channel, "_glibc", lambda *words: "")
    return asked


def test_names_do_not_hide_the_toolkits() -> None:
    """The channel stands before the others: only PyTorch may be in both."""
    toolkit, _ = cuda.load(cuda_pytorch.CUDA, cuda.host_for("linux-64"))
    assert not {package.name for package in toolkit.packages} & set(PACKAGES)
    base = {package.name for package in model.load().packages}
    assert base & set(PACKAGES) == {"pytorch", "libtorch"}


def test_one_run_time() -> None:
    assert "cuda-cudart >=13.0.96,<14" in PACKAGES["libtorch"].depends
    # Through torch/lib the same file is found.
    assert "{site}/torch/lib/libcudart.so.13" in PACKAGES["pytorch"].links
    for package in CATALOG.packages:
        assert not any("cudart" in word for rule in package.files for word in rule.only)
    pins, _ = cuda.load(cuda_pytorch.CUDA, cuda.host_for("linux-64"))
    assert pins.pip["cudart"] == ("nvidia-cuda-runtime==13.0.96",)


def test_solver_can_tell_the_builds_apart() -> None:
    for name in ("pytorch", "libtorch"):
        assert PACKAGES[name].build.startswith("cuda130_")
    assert "__cuda" in PACKAGES["libtorch"].depends
    assert "libtorch =={version} external_cuda130_py{py_nodot}_0" in PACKAGES["pytorch"].depends
    named = {spec.split()[0] for package in CATALOG.packages for spec in package.depends}
    offered = set(PACKAGES) | {package.name for package in model.load().packages}
    toolkit, _ = cuda.load(cuda_pytorch.CUDA, cuda.host_for("linux-64"))
    offered |= {package.name for package in toolkit.packages} | {"__cuda"}
    assert named <= offered


def test_other_platforms_are_refused() -> None:
    reporter = Reporter(Mode.PLAIN, StringIO())
    with pytest.raises(ConfigError, match="no CUDA build of PyTorch for linux-aarch64") as failure:
        cuda_pytorch.ensure("linux-aarch64", reporter=reporter)
    assert "--channel" in failure.value.hint


def test_it_stands_before_the_cpu_build(made: list[str]) -> None:
    reporter = Reporter(Mode.PLAIN, StringIO())
    found = build_channel.toolchain_for("linux-64", (), reporter, ["13.0"], pytorch=True)
    assert found.channels_for("13.0") == ("file:///pytorch", "file:///base", "file:///toolkit")
    assert set(made) == {"pytorch", "base", "toolkit"}
    made.clear()
    build_channel.toolchain_for("linux-64", (), reporter, ["13.0"])
    assert "pytorch" not in made
    made.clear()
    build_channel.toolchain_for("linux-64", ("conda-forge",), reporter, ["13.0"], pytorch=True)
    assert not made


@pytest.mark.parametrize(
    ("specs", "gpu"),
    [
        (["vllm-kernels-cpu"], False),
        (["vllm-kernels-cuda"], True),
        (["vllm-kernels-cuda * *sm90*"], True),
        (["vllm-kernels-cuda >=0.26"], True),
        (["vllm-kernels-cuda[build=*_sm90_*]", "pytest"], True),
        (["vllm-kernels-cuda-tools"], False),
    ],
)
def test_environments_with_the_kernels_get_it(
    specs: list[str],
    gpu: bool,
    made: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "linux-64").mkdir()
    (tmp_path / "linux-64" / "repodata.json").write_text("{}")
    seen: dict[str, object] = {}

    def ensure_environment(
        channels: list[str], wanted: object, platform: str, workspace: object, reporter: object,
        virtual: list[object],
    ) -> Path:  # fmt: skip
        seen["channels"] = channels
        seen["cuda"] = [str(one) for one in virtual if "__cuda" in str(one)]
        return tmp_path

    monkeypatch.setattr("vllm_conda.environment.ensure_environment", ensure_environment)
    monkeypatch.setattr("vllm_conda.environment.run_in", lambda *words, **settings: 0)
    words = ["exec", "--output", str(tmp_path), "--virtual", "__cuda=13.0"]
    for spec in specs:
        words += ["--with", spec]
    assert main([*words, "--", "true"]) == 0
    assert ("pytorch" in made) is gpu
    assert ("file:///pytorch" in str(seen["channels"])) is gpu
    assert seen["cuda"]


def test_spec_that_is_none() -> None:
    with pytest.raises(
        UsageError, match=r"'vllm-kernels-cuda=\*=\*sm90\*' is no package"
    ) as failure:
        solve_specs([], ["vllm-kernels-cuda=*=*sm90*"], "linux-64", [])
    assert "NAME[build=GLOB]" in failure.value.hint


def test_virtual_package_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "linux-64").mkdir()
    (tmp_path / "linux-64" / "repodata.json").write_text("{}")
    words = ["exec", "--output", str(tmp_path), "--virtual", "cuda 13", "--", "true"]
    assert main(words) == UsageError.exit_code
    assert "want NAME=VERSION" in capsys.readouterr().err
