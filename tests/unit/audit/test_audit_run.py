"""Several packages at once, what audit.toml allows, damaged input, the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from planted import conda, findings, library, needs_compiler, wheel

from vllm_conda.audit.finding import Severity
from vllm_conda.audit.isa_aarch64 import features_of, march_features
from vllm_conda.audit.isa_ppc64le import level_of
from vllm_conda.audit.promise import Overrides, lowest, promise_of, requirement
from vllm_conda.audit.registry import CHECKS, select_checks
from vllm_conda.audit.run import Request, audit
from vllm_conda.audit.settings import Allow, Settings, load_settings
from vllm_conda.audit.subject import open_subject
from vllm_conda.audit.torch import qualified_name, stable_functions
from vllm_conda.cli import main
from vllm_conda.errors import AuditFailure, ConfigError, UsageError
from vllm_conda.targets import load_targets

ROOT = Path(__file__).resolve().parents[3]


def lines(paths: list[Path], request: Request | None = None) -> list[str]:
    report = audit(paths, request or Request())
    return [
        f"{package.name}: {finding.line()}"
        for package in report.packages
        for finding in package.findings
        if finding.severity is not Severity.NOTE
    ]


def test_file_owned_twice(tmp_path: Path) -> None:
    one = conda(tmp_path, {"lib/a.txt": b"a", "lib/b.txt": b"b"}, name="one")
    two = conda(tmp_path, {"lib/a.txt": b"x", "lib/c.txt": b"c"}, name="two")
    found = lines([one, two])
    assert len(found) == 2
    assert "owners: lib/a.txt: 1 files are owned by two-1-0.tar.bz2 too" in found[0]
    (tmp_path / "again").mkdir()
    again = conda(tmp_path / "again", {"lib/a.txt": b"a"}, name="one")
    assert lines([one, again]) == []  # builds of one package replace each other
    arm = conda(tmp_path / "again", {"lib/a.txt": b"a"}, name="arm", subdir="linux-aarch64")
    assert lines([one, arm]) == []


def test_noarch_and_wheel_files_meet_in_the_prefix(tmp_path: Path) -> None:
    one = conda(tmp_path, {"site-packages/planted/a.py": b"a"}, name="one", noarch="python",
                subdir="")  # fmt: skip
    two = wheel(tmp_path, {"planted/a.py": b"a"}, "py3-none-any")
    assert len(lines([one, two])) == 2


def test_allowed_findings_are_not_counted(tmp_path: Path) -> None:
    path = conda(tmp_path, {"share/a.txt": b"/opt/conda-bld/x/work"})
    assert len(findings(path)) == 1
    entry = Allow("paths", "a test", package="plan*", file="share/*")
    report = audit([path], Request(settings=Settings(allow=(entry,))))
    assert report.count(Severity.ERROR) == 0
    assert [one.reason for one in report.packages[0].allowed] == ["a test"]
    other = Allow("paths", "a test", file="lib/*")
    assert len(findings(path, Request(settings=Settings(allow=(other,))))) == 1


def damaged_conda(tmp_path: Path, cut: float) -> bytes:
    whole = conda(tmp_path, {"share/a.txt": b"a" * 5000, "share/b.txt": bytes(range(256)) * 99})
    content = whole.read_bytes()
    return content[: int(len(content) * cut)]


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.conda", b"", "a.conda is damaged"),
        ("a.conda", b"hello", "a.conda is damaged"),
        ("a.tar.bz2", b"hello", "a.tar.bz2 is damaged"),
        ("a-1-py3-none-any.whl", b"", "is damaged"),
        ("a-1-py3-none-any.whl", b"PK\x03\x04", "is damaged"),
        ("a.whl", b"PK\x03\x04", "not named as wheels are"),
    ],
)
def test_damaged_packages_are_one_sentence(
    tmp_path: Path, name: str, content: bytes, part: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = lines([path])
    assert len(found) == 1
    assert part in found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.95])
def test_truncated_package(tmp_path: Path, cut: float) -> None:
    path = tmp_path / "cut-1-0.tar.bz2"
    path.write_bytes(damaged_conda(tmp_path, cut))
    found = lines([path])
    assert len(found) == 1
    assert "error: archive:" in found[0]


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"info/index.json": b""}, "holds no info/index.json"),
        ({"info/index.json": b"{"}, "info/index.json is not JSON"),
        ({"info/index.json": b"[]"}, "not a JSON object"),
        ({"info/index.json": b"{}"}, "info/ is malformed"),
    ],
)
def test_malformed_metadata(tmp_path: Path, files: dict[str, bytes], part: str) -> None:
    (found,) = lines([conda(tmp_path, files)])
    assert part in found


def test_wheel_without_metadata(tmp_path: Path) -> None:
    import zipfile

    path = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.py", "")
    (found,) = lines([path])
    assert "holds no .dist-info/METADATA" in found


@needs_compiler
@pytest.mark.parametrize("length", [17, 40, 64, 200, 4000])
def test_damaged_library(tmp_path: Path, length: int) -> None:
    content = library(tmp_path / "a.so", "int f(void) { return 1; }").read_bytes()
    path = conda(tmp_path, {"lib/a.so": content[:length]})
    found = lines([path])
    assert len(found) == 1
    assert "lib/a.so is not an ELF file that can be read" in found[0]


def test_not_a_package(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello")
    for wrong in (path, tmp_path / "nothing.conda"):
        with pytest.raises(UsageError):
            audit([wrong], Request())


@needs_compiler
def test_folder_and_single_library(tmp_path: Path) -> None:
    built = library(tmp_path / "lib" / "a.so", "int f(void) { return 1; }", "-Wl,-rpath,/x")
    (tmp_path / "lib" / "link.so").symlink_to("a.so")
    for path in (built, tmp_path):
        (found,) = lines([path])
        assert "RPATH /x is absolute" in found


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[budget.a]\n", "Did you mean 'budgets'"),
        ("[budgets.a]\narchive = 1\n", "unknown key 'archive'"),
        ("[budgets.a]\narchive_mib = 1\n", "installed_mib has to be a size"),
        ("[budgets.a]\narchive_mib = true\ninstalled_mib = 1\n", "archive_mib has to be a size"),
        ("[budgets.a]\narchive_mib = 0\ninstalled_mib = 1\n", "above zero"),
        ('budgets = "a"\n', "is no table"),
        ("[allow]\n", "no array of tables"),
        ('[[allow]]\ncheck = "pathss"\nreason = "x"\n', "Did you mean 'paths'"),
        ('[[allow]]\ncheck = "paths"\n', "gives no reason"),
        ('[[allow]]\ncheck = "paths"\nreason = " "\n', "gives no reason"),
        ('[[allow]]\ncheck = "paths"\nreason = "x"\nfiles = "y"\n', "Did you mean 'file'"),
        ('[[allow]]\ncheck = "paths"\nreason = 3\n', "reason has to be text"),
        ("[[allow]\n", "not valid TOML"),
    ],
)
def test_malformed_settings(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "audit.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(part)):
        load_settings(path, tuple(CHECKS))


def test_every_package_of_the_recipe_has_a_budget() -> None:
    settings = load_settings(ROOT / "audit.toml", tuple(CHECKS))
    recipe = yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text())
    names = {output["package"]["name"] for output in recipe["outputs"] if "package" in output}
    assert names <= set(settings.budgets)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("__glibc >=2.28,<3.0.a0", ("__glibc", (2, 28))),
        ("libtorch 2.11.*", ("libtorch", (2, 11))),
        ("vllm-core ==0.26.0 h181a226_0", ("vllm-core", (0, 26, 0))),
        ("libgomp", ("libgomp", None)),
        ("torch>=2.11 ; extra == 'x'", ("torch", (2, 11))),
        ("Torch (>=2.4)", ("torch", (2, 4))),
        ("foo[bar]~=1.4", ("foo", (1, 4))),
        ("foo<3", ("foo", None)),
    ],
)
def test_lowest_version_of_a_requirement(spec: str, expected: tuple[str, object]) -> None:
    name, rest = requirement(spec)
    assert (name, lowest(rest)) == expected


@pytest.mark.parametrize(
    ("tag", "glibc"),
    [
        ("cp311-cp311-manylinux_2_27_x86_64.manylinux_2_28_x86_64", (2, 27)),
        ("cp311-cp311-manylinux1_x86_64", (2, 5)),
        ("cp311-cp311-manylinux_2_28_aarch64", (2, 28)),
        ("cp311-cp311-manylinux_2_28_ppc64le", (2, 28)),
        ("cp311-cp311-linux_x86_64", None),
        ("py3-none-any", None),
    ],
)
def test_promise_of_wheel_tags(tmp_path: Path, tag: str, glibc: tuple[int, ...] | None) -> None:
    with open_subject(wheel(tmp_path, {}, tag, ["torch>=2.10"])) as subject:
        promise = promise_of(subject, Overrides())
    assert (promise.glibc.version if promise.glibc else None) == glibc
    assert promise.torch is not None
    assert promise.torch.version == (2, 10)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("_ZN2at6native3addEv", ("at", "native", "add")),
        ("_ZNK3c1010TensorImpl4sizeEv", ("c10", "TensorImpl", "size")),
        ("_ZTVN5torch8autograd4NodeE", ("torch", "autograd", "Node")),
        ("_ZNSt6vectorE", ()),
        ("aoti_torch_get_dim", ()),
        ("_Z3addii", ()),
    ],
)
def test_qualified_name(symbol: str, name: tuple[str, ...]) -> None:
    assert qualified_name(symbol) == name


def test_torch_table_is_what_the_headers_say() -> None:
    torch = pytest.importorskip("torch")
    import runpy

    script = runpy.run_path(str(ROOT / "scripts" / "torch_symbols.py"))
    first, second, *_ = script["TARGET"].read_text().splitlines()
    assert "scripts/torch_symbols.py" in first
    if second.split("\t")[1] != torch.__version__.split("+")[0]:
        pytest.skip(f"the table is of {second}, installed is {torch.__version__}")
    text = script["render"](Path(torch.__file__).parent / "include")
    assert text == script["TARGET"].read_text()
    assert stable_functions()["torch_library_impl"] == (2, 10)
    assert stable_functions()["aoti_torch_get_dim"] == (2, 9)


ENCODINGS = (Path(__file__).parent / "encodings.tsv").read_text().splitlines()


@pytest.mark.parametrize("machine", ["aarch64", "ppc64le"])
def test_instruction_features(machine: str) -> None:
    """Words that binutils' assembler made of each instruction."""
    wrong, seen = [], 0
    for line in ENCODINGS:
        if line.startswith("#"):
            continue
        family, word, expected, text = line.split("\t")
        if family != machine:
            continue
        seen += 1
        number = int(word, 16)
        found = (
            "+".join(sorted(features_of(number))) or "-"
            if machine == "aarch64"
            else f"POWER{level_of(number)}"
        )
        if found != expected:
            wrong.append(f"{text}: {found}, expected {expected}")
    assert wrong == []
    assert seen > 60


