"""Driver of I354-class NICs (paper §5.2 to §5.4; NetBSD if_wm.c).

One vector per receive queue, one per transmit queue, one for the link.  Everything the device is told goes through
registers; the rings are shared memory.  ``if_transmit`` chooses the TX queue by CPU; the choice follows the affinity of
the TX vectors, so that a CPU uses the queue whose interrupt it takes (paper §6.1), and goes round robin otherwise.
"""

from typing import Protocol

from netstack._fast.dispositions import Drop
from netstack._fast.intr import IntrSource
from netstack._fast.mbuf import MbufVec
from netstack._fast.queue import RxQueue, TxQueue
from netstack._fast.rss import DEFAULT_KEY
from netstack._fast.txq_select import txq_select
from netstack.dev.harddrv import harddrv_attach
from netstack.dev.host import DriverHost
from netstack.dev.queues import RxRing, TxRing
from netstack.dev.softdrv import softdrv_attach, softdrv_detach
from netstack.hw.regs import RegisterFile
from netstack.hw.wm_regs import (
    DCTL_ENABLE,
    GPIE_MULTI_VECTOR,
    IVAR_VALID,
    MRQC_RSS,
    RAH_VALID,
    RCTL_EN,
    STATUS_LU,
    TCTL_EN,
    ivar_field,
)
from netstack.kern.callout import Workqueue
from netstack.kern.spl import IPL
from netstack.machine.api import Cpu, IntrHandle
from netstack.net.ifnet import IFF, Ifnet, if_transmit
from netstack.params import IFQ_MAXLEN_FRAMES, WM_RX_SLOTS, WM_TX_SLOTS

__all__ = ["WmDriver"]

RETA_ENTRIES = 128


class Device(Protocol):
    """What the driver sees of a NIC on its bus."""

    regs: RegisterFile

    @property
    def msix(self) -> "Vectors": ...
    def ring_doorbell(self) -> None: ...


class Vectors(Protocol):
    """The MSI-X entries of a device."""

    sources: list[IntrSource]


class Bus(Protocol):
    """DMA mapping."""

    def map(self, queue: RxQueue | TxQueue) -> int: ...
    def unmap(self, queue: RxQueue | TxQueue) -> None: ...


