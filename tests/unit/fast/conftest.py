"""Descriptors that wake a compiled loop, closed when the test ends."""

import os
from collections.abc import Callable, Iterator

import pytest
from unit.fast.rig import Rig

from netstack._fast import chain


@pytest.fixture
def rig_fds() -> Iterator[Callable[[Rig], None]]:
    """Return a function that gives every CPU of a rig its wake-up descriptors."""
    made: list[int] = []
    rigs: list[Rig] = []

    def give(rig: Rig) -> None:
        rigs.append(rig)
        for cpu in rig.cpus:
            fds = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(2)]
            made.extend(fds)
            chain.set_eventfds(cpu, *fds)

    yield give
    for rig in rigs:
        for cpu in rig.cpus:
            chain.set_eventfds(cpu, -1, -1)
    for fd in made:
        os.close(fd)