def test_arm_features_of_flags() -> None:
    assert "DOTPROD" in march_features("armv8.4-a")
    assert march_features("armv8.2-a+fp16+i8mm") >= {"FP16", "I8MM", "LSE", "CRC"}
    assert "SVE2" in march_features("armv9-a")
    assert "BF16" not in march_features("armv8.2-a+sve")
    with pytest.raises(ConfigError, match="Did you mean 'dotprod'"):
        march_features("armv8.2-a+dotprd")


def test_select_checks() -> None:
    assert select_checks(["rpath", "glibc"]) == ("glibc", "rpath")
    assert select_checks([""]) == tuple(CHECKS)
    with pytest.raises(UsageError, match="Did you mean 'glibc'"):
        select_checks(["glib"])


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = conda(tmp_path, {"share/a.txt": b"a"}, name="good")
    bad = conda(tmp_path, {"share/b.txt": b"/x/conda-bld/y"}, name="bad")
    assert main(["audit", str(good)]) == 0
    assert "good-1-0.tar.bz2: clean" in capsys.readouterr().out
    assert main(["audit", str(good), str(bad)]) == AuditFailure.exit_code
    printed = capsys.readouterr()
    assert "error: paths: share/b.txt: holds a build path: /x/conda-bld/y" in printed.out
    assert "1 errors in 2 packages" in printed.err
    assert main(["audit", "--json", str(bad)]) == AuditFailure.exit_code
    document = json.loads(capsys.readouterr().out)
    (package,) = document["packages"]
    assert document["errors"] == 1
    assert [f["check"] for f in package["findings"] if f["severity"] == "error"] == ["paths"]
    assert main(["audit", "--checks", "rpath,glibc", str(bad)]) == 0
    assert main(["audit", "--checks", "nothing", str(bad)]) == UsageError.exit_code
    assert main(["audit", "--glibc", "new", str(bad)]) == UsageError.exit_code
    assert main(["audit"]) == UsageError.exit_code
    warned = conda(tmp_path, {"share/a.txt": b"a"}, name="warned", license="")
    capsys.readouterr()
    assert main(["audit", str(warned)]) == 0
    assert main(["audit", "--strict", str(warned)]) == AuditFailure.exit_code


def test_page_lists_every_check() -> None:
    """The table of docs/packagers/audit.md is the registry's."""
    text = (ROOT / "docs" / "packagers" / "audit.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [(c.name, c.summary, c.severities) for c in CHECKS.values()]


def packages() -> list[Path]:
    return sorted((ROOT / "output").glob("linux-*/vllm-*.conda"))


@pytest.mark.slow
@pytest.mark.skipif(not packages(), reason="output/ holds no package (./run build makes them)")
def test_own_packages_are_clean() -> None:
    settings = load_settings(ROOT / "audit.toml", tuple(CHECKS))
    assert lines(packages(), Request(settings=settings, targets=load_targets(ROOT))) == []
