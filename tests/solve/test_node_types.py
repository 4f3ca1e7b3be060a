"""Real node types, old and new, get what a rule of the tests' own derives from the table.

:mod:`node_types` holds the rule; here are the nodes, and proof that the rule is right.
"""

from __future__ import annotations

import itertools
import random

import pytest
from node_types import ARM, CPUS, POWER, X86, Case, came_with, cuda_build, expected, got
from test_glibc import CASES as BY_HAND

from vllm_conda.errors import SolveError
from vllm_conda.site import preflight
from vllm_conda.site.channels import Channels
from vllm_conda.site.model import parse_site
from vllm_conda.site.virtual import machine_of

V100, T4, A100, A10, L4, H100, B200, B300, RTX50 = (
    "7.0", "7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "10.3", "12.0",
)  # fmt: skip
L40S, RTX20, RTX30, RTX40, GH200, H200, GB200, RTX_PRO = (
    L4, T4, A10, L4, H100, H100, B200, RTX50,
)  # fmt: skip
P100, GTX10, XAVIER, ORIN, THOR, GB10 = "6.0", "6.1", "7.2", "8.7", "11.0", "12.1"


def gpu(system: str, platform: str, glibc: str, cpu: str, cuda: str, *gpus: str) -> Case:
    return Case(system, platform, glibc, cpu, cuda=cuda, gpus=gpus)


