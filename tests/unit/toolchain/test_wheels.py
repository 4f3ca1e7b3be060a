"""Wheels as conda packages: the data file, names, specs and what metadata becomes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from vllm_conda.engine.channel import wheels_text
from vllm_conda.errors import ConfigError, IntegrityError
from vllm_conda.platforms import host_platform
from vllm_conda.progress import Reporter
from vllm_conda.toolchain import wheels

DATA = """
schema = 1
[names]
typing-extensions = "typing_extensions"
[extras]
big = ["fast"]
[without.big]
gpu-only = "a CPU needs none"
[pins]
wheels = ["big==1.0", "small==2.0"]
"""


def test_shipped_file_is_whole() -> None:
    data = wheels.parse(wheels_text())
    assert len(data.pins) > 100
    assert data.conda_name("Torch") == "pytorch"
    assert data.conda_name("prometheus_client") == "prometheus_client"
    assert data.conda_name("Pydantic_Core") == "pydantic-core"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("schema = 1", "schema = 2"), "schema must be 1"),
        (("[names]", "[name]"), "unknown key 'name'. Did you mean 'names'"),
        (('big = ["fast"]', 'bgi = ["fast"]'), "bgi is not pinned"),
        (("[without.big]", "[without.bigger]"), "bigger is not pinned"),
        (("[pins]", "[pins"), "not valid TOML"),
    ],
)
def test_bad_data_is_one_sentence(change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        wheels.parse(DATA.replace(*change, 1))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("requirement", "expected"),
    [
        ("typing_extensions", "typing_extensions"),
        ("Foo_Bar>=1,<2", "foo-bar <2,>=1"),
        ("foo==1.2.*", "foo 1.2.*"),
        ("foo!=6.30.*,>=5", "foo !=6.30.*,>=5"),
        ("foo===1.0", "foo ==1.0"),
        ("foo~=1.4.2", "foo ~=1.4.2"),
        ("foo[extra]>=1; python_version < '3'", "foo >=1"),
    ],
)
def test_requirement_as_match_spec(requirement: str, expected: str) -> None:
    from rattler import MatchSpec

    spec = wheels.spec(Requirement(requirement), wheels.parse(DATA))
    assert spec == expected
    MatchSpec(spec, strict=True)


def wheel(folder: Path, tag: str, *lines: str) -> Path:
    path = folder / f"big-1.0-{tag}.whl"
    head = "Metadata-Version: 2.1\nName: big\nVersion: 1.0\nSummary: A wheel\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("big-1.0.dist-info/METADATA", head + "".join(f"{row}\n" for row in lines))
        archive.writestr("big/vendored-2.dist-info/METADATA", "Name: other\n")
    return path


def test_pure_wheel(tmp_path: Path) -> None:
    path = wheel(
        tmp_path,
        "py3-none-any",
        "Requires-Python: >=3.9",
        "License-Expression: MIT",
        "Requires-Dist: small>=1; extra == 'fast'",
        "Requires-Dist: elsewhere; extra == 'docs'",
        "Requires-Dist: windows-only; sys_platform == 'win32'",
        "Requires-Dist: gpu_only",
        "Requires-Dist: big[docs]; extra == 'fast'",
    )
    made = wheels.package("big", path, wheels.parse(DATA), "3.11", {"big", "small"})
    assert made.depends == ("python >=3.9", "small >=1")
    assert (made.noarch, made.build, made.license) == ("python", "0", "MIT")


def test_compiled_wheel_binds_the_interpreter(tmp_path: Path) -> None:
    path = wheel(tmp_path, "cp311-cp311-manylinux_2_17_x86_64", "License: Apache 2.0 License")
    made = wheels.package("big", path, wheels.parse(DATA), "3.11", ())
    assert "python >=3.11,<3.12.0a0" in made.depends
    assert "python_abi 3.11.* *_cp311" in made.depends
    assert (made.noarch, made.build) == ("", "py311_0")
    assert made.license == "LicenseRef-unstated"


def test_requirement_that_nothing_offers(tmp_path: Path) -> None:
    path = wheel(tmp_path, "py3-none-any", "Requires-Dist: left-pad>=1")
    with pytest.raises(ConfigError, match="no wheel is pinned for left-pad"):
        wheels.package("big", path, wheels.parse(DATA), "3.11", {"big"})


def test_no_wheel(tmp_path: Path) -> None:
    path = tmp_path / "big-1.0-py3-none-any.whl"
    path.write_bytes(b"not a zip")
    with pytest.raises(IntegrityError, match="is not a wheel"):
        wheels.read_metadata(path)


def test_a_wheel_of_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CONDA_CACHE", str(tmp_path / "cache"))

    def fetch(client: wheels.PipClient, rows: list[str]) -> dict[str, object]:
        client.store.root.mkdir(parents=True, exist_ok=True)
        file = tmp_path / "flashinfer_python-0.6.14-py3-none-any.whl"
        file.write_bytes(b"another")
        key = client._key(rows[0])
        return {
            rows[0]: wheels.fetch.record(client.store, "pip", key, "flashinfer", "0.6.14", file)
        }

    monkeypatch.setattr(wheels.PipClient, "fetch", fetch)
    row, platform = "flashinfer-python==0.6.14", host_platform()
    with pytest.raises(IntegrityError, match=r"has the SHA-256 .* targets.toml pins 00") as caught:
        wheels.pinned_wheel(row, "00", "targets.toml", platform, Reporter())
    digest = str(caught.value).split("SHA-256 ")[1].split(",")[0]
    found = wheels.pinned_wheel(row, digest, "targets.toml", platform, Reporter())
    assert found.read_bytes() == b"another"
