"""What is said of the machine."""

import os
import platform

import pytest

from agents.machine import allocator, machine, preloaded

MAPS = """\
7f10-7f20 r-xp 00000000 08:01 11 /usr/lib/x86_64-linux-gnu/libc.so.6
7f20-7f30 r-xp 00000000 08:01 12 {library}
7f30-7f40 rw-p 00000000 00:00 0
7f40-7f50 rw-p 00000000 00:00 0 [stack]
"""


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        ("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "jemalloc"),
        ("/opt/lib/libtcmalloc_minimal.so.4", "tcmalloc"),
        ("/opt/my jemalloc/libother.so", None),
        ("/usr/lib/libm.so.6", None),
    ],
)
def test_a_preloaded_allocator_is_recognised(library: str, expected: str | None) -> None:
    assert preloaded(MAPS.format(library=library)) == expected


def test_the_machine_is_told_with_its_allocator() -> None:
    assert machine() == f"{platform.machine()}, {os.cpu_count()} processors, {allocator()}"
    assert allocator()
