"""Giving back the pages of a memory-mapped file that have been read.

Pages of a mapped file that a process has touched count as its resident memory until they are dropped: reading states
of 100 GB layer by layer would look like, and be limited as, 100 GB of memory. Dropped pages are read again when they
are needed, from the system's cache as long as there is room.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import cache
from pathlib import Path

import numpy as np

_PRESENT, _SWAPPED, _FILE_BACKED = (np.uint64(1 << bit) for bit in (63, 62, 61))
"""Bits of an entry of /proc/PID/pagemap (Linux, admin-guide/mm/pagemap)."""


def release_pages(start: int, stop: int) -> bool:
    """Drop the pages between two addresses, if those in memory are unchanged pages of a file.

    False where there is memory of another kind, or a private mapping that has been written to, which is left alone as
    dropping it would lose it; and where the system cannot tell, that is elsewhere than on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    first, end = start // mmap.PAGESIZE, -(-stop // mmap.PAGESIZE)
    entries = _page_entries(first, end)
    in_memory = (entries & _PRESENT) != 0
    of_a_file = (entries & _FILE_BACKED) != 0
    if len(entries) < end - first or bool(((entries & _SWAPPED) != 0).any()) or bool((in_memory & ~of_a_file).any()):
        return False
    advise = _system_library().madvise
    length = (end - first) * mmap.PAGESIZE
    return bool(advise(ctypes.c_void_p(first * mmap.PAGESIZE), ctypes.c_size_t(length), mmap.MADV_DONTNEED) == 0)


def _page_entries(first: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as file:
            file.seek(8 * first)
            return np.frombuffer(file.read(8 * (end - first)), dtype=np.uint64)
    except OSError:  # a sandbox may hide it
        return np.empty(0, dtype=np.uint64)


@cache
def _system_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
