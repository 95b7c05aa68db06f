"""What C's allocator keeps of the memory that it was given back: little, so that a server's size is what it needs.

glibc has an arena for every few threads and keeps what is freed in the middle of each; pictures of all sizes, decoded
by several threads, leave such holes for hours. Elsewhere than on glibc nothing is done.
"""

from __future__ import annotations

import ctypes
import platform
from functools import cache

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # numbers of malloc.h
_LARGE = 1 << 20  # bytes of a block that goes back to the system the moment it is freed
_ARENAS = 2


@cache
def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def hold_little() -> None:
    """For the rest of this process: few arenas, and large blocks apart from them."""
    library = _glibc()
    if library is not None:
        library.mallopt(_ARENA_MAX, _ARENAS)
        library.mallopt(_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Whole pages in which nothing lives."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(ctypes.c_size_t(0))
