"""The emulated process (driver.cc), and what goes to it and comes back."""

from __future__ import annotations

import struct
import subprocess
import threading
from collections.abc import Sequence

import abi
import torch

DTYPES = {getattr(torch, name): code for name, code in abi.dtype_codes().items()}
MAX_DIMS = abi.macro("core/abi.h", "VK_MAX_DIMS")
WORDS = abi.macro("cpu/attention/attention.h", "VK_ATTENTION_METADATA_LENGTH")


class Gone(RuntimeError):
    """The driver ended: an illegal instruction, or memory that is not the caller's."""


class _Request:
    """One call's arguments as bytes; a storage that several tensors view travels once."""

    def __init__(self) -> None:
        self.storages: list[torch.UntypedStorage] = []
        self.arguments = b""
        self.count = 0

    def add(self, value: object) -> None:
        self.count += 1
        if value is None:
            self.arguments += b"\0"
        elif isinstance(value, torch.Tensor):
            self.arguments += self._tensor(value)
        elif isinstance(value, float):
            self.arguments += struct.pack("<Bd", 3, value)
        elif isinstance(value, str):
            text = value.encode()
            self.arguments += struct.pack("<BI", 4, len(text)) + text
        elif isinstance(value, Sequence):
            self.arguments += struct.pack(f"<BI{len(value)}q", 5, len(value), *value)
        else:
            self.arguments += struct.pack("<Bq", 2, int(value))  # type: ignore[call-overload]

    def _tensor(self, tensor: torch.Tensor) -> bytes:
        if tensor.dim() > MAX_DIMS:
            raise RuntimeError(f"a tensor has {tensor.dim()} dimensions, want at most {MAX_DIMS}")
        storage = tensor.untyped_storage()
        places = [known.data_ptr() for known in self.storages]
        if storage.data_ptr() in places and storage.nbytes() > 0:
            place = places.index(storage.data_ptr())
        else:
            place = len(self.storages)
            self.storages.append(storage)
        dtype = DTYPES.get(tensor.dtype, -1)
        offset = tensor.storage_offset() * tensor.element_size()
        head = struct.pack("<BIQii", 1, place, offset, dtype, tensor.dim())
        return head + struct.pack(f"<{2 * tensor.dim()}q", *tensor.shape, *tensor.stride())

    def message(self, name: str) -> bytes:
        text = name.encode()
        body = struct.pack("<I", len(text)) + text + struct.pack("<I", len(self.storages))
        for storage in self.storages:
            body += struct.pack("<Q", storage.nbytes()) + _bytes_of(storage).numpy().tobytes()
        body += struct.pack("<I", self.count) + self.arguments
        return struct.pack("<I", len(body)) + body


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[call-overload,no-any-return]


class Driver:
    """The emulated process."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = list(command)
        self._process: subprocess.Popen[bytes] | None = None
        # One conversation: threads take turns.
        self._turn = threading.Lock()

    def call(self, name: str, *values: object) -> tuple[int, list[int], str]:
        """Call a function of the C ABI; the tensors hold what it wrote.

        Returns:
            The result number, the four result words and the text.

        Raises:
            RuntimeError: the function refused; its sentence.
            Gone: the process died.
        """
        request = _Request()
        for value in values:
            request.add(value)
        with self._turn:
            answer = self._exchange(request.message(name), name)
        status, result = struct.unpack_from("<iq", answer)
        words = list(struct.unpack_from(f"<{WORDS}i", answer, 12))
        at = 12 + 4 * WORDS
        (size,) = struct.unpack_from("<I", answer, at)
        text = answer[at + 4 : at + 4 + size].decode()
        at += 4 + size
        for storage in request.storages:
            if storage.nbytes():
                content = torch.frombuffer(
                    bytearray(answer[at : at + storage.nbytes()]), dtype=torch.uint8
                )
                _bytes_of(storage).copy_(content)
            at += storage.nbytes()
        if status != 0:
            raise RuntimeError(text)
        return result, words, text

    def functions(self) -> list[str]:
        """The C functions that it calls, without their prefix."""
        return self.call("functions")[2].split()

    def families(self) -> list[str]:
        """The kernel families of its library."""
        return self.call("families")[2].split()

    def close(self) -> None:
        """End the process, whose time then counts as this one's."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _exchange(self, message: bytes, name: str) -> bytes:
        if self._process is None:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(message)
            process.stdin.flush()
            head = process.stdout.read(4)
        except BrokenPipeError:
            head = b""
        if len(head) < 4:
            self._process = None
            raise Gone(f"{name}: {' '.join(self.command)} ended with code {process.wait()}")
        return process.stdout.read(struct.unpack("<I", head)[0])
