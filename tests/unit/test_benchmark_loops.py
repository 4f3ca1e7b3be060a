"""What is counted in the machine code of an inner loop."""

from __future__ import annotations

import sys

import pytest

from benchmarks import loops

HEAD = (
    "0000000000000020 <void vk::avx2::(anonymous namespace)::MultiplyRows<vk::avx2::(anonymous "
    "namespace)::{dot}, {rows}ul>(vk::GemmBlock const&, unsigned long)>:\n"
)
# A loop of the columns around that of K, in which a loop prefetches.
CODE = """\
      20:      \tpushq\t%rbp
      24:      \txorl\t%eax, %eax
      28:      \tcmpq\t%rax, %rbx
      2c:      \tprefetcht1\t(%rax)
      30:      \tjne\t0x2c <void vk::avx2::(anonymous namespace)::MultiplyRows<DotF32, 6ul>()+0x8>
      34:      \tvbroadcastss\t(%rdi), %ymm1
      38:      \tvfmadd231ps\t(%rsi), %ymm1, %ymm2
      3c:      \tjb\t0x28 <void vk::avx2::(anonymous namespace)::MultiplyRows<DotF32, 6ul>()+0x4>
      40:      \tvmovups\t%ymm2, (%rdx)
      44:      \tjne\t0x24 <void vk::avx2::(anonymous namespace)::MultiplyRows<DotF32, 6ul>()>
      48:      \tretq
"""


def test_the_loop_that_multiplies() -> None:
    text = HEAD.format(dot="DotF32", rows=6) + CODE
    assert list(loops.loops("avx2", text, 0)) == [loops.Loop("avx2", "float32", 6, 4, 1, 8)]


@pytest.mark.parametrize("head", [{"dot": "DotI16", "rows": 6}, {"dot": "DotF32", "rows": 3}])
def test_other_functions_are_left_out(head: dict[str, object]) -> None:
    assert list(loops.loops("avx2", HEAD.format(**head) + CODE, 0)) == []


@pytest.mark.parametrize(
    ("function", "product"),
    [
        ("MultiplyRows<n::DotBf16, 1ul>", ("bfloat16", 1, (1,))),
        ("MultiplyRow<n::MmlaI8, n::PackedUnits>", ("int8", 1, (1,))),
        ("MultiplyPairs<n::MmlaBf16, n::PackedUnits, 3ul>", ("bfloat16", 6, (6,))),
        ("MultiplyPairs<n::MmlaBf16, n::Zipped, 6ul>", ("bfloat16", 12, (12,))),
        ("MultiplyPairs<n::MmlaBf16, n::Zipped, 3ul>", None),
        ("MultiplyRow<n::MmlaI8, n::PackedNibbles>", None),
        ("MultiplyGroups<n::MmaF32, n::PackedUnits, 2ul>", ("float32", 8, (6, 8))),
        ("MultiplyGroups<n::MmaF16, n::PackedHalves, 2ul>", None),
    ],
)
def test_products(function: str, product: tuple[str, int, tuple[int, ...]] | None) -> None:
    assert loops.product_of(f"000020 <void vk::{function}(vk::GemmBlock const&)>:") == product


def test_rows_that_a_loop_computes_in_vain() -> None:
    name = "MultiplyRows<vk::avx2::(anonymous namespace)::DotF32, 6ul>"
    text = (HEAD.format(dot="DotF32", rows=6) + CODE).replace(
        name, "MultiplyGroups<n::MmaF32, n::PackedUnits, 2ul>"
    )
    found = list(loops.loops("power10", text, 0))
    assert [(loop.rows, loop.multiply_adds) for loop in found] == [(6, 6), (8, 8)]


@pytest.mark.parametrize(
    ("instruction", "adds"),
    [
        ("vfmadd231ps (%rax), %zmm1, %zmm2", 16),
        ("vpmaddwd %ymm0, %ymm1, %ymm2", 16),
        ("vdpbf16ps %zmm0, %zmm1, %zmm2", 32),
        ("vpdpbusd %zmm0, %zmm1, %zmm2", 64),
        ("vpaddd %ymm0, %ymm1, %ymm2", 0),
        ("fmla v0.4s, v1.4s, v2.s[0]", 4),
        ("sdot v0.4s, v1.16b, v2.16b", 16),
        ("bfdot v0.4s, v1.8h, v2.8h", 8),
        ("fmla z0.s, p0/m, z1.s, z2.s", 8),
        ("sdot z0.s, z1.b, z2.b", 32),
        ("bfmmla v0.4s, v1.8h, v2.8h", 16),
        ("smmla z0.s, z1.b, z2.b", 64),
        ("ldr q0, [x1]", 0),
        ("xvmaddasp 0, 1, 2", 4),
        ("vmsummbm 0, 1, 2, 3", 16),
        ("xvbf16ger2pp 0, 34, 35", 32),
    ],
)
def test_multiply_adds(instruction: str, adds: int) -> None:
    name, _, operands = instruction.partition(" ")
    assert loops.multiply_adds(name, operands, scalable_lanes=8) == adds


@pytest.mark.parametrize(
    "name", ["jne", "b.lo", "b.ne", "cbnz", "bdnz", "bdnz+", "bc", "bt", "blt"]
)
def test_branches(name: str) -> None:
    assert loops.BRANCH.fullmatch(name)


def test_trees_without_objects(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loops.main([str(tmp_path), "--objdump", sys.executable])
    assert (
        "none of the trees holds csrc/cpu/CMakeFiles/vllm_tier_TIER.dir" in capsys.readouterr().err
    )


def test_no_such_objdump(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loops.main(["build", "--objdump", "no-such-objdump"])
    assert "there is no no-such-objdump: install LLVM" in capsys.readouterr().err
