"""Every environment variable and build option, for the two pages that list them.

A variable is described only here; the code that reads it names it, and tests/unit/test_switches.py
compares both. Build options are read from cmake/Options.cmake, which is their table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

OPTIONS_FILE = Path("cmake/Options.cmake")


@dataclass(frozen=True)
class Variable:
    """One environment variable; the first of its values is the default."""

    name: str
    values: str
    effect: str


@dataclass(frozen=True)
class BuildOption:
    """One row of ``vllm_option`` calls."""

    name: str
    default: str
    choices: tuple[str, ...]
    applies_to: str
    help: str


KERNELS = (
    Variable(
        "VLLM_KERNELS_BACKEND",
        "`auto`, `reference`",
        "`reference` runs PyTorch reference code and leaves installed kernels unused.",
    ),
    Variable(
        "VLLM_KERNELS_CPU_ISA",
        "empty, a [tier](../packagers/generated/targets.md)",
        "Forces the CPU kernels to an instruction-set tier. An unknown tier, or one that this CPU "
        "cannot run, is an error.",
    ),
    Variable(
        "VLLM_KERNELS_CPU_COMPACT",
        "empty, `0`, `1`",
        "Weights of dense bfloat16 GEMMs are stored in 12 bits, without loss, where that is "
        "faster. `0` keeps 16 bits; `1` stores them compactly wherever possible.",
    ),
    Variable(
        "VLLM_KERNELS_LIBRARY_DIR",
        "empty, a folder",
        "The folder searched first for the native libraries, such as `build/dev/lib`.",
    ),
)

PLUGIN = (
    Variable(
        "VLLM_KERNELS_PLUGIN",
        "`auto`, `0`, `force`",
        "`auto` serves engines that bring no kernels of their own; `force` also replaces an "
        "engine's own kernels; `0` turns the plugin off.",
    ),
    Variable(
        "VLLM_KERNELS_ENGINE",
        "`known`, `any`",
        "`any` also serves an engine outside of the range that `vllm-core` states, as the nearest "
        "that it knows; what differs may fail.",
    ),
    Variable(
        "VLLM_KERNELS_DEVICE",
        "`auto`, `cpu`, `cuda`",
        "The device, instead of the plugin's choice. A device that cannot be served is an error "
        "that says why. `cpu` hides the GPUs from the process, because the engine would run its "
        "Triton code on them otherwise.",
    ),
    Variable(
        "VLLM_KERNELS_ATTENTION",
        "`auto`, `engine`",
        "On a GPU, `engine` leaves out our attention backend and keeps the engine's own order. "
        "`--attention-backend` is obeyed in both cases (ours is `CUSTOM`).",
    ),
    Variable(
        "VLLM_KERNELS_ALL_REDUCE",
        "`auto`, `direct`, `nccl`",
        "Two tensor-parallel ranks of one machine sum messages of up to 8 MiB by reading each "
        "other's memory, unless `--disable-custom-all-reduce` is given or the GPUs cannot: on two "
        "H200 1.3 to 2.3 times as fast as NCCL in graphs, every sum and an engine's tokens right. "
        "More ranks use NCCL: these sums have not been run with more, which `direct` does; "
        "`direct` also takes MiniMax's norms over ranks, run on one GPU alone. `nccl` "
        "uses NCCL always.",
    ),
    Variable(
        "VLLM_KERNELS_NO_COMPILER_SAID",
        "empty, `1`",
        "Set by the plugin for its child processes, which then do not repeat the warning that no "
        "compiler was found.",
    ),
)

ENGINE = (
    Variable(
        "VLLM_MLA_DISABLE",
        "",
        "Set to `1` on a CPU unless it is set: the engine expands keys and values of models with "
        "latent attention (DeepSeek). With `0` they stay latent: a cache of a ninth to a tenth and "
        "faster decode, but slower prompts. Engines before 0.32 are refused with `0`.",
    ),
    Variable(
        "VLLM_CPU_INT4_W4A8",
        "",
        "Dense bfloat16 layers with 4-bit weights: `1` rounds activations to int8 on every CPU, "
        "which is faster; `0` keeps their 16 bits. Unset, the engine rounds them on CPUs with AMX.",
    ),
    Variable(
        "VLLM_CPU_SGL_KERNEL",
        "",
        "`1`: on a CPU with AMX the engine keeps packed weights in the model; no faster here.",
    ),
    Variable(
        "VLLM_USE_FLASHINFER_SAMPLER",
        "",
        "Set to `0` on a GPU where FlashInfer's module `sampling` is neither compiled nor can be "
        "compiled, unless it is set.",
    ),
    Variable(
        "FLASHINFER_DISABLE_JIT",
        "",
        "With any value FlashInfer compiles nothing, and a module that is not compiled is an "
        "error. Set to `1` where `vllm-flashinfer` is installed, unless it is set.",
    ),
    Variable(
        "FLASHINFER_CUBINS_REPOSITORY",
        "an address or a folder",
        "Where FlashInfer downloads code for GPUs from. Where `vllm-flashinfer` is installed, set "
        "to a folder without any, unless it is set.",
    ),
    Variable(
        "TRTLLM_DG_ENABLED",
        "",
        "With `0` FlashInfer's block-scaled products are not compiled at their first call. Set so "
        "where `vllm-flashinfer` is installed, unless it is set.",
    ),
    Variable(
        "FLASHINFER_WORKSPACE_BASE, TRITON_CACHE_DIR, VLLM_CACHE_ROOT",
        "folders",
        "Where FlashInfer (whose import fails otherwise), Triton and the engine keep what they "
        "have compiled; by default below the home. Each that can be written neither there nor "
        "where `TRITON_HOME` or `XDG_CACHE_HOME` says is set, unless you have set it, to a folder "
        "in `vllm-kernels-UID`, which the user has in the temporary folder (`TMPDIR`) and the next "
        "start finds again.",
    ),
    Variable(
        "VLLM_CPU_KVCACHE_SPACE",
        "",
        "GiB for keys and values. Set it on shared machines.",
    ),
    Variable(
        "CXX, CC",
        "",
        "The compilers that PyTorch (C++, on a CPU) and Triton (C, on a GPU) run. Without C++, "
        "models are traced and no code is generated.",
    ),
    Variable(
        "ONEDNN_MAX_CPU_ISA",
        "",
        "oneDNN's own limit. Unless it is set, oneDNN is limited to the tier in use.",
    ),
    Variable("CUDA_VISIBLE_DEVICES", "", "The GPUs of which a process takes notice."),
)

TOOLKIT = (
    Variable(
        "VLLM_CONDA_CACHE",
        "`$XDG_CACHE_HOME/vllm-conda`, `~/.cache/vllm-conda`",
        "The folder of downloads, the embedded channel and builds.",
    ),
    Variable(
        "VLLM_CONDA_CHANNEL",
        "empty, names, addresses or folders",
        "Channels for compilers and libraries instead of the embedded channel, as `--channel`.",
    ),
    Variable(
        "VLLM_CONDA_KEY_PASSPHRASE",
        "empty, a passphrase",
        "Encrypts the key that `vllm-conda channel keygen` makes, and opens it to sign.",
    ),
    Variable(
        "VLLM_CONDA_CHANNEL_ROOT",
        "empty, a file",
        "The signer's `root.json` for `vllm-conda channel verify`, as `--root`.",
    ),
    Variable(
        "MAX_JOBS",
        "min(cores, memory)",
        "Parallel compile jobs, as `vllm-conda build --jobs`.",
    ),
    Variable(
        "VLLM_CONDA_ADDRESS",
        "vLLM's own",
        "Where the sources are published: homepage, repository and documentation in the packages.",
    ),
    Variable(
        "SOURCE_DATE_EPOCH",
        "the time of the last commit to the sources",
        "The time stamp inside the packages.",
    ),
    Variable(
        "CONDA_OVERRIDE_ARCHSPEC, CONDA_OVERRIDE_GLIBC, CONDA_OVERRIDE_CUDA, "
        "CONDA_OVERRIDE_CUDA_ARCH, CONDA_OVERRIDE_AMDGPU, CONDA_OVERRIDE_AMDGPU_ARCH",
        "the machine's",
        "Virtual packages of another machine; `vllm-conda solve` prints the line for each node "
        "type.",
    ),
)

INTERNAL = (
    Variable(
        "VLLM_CONDA_BUILD_SETTINGS",
        "a file",
        "What `recipe/build.sh` sources: settings of this machine, which no hash may see.",
    ),
    Variable(
        "VLLM_CONDA_TOOLCHAIN",
        "`conda-forge`, a fingerprint",
        "Which toolchain a staging build was made with; part of its key.",
    ),
    Variable(
        "VLLM_CONDA_CUDA_TOOLCHAIN",
        "`conda-forge`, a fingerprint",
        "The same for the CUDA toolkit.",
    ),
    Variable(
        "VLLM_CONDA_ROCM_TOOLCHAIN",
        "`conda-forge`, a fingerprint",
        "The same for clang and HIP.",
    ),
    Variable(
        "VLLM_ENGINE_SDIST",
        "a file",
        "The source distribution that `recipe/engine/recipe.yaml` builds.",
    ),
    Variable(
        "VLLM_FLASHINFER_WHEEL, VLLM_FLASHINFER_RELEASE, VLLM_FLASHINFER_SHA256, "
        "VLLM_FLASHINFER_ENGINES",
        "",
        "What `recipe/flashinfer/recipe.yaml` builds: upstream's wheel, its version and hash, and "
        "the engines that pin it.",
    ),
    Variable(
        "VLLM_FLASHINFER_MODULES, VLLM_FLASHINFER_ARCH, VLLM_FLASHINFER_VERSION, "
        "VLLM_FLASHINFER_HARDENING, VLLM_FLASHINFER_HARDENING_LINK",
        "",
        "What that recipe tells its script: the words of a set of modules, the GPU, the version "
        "that the modules' distribution states, and options of compiler and linker.",
    ),
    Variable(
        "VLLM_COMPILE_LOG",
        "a file",
        "Where `benchmarks/toolkit/measure_compile.py` records what each compile costs.",
    ),
    Variable(
        "VLLM_CROSS_COMMAND, VLLM_CROSS_TIERS, VLLM_CROSS_FAMILIES, VLLM_CROSS_SAMPLE",
        "",
        "What `./run test-cross` tells `tests/cross/bridge.py`: the emulated driver, the tiers, "
        "their kernel families, and how large a sample to run.",
    ),
    Variable(
        "VLLM_SANITIZE_CASES",
        "a number",
        "How many cases of each file `scripts/sanitize_cuda.py` runs.",
    ),
)

TESTS = (
    Variable(
        "VLLM_CONDA_TEST_CUDA",
        "empty, `1`",
        "Runs `tests/build/test_cuda_environment.py`, which installs several GB.",
    ),
    Variable(
        "VLLM_CONDA_TEST_SLOW",
        "empty, `1`",
        "The slow ring: compiles everything twice, kills 100 builds, publishes 2,000 times under "
        "kills, reads 30,000 malformed files.",
    ),
    Variable(
        "VLLM_CONDA_TEST_OUTPUT",
        "`output`",
        "The channel that `tests/cross/test_installed.py` installs from.",
    ),
    Variable(
        "VLLM_CONDA_TEST_LIBSOLV",
        "a folder",
        "libsolv built with `-DENABLE_CONDA=ON`, which `tests/clients` asks as conda and mamba do.",
    ),
)

GROUPS = {
    "The kernels": KERNELS,
    "The plugin": PLUGIN,
    "Variables of others that matter to an engine": ENGINE,
    "The toolkit": TOOLKIT,
    "Set by the toolkit for its own builds": INTERNAL,
    "Tests": TESTS,
}

_ROW = re.compile(
    r'^vllm_option\((\w+)\s+(""|\S+)\s+"([^"]*)"\s*([^)]*)\)$',
    re.MULTILINE,
)


def build_options(text: str) -> Iterator[BuildOption]:
    """The rows of cmake/Options.cmake's table, in its order."""
    for name, default, told, choices in _ROW.findall(text):
        applies_to, _, rest = told.partition(": ")
        yield BuildOption(name, default.strip('"'), tuple(choices.split()), applies_to, rest)


def environment_rows() -> dict[str, list[tuple[str, str, str]]]:
    """Table rows of the variables, group by group."""
    return {
        title: [
            (", ".join(f"`{name}`" for name in one.name.split(", ")), one.values, one.effect)
            for one in group
        ]
        for title, group in GROUPS.items()
    }


def option_rows(options: Sequence[BuildOption]) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"`{one.name}`",
            f"`{one.default}`" if one.default else "",
            ", ".join(f"`{choice}`" for choice in one.choices),
            f"{one.applies_to}: {one.help}",
        )
        for one in options
    ]
