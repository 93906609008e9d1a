"""A driver's queues with their vectors and softints; shared by both frames (paper §3.2.1, §5.2)."""

from typing import Any, Generic, TypeVar

from netstack._fast import kernels
from netstack._fast.dispositions import Drop
from netstack._fast.intr import IntrSource
from netstack._fast.mbuf import MbufVec
from netstack._fast.queue import RxQueue, TxQueue
from netstack.dev.host import DriverHost
from netstack.dev.pci_handle import PciIntrHandle, disestablish, establish
from netstack.kern.spl import IPL
from netstack.machine.api import Cpu, IntrHandle, Softint
from netstack.net.ifnet import Ifnet

__all__ = ["RxRing", "TxRing"]


Queue = TypeVar("Queue", RxQueue, TxQueue)


class Ring(Generic[Queue]):
    """One queue of one interface with its interrupt source; the driver frame fills in softint and handle.

    ``intr`` is the PCI interrupt the driver has allocated for it; a port that is not on a bus has none and
    binds its source itself.
    """

    def __init__(self, host: DriverHost, ifp: Ifnet, queue: Queue, source: IntrSource) -> None:
        self.host = host
        self.ifp = ifp
        self.queue: Queue = queue
        self.source = source
        self.softint: Softint | None = None
        self.handle: IntrHandle | None = None
        self.intr: PciIntrHandle | None = None
        queue.set_intr(source)

    def establish(self, fn: Any, name: str, intrid: str, cpu: int, **compiled: Any) -> None:
        """Bind the hard handler, called with this ring.

        Context: control plane.   Raises: what the registries raise.
        """
        if self.intr is not None:
            self.handle = establish(self.intr, IPL.VM, fn, self, name, cpu=cpu, queue=self.queue, **compiled)
            return
        self.handle = self.host.engine.intrs.establish(
            self.source, IPL.VM, fn, self, name=name, intrid=intrid, cpu=cpu, queue=self.queue, **compiled
        )

    def disestablish(self) -> None:
        """Take the hard handler away; waits until it is not running."""
        if self.handle is None:
            return
        if self.intr is not None:
            disestablish(self.intr.pa.chipset, self.handle)
        else:
            self.host.engine.intrs.disestablish(self.handle)
        self.handle = None


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
