"""The data file: strict reading, variables, and what the shipped one must hold."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from vllm_conda.errors import ConfigError
from vllm_conda.toolchain import model
from vllm_conda.toolchain.pip_client import choose

HEAD = 'schema = 1\nplatforms = ["linux-64"]\n'
ONE = HEAD + '[packages.a]\nsummary = "s"\nlicense = "MIT"\nversion = "1"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("schema = 1\nplatfroms = []\n", "Did you mean 'platforms'"),
        ("schema = 2\n", "schema must be 1"),
        ("schema = = 1\n", "not valid TOML"),
        (ONE + 'dependz = ["b"]\n', "Did you mean 'depends'"),
        (ONE + 'run_exports.week = ["b"]\n', "Did you mean 'weak'"),
        (ONE + 'noarch = "pyhton"\n', "noarch is 'pyhton'"),
        (ONE + '[[packages.a.files]]\nsource = "pip:x"\n', "'pip:x', which is not defined"),
        (ONE + '[[packages.a.files]]\nsource = "host:cpython"\nbas = ""\n', "Did you mean 'base'"),
        (HEAD + '[packages.a]\nsummary = "s"\nlicense = "MIT"\n', "needs version"),
        (HEAD + '[packages.a]\nversion = "1"\n', "missing 2 required"),
        (HEAD + '[pip]\ndemo = "demo==1"\n[sha256]\ndmo = "0"\n', "Did you mean 'demo'"),
        (ONE + '[[packages.a.files]]\nsource = "glibc:x"\n', "'glibc:x', which is not defined"),
        (HEAD + '[apt.c]\nsuite = "host"\nnames = ["g++"]\nclosur = true\n', "'closure'"),
    ],
)
def test_a_mistake_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as failure:
        model.parse(text)
    assert message in str(failure.value)


def test_variables_fill_every_nested_value() -> None:
    text = ONE + (
        'depends = ["b >={py}"]\nlinks = { "lib/{py}" = "x" }\n'
        '[packages.a.activation]\nfile = "f"\nset = { X = "${HOME}/{py}" }\n'
    )
    package = model.resolve(model.parse(text).packages[0], {"py": "3.11"}, "here")
    assert package.depends == ("b >=3.11",)
    assert package.links == {"lib/3.11": "x"}
    assert package.activation.set == {"X": "${HOME}/3.11"}


def test_an_unknown_variable_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"unknown variable \{pyy\}.*'py'"):
        model.substitute("{pyy}", {"py": "3.11"}, "[packages.a]")


def test_each_makes_one_instance_per_combination() -> None:
    package = model.parse(ONE + 'each.x = ["1", "2"]\neach.y = ["a"]\n').packages[0]
    assert package.instances() == [{"x": "1", "y": "a"}, {"x": "2", "y": "a"}]


def test_canonical_text_depends_on_content_only() -> None:
    first, second = (model.parse(ONE + 'depends = ["b"]\n').packages[0] for _ in range(2))
    other = model.parse(ONE + 'depends = ["c"]\n').packages[0]
    assert model.canonical(first) == model.canonical(second) != model.canonical(other)


@pytest.mark.parametrize("python", ["3.10.14", "3.11.7", "3.12.4", "3.13.0"])
def test_every_pin_of_the_shipped_catalog_fits_every_supported_python(python: str) -> None:
    for name, rows in model.load().pip.items():
        requirement = Requirement(choose(name, rows, python))
        assert [spec.operator for spec in requirement.specifier] == ["=="]


def test_the_shipped_catalog_offers_what_recipes_ask_for() -> None:
    names = {package.name for package in model.load().packages}
    assert names >= {
        "gcc_linux-64", "gxx_linux-64", "binutils", "sysroot_linux-64", "libgcc", "libstdcxx",
        "libgomp", "_openmp_mutex", "cmake", "ninja", "ccache", "python", "python_abi",
        "libtorch", "pytorch", "numpy", "pytest", "pip", "scikit-build-core", "onednn", "libhwy",
        "{family}-microarch-level", "_{family}-microarch-level",
    }  # fmt: skip


def test_dependencies_of_the_shipped_catalog_are_in_it() -> None:
    catalog = model.load()
    names = {package.name for package in catalog.packages}
    for package in catalog.packages:
        for row in package.depends:
            needed = row.split("[")[0].split()[0]
            assert needed in names or needed.startswith("__"), (package.name, row)


def test_choose_refuses_loose_and_ambiguous_pins() -> None:
    with pytest.raises(ConfigError, match="not pinned"):
        choose("a", ["a>=1"], "3.11.7")
    with pytest.raises(ConfigError, match="2 requirements apply"):
        choose("a", ["a==1", "a==2"], "3.11.7")
    with pytest.raises(ConfigError, match="0 requirements apply"):
        choose("a", ["a==1; python_version < '3'"], "3.11.7")
