"""A package is held to what it was built for, wherever the audit runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from planted import conda, library, needs_compiler
from support import ROOT

from vllm_conda.audit import built_for
from vllm_conda.audit.run import Request, audit
from vllm_conda.targets import load_targets

TARGETS = load_targets(ROOT)
V3 = built_for.tiers_of(TARGETS, "x86_64", 3)
TIER = '__attribute__((section(".tier.{}"))) int answer(void) {{ return 42; }}\n'


def package(folder: Path, tier: str, document: object) -> Path:
    """One of our packages for x86-64-v3 with code of one tier; ``document`` says what it is for."""
    text = document if isinstance(document, str) else json.dumps(document)
    return conda(
        folder,
        name="vllm-core",
        files={
            "lib/vllm_kernels/libplanted.so": library(folder / "x.so", TIER.format(tier)),
            built_for.FILE: text.encode(),
        },
        depends=["__glibc >=2.28", "libgcc >=12", "_x86_64-microarch-level >=3"],
    )


def said(tiers: object = V3) -> dict[str, object]:
    return {
        "schema": built_for.SCHEMA, "platform": "linux-64", "glibc": "2.28", "libstdcxx": 12,
        "tiers": tiers, "cuda": None,
    }  # fmt: skip


def errors(path: Path, request: Request) -> list[str]:
    (report,) = audit([path], request).packages
    return [one.message for one in report.findings if one.severity.value == "error"]


@needs_compiler
@pytest.mark.parametrize("targets", [None, TARGETS], ids=["no checkout", "checkout"])
def test_tiers_come_from_the_package(tmp_path: Path, targets: object) -> None:
    request = Request(checks=("instructions", "glibc"), targets=targets)  # type: ignore[arg-type]
    assert errors(package(tmp_path / "a", "avx2", said()), request) == []
    # A tier that only this package has: the checkout at hand is of another time.
    old = said({"avx1999": ["-march=x86-64-v3"]})
    assert errors(package(tmp_path / "b", "avx1999", old), request) == []
    (found,) = errors(package(tmp_path / "c", "avx2", old), request)
    assert "section .tier.avx2 belongs to no tier" in found


@needs_compiler
@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ("{", "it is"), ("[]", "it is malformed"), ({"schema": 9}, "another version"),
        ({**said(), "glibc": None, "tiers": 7}, "it is malformed"),
        ({**said(), "tiers": {"avx2": ["-mnew-thing"]}}, "knows no features of -mnew-thing"),
        ({**said(), "libstdcxx": 999}, "damaged"), ({**said(), "glibc": "x"}, "damaged"),
    ],
)  # fmt: skip
def test_damage_is_a_finding(tmp_path: Path, document: object, sentence: str) -> None:
    found = errors(package(tmp_path, "avx2", document), Request())
    assert any(sentence in one or "Expecting" in one for one in found), found


def test_it_survives_its_own_writing(tmp_path: Path) -> None:
    (tmp_path / "info").mkdir()
    written = built_for.describe(TARGETS, "linux-64", 3, tmp_path)
    built_for.write(tmp_path, written)
    assert built_for.read((tmp_path / built_for.FILE).read_bytes()) == written
    assert set(written.tiers) == set(TARGETS.levels["x86_64"]["3"].tiers)


@pytest.mark.parametrize(("file", "family"), [("cuda.json", "norm"), ("cuda-flashmla.json", "mla")])
def test_gpu_code_of_whichever_component(tmp_path: Path, file: str, family: str) -> None:
    folder = tmp_path / "lib" / "vllm_kernels"
    folder.mkdir(parents=True)
    built = {"parts": [], "parts_left_out": [], "archs": ["9.0a"], "ptx": []}
    summary = {"cuda": "13.0", "request": "sm90", "families": {family: built}}
    (folder / file).write_text(json.dumps(summary))
    found = built_for.describe(TARGETS, "linux-64", None, tmp_path)
    assert found.cuda == {family: built_for.GpuCode(("9.0a",), ())}
    assert not found.tiers
