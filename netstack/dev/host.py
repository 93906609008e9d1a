"""What a driver asks of the machine it is attached to."""

from typing import Protocol

from netstack._fast.mbuf import MbufPool
from netstack.machine.api import Engine

__all__ = ["DriverHost"]


class DriverHost(Protocol):
    """A machine, as drivers see it.

    ``frame`` is "softint" or "classic" (paper §3.3, §2.3); ``path`` "compiled" or "stages": who serves a receive
    softint; ``drain_frames(slots)`` the frames one activation may take from a ring of that size (paper §6.2).
    """

    engine: Engine
    pool: MbufPool
    ncpu: int
    frame: str
    path: str

    def drain_frames(self, slots: int) -> int: ...
