"""Bytes to a GraphDef message, or an error that says what the file is instead."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from qfrewrite.errors import ModelFileError
from qfrewrite.formats.graphdef.schema import GraphDef, MetaGraphDef, SavedModel

# Protobuf's own bound on one message.
MAX_BYTES = (1 << 31) - 1

FREEZE = (
    "freeze it first (tf.compat.v1.graph_util.convert_variables_to_constants, or "
    "convert_variables_to_constants_v2 for TensorFlow 2)"
)
"""The remedy for a graph that is not frozen."""

_CHECKPOINT = re.compile(r"\.ckpt|\.data-\d{5}-of-\d{5}$|\.index$|^checkpoint$")
_TEXT = re.compile(rb"\s*(#[^\n]*\n\s*)*(node|versions|library)\s*\{")
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the footer of a LevelDB table


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that may hold a GraphDef; raises ModelFileError where none can."""
    if path.is_dir():
        raise _directory_error(path)
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ModelFileError("is larger than 2 GiB, which no GraphDef can be", where=str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError("does not exist", where=str(path)) from None
    except OSError as error:
        what = f"cannot be read: {error.strerror or error}"
        raise ModelFileError(what, where=str(path)) from None


def parse_message(data: bytes, path: Path | None) -> Any:
    """The GraphDef in `data`; raises ModelFileError, with what it seems to be, where it is none."""
    for is_it, what, remedy in _KINDS:
        if is_it(data, path.name if path else ""):
            raise ModelFileError(what, remedy=remedy)
    try:
        message = GraphDef.FromString(data)
    except DecodeError:
        message = None
    if message is not None and message.node and all(n.name and n.op for n in message.node):
        return message
    raise _not_a_graph(data, message)


def _directory_error(path: Path) -> ModelFileError:
    if (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists():
        what = "is a SavedModel directory, not a frozen graph"
        return ModelFileError(what, where=str(path), remedy=FREEZE)
    return ModelFileError("is a directory", where=str(path), remedy="name the .pb file in it")


def _not_a_graph(data: bytes, message: Any) -> ModelFileError:
    if _parses(SavedModel, data, lambda m: any(g.graph_def.node for g in m.meta_graphs)):
        return ModelFileError("is a SavedModel, not a frozen graph", remedy=FREEZE)
    if _parses(MetaGraphDef, data, lambda m: bool(m.graph_def.node)):
        what = "is a MetaGraph (.meta) of a TensorFlow checkpoint: it holds no weights"
        return ModelFileError(what, remedy=FREEZE)
    if message is not None and not message.node:
        return ModelFileError("holds a GraphDef without nodes", remedy="name the frozen graph")
    return ModelFileError(
        "is not a GraphDef, or is damaged", remedy="give a frozen graph (.pb) or a .tflite"
    )


def _parses(kind: Any, data: bytes, plausible: Callable[[Any], bool]) -> bool:
    try:
        return plausible(kind.FromString(data))
    except DecodeError:
        return False


_CONVERT = "load it with Keras and freeze it, or convert it to .tflite"
# (test of bytes and file name, what it is, what to do)
_KINDS: tuple[tuple[Callable[[bytes, str], object], str, str | None], ...] = (
    (lambda d, n: not d, "is empty", None),
    (lambda d, n: d[4:8] == b"TFL3", "is a .tflite model, not a GraphDef", "rename it to .tflite"),
    (lambda d, n: d.startswith(b"\x89HDF\r\n"), "is an HDF5 file (Keras .h5)", _CONVERT),
    (lambda d, n: d.startswith(b"PK\x03\x04"), "is a zip archive (Keras .keras?)", _CONVERT),
    (
        lambda d, n: d.endswith(_TABLE_MAGIC) or _CHECKPOINT.search(n),
        "is part of a TensorFlow checkpoint, not a graph",
        FREEZE,
    ),
    (
        lambda d, n: d.startswith(b"version https://git-lfs"),
        "is a Git LFS pointer, not the file itself",
        "fetch it with `git lfs pull`",
    ),
    (
        lambda d, n: _TEXT.match(d[:4096]),
        "is a GraphDef in text form (.pbtxt)",
        "write it in binary form (google.protobuf.text_format.Parse, then SerializeToString)",
    ),
)
