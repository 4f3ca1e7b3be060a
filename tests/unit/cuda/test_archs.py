"""Requested architectures ∩ toolkit ∩ family."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT

from vllm_conda.errors import ConfigError
from vllm_conda.targets import load_targets
from vllm_cuda_plan.arch import Code, parse_code, parse_version, parse_wish
from vllm_cuda_plan.plan import (
    check_toolkit,
    code_words,
    nearest_toolkit,
    plan,
    plan_family,
    read_request,
    served_by_parts,
    serves,
)

CUDA = load_targets(ROOT).cuda


def words(version: str, text: str) -> str:
    request = read_request(CUDA, version, text)
    return " ".join(code_words(request.codes, request.ptx))


@pytest.mark.parametrize(
    ("version", "text", "wanted"),
    [
        ("13.0", "9.0", "9.0"),
        ("13.0", "9.0a", "9.0a"),
        ("13.0", "8.0;9.0a;12.0+PTX", "8.0 9.0a 12.0+PTX"),
        ("13.0", "8.0, 9.0", "8.0 9.0"),
        ("13.0", "12.0 8.0", "8.0 12.0"),  # in order, whatever the request's
        ("13.0", "8.0 8.0 8.0+PTX", "8.0+PTX"),
        (
            "13.0",
            "80-real;90a-real;100f-real;120a-real;121-virtual",
            "8.0 9.0a 10.0f 12.0a 12.1+PTX",
        ),
        ("13.0", "80;90", "8.0 9.0+PTX"),  # a bare number is both; older PTX serves nobody
        ("13.0", "90a", "9.0a"),  # PTX of `a` code runs nowhere else
        ("13.0", "8.0+PTX 9.0", "8.0+PTX 9.0"),
        ("13.0", "9.0a+PTX", "9.0a 9.0+PTX"),
        ("13.0", "Hopper", "9.0"),
        ("13.0", "Hopper+PTX", "9.0+PTX"),
        ("13.0", "Ampere", "8.0 8.6"),  # not Orin: its code is made where it is asked for
        ("13.0", "Blackwell+PTX", "10.0 10.3 12.0 12.1+PTX"),
        ("12.8", "Blackwell", "10.0 12.0"),
        ("12.4", "7.0", "7.0"),
        ("12.4", "all", "7.5 8.0 8.6 8.9 9.0+PTX"),
        ("13.0", "all-major", "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"),
        ("13.2", "all", "7.5 8.0 8.6 8.9 9.0 10.0 12.0+PTX"),  # between two toolkits of the table
        ("13.0", "sm90", "9.0a"),  # a slice
        ("12.9", "10.3f", "10.3f"),
        ("13.0", " 9.0a; ,", "9.0a"),  # trailing separators are nothing
    ],
)
def test_request(version: str, text: str, wanted: str) -> None:
    assert words(version, text) == wanted


@pytest.mark.parametrize(
    ("version", "text", "parts"),
    [
        ("13.0", "7.0", ["CUDA 13.0 no longer compiles for 7.0 (V100)", "CUDA 12.9 is the last"]),
        ("12.4", "10.0", ["CUDA 12.4 cannot compile for 10.0 (B200, GB200)", "CUDA 12.8"]),
        ("12.8", "10.0f", ["CUDA 12.8 cannot compile for 10.0f", "CUDA 12.9 is the oldest"]),
        ("12.8.93", "10.3", ["CUDA 12.8.93 cannot compile for 10.3", "CUDA 12.9"]),
        ("13.0", "10.1", ["no longer compiles for 10.1", "12.9"]),
        ("13.0", "8.0a", ["8.0 has no 'a' code"]),
        ("13.0", "9.0f", ["9.0 has no 'f' code"]),
        ("13.0", "native", ["ask this machine's GPU", "8.0;9.0a;12.0+PTX"]),
        ("13.0", "Auto", ["ask this machine's GPU"]),
        ("13.0", "9.1", ["Unknown CUDA architecture '9.1'", "Did you mean '9.0'?"]),
        ("13.0", "Hoper", ["'Hoper' is no architecture", "Did you mean 'Hopper'?"]),
        ("13.0", "sm_90", ["'sm_90' is no architecture", "PyTorch's spelling"]),
        ("13.0", "9.0x", ["'9.0x' is no architecture"]),
        ("13.0", "8.0;;9.0;?", ["'?' is no architecture"]),
        ("13.0", "5.2;6.0", ["'5.2'", "the kernels start at 7.0 (V100)"]),
        ("13.0", ";", ["No CUDA architecture was asked for"]),
        ("13.0", "9", ["'9' is no architecture"]),
        ("13.0", "Volta", ["compiles for no GPU of the Volta generation (7.0, 7.2)"]),
    ],
)
def test_bad_request(version: str, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read_request(CUDA, version, text)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("version", "part"),
    [
        ("11.8", "PyTorch that was built with it is 2.7"),
        ("11.8.89", "stable ABI of PyTorch 2.11"),
        ("12.1", "12.4 or newer is needed"),
        ("10.2", "too old"),
    ],
)
def test_refused_toolkits(version: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        check_toolkit(CUDA, version)


def test_toolkits_of_the_table_are_not_refused() -> None:
    for version in CUDA.toolkits:
        check_toolkit(CUDA, version)
        assert nearest_toolkit(CUDA, version) == version


@pytest.mark.parametrize(
    ("version", "wanted"), [("12.6", "12.4"), ("13.1.80", "13.0"), ("14.0", "13.4")]
)
def test_nearest_toolkit(version: str, wanted: str) -> None:
    assert nearest_toolkit(CUDA, version) == wanted


# (version, request, archs listed) -> what is compiled
@pytest.mark.parametrize(
    ("version", "text", "listed", "wanted"),
    [
        # everything that was asked for, as it was spelt
        ("13.0", "7.5 9.0a 12.0+PTX", ("all",), "7.5 9.0a 12.0+PTX"),
        # the highest that runs there, of the same major version
        ("13.0", "8.6", ("8.0",), "8.0"),
        ("13.0", "8.6 8.9", ("8.0", "8.9"), "8.0 8.9"),
        ("13.0", "9.0", ("8.0",), ""),
        ("13.0", "8.0", ("8.6",), ""),
        # by PTX where it is asked for
        ("13.0", "8.0 9.0+PTX", ("8.0",), "8.0+PTX"),
        ("13.0", "9.0+PTX", ("8.0",), "8.0+PTX"),
        ("13.0", "7.5+PTX", ("8.0",), ""),
        # `a` code: that capability alone, with or without the suffix in the request
        ("13.0", "9.0", ("9.0a",), "9.0a"),
        ("13.0", "9.0a", ("9.0a",), "9.0a"),
        ("13.0", "9.0a", ("9.0",), "9.0"),
        ("13.0", "9.0+PTX", ("9.0a",), "9.0a"),  # no PTX of `a` code
        ("13.0", "10.3", ("10.0a",), ""),
        # `f` code: its family
        ("13.0", "10.0 10.3", ("10.0f",), "10.0f"),
        ("13.0", "12.1", ("12.0f",), "12.0f"),
        ("13.0", "11.0", ("10.0f",), ""),
        # the better of several, as far as the toolkit compiles it
        ("13.0", "10.0", ("10.0a", "10.0f"), "10.0f"),
        ("12.8", "10.0", ("10.0a", "10.0f"), "10.0a"),
        ("13.0", "10.3", ("10.0f", "10.3a"), "10.3a"),
        ("13.0", "9.0", ("all", "9.0a"), "9.0a"),
        ("13.0", "8.0 9.0+PTX", ("all", "9.0a"), "8.0 9.0a 9.0+PTX"),
        # systems on chip: their own code alone
        ("13.0", "8.7", ("8.0",), ""),
        ("13.0", "8.9", ("8.7",), ""),
        ("13.0", "8.7", ("8.0", "8.7"), "8.7"),
        ("12.9", "10.1", ("10.0",), ""),
        ("13.0", "8.7+PTX", ("8.0",), "8.0+PTX"),
        # a listed entry that this toolkit cannot compile
        ("12.4", "9.0", ("9.0a", "10.0f"), "9.0a"),
    ],
)
def test_intersection(version: str, text: str, listed: tuple[str, ...], wanted: str) -> None:
    family = dataclasses.replace(CUDA.families["norm"], archs=listed, parts={})
    table = dataclasses.replace(CUDA, families={"norm": family})
    one = plan_family(table, version, "norm", read_request(table, version, text))
    got = " ".join(code_words(one.codes, one.ptx))
    # Of PTX without machine code beside it, the words say so: 8.0+PTX.
    assert got == wanted
    assert bool(one.left_out) is (wanted == "")


@pytest.mark.parametrize(
    ("version", "platform", "wanted"),
    [
        ("12.4", "linux-64", "7.5 8.0 8.6 8.9 9.0+PTX"),
        ("12.4", "linux-ppc64le", "7.0 7.5+PTX"),
        ("13.0", "linux-aarch64", "7.5 8.0 8.6 8.7 8.9 9.0 10.0 11.0 12.0+PTX"),
    ],
)
def test_all_is_the_platforms_list(version: str, platform: str, wanted: str) -> None:
    request = read_request(CUDA, version, "all", platform)
    assert " ".join(code_words(request.codes, request.ptx)) == wanted


def test_oldest_gpu_of_a_family() -> None:
    family = dataclasses.replace(CUDA.families["norm"], lowest="7.5", parts={})
    table = dataclasses.replace(CUDA, families={"norm": family})
    one = plan_family(table, "12.4", "norm", read_request(table, "12.4", "7.0+PTX 7.5 8.0"))
    assert one.archs == "7.5 8.0"
    assert one.without == {"7.0": "needs 7.5 or newer"}
    assert "7.0" not in serves(table, one)
    alone = plan_family(table, "12.4", "norm", read_request(table, "12.4", "7.0+PTX"))
    assert alone.left_out == "needs 7.5 or newer"


def test_family_that_needs_a_newer_toolkit() -> None:
    family = dataclasses.replace(CUDA.families["sparse_gemm"], cuda="13.0")
    table = dataclasses.replace(CUDA, families={"sparse_gemm": family})
    one = plan_family(table, "12.4", "sparse_gemm", read_request(table, "12.4", "9.0a"))
    assert one.left_out == "needs CUDA >= 13.0 and 9.0a"
    assert not one.codes


def test_parts() -> None:
    request = read_request(CUDA, "12.4", "8.0 9.0")
    one = plan_family(CUDA, "12.4", "gemm", request, ("sm90", "sm100", "c2x"))
    assert [str(code) for code in one.parts["sm90"].codes] == ["9.0a"]
    assert [str(code) for code in one.parts["c2x"].codes] == ["8.0"]
    assert "CUDA >= 12.8" in one.parts_left_out["sm100"]
    assert one.archs == "8.0 9.0a"


def test_part_without_an_entry() -> None:
    request = read_request(CUDA, "13.0", "9.0")
    with pytest.raises(ConfigError, match=r"files \*_sm91\.cu.*Did you mean 'sm90'\?"):
        plan_family(CUDA, "13.0", "attention", request, ("sm91",))


def test_unserved_gpus_are_named() -> None:
    request = read_request(CUDA, "13.0", "7.5 8.0")
    one = plan_family(CUDA, "13.0", "wna16", request)
    assert list(one.without) == ["7.5"]
    assert one.without["7.5"].startswith("needs 8.0 or")


def test_chosen_families() -> None:
    request = read_request(CUDA, "13.0", "8.0")
    have: dict[str, tuple[str, ...]] = {"norm": (), "sparse_gemm": ()}
    plans = {one.name: one for one in plan(CUDA, "13.0", request, have)}
    assert plans["norm"].archs == "8.0"
    assert plans["sparse_gemm"].left_out == "needs 9.0a"
    assert plans["rope"].left_out == "has no sources in this tree"
    plans = {one.name: one for one in plan(CUDA, "13.0", request, have, ("norm",))}
    assert plans["sparse_gemm"].left_out == "not in VLLM_CUDA_FAMILIES"


@pytest.mark.parametrize(
    ("have", "chosen", "part"),
    [
        (
            ["norm", "sparse_gemm"],
            ["sparse_gemm"],
            "sparse_gemm cannot be built for 8.0 with CUDA 13.0: it needs",
        ),
        (["norm"], ["norn"], r"VLLM_CUDA_FAMILIES.*Did you mean 'norm'\?"),
        (["norm"], ["rope"], "csrc/cuda/rope has no sources"),
        (["nrom"], [], r"csrc/cuda/nrom.*Did you mean 'norm'\?"),
        (
            ["sparse_gemm"],
            [],
            "No kernel family can be built for 8.0 with CUDA 13.0: sparse_gemm needs 9.0a",
        ),
        ([], [], "csrc/cuda has no sources"),
    ],
)
def test_bad_choices(have: list[str], chosen: list[str], part: str) -> None:
    request = read_request(CUDA, "13.0", "8.0")
    with pytest.raises(ConfigError, match=part):
        plan(CUDA, "13.0", request, dict.fromkeys(have, ()), chosen)


def test_family_without_gpu_code() -> None:
    request = read_request(CUDA, "13.0", "9.0a")
    found = plan(CUDA, "13.0", request, {"runtime": ()}, host={"runtime"})
    one = next(entry for entry in found if entry.name == "runtime")
    assert not one.left_out
    assert one.archs == ""
    assert set(serves(CUDA, one)) == set(CUDA.archs)


def test_serves_says_what_runs_where() -> None:
    request = read_request(CUDA, "13.0", "8.0 9.0 12.0+PTX")
    found = serves(CUDA, plan_family(CUDA, "13.0", "norm", request))
    assert found == {
        "8.0": "8.0", "8.6": "8.0", "8.9": "8.0", "9.0": "9.0", "12.0": "12.0", "12.1": "12.0",
    }  # fmt: skip
    request = read_request(CUDA, "13.0", "8.0+PTX")
    found = serves(CUDA, plan_family(CUDA, "13.0", "norm", request))
    assert found["8.7"] == "PTX 8.0"
    assert found["9.0"] == "PTX 8.0"
    assert "7.5" not in found


@given(st.lists(st.sampled_from(list(CUDA.archs)), min_size=1, max_size=6, unique=True))
def test_whatever_is_compiled_runs_on_a_requested_gpu(asked: list[str]) -> None:
    asked = [capability for capability in asked if CUDA.compiles("13.0", Code(capability))]
    if not asked:
        return
    request = read_request(CUDA, "13.0", " ".join(asked))
    for name in CUDA.families:
        one = plan_family(CUDA, "13.0", name, request)
        for code in one.all_codes:
            assert any(CUDA.runs_on(code, capability) for capability in asked), (name, code)
            assert CUDA.compiles("13.0", code)
        for capability in asked:
            served = any(CUDA.runs_on(code, capability) for code in one.codes)
            assert served is not (capability in one.without), (name, capability)


def test_versions_and_codes_are_parsed_whole() -> None:
    assert parse_version("12.4.131") == (12, 4)
    assert str(parse_code("09.0a")) == "9.0a"
    assert parse_code("12.0f").number == "120f"
    for text in ("12", "12.4b", "", "v12.4"):
        with pytest.raises(ValueError, match="no version"):
            parse_version(text)
    assert parse_wish("121-virtual").ptx
    assert not parse_wish("121-virtual").real


def test_parts_serve_the_gpus_that_their_code_runs_on() -> None:
    """What csrc/cuda/gemm/dispatch.cc chooses by: GPU and oldest GPU of the code there."""
    request = read_request(CUDA, "13.0", "7.5 8.0 8.9 9.0a 10.0f 12.0a")
    one = plan_family(CUDA, "13.0", "gemm", request)
    rows = [(part, gpu, str(code)) for part, gpu, code in served_by_parts(CUDA, one)]
    assert rows == [
        ("c2x", "7.5", "7.5"),
        ("c2x", "8.0", "8.0"),
        ("c2x", "8.6", "8.0"),  # not Orin (8.7): a system on chip
        ("c2x", "8.9", "8.9"),
        ("sm90", "9.0", "9.0a"),
        ("sm100", "10.0", "10.0f"),
        ("sm100", "10.3", "10.0f"),
        ("sm120", "12.0", "12.0f"),
        ("sm120", "12.1", "12.0f"),
    ]
