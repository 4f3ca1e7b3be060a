"""The C library that is linked for: the table of symbols, headers, and a wheel that is wrong."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_conda.errors import BuildFailure
from vllm_conda.toolchain import sysroot
from vllm_conda.toolchain.sysroot import abilist, headers

ABSENT = {"gettid", "strlcpy", "cospi", "__isoc23_strtol", "__libc_single_threaded"}


def uleb(value: int) -> bytes:
    parts = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        parts.append(low | (0x80 if value else 0))
        if not value:
            return bytes(parts)


def table() -> bytes:
    """Two libraries, three versions, two targets; a function, one that moved, and an object."""
    names = [b"c\0", b"pthread\0"]
    versions = [bytes(v) for v in ((2, 2, 5), (2, 17, 0), (2, 34, 0))]
    targets = [b"x86_64-linux-gnu\0", b"aarch64-linux-gnu\0"]
    head = b"".join(bytes([len(rows)]) + b"".join(rows) for rows in (names, versions, targets))
    functions = (3).to_bytes(2, "little")
    functions += b"puts\0" + uleb(0b01) + bytes([0]) + bytes([0x80])
    functions += uleb(0b10) + bytes([0x80]) + bytes([0x81])
    functions += b"fork_new\0" + uleb(0b11) + bytes([0x81]) + bytes([2 | 0x80])
    objects = (1).to_bytes(2, "little") + b"environ\0" + uleb(0b11) + uleb(300) + bytes([0x80])
    return head + functions + objects + bytes([0, 0x81]) + bytes(2)


def test_table_of_symbols() -> None:
    assert abilist.first_versions(table(), "x86_64-linux-gnu") == {
        "puts": (2, 2), "fork_new": (2, 34), "environ": (2, 2),
    }  # fmt: skip
    assert abilist.first_versions(table(), "aarch64-linux-gnu")["puts"] == (2, 17)


def test_a_damaged_table_is_one_sentence() -> None:
    with pytest.raises(BuildFailure, match="knows no mips"):
        abilist.first_versions(table(), "mips-linux-gnu")
    whole = table()
    known = abilist.first_versions(whole, "x86_64-linux-gnu")
    for end in range(len(whole)):
        try:
            found = abilist.first_versions(whole[:end], "x86_64-linux-gnu")
        except BuildFailure:
            continue
        # Cut between two sections: what there is of it is right.
        assert found.items() <= known.items()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("extern int getpid (void);\nextern int gettid (void) __THROW;\n",
         "extern int getpid (void);\n\n"),
        ("__BEGIN_DECLS\n\n/* gettid */\nextern int gettid (void);\n__END_DECLS\n",
         "__BEGIN_DECLS\n__END_DECLS\n"),
        ('extern "C" {\nextern int gettid (void);\nextern int f (void);\n}\n',
         'extern "C" {\n\nextern int f (void);\n}\n'),
        ("#ifdef X\nextern long __REDIRECT (strtol, (int), __isoc23_strtol);\n#else\n"
         "# define strtol __isoc23_strtol\n#endif\nint f (void);\n",
         "\n#ifdef X\n\n#else\n# define strtol __isoc23_strtol\n#endif\nint f (void);\n"),
        ("__fortify_function size_t\n__NTH (strlcpy (char *d))\n{\n  if (d) { f (); }\n"
         "  return strlcpy (d);\n}\nint g (void);\n", "\n\nint g (void);\n"),
        ("__MATHCALL (cospi,, (_Mdouble_ __x));\n__MATHCALL (cos,, (_Mdouble_ __x));\n",
         "\n\n__MATHCALL (cos,, (_Mdouble_ __x));\n"),
        ("struct s { int gettid_; };\nextern char __libc_single_threaded;\nint f (void);",
         "struct s { int gettid_; };\n\nint f (void);"),
        ('int f (void) __attr ("use gettid");\n', 'int f (void) __attr ("use gettid");\n'),
    ],
)  # fmt: skip
def test_declarations_of_newer_functions_go(text: str, kept: str) -> None:
    found = headers.prune(text, ABSENT)
    assert found.split() == kept.split()
    for line in (line for line in kept.splitlines() if line.lstrip().startswith("#")):
        assert line in found.splitlines()


@given(st.lists(st.sampled_from(
    ["int f (void);", "{", "}", "(", ")", ";", "#if X\n", "/* ; */", '"}"', "__BEGIN_DECLS\n", "\n",
     'extern "C" {', "gettid", "'", '"', "\\\n"])).map("".join))  # fmt: skip
def test_nothing_is_lost_where_nothing_is_newer(text: str) -> None:
    assert "".join(headers._statements(text)) == text
    assert headers.prune(text, {"nowhere"}) == text


def test_version_and_headers_of_newer_ones() -> None:
    text = headers.of_version("features.h", "#define\t__GLIBC__\t2\nint x;\n", (2, 28), ())
    assert text is not None
    assert "#define __GLIBC_MINOR__ 28" in text.splitlines()
    with pytest.raises(BuildFailure, match=r"features\.h"):
        headers.of_version("features.h", "int x;", (2, 28), ())
    assert headers.of_version("sys/single_threaded.h", "", (2, 31), ()) is None
    assert headers.of_version("sys/single_threaded.h", "", (2, 32), ()) == ""
    assert headers.of_version("threads.h", "", (2, 28), ()) == ""


def test_what_the_linker_says() -> None:
    text = sysroot.script("ld-linux-x86-64.so.2", {"gettid": (2, 30)}, "2.28")
    assert "GROUP ( libc.so.6 libc_nonshared.a AS_NEEDED ( ld-linux-x86-64.so.2 ) )" in text
    assert 'PROVIDE ("gettid" = "gettid of glibc 2.30, linked for 2.28");' in text


def wheel(folder: Path, program: str | None) -> Path:
    path = folder / "ziglang.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ziglang/__init__.py", "")
        if program is not None:
            archive.writestr("ziglang/zig", f"#!/bin/sh\n{program}\n")
            archive.writestr(sysroot.ABILISTS, table())
            archive.writestr("ziglang/lib/std/std.zig", "")
    return path


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (None, "does not hold Zig"),
        ("echo 'error: no such target' >&2; exit 1", "zig could not make .*no such target"),
        ("exit 0", r"zig made 0 files Scrt1\.o"),
    ],
)
def test_a_wheel_that_is_something_else(tmp_path: Path, program: str | None, message: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(BuildFailure, match=message):
        sysroot.make(wheel(tmp_path, program), "linux-64", "2.28", root, tmp_path / "zig")


@pytest.mark.parametrize("content", [b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(57)])
def test_a_library_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "libc.so").write_bytes(content)
    with pytest.raises(BuildFailure, match=r"libc\.so (is not a readable|has no dynamic)"):
        sysroot.exported(tmp_path / "libc.so")
