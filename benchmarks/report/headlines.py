"""README's small table: a few figures, chosen here, read from the record."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.record import KernelCase, engines, kernels
from benchmarks.report.markdown import COMMAND, span, table

BEGIN = f"<!-- begin figures: {COMMAND} -->\n"
END = "<!-- end figures -->\n"
CPU, GPU = "intel-xeon-amx", "nvidia-h200"
ENGINES = {
    "amd-epyc-avx512-bf16": "engine on a CPU with AVX512-BF16, decode",
    "intel-xeon-amx": "engine on a CPU with AMX, decode",
}
SUMS = (
    (CPU, "kernels on a CPU with AMX", "the fastest of PyTorch's and oneDNN's, case by case"),
    (GPU, "kernels on an H200", "the fastest of PyTorch's and its libraries', case by case"),
    (
        f"{GPU}-upstream",
        "kernels on an H200 against vLLM's own",
        "the fastest of vLLM's, FlashAttention-3's and DeepGEMM's, case by case",
    ),
)
CONTENDERS = {
    "reference": "the engine on PyTorch reference code",
    "upstream": "upstream's own CPU build",
}


@dataclass(frozen=True)
class Headline:
    """Some cases of a family on the GPU as one row.

    Attributes:
        cases: Which cases.
        figure: What is said of them.
    """

    what: str
    family: str
    cases: Callable[[KernelCase], bool]
    figure: Callable[[list[KernelCase], float], str]
    compared: Callable[[list[KernelCase]], str]


def _times(cases: list[KernelCase], copy: float) -> str:
    del copy
    return f"{span([case.ratio for case in cases if case.ratio])} times"


def _of_copy(cases: list[KernelCase], copy: float) -> str:
    shares = [100 * (case.bytes_per_s or 0) / copy for case in cases]
    return f"{span(shares, '{:.0f}')} % of a copy's bandwidth"


def _tflops(cases: list[KernelCase], copy: float) -> str:
    del copy
    return f"{span([(case.flops_per_s or 0) * 1e-12 for case in cases], '{:.0f}')} TFLOP/s"


def _peers_tflops(cases: list[KernelCase]) -> str:
    names = {"cudnn": "cuDNN", "flash": "PyTorch's flash attention"}
    found = {
        words: [(case.flops or 0) / case.peers[name].median * 1e-12 for case in cases]
        for name, words in names.items()
    }
    return ", ".join(f"{words} {span(rates, '{:.0f}')}" for words, rates in found.items())


HEADLINES = (
    Headline(
        "attention on an H200, decode, 64 requests x 8192 tokens, 32/8 heads",
        "attention",
        lambda case: (
            case.op == "decode"
            and case.dtype == "bf16"
            and (case.shape["batch"], case.shape["heads"]) == (64, 32)
        ),
        _of_copy,
        lambda _: "",
    ),
    Headline(
        "attention on an H200, prefill, causal, 16384 tokens, 16 heads of 128",
        "attention",
        lambda case: (
            case.op == "prefill"
            and case.variant == "causal"
            and (case.shape["heads"], case.shape["head"]) == (16, 128)
            and case.shape["tokens"] == 16384
        ),
        _tflops,
        _peers_tflops,
    ),
    Headline(
        "4-bit weights on an H200, 8192 x 8192, 1 to 16 rows",
        "wna16",
        lambda case: (
            (case.variant, case.dtype) == ("", "u4b8")
            and case.shape["k"] == case.shape["n"] == 8192
            and case.shape["m"] <= 16
        ),
        _times,
        lambda _: "`F.linear` in bfloat16",
    ),
    Headline(
        "… 128 to 4096 rows",
        "wna16",
        lambda case: (
            (case.variant, case.dtype) == ("", "u4b8")
            and case.shape["k"] == case.shape["n"] == 8192
            and case.shape["m"] >= 128
        ),
        _times,
        lambda _: "`F.linear` in bfloat16",
    ),
    Headline(
        "FP8 GEMM on an H200, 1 to 64 rows",
        "gemm",
        lambda case: (case.dtype, case.variant) == ("fp8", "") and case.shape["m"] <= 64,
        _times,
        lambda _: "cuBLASLt",
    ),
    Headline(
        "… 1024 to 8192 rows",
        "gemm",
        lambda case: (case.dtype, case.variant) == ("fp8", "") and case.shape["m"] >= 1024,
        _times,
        lambda _: "cuBLASLt",
    ),
)


def _rows() -> Iterator[tuple[str, str, str]]:
    yield from _engine_rows()
    documents = kernels()
    for name, what, peers in SUMS:
        ratios = [
            case.ratio
            for document in documents
            if document.machine.name == name
            for case in document.cases
            if case.ratio
            and not case.variant.endswith("behind another kernel")  # once more, less isolated
        ]
        better = sum(ratio >= 1 for ratio in ratios)
        yield (
            f"{what}, {len(ratios)} cases",
            f"{statistics.geometric_mean(ratios):.2f} times (geometric mean); {better} not slower",
            peers,
        )
    found = {one.name: one for one in documents if one.machine.name == GPU}
    for headline in HEADLINES:
        document = found[headline.family]
        chosen = [case for case in document.cases if headline.cases(case)]
        copy = document.copy_bytes_per_s or 0.0
        yield headline.what, headline.figure(chosen, copy), headline.compared(chosen)


def _engine_rows() -> Iterator[tuple[str, str, str]]:
    for document in engines():
        what = ENGINES.get(document.machine.name)
        for name, words in CONTENDERS.items() if what else ():
            ratios = []
            for case in document.cases:
                medians = case.medians()
                ours = medians["kernels"].decode_tokens_per_second
                ratios.append(ours / medians[name].decode_tokens_per_second)
            yield what or "", f"{span(ratios, '{:.1f}')} times", words
            what = "…"


def readme(text: str) -> str:
    """README with the table between its markers.

    Raises:
        ValueError: The markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {BEGIN.strip()} and {END.strip()}.")
    return before + begin + table(("", "ours", "compared with"), _rows()) + end + after