NODES = [
    # CPUs of x86-64, from what no longer suffices to what is newest.
    Case("Debian 12 on Core 2", X86, "2.36", "core2"),
    Case("Rocky 8 on Nehalem", X86, "2.28", "nehalem"),
    Case("Alma 8 on Westmere", X86, "2.28", "westmere"),
    Case("Ubuntu 20.04 on Sandy Bridge", X86, "2.31", "sandybridge"),
    Case("Ubuntu 22.04 on Ivy Bridge", X86, "2.35", "ivybridge"),
    Case("Interlagos", X86, "2.28", "bulldozer"),
    Case("Rocky 9 on Haswell", X86, "2.34", "haswell"),
    Case("SLES 15 SP5 on Broadwell", X86, "2.31", "broadwell"),
    Case("workstation with Skylake", X86, "2.39", "skylake"),
    Case("Knights Landing", X86, "2.28", "mic_knl"),
    Case("Ubuntu 24.04 on Alder Lake", X86, "2.39", "alderlake"),
    Case("Naples", X86, "2.28", "zen"),
    Case("Rome", X86, "2.31", "zen2"),
    Case("Milan", X86, "2.34", "zen3"),
    Case("Genoa", X86, "2.34", "zen4"),
    Case("Turin", X86, "2.39", "zen5"),
    Case("Skylake-SP", X86, "2.28", "skylake_avx512"),
    Case("Cascade Lake", X86, "2.28", "cascadelake"),
    Case("Ice Lake", X86, "2.31", "icelake"),
    Case("Sapphire Rapids", X86, "2.34", "sapphirerapids"),
    # archspec's library names it as the one before it; a site that writes the new name is told.
    Case("Granite Rapids", X86, "2.39", "graniterapids"),
    Case("Clear Linux", X86, "2.41", "sapphirerapids"),
    # Arm
    Case("Graviton 1", ARM, "2.34", "cortex_a72"),
    Case("Graviton 2", ARM, "2.34", "neoverse_n1"),
    Case("Graviton 3", ARM, "2.34", "neoverse_v1"),
    Case("Graviton 4", ARM, "2.34", "neoverse_v2"),
    Case("Graviton 5", ARM, "2.39", "neoverse_v3"),
    Case("Altra on Ubuntu 22.04", ARM, "2.35", "neoverse_n1"),
    Case("AmpereOne", ARM, "2.39", "ampere1"),
    Case("Cobalt 100", ARM, "2.39", "neoverse_n2"),
    Case("Fugaku", ARM, "2.28", "a64fx"),
    Case("ThunderX2", ARM, "2.31", "thunderx2"),
    Case("Grace alone", ARM, "2.34", "neoverse_v2"),
    Case("Asahi Linux", ARM, "2.41", "m2"),
    Case("Ubuntu 18.04 on Altra", ARM, "2.27", "neoverse_n1"),
    # POWER
    Case("POWER8", POWER, "2.28", "power8le"),
    Case("POWER9", POWER, "2.34", "power9le"),
    Case("POWER10", POWER, "2.39", "power10le"),
    Case("CentOS 7 on POWER8", POWER, "2.17", "power8le"),
    gpu("Summit", POWER, "2.28", "power9le", "11.4", V100),
    gpu("Summit, newer driver", POWER, "2.28", "power9le", "12.2", V100),
    gpu("IC922 with T4", POWER, "2.28", "power9le", "12.4", T4),
    # C libraries that are too old, with and without a CPU that would do
    Case("CentOS 7 on Sandy Bridge", X86, "2.17", "sandybridge"),
    Case("Amazon Linux 2", X86, "2.26", "zen2"),
    Case("SLES 15 GA", X86, "2.26", "skylake_avx512"),
    gpu("CentOS 7 with V100", X86, "2.17", "skylake_avx512", "11.4", V100),
    gpu("Ubuntu 18.04 with T4", X86, "2.27", "cascadelake", "12.2", T4),
    # GPUs
    gpu("Pascal", X86, "2.31", "broadwell", "12.4", P100),
    gpu("GTX 1080", X86, "2.39", "skylake", "13.0", GTX10),
    gpu("DGX-1", X86, "2.31", "broadwell", "12.4", V100),
    gpu("DGX-2, last driver", X86, "2.35", "skylake_avx512", "13.0", V100),
    gpu("g4dn", X86, "2.34", "cascadelake", "12.8", T4),
    gpu("Turing workstation", X86, "2.35", "zen2", "13.1", RTX20),
    gpu("Perlmutter", X86, "2.31", "zen3", "12.4", A100),
    gpu("A100, driver 470", X86, "2.28", "zen2", "11.4", A100),
    gpu("A100, driver 520", X86, "2.28", "zen2", "11.8", A100),
    gpu("A100, driver 525", X86, "2.28", "zen2", "12.0", A100),
    gpu("A100, driver 535", X86, "2.34", "zen3", "12.2", A100),
    gpu("A100, driver 580", X86, "2.34", "zen3", "13.0", A100),
    gpu("A10 of a cloud", X86, "2.34", "icelake", "12.6", A10),
    gpu("RTX 3090 with Sandy Bridge", X86, "2.35", "sandybridge", "12.9", RTX30),
    gpu("g6", X86, "2.34", "zen3", "12.7", L4),
    gpu("L40S", X86, "2.35", "sapphirerapids", "13.0", L40S),
    gpu("RTX 4090", X86, "2.39", "zen4", "12.3", RTX40),
    gpu("H100, first driver", X86, "2.34", "sapphirerapids", "12.0", H100),
    gpu("H200", X86, "2.35", "sapphirerapids", "12.4", H200),
    gpu("H200, newest", X86, "2.35", "sapphirerapids", "13.1", H200),
    gpu("B200, first driver", X86, "2.35", "sapphirerapids", "12.8", B200),
    gpu("B200", X86, "2.39", "zen5", "13.0", B200),
    gpu("B300, first driver", X86, "2.39", "sapphirerapids", "12.9", B300),
    gpu("B300 with Granite Rapids", X86, "2.39", "graniterapids", "13.1", B300),
    gpu("RTX 5090", X86, "2.39", "zen5", "12.8", RTX50),
    gpu("RTX PRO 6000", X86, "2.39", "zen5", "13.0", RTX_PRO),
    gpu("A30 and L4", X86, "2.34", "zen3", "12.4", A100, L4),
    gpu("V100 and H100", X86, "2.34", "zen3", "12.9", V100, H100),
    gpu("H100 and B200", X86, "2.35", "zen4", "13.0", H100, B200),
    gpu("T4 and RTX PRO", X86, "2.39", "zen4", "12.9", T4, RTX_PRO),
    gpu("Alps", ARM, "2.31", "neoverse_v2", "12.4", GH200),
    gpu("GH200, first driver", ARM, "2.35", "neoverse_v2", "12.0", GH200),
    gpu("GH200, newest", ARM, "2.39", "neoverse_v2", "13.1", GH200),
    gpu("GB200, first driver", ARM, "2.39", "neoverse_v2", "12.8", GB200),
    gpu("GB200", ARM, "2.39", "neoverse_v2", "13.0", GB200),
    gpu("GB300", ARM, "2.39", "neoverse_v2", "13.0", B300),
    gpu("DGX Spark", ARM, "2.39", "neoverse_v2", "13.0", GB10),
    gpu("Altra with A100", ARM, "2.34", "neoverse_n1", "11.8", A100),
    gpu("g5g", ARM, "2.34", "neoverse_n1", "12.2", T4),
    gpu("Jetson Xavier", ARM, "2.31", "armv8_unknown", "11.4", XAVIER),
    gpu("JetPack 6", ARM, "2.35", "neoverse_n1", "12.6", ORIN),
    gpu("JetPack 7 on Orin", ARM, "2.39", "neoverse_n1", "13.0", ORIN),
    gpu("JetPack 7 on Thor", ARM, "2.39", "neoverse_v2", "13.0", THOR),
]


