"""Driver of I354-class NICs (paper §5.2 to §5.4; NetBSD if_wm.c).

With MSI-X one vector per receive queue, one per transmit queue, one for the link; where MSI-X cannot be had, MSI or the
line with one queue each way (``dev/wm_legacy.py``).  Everything the device is told goes through registers; the rings
are shared memory.  ``if_transmit`` chooses the TX queue by CPU; the choice follows the affinity of
the TX vectors, so that a CPU uses the queue whose interrupt it takes (paper §6.1), and goes round robin otherwise.
"""

from errno import ENXIO
from typing import Protocol

from netstack._fast.dispositions import Drop
from netstack._fast.intr import IntrSource
from netstack._fast.mbuf import MbufVec
from netstack._fast.queue import RxQueue, TxQueue
from netstack._fast.rss import DEFAULT_KEY
from netstack._fast.txq_select import txq_select
from netstack.dev.harddrv import harddrv_attach
from netstack.dev.host import DriverHost
from netstack.dev.pci import PciAttachArgs
from netstack.dev.pci_handle import PciIntrHandle
from netstack.dev.pci_intr import (
    TYPES,
    IntrType,
    pci_intr_alloc,
    pci_intr_disestablish,
    pci_intr_establish_xname,
    pci_intr_release,
)
from netstack.dev.queues import RxRing, TxRing
from netstack.dev.regs import DeviceRegs
from netstack.dev.softdrv import softdrv_attach, softdrv_detach
from netstack.dev.wm_legacy import CAUSES, WmLegacy
from netstack.errors import NetstackError
from netstack.hw.wm_regs import (
    BAR_REGISTERS,
    DCTL_ENABLE,
    GPIE_MULTI_VECTOR,
    ICR_RXT0,
    ICR_TXDW,
    IVAR_VALID,
    MRQC_RSS,
    RAH_VALID,
    RCTL_EN,
    STATUS_LU,
    TABLE,
    TCTL_EN,
    ivar_field,
)
from netstack.kern.spl import IPL
from netstack.kern.workqueue import Workqueue
from netstack.machine.api import Cpu, IntrHandle
from netstack.net.ifnet import IFF, Ifnet, if_transmit
from netstack.params import IFQ_MAXLEN_FRAMES, WM_RX_SLOTS, WM_TX_SLOTS

__all__ = ["WmDriver"]

RETA_ENTRIES = 128


class Device(Protocol):
    """What the driver sees of a NIC besides its registers: sources that stand for single mask bits, the doorbell."""

    @property
    def msix(self) -> "Vectors": ...
    @property
    def causes(self) -> "Causes": ...
    def ring_doorbell(self) -> None: ...


class Vectors(Protocol):
    """The MSI-X entries of a device, by number."""

    sources: list[IntrSource]


class Causes(Protocol):
    """The causes of MSI and INTx, by bit of the cause register."""

    sources: dict[int, IntrSource]


class Bus(Protocol):
    """DMA mapping."""

    def map(self, queue: RxQueue | TxQueue) -> int: ...
    def unmap(self, queue: RxQueue | TxQueue) -> None: ...


