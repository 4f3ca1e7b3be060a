"""Which C library functions each glibc has: the table ``abilists`` that comes with Zig.

The format is documented by Zig's ``libc-abi-tools``: names of libraries, versions and targets, then
sections of symbols (functions, objects, thread-local objects), each with the versions that have it.
"""

from __future__ import annotations

import struct

from vllm_conda.errors import BuildFailure

Version = tuple[int, int]

_LAST = 0x80
_NAME = "abilists of the wheel"


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def short(self) -> int:
        self.at += 2
        return int(struct.unpack_from("<H", self.data, self.at - 2)[0])

    def version(self) -> Version:
        major, minor, _patch = self.byte(), self.byte(), self.byte()
        return major, minor

    def text(self) -> str:
        start = self.at
        self.at = self.data.index(0, start) + 1
        return self.data[start : self.at - 1].decode()

    def uleb128(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & ~_LAST) << shift
            shift += 7
            if not byte & _LAST:
                return value

    def versions(self, known: list[Version]) -> list[Version]:
        found = []
        while True:
            byte = self.byte()
            found.append(known[byte & ~_LAST])
            if byte & _LAST:
                return found


def first_versions(data: bytes, target: str) -> dict[str, Version]:
    """Each symbol of ``target`` (``x86_64-linux-gnu``) with the first glibc that has it.

    Raises:
        BuildFailure: Not such a table, or one without the target.
    """
    reader = _Reader(data)
    try:
        for _ in range(reader.byte()):
            reader.text()  # libraries
        versions = [reader.version() for _ in range(reader.byte())]
        targets = [reader.text() for _ in range(reader.byte())]
        if target not in targets:
            raise BuildFailure(f"The {_NAME} knows no {target}.")
        return _read(reader, versions, 1 << targets.index(target))
    except (IndexError, ValueError, struct.error) as error:
        raise BuildFailure(f"The {_NAME} cannot be read: {error}.") from error


def _read(reader: _Reader, versions: list[Version], target: int) -> dict[str, Version]:
    found: dict[str, Version] = {}
    section = 0
    while reader.at < len(reader.data):
        name, last = "", True
        for _ in range(reader.short()):
            if last:
                name = reader.text()
            targets = reader.uleb128()
            if section:
                reader.uleb128()  # size of an object
            last = bool(reader.byte() & _LAST)
            first = min(reader.versions(versions))
            if targets & target:
                found[name] = min(first, found.get(name, first))
        section += 1
    return found