def check(channels: Channels, case: Case) -> list[str]:
    """What is wrong with what the node type gets."""
    site = parse_site(case.site(), "cases")
    (result,) = preflight.check_site(site, channels, ["vllm-kernels", "vllm-kernels-cpu"], True)
    wrong = []
    for number, cpu_only in enumerate((False, True)):
        said, wanted = got(result, number), expected(case, cpu_only)
        right = all(part in said for part in wanted) and ("needs" in said) == ("needs" in wanted[0])
        if not right:
            wrong.append(f"{case.name}: {said!r} and not {wanted!r}")
    return wrong


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: case.name)
def test_the_rule_agrees_with_what_was_worked_out_by_hand(case: Case) -> None:
    said = expected(case)[0]
    assert said.startswith(case.build) or case.build.startswith(said)


@pytest.mark.parametrize("case", NODES, ids=lambda case: case.name)
def test_node_type_gets_what_the_table_says(every_job: Channels, case: Case) -> None:
    assert check(every_job, case) == []


def test_forty_nodes_that_are_nobody_elses() -> None:
    facts = [
        {(c.platform, c.glibc, c.cpu, c.cuda, c.gpus) for c in some} for some in (NODES, BY_HAND)
    ]
    assert len(facts[0] - facts[1]) >= 40


def test_a_sample_of_all_combinations(every_job: Channels) -> None:
    drivers = (
        "11.4", "11.8", "12.0", "12.2", "12.4", "12.6", "12.8", "12.9", "13.0", "13.1", "13.4",
    )  # fmt: skip
    libraries = ("2.17", "2.28", "2.31", "2.34", "2.41")
    found = []
    for platform, cpus in CPUS.items():
        for cpu, glibc, driver in itertools.product(cpus, libraries, drivers):
            known = came_with(driver, platform)
            found += [Case("any", platform, glibc, cpu, cuda=driver, gpus=(one,)) for one in known]
    sample = random.Random(0).sample(found, 100)  # noqa: S311 - nothing secret
    assert [text for case in sample for text in check(every_job, case)] == []


def solved(channels: Channels, spec: str, case: Case, *unknown: str) -> dict[str, str]:
    """Builds by name, for a client that does not know the virtual packages ``unknown``."""
    node = parse_site(case.site(), "cases").nodes["node"]
    machine = {name: v for name, v in machine_of(node).items() if name not in unknown}
    records = channels.solve([spec], case.platform, machine)
    return {record.name.normalized: str(record.build) for record in records}


@pytest.mark.parametrize("platform", [X86, ARM, POWER])
def test_clients_without_the_newer_virtual_packages(every_job: Channels, platform: str) -> None:
    """Without ``__cuda_arch`` the driver decides; without ``__archspec`` a GPU is served all the
    same, and a CPU is refused, since no level can be promised."""
    cpu = list(CPUS[platform])[-1]
    for driver in ("12.0", "12.4", "12.8", "13.0", "13.1"):
        case = Case("old client", platform, "2.28", cpu, cuda=driver, gpus=(H100,))
        wanted = f"cuda{cuda_build(platform, driver).replace('.', '')}_all_"
        found = solved(every_job, "vllm-kernels", case, "__cuda_arch")
        assert found["vllm-kernels-cuda"].startswith(wanted), driver
        found = solved(every_job, "vllm-kernels", case, "__cuda_arch", "__archspec")
        assert found["vllm-kernels-cuda"].startswith(wanted), driver
    for spec in ("vllm-kernels-cpu", "vllm-kernels"):
        case = Case("old client", platform, "2.28", cpu)
        with pytest.raises(SolveError, match="__archspec"):
            solved(every_job, spec, case, "__archspec")
