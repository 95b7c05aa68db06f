"""Small files that ask for endless memory: each is read in a process with little of it. Run by test_fuzz_bombs.py."""

from __future__ import annotations

import gzip
import io
import pickle
import resource
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from vitadapt.benchmark.leaderboard.submission import read_entries
from vitadapt.data import open_dataset
from vitadapt.data.archives import tar_members, zip_members
from vitadapt.data.examples import FileRef
from vitadapt.data.readers.helpers import text_of
from vitadapt.data.readers.idx import read_idx
from vitadapt.data.readers.matlab import read_mat
from vitadapt.data.readers.restricted_pickle import read_pickle
from vitadapt.data.readers.voc import objects
from vitadapt.utils.errors import VitadaptError
from vitadapt.utils.files import parse_json, parse_toml

ROOM = 2 << 30  # bytes of address space that a reader may take beyond what this process has already


def png_bomb(path: Path) -> None:
    header = struct.pack(">IIBBBBB", 25_000, 20_000, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    parts = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def large_png(path: Path) -> None:
    """As many pixels as are allowed, which take a few kilobytes: read, in bounded memory."""
    Image.new("1", (9_400, 9_500)).save(path, "PNG")


def zip_bomb(path: Path) -> None:
    """A member that says it unfolds into 300 MB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.png", bytes(1 << 20))
    data = bytearray(buffer.getvalue())
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, 300 << 20)
    path.write_bytes(data)


def zip_overlap(path: Path) -> None:
    """Two entries of the directory that lead to one member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.png", bytes(100))
        archive.writestr("b.png", bytes(100))
    data = bytearray(buffer.getvalue())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = bytes(4)
    path.write_bytes(data)


def tar_long_names(path: Path) -> None:
    """A thousand long names behind one another: the reader calls itself for each."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1
    path.write_bytes((info.tobuf(tarfile.GNU_FORMAT) + b"x" + bytes(511)) * 3000)


def tar_negative(path: Path) -> None:
    """A size below zero leads the reader back to where it was."""
    info = tarfile.TarInfo("a.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfe\x00"
    total = 256 + sum(header[:148]) + sum(header[156:512])
    header[148:156] = b"%06o\0 " % total
    path.write_bytes(bytes(header) + bytes(1024))


def gzip_bomb(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(1 << 24)) * 70)


def pickle_memo(path: Path) -> None:
    """Twenty bytes that make the machine reserve sixty gigabytes for what it remembers."""
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")


def pickle_laughs(path: Path) -> None:
    """A key of forty tuples inside one another, each holding the one before twice: years to hash."""
    path.write_bytes(b"\x80\x02}" + b")" + b"2\x86" * 40 + b"K\x01s.")


def pickle_copies(path: Path) -> None:
    """One text turned into new bytes ten thousand times."""
    text = pickle.BINUNICODE + struct.pack("<I", 1 << 20) + b"x" * (1 << 20)
    call = b"c_codecs\nencode\nh\x00X\x06\0\0\0latin1\x86R"
    path.write_bytes(b"\x80\x02" + text + b"q\x000](" + call * 10_000 + b"e.")


def mat_bomb(path: Path) -> None:
    body = zlib.compress(bytes(300 << 20), 1)
    path.write_bytes(b" " * 124 + b"\x00\x01IM" + struct.pack("<II", 15, len(body)) + body)


def mat_cells(path: Path) -> None:
    inside = (
        struct.pack("<II", 6, 8) + struct.pack("<II", 1, 0) + struct.pack("<II", 5, 8) + struct.pack("<ii", 1, 2**30)
    )
    inside += struct.pack("<II", 1, 0)
    path.write_bytes(b" " * 124 + b"\x00\x01IM" + struct.pack("<II", 14, len(inside)) + inside)


def xml_laughs(path: Path) -> None:
    """In UTF-16, where a look for letters finds no declaration."""
    entities = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    text = f'<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE annotation [<!ENTITY a0 "ha">{entities}]>'
    path.write_bytes((text + "<annotation>&a11;</annotation>").encode("utf-16"))


def blanks(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("all_predictions.json", "w", force_zip64=True) as member,
    ):
        member.write(b"{")
        for _ in range(64):
            member.write(b" " * (1 << 20))


def endless_list(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(600 << 20)


def deep_json(path: Path) -> None:
    path.write_bytes(b"[" * 2_000_000)


def deep_toml(path: Path) -> None:
    path.write_text("a = " + "[" * 200_000)


def dotted_toml(path: Path) -> None:
    path.write_text(".".join("a" * 200_000) + " = 1")


def ruled(parse: Callable[[str], object]) -> Callable[[Path], object]:
    def read(path: Path) -> object:
        try:
            return parse(path.read_text())
        except ValueError as error:
            raise VitadaptError(f"{path}: {error}") from error

    return read


def read_image(path: Path) -> object:
    return FileRef(path).read().convert("RGB").size


BOMBS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object], str]] = {
    "a PNG of 500 megapixels": (png_bomb, read_image, "more than|at most"),
    "a PNG of as many pixels as are taken": (large_png, read_image, ""),
    "a member of 300 MB in a zip": (zip_bomb, zip_members, "more than any image"),
    "two members in one place": (zip_overlap, zip_members, "overlap|damaged"),
    "a tar of long names": (tar_long_names, tar_members, "damaged or cut off"),
    "a tar that goes back": (tar_negative, tar_members, "declares -|damaged"),
    "gzip of a gigabyte": (gzip_bomb, lambda path: read_idx(path, 3), "more than 1 GiB"),
    "a pickle with a large memory": (pickle_memo, read_pickle, "not a readable pickle"),
    "a pickle that takes years to hash": (pickle_laughs, read_pickle, "not a readable pickle"),
    "a pickle that copies": (pickle_copies, read_pickle, "again and again|not a readable pickle"),
    "a .mat file of 300 MB in 300 kB": (mat_bomb, lambda path: read_mat(path, "labels"), "not a readable MATLAB"),
    "a .mat file with a billion cells": (mat_cells, lambda path: read_mat(path, "labels"), "not a readable MATLAB"),
    "XML that expands": (xml_laughs, objects, "has declarations"),
    "a submission of blanks": (blanks, lambda path: list(read_entries(path)), "than any submission|not JSON"),
    "a list of 600 MB": (endless_list, text_of, "larger than 512 MiB"),
    "a table of 600 MB": (endless_list, open_dataset, "larger than 512 MiB|no such"),
    "JSON two million deep": (deep_json, ruled(parse_json), "nested too deeply"),
    "TOML two hundred thousand deep": (deep_toml, ruled(parse_toml), "nested too deeply"),
    "a TOML key of two hundred thousand parts": (dotted_toml, ruled(parse_toml), "nested too deeply"),
}
SUFFIXES = {"gzip of a gigabyte": ".gz", "a table of 600 MB": ".csv"}


def main(folder: Path) -> None:
    """Prints one line per bomb: its name, a tab, and the outcome."""
    for name, (make, read, _) in BOMBS.items():
        path = folder / f"bomb{SUFFIXES.get(name, '')}"
        make(path)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, most))
        try:
            read(path)
            outcome = "read"
        except VitadaptError as error:
            outcome = str(error)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        print(f"{name}\t{outcome}", flush=True)
        path.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
