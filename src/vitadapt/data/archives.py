"""Images inside zip and tar files, read in place: the archive is indexed once and never unpacked.

Only the place of a member is kept, so that references can be pickled, shared by threads and survive a fork. Members are
unfolded by hand, because zipfile unfolds bzip2 and LZMA without a bound: 445 bytes took 800 MB.
"""

from __future__ import annotations

import bz2
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, TypeVar, cast

from ..utils.errors import DataError, damaged
from ..utils.limits import ARCHIVE_MEMBERS, IMAGE_FILE, MIB
from .examples import EncodedRef, FileRef, hexdigest, shown
from .images import UnreadableImage

Ref = TypeVar("Ref", bound="MemberRef")

_HEADER = 1 * MIB  # bytes of what a tar archive says of one member: long names and the like
_SLACK = 1 * MIB  # by which packing may make a member larger
_LOCAL = struct.Struct("<4s22xHH")  # signature; lengths of the name and of the extra field
_ENCRYPTED = 0x1
_DAMAGED = ("get the archive again", DataError, "is damaged or cut off")


def _unfold_lzma(data: bytes, most: int) -> bytes:
    """Behind two bytes of version and two of their number come the properties, then the stream without a header."""
    (count,) = struct.unpack_from("<2xH", data)
    if count != 5:
        raise ValueError("properties of an unknown kind")
    settings, dictionary = struct.unpack_from("<BI", data, 4)
    if settings >= 225 or dictionary > IMAGE_FILE:
        raise ValueError("properties out of range")
    lc, lp, pb = settings % 9, settings // 9 % 5, settings // 45
    filters = [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]
    return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters).decompress(data[4 + count :], most)


_UNFOLD: dict[int, Callable[[bytes, int], bytes]] = {
    zipfile.ZIP_STORED: lambda data, most: data,
    zipfile.ZIP_DEFLATED: lambda data, most: zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most),
    zipfile.ZIP_BZIP2: lambda data, most: bz2.BZ2Decompressor().decompress(data, most),
    zipfile.ZIP_LZMA: _unfold_lzma,
}
"""Compression -> (data, most bytes wanted) -> content."""


@dataclass(frozen=True)
class MemberRef(EncodedRef):
    """An image stored as it is, `size` bytes from `offset` on, in the archive."""

    archive: Path
    member: str
    offset: int
    size: int

    @property
    def name(self) -> str:
        return shown(f"{self.archive}@{self.member}")

    def stamp(self) -> str | None:
        """Changes with the archive and with the member's place in it; None for a new archive."""
        stamp = FileRef(self.archive).stamp()
        return None if stamp is None else hexdigest(stamp, f"\0{self.member}\0{self.offset} {self.size}")

    def data(self) -> bytes:
        return self._slice(self.offset, self.size)

    def _slice(self, offset: int, size: int) -> bytes:
        try:
            with open(self.archive, "rb") as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise UnreadableImage(self.name, (error.strerror or str(error)).lower()) from error
        except (OverflowError, ValueError) as error:  # no place in any file
            raise UnreadableImage(self.name, "damaged archive") from error
        if len(data) < size:
            raise UnreadableImage(self.name, "truncated archive")
        return data


@dataclass(frozen=True)
class ZipRef(MemberRef):
    """An image in a zip file; `offset` is that of its local header, `stored` its size in the archive."""

    stored: int
    method: int  # zipfile's number of the compression
    crc: int

    def data(self) -> bytes:
        """The content of the member, unfolded and checked. Raises UnreadableImage."""
        signature, name, extra = _LOCAL.unpack(self._slice(self.offset, _LOCAL.size))
        if signature != b"PK\3\4":
            raise UnreadableImage(self.name, "damaged archive")
        data = self._slice(self.offset + _LOCAL.size + name + extra, self.stored)
        try:
            data = _UNFOLD[self.method](data, self.size + 1)  # never more than declared
        except Exception as error:  # four decompressors, each with errors of its own
            raise UnreadableImage(self.name, "damaged archive") from error
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise UnreadableImage(self.name, "damaged archive")
        return data


