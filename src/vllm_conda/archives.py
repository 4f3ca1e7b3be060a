"""Errors of archives: zipfile, tarfile and the decompressors below them have no common base."""

from __future__ import annotations

import lzma
import struct
import tarfile
import zipfile
import zlib

import zstandard

# Of an archive that is damaged, encrypted, or compressed in a way that Python does not know.
DAMAGED: tuple[type[Exception], ...] = (
    EOFError,
    IndexError,  # zipfile, of an entry without a name
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    zstandard.ZstdError,
)
# Of a document that is JSON, and not the one that its name says.
MALFORMED: tuple[type[Exception], ...] = (AttributeError, LookupError, TypeError, ValueError)
