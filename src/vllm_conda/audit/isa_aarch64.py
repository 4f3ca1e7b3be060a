"""AArch64: the architecture features of each instruction word.

The encodings are those of the Arm Architecture Reference Manual, as mask and value; Armv8.0 with
floating point and Advanced SIMD is the baseline and is not listed. capstone names the instruction
in the message.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from capstone import CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN, Cs
from elftools.elf.sections import Section

from vllm_conda.audit.code import Excess, Functions, executable_sections, open_code, tier_of
from vllm_conda.errors import ConfigError, did_you_mean

MACHINE = "EM_AARCH64"

# GCC links functions into every library that use LSE atomics after a test of the CPU
# (-moutline-atomics, its default), so LSE atomics are allowed in code for Armv8.0.
BASELINE = frozenset({"LSE"})

# feature → (mask, value) of its instructions
_SIMD: Mapping[str, tuple[tuple[int, int], ...]] = {
    "DOTPROD": (
        (0x9FE0FC00, 0x0E809400),  # sdot, udot
        (0x9FC0F400, 0x0F80E000),  # by element
    ),
    "I8MM": (
        (0xBFE0FC00, 0x0E809C00),  # usdot
        (0xBFC0F400, 0x0F80F000),  # usdot by element
        (0xBFC0F400, 0x0F00F000),  # sudot by element
        (0xDFE0FC00, 0x4E80A400),  # smmla, ummla
        (0xFFE0FC00, 0x4E80AC00),  # usmmla
    ),
    "BF16": (
        (0xBFE0FC00, 0x2E40FC00),  # bfdot
        (0xBFC0F400, 0x0F40F000),  # bfdot by element
        (0xFFE0FC00, 0x6E40EC00),  # bfmmla
        (0xBFE0FC00, 0x2EC0FC00),  # bfmlalb, bfmlalt
        (0xBFC0F400, 0x0FC0F000),  # by element
        (0xFFFFFC00, 0x1E634000),  # bfcvt
        (0xBFFFFC00, 0x0EA16800),  # bfcvtn
    ),
    "FP16": (
        (0x9F60C400, 0x0E400400),  # three registers, vector
        (0xDF60C400, 0x5E400400),  # and scalar
        (0x9F7E0C00, 0x0E780800),  # two registers, vector
        (0xDF7E0C00, 0x5E780800),  # and scalar
        (0xBF7FEC00, 0x0E30C800),  # fmaxnmv, fminnmv
        (0xBF7FFC00, 0x0E30F800),  # fmaxv, fminv
        (0x5FE00000, 0x1EC00000),  # conversion of fixed point
        (0xFFC00000, 0x1FC00000),  # fmadd and its kin
        (0xBFF8FC00, 0x0F00FC00),  # fmov of a constant
        (0xBFC0B400, 0x0F001000),  # fmla, fmls by element
        (0x9FC0F400, 0x0F009000),  # fmul, fmulx by element
        (0xFFC0B400, 0x5F001000),  # and scalar
        (0xDFC0F400, 0x5F009000),
    ),
    "FHM": (
        (0xBFE0FC00, 0x0E20EC00),  # fmlal
        (0xBFE0FC00, 0x0EA0EC00),  # fmlsl
        (0xBFE0FC00, 0x2E20CC00),  # fmlal2
        (0xBFE0FC00, 0x2EA0CC00),  # fmlsl2
    ),
    "RDM": (
        (0xBF20F400, 0x2E008400),  # sqrdmlah, sqrdmlsh
        (0xFF20F400, 0x7E008400),
        (0xBF00D400, 0x2F00D000),  # by element
        (0xFF00D400, 0x7F00D000),
    ),
    "FCMA": (
        (0xBF20E400, 0x2E00C400),  # fcmla
        (0xBF20EC00, 0x2E00E400),  # fcadd
    ),
    "AES": ((0xFFFFCC00, 0x4E284800), (0xBFE0FC00, 0x0EE0E000)),
    "SHA2": ((0xFF208C00, 0x5E000000), (0xFFFFCC00, 0x5E280800)),
    "SHA3": (
        (0xFFE08000, 0xCE000000),  # eor3
        (0xFFE08000, 0xCE200000),  # bcax
        (0xFFE0FC00, 0xCE608C00),  # rax1
        (0xFFE00000, 0xCE800000),  # xar
        (0xFFE0F000, 0xCE608000),  # sha512h, sha512h2, sha512su1
        (0xFFFFFC00, 0xCEC08000),  # sha512su0
    ),
    "JSCVT": ((0xFFFFFC00, 0x1E7E0000),),
    "LSE": (
        (0x3F200C00, 0x38200000),  # ldadd and its kin, swp
        (0x3FA07C00, 0x08A07C00),  # cas
        (0xBFA07C00, 0x08207C00),  # casp
    ),
    "RCPC": ((0x3FFFFC00, 0x38BFC000),),
    "RCPC2": ((0x3F200C00, 0x19000000),),
    "CRC": ((0x7FE0E000, 0x1AC04000),),
}
# Floating point of half width, but for conversions to and from the other widths, which are old.
_HALF = (0x5FE00000, 0x1EE00000)
_HALF_CONVERSIONS = ((0xFFFFFC00, 0x1EE24000), (0xFFFFFC00, 0x1EE2C000))
# Encodings that lie among those of another feature.
_FIRST = ("RCPC",)

_SVE: Mapping[str, tuple[tuple[int, int], ...]] = {
    "I8MM": (
        (0xFF20FC00, 0x45009800),  # smmla, usmmla, ummla
        (0xFFE0FC00, 0x44807800),  # usdot
        (0xFFE0F800, 0x44A01800),  # usdot, sudot by element
    ),
    "BF16": (
        (0xFFE0FC00, 0x64608000),  # bfdot
        (0xFFE0FC00, 0x64604000),  # by element
        (0xFFE0FC00, 0x6460E400),  # bfmmla
        (0xFFE0F800, 0x64E08000),  # bfmlalb, bfmlalt
        (0xFFE0F000, 0x64E04000),  # by element
        (0xFFFFE000, 0x658AA000),  # bfcvt
        (0xFFFFE000, 0x648AA000),  # bfcvtnt
    ),
    "F32MM": ((0xFFE0FC00, 0x64A0E400),),
    "F64MM": (
        (0xFFE0FC00, 0x64E0E400),
        (0xFE60E000, 0xA4200000),  # ld1ro
        (0xFE70E000, 0xA4202000),
        (0xFFE0E000, 0x05A00000),  # permutations of quadwords
    ),
}
# Dot products: part of SVE, although the encodings around them are SVE2.
_SVE_DOT = ((0xFF20F800, 0x44000000), (0xFF20F800, 0x44200000))
_SVE2 = (
    (0xFF000000, 0x44000000),
    (0xFF000000, 0x45000000),
    (0xFF20F000, 0x04206000),  # mul, pmul, smulh, umulh without predicate
    (0xFF20F800, 0x04207000),  # sqdmulh, sqrdmulh
    (0xFF20F800, 0x04203800),  # eor3, bcax, bsl
    (0xFF20FC00, 0x04203400),  # xar
    (0xFFE0E000, 0x05600000),  # ext of two registers
    (0xFF20F800, 0x05202800),  # tbl of two registers, tbx
    (0xFF20FC00, 0x25203000),  # whilewr, whilerw
    (0xFF20E400, 0x25200000),  # whilege, whilegt, whilehs, whilehi
    (0xFFA0F000, 0x64A08000),  # fmlalb, fmlalt
    (0xFFA0F000, 0x64A0A000),  # fmlslb, fmlslt
    (0xFFE0D000, 0x64A04000),  # by element
    (0xFF38E000, 0x64108000),  # pairs
    (0xFF3CE000, 0x6408A000),  # fcvtlt, fcvtnt, fcvtxnt
    (0xFFFFE000, 0x650AA000),  # fcvtx
    (0xFFF9E000, 0x6518A000),  # flogb
    (0xFE60C000, 0x84008000),  # ldnt1 by addresses
    (0xFE60A000, 0xC4008000),
    (0xFE60E000, 0xE4002000),  # stnt1 by addresses
    (0xFE60E000, 0xE4402000),
    (0xFF3FE000, 0x052D8000),  # splice of two registers
)

_ADDED: tuple[tuple[str, frozenset[str]], ...] = (
    ("armv8-a", BASELINE),
    ("armv8.1-a", frozenset({"CRC", "LSE", "RDM"})),
    ("armv8.2-a", frozenset()),
    ("armv8.3-a", frozenset({"FCMA", "JSCVT", "RCPC"})),
    ("armv8.4-a", frozenset({"DOTPROD", "RCPC2"})),
    ("armv8.5-a", frozenset()),
    ("armv8.6-a", frozenset({"BF16", "I8MM"})),
)
_V9 = frozenset({"FP16", "SVE", "SVE2"})
_EXTENSIONS: Mapping[str, frozenset[str]] = {
    "simd": frozenset(),
    "fp": frozenset(),
    "crc": frozenset({"CRC"}),
    "lse": frozenset({"LSE"}),
    "rdma": frozenset({"RDM"}),
    "rcpc": frozenset({"RCPC"}),
    "fp16": frozenset({"FP16"}),
    "fp16fml": frozenset({"FP16", "FHM"}),
    "dotprod": frozenset({"DOTPROD"}),
    "bf16": frozenset({"BF16"}),
    "i8mm": frozenset({"I8MM"}),
    "f32mm": frozenset({"F32MM", "FP16", "SVE"}),
    "f64mm": frozenset({"F64MM", "FP16", "SVE"}),
    "sve": frozenset({"FP16", "SVE"}),
    "sve2": frozenset({"FP16", "SVE", "SVE2"}),
    "aes": frozenset({"AES"}),
    "sha2": frozenset({"SHA2"}),
    "sha3": frozenset({"SHA2", "SHA3"}),
    "crypto": frozenset({"AES", "SHA2"}),
    "sme": frozenset({"SME"}),
}


@cache
def march_features(march: str) -> frozenset[str]:
    """Features of an ``-march`` value such as ``armv8.2-a+fp16+dotprod``.

    Raises:
        ConfigError: An architecture or extension that is not recorded here.
    """
    base, *extensions = march.split("+")
    names = [name for name, _ in _ADDED]
    # Armv9.0 holds Armv8.5, and so on.
    old = base.replace("armv9-a", "armv8.5-a").replace("armv9.1-a", "armv8.6-a")
    if old not in names:
        raise ConfigError(
            f"The instruction audit knows no features of -march={march}."
            f"{did_you_mean(base, names)}",
            "Add the architecture to vllm_conda/audit/isa_aarch64.py.",
        )
    found = frozenset[str]().union(*(added for _, added in _ADDED[: names.index(old) + 1]))
    if base.startswith("armv9"):
        found |= _V9
    for extension in extensions:
        if extension not in _EXTENSIONS:
            raise ConfigError(
                f"The instruction audit knows no features of +{extension}."
                f"{did_you_mean(extension, _EXTENSIONS)}",
                "Add the extension to vllm_conda/audit/isa_aarch64.py.",
            )
        found |= _EXTENSIONS[extension]
    return found


def flag_features(flags: Iterable[str]) -> frozenset[str]:
    """Features that compiler flags of targets.toml turn on.

    Raises:
        ConfigError: A flag whose features are not recorded here.
    """
    found = BASELINE
    for flag in flags:
        if flag.startswith("-march="):
            found |= march_features(flag.removeprefix("-march="))
        elif not flag.startswith(("-msve-vector-bits=", "-mtune=")):
            raise ConfigError(
                f"The instruction audit knows no features of {flag}.",
                "Add the flag to vllm_conda/audit/isa_aarch64.py.",
            )
    return found


def features_of(word: int) -> frozenset[str]:
    """Features of an instruction word beyond Armv8.0; empty for words that are data."""
    group = word >> 25 & 15
    if group == 0 and word >> 31:
        return frozenset({"SME"})
    if group == 2:
        return _sve_features(word)
    if _any(word, (_HALF,)) and not _any(word, _HALF_CONVERSIONS):
        return frozenset({"JSCVT"}) if _any(word, _SIMD["JSCVT"]) else frozenset({"FP16"})
    for feature in (*_FIRST, *_SIMD):
        if _any(word, _SIMD[feature]):
            return frozenset({feature})
    return frozenset()


def _sve_features(word: int) -> frozenset[str]:
    found = {"SVE"} | {name for name, encodings in _SVE.items() if _any(word, encodings)}
    if len(found) == 1 and not _any(word, _SVE_DOT) and _any(word, _SVE2):
        found.add("SVE2")
    return frozenset(found)


def _any(word: int, encodings: Iterable[tuple[int, int]]) -> bool:
    return any(word & mask == value for mask, value in encodings)


def survey(path: Path, allowed: Mapping[str, frozenset[str]]) -> list[Excess]:
    """Instructions outside ``allowed``, counted by section and features.

    Raises:
        AuditFailure: Not an AArch64 ELF file.
    """
    with open_code(path, MACHINE) as elf:
        functions = Functions(elf)
        found: list[Excess] = []
        for section in executable_sections(elf):
            permitted = allowed.get(tier_of(section), frozenset())
            found += _section(section, permitted, functions)
        return found


def _section(section: Section, permitted: frozenset[str], functions: Functions) -> Iterator[Excess]:
    data = section.data()
    words = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])
    refused = {
        word: features for word in set(words) if not (features := features_of(word)) <= permitted
    }
    if not refused:
        return
    counts: Counter[frozenset[str]] = Counter()
    first: dict[frozenset[str], int] = {}
    for index, word in enumerate(words):
        if word in refused:
            counts[refused[word]] += 1
            first.setdefault(refused[word], index)
    for features, count in counts.items():
        index = first[features]
        address = section["sh_addr"] + 4 * index
        names = tuple(sorted(features))
        text = _disassembled(words[index], address)
        yield Excess(section.name, names, count, address, text, functions.at(address))


def _disassembled(word: int, address: int) -> str:
    decoder = Cs(CS_ARCH_ARM64, CS_MODE_LITTLE_ENDIAN)
    for _, _, mnemonic, operands in decoder.disasm_lite(struct.pack("<I", word), address):
        return f"{mnemonic} {operands}".strip()
    return f".word {word:#010x}"