def zip_members(path: Path) -> Mapping[str, ZipRef]:
    """The files in a zip archive by name. Raises DataError for an archive that is missing, damaged or not to be
    trusted: a path that leads out of it, a link, encryption, a member larger than any image.
    """
    _check_regular(path)
    with damaged(path, *_DAMAGED), zipfile.ZipFile(path) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
    _check_count(path, len(infos))
    refs = [_zip_ref(path, info) for info in infos]
    for before, after in pairwise(sorted(refs, key=lambda ref: ref.offset)):
        if before.offset + _LOCAL.size + before.stored > after.offset:
            raise DataError(f"{path}: {before.member!r} and {after.member!r} overlap, as in a bomb; get the data again")
    return _by_name(path, refs)


def _zip_ref(path: Path, info: zipfile.ZipInfo) -> ZipRef:
    check_member(path, info.filename, info.file_size)
    if stat.S_ISLNK(info.external_attr >> 16):
        raise DataError(f"{path} holds the link {info.filename!r}; pack the file that it points to instead")
    if info.flag_bits & _ENCRYPTED or info.compress_type not in _UNFOLD:
        raise DataError(f"{path}: {info.filename!r} is encrypted or of an unusual compression; pack it again with zip")
    if info.compress_size > IMAGE_FILE + _SLACK:
        raise DataError(f"{path}: {info.filename!r} takes {info.compress_size >> 20} MiB, more than any image")
    sizes = (info.file_size, info.compress_size, info.compress_type)
    return ZipRef(path, info.filename, info.header_offset, *sizes, info.CRC)


def tar_members(path: Path) -> Mapping[str, MemberRef]:
    """The files in an uncompressed tar archive by name, in its order. Raises DataError as `zip_members` does."""
    _check_regular(path)
    with (
        damaged(path, *_DAMAGED),
        open(path, "rb") as file,
        tarfile.open(fileobj=_InPieces(file), mode="r:") as archive,  # type: ignore[call-overload]
    ):
        refs = list(islice(_tar_refs(path, archive), ARCHIVE_MEMBERS + 1))
    _check_count(path, len(refs))
    return _by_name(path, refs)


class _InPieces:
    """A tar file for the reader of its headers, which would take as much at once as they ask for, or go backwards."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.name, self.tell, self.seek = file, file.name, file.tell, file.seek

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _HEADER:
            raise tarfile.ReadError("an endless header")
        return self.file.read(size)


def _tar_refs(path: Path, archive: tarfile.TarFile) -> Iterator[MemberRef]:
    for info in archive:
        cast(Any, archive).members.clear()  # it would remember all of them, with everything that their headers say
        check_member(path, info.name, info.size)  # at once: a negative size would lead the reader in a circle
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise DataError(f"{path} holds {info.name!r}, which is a link or a device; get the data again")
        yield MemberRef(path, info.name, info.offset_data, info.size)


def _by_name(path: Path, refs: list[Ref]) -> dict[str, Ref]:
    members = {ref.member: ref for ref in refs}
    if len(members) < len(refs):
        twice = next(ref.member for ref in refs if members[ref.member] is not ref)
        raise DataError(f"{path} holds {twice!r} twice, and only one can be meant; pack it again")
    return members


def _check_regular(path: Path) -> None:
    """Raises DataError for a pipe or a device, which might never end."""
    if not os.path.exists(path):
        raise DataError(f"{path} is missing; copy the whole folder")
    if not os.path.isfile(path):
        raise DataError(f"{path} is no archive, it is not even a file; get the data again")


def _check_count(path: Path, count: int) -> None:
    if count > ARCHIVE_MEMBERS:
        raise DataError(f"{path} holds more than {ARCHIVE_MEMBERS:,} files, more than any data set; get it again")


def check_member(path: Path, name: str, size: int = 0) -> str:
    """`name`. Raises DataError when it would lead out of the archive, or is larger than any image (or than nothing)."""
    if (
        not name
        or PurePosixPath(name).is_absolute()
        or PureWindowsPath(name).drive
        or ".." in PurePosixPath(name).parts
        or "\\" in name
        or "\0" in name
    ):
        raise DataError(f"{path} lists {name!r}, which is not a path below its folder; get the data again")
    if size < 0:
        raise DataError(f"{path}: {name!r} declares {size} bytes; get the data again")
    if size > IMAGE_FILE:
        raise DataError(f"{path}: {name!r} declares {size >> 20} MiB, more than any image; get the data again")
    return name
