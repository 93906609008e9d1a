"""Machine time for a NIC: generators that are due, frames that have left a wire with a rate.

On the virtual clock nothing moves unless an event says so.  A generator's next frame and a transmit queue's
next finish are such events.  Transmit completions are reported at most once per ``TX_ITR_NS``, as the NIC's
interrupt throttle does.
"""

from collections.abc import Callable
from typing import Any, Protocol

from netstack._fast.wire import HwRxQueue, HwTxQueue, TxPort
from netstack.params import TX_ITR_NS

__all__ = ["Clock", "Pacer"]


class Clock(Protocol):
    """What a device needs of the machine: the time, and a call at a time."""

    def now_ns(self) -> int: ...
    def at(self, when_ns: int, fn: Callable[[], object], background: bool = False) -> Any: ...


class PacedNic(Protocol):
    """The parts of a NIC model that time moves."""

    rx_engines: list[HwRxQueue]
    tx_engines: list[HwTxQueue]
    tx_port: TxPort


class Pacer:
    """The timed events of one NIC."""

    def __init__(self, clock: Clock, nic: PacedNic) -> None:
        self._clock = clock
        self._nic = nic
        self._tx_scheduled: set[int] = set()

    def pace_rx(self, clock: Clock) -> None:
        """Start the generators of all receive queues; each goes on until its stop time."""
        for engine in self._nic.rx_engines:
            if engine.generator is not None:
                self._next_frame(clock, engine)

    def _next_frame(self, clock: Clock, engine: HwRxQueue) -> None:
        generator = engine.generator
        if generator is None or generator.next_due_ns() >= generator.stop_ns:
            return

        def due() -> None:
            engine.run(clock.now_ns())
            self._next_frame(clock, engine)

        clock.at(max(generator.next_due_ns(), clock.now_ns()), due)

    def kick_tx(self) -> None:
        """See that every queue with frames under way has an event at which they will have left."""
        if not self._nic.tx_port.has_rate:
            return
        for index, engine in enumerate(self._nic.tx_engines):
            if index not in self._tx_scheduled and engine.pending:
                self._finish_later(index, engine)

    def _finish_later(self, index: int, engine: HwTxQueue) -> None:
        self._tx_scheduled.add(index)

        def finished() -> None:
            self._tx_scheduled.discard(index)
            engine.run(self._clock.now_ns())
            if engine.pending:
                self._finish_later(index, engine)

        first_ns = int(engine.next_finish_ns()) + 1
        self._clock.at(max(first_ns, self._clock.now_ns() + TX_ITR_NS), finished)
