"""Frames and bridges for scenarios: as small as they can be.

Context: control program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.net.bridge_ctl import Bridge
    from netstack.net.ifnet import Ifnet
    from netstack.topology import Machine

__all__ = ["bridged", "frame", "number_of", "station", "trickle"]

ETHERTYPE = b"\x88\xb5"  # IEEE 802 local experimental


def station(number: int) -> bytes:
    """Return a locally administered station address."""
    return bytes((2, 0, 0, 0, number >> 8 & 0xFF, number & 0xFF))


def frame(destination: bytes, source: bytes, number: int = 0) -> bytes:
    """Return a frame of 60 bytes that carries a number."""
    return (destination + source + ETHERTYPE + number.to_bytes(4, "big")).ljust(60, b"\0")


def number_of(received: bytes) -> int:
    """Return the number that a frame carries."""
    return int.from_bytes(received[14:18], "big")


def trickle(machine: Machine, sends: Sequence[tuple[Ifnet, bytes]]) -> None:
    """Have frames arrive one after the other, each when the schedule says so."""
    left = list(sends)

    def arrive() -> None:
        ifp, sent = left.pop(0)
        if not ifp.wire.is_cut:
            ifp.wire.send(sent)
        if left:
            machine.engine.at(machine.engine.now_ns(), arrive)

    machine.engine.at(machine.engine.now_ns(), arrive)


def bridged(machine: Machine, count: int = 2, **options: object) -> tuple[Bridge, list[Ifnet]]:
    """Return a bridge of ``count`` NICs of one queue, whose interrupts are on CPU 0, 1, ..."""
    nics = [machine.nic(f"wm{i}") for i in range(count)]
    for i, ifp in enumerate(nics):
        machine.intrctl.affinity(f"{ifp.name} RX0", cpu=i % machine.ncpu)
    return machine.bridge("bridge0", members=nics, **options), nics
