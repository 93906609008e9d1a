"""A driver's queues with their vectors and softints; shared by both frames (paper §3.2.1, §5.2)."""

from typing import Generic, TypeVar

from netstack._fast import kernels
from netstack._fast.dispositions import Drop
from netstack._fast.intr import IntrSource
from netstack._fast.mbuf import MbufVec
from netstack._fast.queue import RxQueue, TxQueue
from netstack.dev.host import DriverHost
from netstack.machine.api import Cpu, IntrHandle, Softint
from netstack.net.ifnet import Ifnet

__all__ = ["RxRing", "TxRing"]


Queue = TypeVar("Queue", RxQueue, TxQueue)


class Ring(Generic[Queue]):
    """One queue of one interface with its interrupt source; the driver frame fills in softint and handle."""

    def __init__(self, host: DriverHost, ifp: Ifnet, queue: Queue, source: IntrSource) -> None:
        self.host = host
        self.ifp = ifp
        self.queue: Queue = queue
        self.source = source
        self.softint: Softint | None = None
        self.handle: IntrHandle | None = None
        queue.set_intr(source)


class RxRing(Ring[RxQueue]):
    """One receive queue."""

    def __init__(self, host: DriverHost, ifp: Ifnet, queue: RxQueue, source: IntrSource) -> None:
        super().__init__(host, ifp, queue, source)
        self._vectors: dict[int, MbufVec] = {}

    def vector(self, cpu: Cpu) -> MbufVec:
        """Return the empty vector this queue works with on a CPU; one handler of a queue runs at a time."""
        mv = self._vectors.get(cpu.index)
        if mv is None or len(mv):
            mv = self._vectors[cpu.index] = MbufVec(self.host.pool, cpu.index)
        mv.rcvif = self.ifp.index
        mv.queue = self.queue.index
        return mv

    def input(self, mv: MbufVec, cpu: Cpu) -> None:
        """Hand a vector to the interface's ``if_input``; what a slot leaves in it is dropped as ``hook``."""
        try:
            self.ifp.if_input(self.ifp, mv, cpu)
        finally:
            if mv:
                kernels.drop(cpu.block, self.ifp.block, mv, Drop.HOOK)


class TxRing(Ring[TxQueue]):
    """One transmit queue."""