class WmDriver:
    """One attached NIC.

    Args:   unit -- number of the device among those with MSI-X ("msix0").   rx_queues, tx_queues -- 1..8.
    Raises: what the registries raise; nothing is left attached then.
    """

    def __init__(
        self, host: DriverHost, ifp: Ifnet, device: Device, bus: Bus, unit: int, rx_queues: int, tx_queues: int
    ) -> None:
        self.host = host
        self.ifp = ifp
        self.device = device
        self.bus = bus
        self.unit = unit
        sources = device.msix.sources
        self.tx = [
            TxRing(
                host, ifp, TxQueue(ifp.block, host.pool, i, WM_TX_SLOTS, IFQ_MAXLEN_FRAMES), sources[i]
            )
            for i in range(tx_queues)
        ]
        self.rx = [
            RxRing(host, ifp, RxQueue(ifp.block, host.pool, i, WM_RX_SLOTS), sources[tx_queues + i])
            for i in range(rx_queues)
        ]
        self.link_source = sources[tx_queues + rx_queues]
        self.link_handle: IntrHandle | None = None
        self._link_work = Workqueue(host.engine, f"{ifp.name} link", lambda _: self._follow_link())
        self._is_stopped = True
        ifp.driver = self
        ifp.rx_queues = [ring.queue for ring in self.rx]
        ifp.tx_queues = [ring.queue for ring in self.tx]
        try:
            self._establish()
        except BaseException:
            self._disestablish()
            raise
        self._program()
        self.select_tx()
        ifp.set_transmit(self.transmit)

    @property
    def rings(self) -> list[RxRing | TxRing]:
        """Every queue of the device."""
        return [*self.rx, *self.tx]

    def init(self) -> None:
        """Start the device: fill the rings, clear the stopping flags, enable; RUNNING when the link is up.

        Context: control plane.   Source: NetBSD wm_init; flags are cleared before the device may work.
        """
        regs = self.device.regs
        for ring in self.rx:
            ring.queue.limit = self.host.drain_frames(ring.queue.ring.slots)
            ring.queue.fill()
            ring.queue.stopping = False
            regs.write(regs.offset("RXDCTL", ring.queue.index), DCTL_ENABLE)
        for out in self.tx:
            out.queue.stopping = False
            regs.write(regs.offset("TXDCTL", out.queue.index), DCTL_ENABLE)
        regs.write(regs.offset("TCTL"), TCTL_EN)
        regs.write(regs.offset("EIMS"), (1 << (len(self.tx) + len(self.rx) + 1)) - 1)
        regs.write(regs.offset("RCTL"), RCTL_EN)
        self._is_stopped = False
        if regs.read(regs.offset("STATUS")) & STATUS_LU:
            self.ifp.flags |= IFF.RUNNING

    def stop(self) -> None:
        """Stop the device: on return no frame of it is delivered or sent, and no buffer of it is in use.

        Context: control plane; waits for handlers.
        Source:  paper §3.2.1: the flags first, then the shutdown; NetBSD order: vectors masked, flags RX
                 then TX each under its lock, handlers waited for, device off, rings emptied.
        """
        regs = self.device.regs
        self._is_stopped = True
        self.ifp.flags &= ~IFF.RUNNING
        regs.write(regs.offset("EIMC"), (1 << (len(self.tx) + len(self.rx) + 1)) - 1)
        for ring in self.rx:
            ring.queue.stopping = True
        for out in self.tx:
            out.queue.stopping = True
        for cpu in self.host.engine.cpus:
            self.host.engine.cross_call(cpu.index, _nothing)
        self._link_work.wait()
        self.ifp.flags &= ~IFF.RUNNING  # that work may have found the link up before it saw the stop
        regs.write(regs.offset("RCTL"), 0)
        regs.write(regs.offset("TCTL"), 0)
        nobody = self.host.ncpu
        for ring in self.rx:
            self.ifp.block.count_lost(nobody, Drop.STOPPED, ring.queue.drain())
        for out in self.tx:
            self.ifp.block.count_drop(nobody, Drop.STOPPED, out.queue.purge())

    def detach(self) -> None:
        """Stop and take everything back: handlers, vectors, mappings."""
        self.stop()
        self._disestablish()
        for ring in self.rings:
            self.bus.unmap(ring.queue)

    def transmit(self, ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
        """The interface's ``if_transmit``: the general one, the descriptors' cost, the doorbell."""
        count = len(mv)
        if_transmit(ifp, mv, cpu)
        self.host.engine.charge("tx", count)
        self.doorbell()

    def doorbell(self) -> None:
        """Tell the device that descriptors were added (only a wire with a rate needs to be told)."""
        self.device.ring_doorbell()

    def select_tx(self) -> None:
        """Choose each CPU's TX queue anew: the one whose vector it takes, else round robin (paper §5.4, §6.1)."""
        affinity: dict[int, int] = {}
        for out in self.tx:
            if out.handle is not None:
                affinity.setdefault(out.handle.cpu, out.queue.index)
        if len(set(affinity)) < min(len(self.tx), self.host.ncpu):
            affinity = {}  # vectors are not spread: the default binding says nothing about CPUs
        self.ifp.block.set_txqs(
            [out.queue for out in self.tx], txq_select(self.host.ncpu, len(self.tx), affinity)
        )

    def link_intr(self, _arg: object) -> None:
        """Link state changed: a thread follows it, as the flags of a member wait for a grace period.

        Context: hard interrupt; the vector stays disabled until the thread has looked.
        """
        self._link_work.enqueue()

    def _follow_link(self) -> None:
        """Make RUNNING say what the link is.  Context: thread; may wait."""
        regs = self.device.regs
        if self._is_stopped:
            return
        is_up = bool(regs.read(regs.offset("STATUS")) & STATUS_LU)
        if is_up != bool(self.ifp.flags & IFF.RUNNING):
            self.ifp.flags ^= IFF.RUNNING
        self.link_source.enable()  # a change since that look raises now

    def _establish(self) -> None:
        name, cpus = self.ifp.name, self.host.ncpu
        for out in self.tx:
            i = out.queue.index
            softdrv_attach(out, f"{name} TX{i}", f"msix{self.unit} vec {i}", self._cpu_of(i, cpus))
        for ring in self.rx:
            i = ring.queue.index
            attach = harddrv_attach if self.host.frame == "classic" else softdrv_attach
            vector = len(self.tx) + i
            attach(ring, f"{name} RX{i}", f"msix{self.unit} vec {vector}", self._cpu_of(i, cpus))
        self.link_handle = self.host.engine.intrs.establish(
            self.link_source,
            IPL.VM,
            self.link_intr,
            name=f"{name} LINK",
            intrid=f"msix{self.unit} vec {len(self.tx) + len(self.rx)}",
        )

    def _cpu_of(self, queue: int, cpus: int) -> int:
        """Default affinity: queue i on CPU (offset + i) mod ncpu; CPU 0 is left alone when that is possible.

        Source: NetBSD if_wm.c; with one queue per interface, interfaces are spread instead.
        """
        count = len(self.rx)
        offset = 1 if 1 < count < cpus else 0
        return (offset + queue + (self.unit if count == 1 else 0)) % cpus

    def _disestablish(self) -> None:
        for ring in self.rings:
            softdrv_detach(ring)
        if self.link_handle is not None:
            self.host.engine.intrs.disestablish(self.link_handle)
            self.link_handle = None

    def _program(self) -> None:
        """Write address, ring bases, vectors and, with more than one receive queue, RSS (paper §5.3)."""
        regs = self.device.regs
        mac = self.ifp.block.mac
        regs.write(regs.offset("RAL"), int.from_bytes(mac[:4], "little"))
        regs.write(regs.offset("RAH"), int.from_bytes(mac[4:], "little") | RAH_VALID)
        regs.write(regs.offset("GPIE"), GPIE_MULTI_VECTOR)
        for out in self.tx:
            self._program_ring("TD", out.queue)
            self._program_vector(out.queue.index, out.queue.index, is_tx=True)
        for ring in self.rx:
            self._program_ring("RD", ring.queue)
            self._program_vector(ring.queue.index, len(self.tx) + ring.queue.index, is_tx=False)
        link = len(self.tx) + len(self.rx)
        regs.write(regs.offset("IVAR_MISC"), (link | IVAR_VALID) << 8)
        if len(self.rx) > 1:
            for i in range(10):
                word = int.from_bytes(DEFAULT_KEY[4 * i : 4 * i + 4], "little")
                regs.write(regs.offset("RSSRK", i), word)
            entries = bytes(i % len(self.rx) for i in range(RETA_ENTRIES))
            for i in range(RETA_ENTRIES // 4):
                word = int.from_bytes(entries[4 * i : 4 * i + 4], "little")
                regs.write(regs.offset("RETA", i), word)
            regs.write(regs.offset("MRQC"), MRQC_RSS)

    def _program_ring(self, prefix: str, queue: RxQueue | TxQueue) -> None:
        regs = self.device.regs
        address = self.bus.map(queue)
        regs.write(regs.offset(f"{prefix}BAL", queue.index), address)
        regs.write(regs.offset(f"{prefix}BAH", queue.index), address >> 32)
        regs.write(regs.offset(f"{prefix}LEN", queue.index), queue.ring.slots * 16)

    def _program_vector(self, queue: int, vector: int, is_tx: bool) -> None:
        regs = self.device.regs
        index, shift = ivar_field(queue, is_tx)
        offset = regs.offset("IVAR", index)
        old = regs.read(offset) & ~(0xFF << shift)
        regs.write(offset, old | (vector | IVAR_VALID) << shift)


def _nothing() -> None:
    """Work of a cross-call that only waits."""