class WmDriver:
    """One attached NIC.

    Args:   pa -- the device on its bus.   unit -- number of the interface among its kind.
            rx_queues, tx_queues -- 1..8; with MSI and INTx one of each is used.
            max_intr -- the best interrupt type to try: "msix", "msi", "intx".
    Raises: what the registries raise; nothing is left attached or allocated then.
    """

    def __init__(
        self,
        host: DriverHost,
        ifp: Ifnet,
        device: Device,
        bus: Bus,
        pa: PciAttachArgs,
        unit: int,
        rx_queues: int,
        tx_queues: int,
        max_intr: IntrType = "msix",
    ) -> None:
        self.host = host
        self.ifp = ifp
        self.device = device
        self.bus = bus
        self.pa = pa
        self.unit = unit
        pa.enable()
        memory = pa.map(BAR_REGISTERS)
        if memory is None:
            raise NetstackError(ENXIO, f"{ifp.name}: BAR {BAR_REGISTERS} has no address")
        self.regs = DeviceRegs(memory, TABLE)
        self.legacy: WmLegacy | None = None
        self._handles: list[PciIntrHandle] = []
        self.tx: list[TxRing] = []
        self.rx: list[RxRing] = []
        self.link_handle: IntrHandle | None = None
        self._link_work = Workqueue(host.engine, f"{ifp.name} link", lambda _: self._follow_link())
        self._is_stopped = True
        ifp.driver = self
        self._attach_interrupts(rx_queues, tx_queues, max_intr)
        ifp.rx_queues = [ring.queue for ring in self.rx]
        ifp.tx_queues = [ring.queue for ring in self.tx]
        self._program()
        self.select_tx()
        ifp.set_transmit(self.transmit)

    @property
    def rings(self) -> list[RxRing | TxRing]:
        """Every queue of the device."""
        return [*self.tx, *self.rx]

    def init(self) -> None:
        """Start the device: fill the rings, clear the stopping flags, enable; RUNNING when the link is up.

        Context: control plane.   Source: NetBSD wm_init; flags are cleared before the device may work.
        """
        regs = self.regs
        for ring in self.rx:
            ring.queue.limit = self.host.drain_frames(ring.queue.ring.slots)
            ring.queue.fill()
            ring.queue.stopping = False
            regs.write(regs.offset("RXDCTL", ring.queue.index), DCTL_ENABLE)
        for out in self.tx:
            out.queue.stopping = False
            regs.write(regs.offset("TXDCTL", out.queue.index), DCTL_ENABLE)
        regs.write(regs.offset("TCTL"), TCTL_EN)
        self._unmask()
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
        regs = self.regs
        self._is_stopped = True
        self.ifp.flags &= ~IFF.RUNNING
        self._mask()
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
        pci_intr_release(self._handles)
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
        regs = self.regs
        if self._is_stopped:
            return
        is_up = bool(regs.read(regs.offset("STATUS")) & STATUS_LU)
        if is_up != bool(self.ifp.flags & IFF.RUNNING):
            self.ifp.flags ^= IFF.RUNNING
        if self.legacy is None:
            self.link_source.enable()  # a change since that look raises now

    def _attach_interrupts(self, rx_queues: int, tx_queues: int, max_intr: IntrType) -> None:
        """Get interrupts of the best type that can be had and established; fewer queues where it is not MSI-X.

        Source: paper §5.2; NetBSD if_wm.c: what fails to establish is released before the next type is tried.
        """
        for kind in TYPES[TYPES.index(max_intr) :]:
            counts: dict[IntrType, int] = {"msix": rx_queues + tx_queues + 1, "msi": 1, "intx": 1}
            counts.update({each: 0 for each in TYPES if each != kind})
            try:
                self._handles = pci_intr_alloc(self.pa, counts)
            except NetstackError:
                if kind == "intx":
                    raise
                continue
            self.intr_type: IntrType = kind
            try:
                self._make_rings(rx_queues if kind == "msix" else 1, tx_queues if kind == "msix" else 1)
                self._establish()
                return
            except BaseException as error:
                self._disestablish()
                pci_intr_release(self._handles)
                if kind == "intx" or not isinstance(error, NetstackError):
                    raise

    def _make_rings(self, rx_queues: int, tx_queues: int) -> None:
        """Make the queues with the sources they signal by, and the interrupts they have."""
        host, ifp = self.host, self.ifp
        if self.intr_type == "msix":
            sources = self.device.msix.sources
            tx_sources, rx_sources = sources[:tx_queues], sources[tx_queues : tx_queues + rx_queues]
            self.link_source = sources[tx_queues + rx_queues]
        else:
            causes = self.device.causes.sources
            tx_sources, rx_sources = [causes[ICR_TXDW]], [causes[ICR_RXT0]]
        self.tx = [
            TxRing(host, ifp, TxQueue(ifp.block, host.pool, i, WM_TX_SLOTS, IFQ_MAXLEN_FRAMES), source)
            for i, source in enumerate(tx_sources)
        ]
        self.rx = [
            RxRing(host, ifp, RxQueue(ifp.block, host.pool, i, WM_RX_SLOTS), source)
            for i, source in enumerate(rx_sources)
        ]
        if self.intr_type == "msix":
            for ring, ih in zip(self.rings, self._handles, strict=False):
                ring.intr = ih
        else:
            self.rx[0].intr = self._handles[0]
            self.legacy = WmLegacy(self.regs, self.rx[0], self.tx[0], self.link_intr)

    def _establish(self) -> None:
        name, cpus = self.ifp.name, self.host.ncpu
        if self.legacy is not None:
            self.legacy.attach(name, self._cpu_of(0, cpus))
            return
        for out in self.tx:
            i = out.queue.index
            softdrv_attach(out, f"{name} TX{i}", "", self._cpu_of(i, cpus))
        for ring in self.rx:
            i = ring.queue.index
            attach = harddrv_attach if self.host.frame == "classic" else softdrv_attach
            attach(ring, f"{name} RX{i}", "", self._cpu_of(i, cpus))
        self.link_handle = pci_intr_establish_xname(
            self.pa.chipset, self._handles[-1], IPL.VM, self.link_intr, None, f"{name} LINK"
        )

    def _cpu_of(self, queue: int, cpus: int) -> int:
        """Default affinity: queue i on CPU (offset + i) mod ncpu; CPU 0 is left alone when that is possible.

        Source: NetBSD if_wm.c; with one queue per interface, interfaces are spread instead.
        """
        count = len(self.rx)
        offset = 1 if 1 < count < cpus else 0
        return (offset + queue + (self.unit if count == 1 else 0)) % cpus

    def _disestablish(self) -> None:
        if self.legacy is not None:
            self.legacy.detach()
            return
        for ring in self.rings:
            softdrv_detach(ring)
        if self.link_handle is not None:
            pci_intr_disestablish(self.pa.chipset, self.link_handle)
            self.link_handle = None

    def _unmask(self) -> None:
        regs = self.regs
        if self.legacy is not None:
            regs.write(regs.offset("IMS"), CAUSES)
        else:
            regs.write(regs.offset("EIMS"), (1 << (len(self.tx) + len(self.rx) + 1)) - 1)

    def _mask(self) -> None:
        regs = self.regs
        if self.legacy is not None:
            regs.write(regs.offset("IMC"), CAUSES)
        else:
            regs.write(regs.offset("EIMC"), (1 << (len(self.tx) + len(self.rx) + 1)) - 1)

    def _program(self) -> None:
        """Write address, ring bases, vectors and, with more than one receive queue, RSS (paper §5.3)."""
        regs = self.regs
        mac = self.ifp.block.mac
        regs.write(regs.offset("RAL"), int.from_bytes(mac[:4], "little"))
        regs.write(regs.offset("RAH"), int.from_bytes(mac[4:], "little") | RAH_VALID)
        for out in self.tx:
            self._program_ring("TD", out.queue)
        for ring in self.rx:
            self._program_ring("RD", ring.queue)
        if self.legacy is None:
            self._program_vectors()
        if len(self.rx) > 1:
            for i in range(10):
                word = int.from_bytes(DEFAULT_KEY[4 * i : 4 * i + 4], "little")
                regs.write(regs.offset("RSSRK", i), word)
            entries = bytes(i % len(self.rx) for i in range(RETA_ENTRIES))
            for i in range(RETA_ENTRIES // 4):
                word = int.from_bytes(entries[4 * i : 4 * i + 4], "little")
                regs.write(regs.offset("RETA", i), word)
            regs.write(regs.offset("MRQC"), MRQC_RSS)

    def _program_vectors(self) -> None:
        """Tell each queue its entry of the MSI-X table (paper §5, Fig. 2)."""
        regs = self.regs
        regs.write(regs.offset("GPIE"), GPIE_MULTI_VECTOR)
        for out in self.tx:
            self._program_vector(out.queue.index, out.queue.index, is_tx=True)
        for ring in self.rx:
            self._program_vector(ring.queue.index, len(self.tx) + ring.queue.index, is_tx=False)
        link = len(self.tx) + len(self.rx)
        regs.write(regs.offset("IVAR_MISC"), (link | IVAR_VALID) << 8)

    def _program_ring(self, prefix: str, queue: RxQueue | TxQueue) -> None:
        regs = self.regs
        address = self.bus.map(queue)
        regs.write(regs.offset(f"{prefix}BAL", queue.index), address)
        regs.write(regs.offset(f"{prefix}BAH", queue.index), address >> 32)
        regs.write(regs.offset(f"{prefix}LEN", queue.index), queue.ring.slots * 16)

    def _program_vector(self, queue: int, vector: int, is_tx: bool) -> None:
        regs = self.regs
        index, shift = ivar_field(queue, is_tx)
        offset = regs.offset("IVAR", index)
        old = regs.read(offset) & ~(0xFF << shift)
        regs.write(offset, old | (vector | IVAR_VALID) << shift)


def _nothing() -> None:
    """Work of a cross-call that only waits."""
