"""The machine in words, for manifests and pages."""

import os
import platform
from pathlib import Path

ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc")
"""Libraries that take the place of the C library's `malloc` when they are preloaded."""


def machine() -> str:
    """Return the processors and what gives out memory, e.g. "x86_64, 2 processors, jemalloc"."""
    return f"{platform.machine()}, {os.cpu_count()} processors, {allocator()}"


def allocator() -> str:
    """Return the name of the library that gives out memory: preloaded, or the C library.

    Runs are not faster with one or the other in general, but seconds measured under
    different ones cannot be compared; see docs/processors.md.
    """
    try:
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: what is preloaded cannot be told
        mapped = ""
    of_libc = " ".join(filter(None, platform.libc_ver()))
    return preloaded(mapped) or of_libc or "the system's allocator"


def preloaded(maps: str) -> str | None:
    """Return which of `ALLOCATORS` stands in /proc/PID/maps, or None."""
    files = {Path(line.split()[-1]).name for line in maps.splitlines() if "/" in line}
    for name in ALLOCATORS:
        if any(file.startswith(f"lib{name}") for file in files):
            return name
    return None
