"""Files appended to a model file: a zip archive behind the flatbuffer (labels, vocabularies).

TFLite's model metadata name them, and applications open the model file as an archive. The archive
says where its members are, counted from the start of the whole file, so these offsets change with
the size of the flatbuffer; everything else is kept byte by byte.

Source: PKWARE's .ZIP application note, 4.3 (layout of the headers).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# End of the archive: members (this disk, total), size and offset of their directory, comment.
_END = struct.Struct("<4s4xHHIIH")
_END_MARK = b"PK\x05\x06"
# A member in the directory: lengths of name, extra field and comment, offset of its content.
_MEMBER = struct.Struct("<4s24xHHH8xI")
_MEMBER_MARK = b"PK\x01\x02"
_CONTENT_MARK = b"PK\x03\x04"
_OFFSET_AT = 42
# In place of a number that stands in a 64-bit extension.
_ELSEWHERE = 0xFFFFFFFF
_LONGEST_COMMENT = 0xFFFF
_MOST_MARKS = 8
# Members may be aligned for mapping into memory: their alignment up to this is kept.
_ALIGN = 64


@dataclass(frozen=True)
class AppendedZip:
    """An archive and where it stood."""

    content: memoryview
    """Its bytes, to the end of the file."""
    start: int
    """How many bytes stood before it."""
    offsets: tuple[int, ...]
    """Where in `content` the offsets are that count from the start of the file."""

    def moved(self, size: int) -> tuple[int, bytes]:
        """The archive behind a file of `size` bytes: how many zeros before it, and its bytes."""
        start = size + (self.start - size) % _ALIGN
        content = bytearray(self.content)
        for at in self.offsets:
            (old,) = struct.unpack_from("<I", content, at)
            struct.pack_into("<I", content, at, old + start - self.start)
        return start - size, bytes(content)


def find_zip(file: memoryview) -> AppendedZip | None:
    """The archive at the end of `file`; None where there is none, or it is damaged."""
    lowest = max(len(file) - _END.size - _LONGEST_COMMENT, 0)
    tail = bytes(file[lowest:])
    at = len(tail)
    # A mark may stand in the comment, or by chance in the data of a model without an archive.
    for _ in range(_MOST_MARKS):
        at = tail.rfind(_END_MARK, 0, at)
        if at < 0:
            return None
        archive = _archive(file, lowest + at)
        if archive is not None:
            return archive
    return None


def _archive(file: memoryview, end: int) -> AppendedZip | None:
    """The archive whose end record is at byte `end`, if all its parts are there."""
    if end + _END.size > len(file):
        return None
    _, here, count, size, directory, comment = _END.unpack_from(file, end)
    if here != count or not count or end + _END.size + comment != len(file):
        return None
    # Most writers count from the start of the file, some from that of the archive.
    shift = end - size - directory
    if directory == _ELSEWHERE or shift < 0:
        return None
    places, start, at = [end + 16], end - size, end - size
    for _ in range(count):
        if at + _MEMBER.size > end:
            return None
        mark, name, extra, note, offset = _MEMBER.unpack_from(file, at)
        content = offset + shift
        if mark != _MEMBER_MARK or bytes(file[content : content + 4]) != _CONTENT_MARK:
            return None
        places.append(at + _OFFSET_AT)
        start = min(start, content)
        at += _MEMBER.size + name + extra + note
    if at != end:
        return None
    # What counts from the start of the archive stays right wherever it stands.
    moving = tuple(place - start for place in places) if shift == 0 else ()
    return AppendedZip(file[start:], start, moving)
