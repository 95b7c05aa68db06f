"""Small, seeded damage to bytes: what a bad disk, a cut download or somebody with bad intentions does to a file."""

from __future__ import annotations

import random
import re
import struct

_NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, -(2**31), 2**32 - 1)
_HUGE = (2**40, 2**62, 2**63 - 1, -(2**63), 10**19, 10**400)
_TOKENS = (
    *(b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b"\n", b"\t", b"\x1b[31m", b"\xe2\x80\xae", b"\xed\xa0\x80"),
    *(b"../", b"/", b"\\", b"C:", b"..", b"~", b"%s", b"{}", b"'", b'"', b",", b";", b"|", b" ", b"@", b"="),
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"null", b"true", b"[]", b"{}", b"[", b"{", b"]", b"}", b'"a":1,'),
    *(b"[" * 3000, b'{"a":' * 2000, b"9" * 5000, b"-1", b"0x1", b"\xc2\xb2", "٣".encode(), b"<!ENTITY", b"&a;"),
    *(b"(lp0\n", b"cos\nsystem\n", b"\x94", b".", b"R", b"\x81", b"PK\x03\x04", b"PK\x01\x02", b"\x00\x00\x00\x0cIHDR"),
)


def mutate(data: bytes, rng: random.Random, others: tuple[bytes, ...] = ()) -> bytes:
    """`data` with one to four kinds of damage."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        rng.choice(_WAYS)(out, rng, others)
    return bytes(out)


def _place(out: bytearray, rng: random.Random) -> int:
    """Anywhere, but often near the beginning or the end, where formats keep what matters."""
    where = rng.random()
    if where < 0.4:
        return rng.randint(0, min(len(out), 128))
    return rng.randint(max(0, len(out) - 256), len(out)) if where < 0.55 else rng.randint(0, len(out))


def _flip(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    for _ in range(rng.choice((1, 1, 3, 8))):
        if out:
            out[min(_place(out, rng), len(out) - 1)] ^= 1 << rng.randint(0, 7)


def _bytes(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    at, value = _place(out, rng), rng.choice(_NUMBERS + _HUGE[:4])
    size = rng.choice((1, 2, 4, 8))
    packed = struct.pack(rng.choice("<>") + "Q", value % 2 ** (8 * size) << 8 * (8 - size))
    out[at : at + size] = packed[:size] if packed[:size].strip(b"\0") else packed[-size:]


def _cut(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    del out[_place(out, rng) :]


def _drop(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    at = _place(out, rng)
    del out[at : at + rng.choice((1, 2, 4, 16, 200))]


def _repeat(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    at, size = _place(out, rng), rng.choice((1, 4, 16, 64, 500))
    out[at:at] = out[at : at + size] * rng.choice((1, 2, 50))


def _token(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    at, token = _place(out, rng), rng.choice(_TOKENS)
    out[at : at + (len(token) if rng.random() < 0.3 else 0)] = token


def _number(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    """Another number where one is written in digits."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", bytes(out)))
    if not found:
        return
    hit = rng.choice(found)
    values = (*_NUMBERS, *_HUGE, "NaN", "Infinity", "-Infinity", "1e999", "1.5", "[]", "{}", '"x"', "null", "true", "")
    out[hit.start() : hit.end()] = str(rng.choice(values)).encode()


def _word(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    """Something else where a quoted text stands: another text of the file, no text, nothing."""
    found = list(re.finditer(rb'"(?:[^"\\]|\\.){0,60}"', bytes(out)))
    if not found:
        return
    hit, other = rng.choice(found), rng.choice(found).group()
    values = (
        other,
        other,
        b'""',
        b"0",
        b"-1",
        b"1e999",
        b"NaN",
        b"null",
        b"[]",
        b"{}",
        b"[1]",
        b'"\\ud800"',
        b'"\\u0000"',
    )
    out[hit.start() : hit.end()] = rng.choice(values)


def _splice(out: bytearray, rng: random.Random, others: tuple[bytes, ...]) -> None:
    if others:
        other = rng.choice(others)
        start = rng.randint(0, len(other))
        at = _place(out, rng)
        out[at : at + rng.choice((0, 16, 300))] = other[start : start + rng.choice((4, 64, 1000))]


_WAYS = (
    _flip,
    _flip,
    _bytes,
    _bytes,
    _bytes,
    _cut,
    _drop,
    _repeat,
    _token,
    _token,
    _number,
    _number,
    _word,
    _word,
    _splice,
)
