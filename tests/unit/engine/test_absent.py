"""Every op of every engine has a kernel or a reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import ROOT

from vllm_conda.engine import absent
from vllm_conda.engine.interface import table
from vllm_conda.errors import ConfigError


def test_no_op_is_without_kernel_and_reason() -> None:
    assert not list(absent.mistakes(ROOT))


def test_counts_of_the_oldest_and_newest_engine() -> None:
    """The page says what the table says, and reasons stay few."""
    engines = table.load(ROOT)
    known, have = absent.engine_ops(engines), absent.kernels(ROOT)
    listed = {(one.device, name) for one in absent.reasons(ROOT) for name in one.ops}
    for version in (engines.minors()[0], engines.minors()[-1]):
        ops = {op for op, found in known.items() if version in found}
        assert len(ops) >= 190
        assert ops <= have | listed
        for device in ("cpu", "cuda"):
            of_device = {op for op in ops if op[0] == device}
            assert f"| {version} |" in absent.page(ROOT)
            assert f"{len(of_device)} | {len(of_device & have)} |" in absent.page(ROOT)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in (table.FILE, absent.OPS_FILE, Path(absent.FILE)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_what_is_missing_or_too_much_is_said(checkout: Path) -> None:
    path = checkout / absent.FILE
    path.write_text(
        path.read_text()
        .replace('"octave_rotate"', '"octave_rotation"')
        .replace('"direct_dcp_kv_gather"', '"direct_dcp_kv_gather", "rms_norm"')
    )
    assert list(absent.mistakes(checkout)) == [
        f"octave_rotate (cuda) has neither a kernel in {absent.OPS_FILE} nor a reason in "
        f"{absent.FILE}",
        f"rms_norm (cuda) stands in {absent.FILE} and in {absent.OPS_FILE}",
        f"octave_rotation (cuda) stands in {absent.FILE}, but no engine has it",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[absent]]\ndevice = "cpu"\nreason = "x"\n', "lacks device, reason or ops"),
        ('[[absent]]\ndevice = "tpu"\nreason = "x"\nops = ["a"]\n', "no device"),
        ('[[absent]]\ndevice = "cpu"\nreason = ""\nops = ["a"]\n', "no device, reason"),
        ("absent = [", "absent.toml"),
        (
            '[[absent]]\ndevice = "cpu"\nreason = "x"\nops = ["a", "a"]\n',
            "a stands twice for cpu",
        ),
    ],
)
def test_malformed_tables(checkout: Path, text: str, message: str) -> None:
    (checkout / absent.FILE).write_text(text)
    with pytest.raises(ConfigError) as caught:
        absent.reasons(checkout)
    assert message in str(caught.value)
