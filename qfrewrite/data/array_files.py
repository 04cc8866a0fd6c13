"""`.npy` and `.npz` files as memory maps: no array is ever read whole.

A stored (uncompressed) member of an `.npz` is mapped in place; a compressed one is unpacked into
a temporary file first, which vanishes with its map.
"""

from __future__ import annotations

import math
import os
import shutil
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy_format

from qfrewrite.errors import DataError
from qfrewrite.ir import Array

_HEADER_READERS: dict[tuple[int, int], Any] = {
    (1, 0): npy_format.read_array_header_1_0,
    (2, 0): npy_format.read_array_header_2_0,
}
# A zip member's local header: 30 bytes, of which the last 4 are the lengths of the two fields
# that stand between it and the data.
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SAVE_AGAIN = "save it again with numpy.save or numpy.savez"


def map_npy(path: Path) -> Array:
    """The array of an `.npy` file, mapped. Raises DataError where the file is damaged."""
    try:
        with path.open("rb") as file:
            return _map_array(file, os.fstat(file.fileno()).st_size, str(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def npz_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in an `.npz` file, in file order."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy"))
    except (OSError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from error


def map_npz(path: Path, name: str) -> Array:
    """One array of an `.npz` file, mapped. Raises DataError where the file is damaged."""
    where = f"{path}: array '{name}'"
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{name}.npy")
            if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:
                with path.open("rb") as file:
                    _skip_local_header(file, member, where)
                    return _map_array(file, member.file_size, where)
            with archive.open(member) as packed, tempfile.TemporaryFile() as plain:
                shutil.copyfileobj(packed, plain)
                plain.seek(0)
                return _map_array(plain, member.file_size, where)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise _unreadable(path, error) from error


def _skip_local_header(file: IO[bytes], member: zipfile.ZipInfo, where: str) -> None:
    file.seek(member.header_offset)
    head = file.read(_LOCAL_HEADER.size)
    if len(head) < _LOCAL_HEADER.size or head[:4] != b"PK\x03\x04":
        raise DataError("is damaged: no zip header", where=where, remedy=_SAVE_AGAIN)
    _, name_length, extra_length = _LOCAL_HEADER.unpack(head)
    file.seek(name_length + extra_length, os.SEEK_CUR)


def _map_array(file: IO[bytes], size: int, where: str) -> Array:
    """Map the array whose `.npy` header starts here and that has `size` bytes in all."""
    start = file.tell()
    try:
        version = npy_format.read_magic(file)
        shape, fortran_order, dtype = _HEADER_READERS[version](file)
    except (ValueError, KeyError, TypeError, SyntaxError) as error:
        what = f"is not an array file: {error}"
        raise DataError(what, where=where, remedy=_SAVE_AGAIN) from error
    if dtype.kind not in "biufc":
        what = f"holds {dtype} values, not numbers"
        raise DataError(what, where=where, remedy="save arrays of numbers")
    offset = file.tell()
    # Python integers: a header may claim any shape.
    needed = dtype.itemsize * math.prod(shape)
    present = min(size - (offset - start), os.fstat(file.fileno()).st_size - offset)
    if min(shape, default=0) < 0 or needed > present:
        what = f"is cut short: {list(shape)} {dtype} takes {needed} bytes, {present} are there"
        raise DataError(what, where=where, remedy=_SAVE_AGAIN)
    if needed == 0:
        return np.empty(shape, dtype)
    order: Any = "F" if fortran_order else "C"
    return np.memmap(file, dtype, "r", offset, shape, order)


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"cannot be read: {reason}", where=str(path), remedy=_SAVE_AGAIN)
