"""What host ports have in common: their engines, the host's count of drops, the way they end.

Context: control.
"""

import contextlib
from typing import Generic, Self, TypeVar

from netstack._fast.hostport import PacketRx, PacketTx, TapRx, TapTx
from netstack._fast.xdp import XdpRx, XdpTx
from netstack.ports.rtnl import Dropped, LinkCounters

__all__ = ["HostPort"]

Rx = TypeVar("Rx", PacketRx, TapRx, XdpRx)
Tx = TypeVar("Tx", PacketTx, TapTx, XdpTx)


class HostPort(Generic[Rx, Tx]):
    """Engines of one interface of the host; a kind of port opens them and fills these attributes."""

    receivers: list[Rx]
    transmitters: list[Tx]
    _counters: LinkCounters
    _undo: contextlib.ExitStack  # gives back what was opened, last first

    def clear_errors(self) -> None:
        """Let the engines try again: the interface is back."""
        for receiver in self.receivers:
            receiver.clear_error()
        for transmitter in self.transmitters:
            transmitter.clear_error()

    @property
    def host_dropped(self) -> Dropped:
        """Frames the interface itself dropped since this port was opened, by the host's count."""
        return self._counters.since_start()

    def _close_engines(self) -> None:
        for receiver in self.receivers:
            receiver.close()
        for transmitter in self.transmitters:
            transmitter.close()

    def close(self) -> None:
        """Give everything back; harmless when repeated.  The queues must have stopped."""
        self._close_engines()
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()
