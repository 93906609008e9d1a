"""Driver of virtio network devices, made MP-safe as the paper does it (§3.2.1; NetBSD if_vioif.c).

Each receive and each transmit queue has a spin mutex.  The TX mutex is held while frames are sent (``vioif_start``) and
while what was sent is cleaned up (``vioif_tx_vq_done``); the RX mutex while frames are taken (``vioif_rx_deq``) and
buffers filled in (``vioif_populate_rx_mbufs``), and not around ``if_input``.  ``stopping`` is looked at under the mutex
by all of them, and again by ``vioif_rx_deq`` each time ``if_input`` has returned.

With MSI-X one vector for changes of configuration and one per queue; else the line, and one pair.  In the softint frame
the handlers leave all work to softints.  In the classic frame they do it themselves up to the drain limit, and the CPU
interrupts itself by the same vector for the rest: a device does not interrupt twice for what it has given back.

A device that needs a reset, or whose rings lie, is reset by a thread; one that goes on like that stays down, and
``fault`` says why.
"""

from collections.abc import Callable
from errno import ENXIO, EPROTO
from typing import Any

from netstack._fast import kernels
from netstack._fast.dispositions import Drop
from netstack._fast.mbuf import MbufVec
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
from netstack.dev.vioif_queues import BUFFER_BYTES, FRAME_BYTES_MAX, RING_SLOTS, VioifControl, VioifRx, VioifTx
from netstack.dev.virtio_pci import VirtioPci
from netstack.dev.virtqueue import VirtQueue
from netstack.errors import NetstackError
from netstack.hw.vioif_regs import (
    CONFIG_BYTES,
    ISR_CONFIG,
    ISR_QUEUE,
    NET_LINK_UP,
    NO_VECTOR,
    VIRTIO_NET_F,
    VirtioStatus,
    rx_index,
    tx_index,
)
from netstack.hw.virtq_regs import SharedMemory, VirtqFault
from netstack.kern.spl import IPL
from netstack.kern.workqueue import Workqueue
from netstack.machine.api import Cpu, IntrHandle
from netstack.net.ifnet import IFF, Ifnet

__all__ = ["VioifDriver", "vioif_memory_bytes"]

WANTED = (
    VIRTIO_NET_F.MAC
    | VIRTIO_NET_F.STATUS
    | VIRTIO_NET_F.CTRL_VQ
    | VIRTIO_NET_F.MQ
    | VIRTIO_NET_F.INDIRECT_DESC
    | VIRTIO_NET_F.EVENT_IDX
    | VIRTIO_NET_F.VERSION_1
)
CTRL_SLOTS = 64
RESETS_MAX = 3  # of a device that misbehaves, from one init to the next
BURST_FRAMES = 256  # one vector


def vioif_memory_bytes(pairs: int) -> int:
    """Bytes of shared memory that a driver of so many pairs needs."""
    rings = RING_SLOTS * (16 + 4 * 16 + 16) + 1024
    return 2 * pairs * (RING_SLOTS * BUFFER_BYTES + rings) + 64 * 1024


class VioifDriver:
    """One attached device.

    Args:   pa -- the device on its bus.   memory -- what the device may reach.   unit -- number of the interface
            among its kind.   pairs -- queue pairs to use, at most: no more than the device has, or CPUs.
            max_intr -- the best interrupt type to try.
    Raises: what the registries raise, and NetstackError(ENXIO) for a device it cannot drive; nothing is left
            attached or allocated then.
    """

    def __init__(
        self,
        host: DriverHost,
        ifp: Ifnet,
        pa: PciAttachArgs,
        memory: SharedMemory,
        unit: int,
        pairs: int,
        max_intr: IntrType = "msix",
    ) -> None:
        self.host = host
        self.ifp = ifp
        self.pa = pa
        self.memory = memory
        self.unit = unit
        self.virtio = VirtioPci(pa, ifp.name)
        self.features = self.virtio.negotiate(WANTED)
        if not self.features & VIRTIO_NET_F.VERSION_1:
            raise NetstackError(ENXIO, f"{ifp.name}: a device from before virtio 1.0")
        self.pairs = min(pairs, self._pairs_of_device(), host.ncpu)
        self.active_pairs = 1
        self.fault = ""  # why it is down for good
        self.resets = 0  # since the last init
        self._distrusted = ""  # what a queue was caught at
        self._is_stopped = True
        self._handles: list[PciIntrHandle] = []
        self._cookies: list[IntrHandle] = []
        self._config_work = Workqueue(host.engine, f"{ifp.name} config", lambda _: self._follow_config())
        ifp.driver = self
        self.rx: list[VioifRx] = []
        self.tx: list[VioifTx] = []
        self.control: VioifControl | None = None  # with more than one pair
        self._attach_interrupts(max_intr)
        ifp.rx_queues = list(self.rx)  # type: ignore[arg-type]  # for the accounts: they have what those read
        ifp.tx_queues = list(self.tx)  # type: ignore[arg-type]
        ifp.if_transmit = self.transmit  # a slot in Python: the compiled loop leaves output to it

    # Control.

    def init(self) -> None:
        """Start the device; RUNNING when the link is up.

        Context: control plane.   Raises: NetstackError(EIO, ENXIO, EPROTO), the device does not do what it must.
        """
        self.fault = ""
        self.resets = 0
        self._bring_up()
        self._is_stopped = False
        self._follow_link()

    def stop(self) -> None:
        """Stop the device: on return no frame of it is delivered or sent, and no buffer of it is in use.

        Context: control plane; waits for handlers.
        Source:  paper §3.2.1 (vioif_stop): the flags first; NetBSD order: interrupts off, flags RX then TX each
                 under its mutex, handlers waited for, device reset, rings emptied.
        """
        self._is_stopped = True
        self._config_work.wait()
        self._take_down()

    def detach(self) -> None:
        """Stop and take everything back."""
        self.stop()
        self._disestablish()
        pci_intr_release(self._handles)

    def _bring_up(self) -> None:
        """Reset, negotiate, fill, start.  Flags of RX are cleared before filling, those of TX when pairs are set."""
        virtio = self.virtio
        virtio.negotiate(self.features)
        is_msix = self.intr_type == "msix"
        if is_msix:
            virtio.set_config_vector(0)
        for rxq, txq in zip(self.rx, self.tx, strict=True):
            rxq.vq.stop_intr()
            txq.vq.stop_intr()
            virtio.setup_queue(rx_index(rxq.index), rxq.vq, 1 + 2 * rxq.index if is_msix else NO_VECTOR)
            virtio.setup_queue(tx_index(txq.index), txq.vq, 2 + 2 * txq.index if is_msix else NO_VECTOR)
        if self.control is not None:
            self.control.vq.reset()
            virtio.setup_queue(self.control.index, self.control.vq, NO_VECTOR)
        virtio.add_status(VirtioStatus.DRIVER_OK)
        for rxq in self.rx:
            rxq.limit = self.host.drain_frames(rxq.vq.size)
            with rxq.lock:
                rxq.stopping = False
                self.vioif_populate_rx_mbufs(rxq)
        self.active_pairs = 1
        if self.control is not None and len(self.rx) > 1 and self.control.set_pairs(len(self.rx)):
            self.active_pairs = len(self.rx)
        for txq in self.tx:
            txq.set_stopping(False)
        for rxq in self.rx:
            self._restart(rxq)
        if virtio.needs_reset:
            raise NetstackError(EPROTO, f"{self.ifp.name}: the device needs a reset right after one")

    def _take_down(self) -> None:
        self.ifp.flags &= ~IFF.RUNNING
        for queue in (*self.rx, *self.tx):
            queue.vq.stop_intr()
        for queue in (*self.rx, *self.tx):
            queue.set_stopping(True)
        for cpu in self.host.engine.cpus:
            self.host.engine.cross_call(cpu.index, _nothing)
        self.virtio.reset()
        nobody = self.host.ncpu
        for rxq in self.rx:
            self.ifp.block.count_lost(nobody, Drop.STOPPED, rxq.forget())
        for txq in self.tx:
            self.ifp.block.count_drop(nobody, Drop.STOPPED, txq.forget())

    def _pairs_of_device(self) -> int:
        if not (self.features & VIRTIO_NET_F.MQ and self.features & VIRTIO_NET_F.CTRL_VQ):
            return 1
        return max(1, int.from_bytes(self.virtio.config(CONFIG_BYTES)[8:10], "little"))

    # Changes of configuration: link, and a device that gives up.

    def config_intr(self, _arg: object = None) -> None:
        """The device's configuration has changed: a thread follows.  Context: hard interrupt."""
        self._config_work.enqueue()

    def distrust(self, fault: VirtqFault, queue: VioifRx | VioifTx) -> None:
        """A ring lies: the queue stops at once, a thread resets the device.  Context: the queue's mutex is held."""
        queue.stopping = True
        self._distrusted = self._distrusted or str(fault)
        self._config_work.enqueue()

    def _follow_config(self) -> None:
        """Context: thread; may wait."""
        if self._is_stopped or self.fault:
            return
        if self._distrusted or self.virtio.needs_reset:
            self._recover()
        if not self._is_stopped and not self.fault:
            self._follow_link()

    def _follow_link(self) -> None:
        """Make RUNNING say what the link is."""
        link = int.from_bytes(self.virtio.config(8)[6:8], "little") if self.features & VIRTIO_NET_F.STATUS else 1
        is_up = bool(link & NET_LINK_UP)
        if is_up != bool(self.ifp.flags & IFF.RUNNING):
            self.ifp.flags ^= IFF.RUNNING

    def _recover(self) -> None:
        """Reset a device that misbehaves; after too many times, or when that fails, leave it down."""
        why = self._distrusted or "the device needs a reset"
        self._take_down()
        self._distrusted = ""
        self.resets += 1
        if self.resets > RESETS_MAX:
            self.fault = why
            return
        try:
            self._bring_up()
        except NetstackError as error:
            self._take_down()
            self.fault = str(error)

    # Transmit.

    def transmit(self, ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
        """The interface's ``if_transmit``: the intermediate queue of this CPU's pair; who gets its mutex sends.

        Context:  any but a read section.
        Consumes: every mbuf in ``mv``.
        Outcome:  sent or queued, or a drop: ``if_down``, ``stopped``, ``giant``, ``snd_full``.
        Source:   paper §5.4; NetBSD vioif_transmit.
        """
        engine, block = self.host.engine, ifp.block
        engine.charge("if_transmit", len(mv))
        frames = mv.frames()
        mv.clear()
        txq = self.tx[cpu.index % self.active_pairs]
        if not ifp.is_live or txq.stopping:
            block.count_drop(cpu.index, Drop.STOPPED if ifp.is_live else Drop.IF_DOWN, len(frames))
            return
        for frame in frames:
            if len(frame) > FRAME_BYTES_MAX:
                block.count_drop(cpu.index, Drop.GIANT, 1)
            elif not txq.queue.put(frame):
                block.count_drop(cpu.index, Drop.SND_FULL, 1)
        engine.charge("tx", len(frames))
        if not self._start(txq, cpu):
            txq.handovers += 1  # who holds it looks again after letting it go

    def _start(self, txq: VioifTx, cpu: Cpu) -> bool:
        """Send if the mutex is free; False when it is not.  Who finds it held leaves frames to who holds it."""
        while txq.lock.try_enter():
            try:
                self.vioif_start(txq, cpu)
            finally:
                txq.lock.exit()
            if not len(txq.queue) or txq.is_full or txq.stopping:
                return True
        return False

    def vioif_start(self, txq: VioifTx, cpu: Cpu) -> None:
        """Send what is queued.  Context: the TX mutex is held."""
        if txq.stopping:
            return
        try:
            txq.start_locked(cpu)
        except VirtqFault as fault:
            self.distrust(fault, txq)

    def vioif_tx_vq_done(self, txq: VioifTx) -> None:
        """Transmit completion: clean up, go on sending.

        Context: softint, or hard interrupt in the classic frame.
        """
        cpu = self.host.engine.curcpu()
        assert cpu is not None, "a handler runs on a CPU"
        with txq.lock:
            if not txq.stopping:
                self.vioif_start(txq, cpu)
        self._start(txq, cpu)

    # Receive.

    def vioif_rx_deq(self, rxq: VioifRx, cpu: Cpu) -> bool:
        """Receive up to the limit; say whether frames are left.

        Context: softint, or hard interrupt in the classic frame; no mutex held.
        Order:   as received.
        Source:  paper §3.2.1.
        """
        engine = self.host.engine
        left = rxq.limit
        with rxq.lock:
            rxq.activations += 1
            while left > 0 and not rxq.stopping:  # looked at again after every if_input
                mv = rxq.vector(cpu)
                try:
                    count = rxq.take_locked(cpu, mv, min(left, BURST_FRAMES))
                except VirtqFault as fault:
                    self.distrust(fault, rxq)
                    count = len(mv)
                self.vioif_populate_rx_mbufs(rxq)
                if not count:
                    return False
                left -= count
                rxq.lock.exit()
                try:
                    engine.charge("rx", count)
                    self._input(mv, cpu)
                finally:
                    rxq.lock.enter()
            return not rxq.stopping and rxq.ready > 0

    def vioif_populate_rx_mbufs(self, rxq: VioifRx) -> None:
        """Fill buffers in.  Context: the RX mutex is held."""
        rxq.populate_locked()

    def _input(self, mv: MbufVec, cpu: Cpu) -> None:
        """Hand a vector up; what a slot leaves in it is dropped as ``hook``."""
        try:
            self.ifp.if_input(self.ifp, mv, cpu)
        finally:
            if mv:
                kernels.drop(cpu.block, self.ifp.block, mv, Drop.HOOK)

    # Handlers.

    def rx_intr(self, rxq: VioifRx) -> None:
        """Context: hard interrupt."""
        rxq.vq.stop_intr()
        if self.host.frame == "classic":
            self._receive(rxq)
        elif rxq.softint is not None:
            self.host.engine.softints.schedule(rxq.softint)

    def _receive(self, rxq: VioifRx) -> None:
        """Receive; with frames left come again in the same context, else have the device interrupt again."""
        engine = self.host.engine
        cpu = engine.curcpu()
        assert cpu is not None, "a handler runs on a CPU"
        more = True
        try:
            more = self.vioif_rx_deq(rxq, cpu) or self._wants_more(rxq)
        finally:
            rxq.is_due = more
            if more and self.host.frame == "classic" and rxq.handle is not None:
                engine.controller.post(rxq.handle.cpu, rxq.handle.slot)
            elif more and rxq.softint is not None:
                engine.softints.schedule(rxq.softint)

    def _wants_more(self, rxq: VioifRx) -> bool:
        """Enable the queue's interrupt; True: frames came before that."""
        with rxq.lock:
            return not rxq.stopping and rxq.vq.start_intr()

    def _restart(self, rxq: VioifRx) -> None:
        if self._wants_more(rxq) and rxq.softint is not None and rxq.handle is not None:
            self.host.engine.softints.schedule_cpu(rxq.softint, rxq.handle.cpu)

    def tx_intr(self, txq: VioifTx) -> None:
        """Context: hard interrupt."""
        txq.vq.stop_intr()
        if self.host.frame == "classic":
            self.vioif_tx_vq_done(txq)
        elif txq.softint is not None:
            self.host.engine.softints.schedule(txq.softint)

    def line_intr(self, _arg: object) -> bool:
        """Handler of the line.  Context: hard interrupt.   Returns: whether this device had interrupted."""
        self.host.engine.charge("intx")
        causes = self.virtio.isr()
        if causes & ISR_CONFIG:
            self.config_intr()
        is_ours = bool(causes) or self.rx[0].is_due
        if causes & ISR_QUEUE or self.rx[0].is_due:
            self.rx_intr(self.rx[0])
        if causes & ISR_QUEUE:
            self.tx_intr(self.tx[0])
        return is_ours

    # Attachment.

    def _attach_interrupts(self, max_intr: IntrType) -> None:
        """Get MSI-X for all queues, or the line and one pair; the device has no MSI."""
        for kind in TYPES[TYPES.index(max_intr) :]:
            counts: dict[IntrType, int] = {"msix": 2 * self.pairs + 1, "msi": 1, "intx": 1}
            counts.update({each: 0 for each in TYPES if each != kind})
            try:
                self._handles = pci_intr_alloc(self.pa, counts)
            except NetstackError:
                if kind == "intx":
                    raise
                continue
            self.intr_type: IntrType = kind
            try:
                self._make_queues(self.pairs if kind == "msix" else 1)
                self._establish()
                return
            except BaseException as error:
                self._disestablish()
                pci_intr_release(self._handles)
                if kind == "intx" or not isinstance(error, NetstackError):
                    raise

    def _make_queues(self, pairs: int) -> None:
        if not self.rx:
            if pairs > 1:
                index = 2 * self._pairs_of_device()
                vq = self._new_vq("ctrl", CTRL_SLOTS)
                self.control = VioifControl(self.host, index, vq, self._notifier(index))
            for i in range(pairs):
                rx = self._new_vq(f"rx{i}", RING_SLOTS)
                tx = self._new_vq(f"tx{i}", RING_SLOTS)
                self.rx.append(VioifRx(self.host, self.ifp, i, rx, self._notifier(rx_index(i))))
                self.tx.append(VioifTx(self.host, self.ifp, i, tx, self._notifier(tx_index(i))))
        del self.rx[pairs:], self.tx[pairs:]

    def _new_vq(self, name: str, size: int) -> VirtQueue:
        return VirtQueue(
            self.memory,
            f"{self.ifp.name} {name}",
            size,
            indirect=bool(self.features & VIRTIO_NET_F.INDIRECT_DESC),
            event_idx=bool(self.features & VIRTIO_NET_F.EVENT_IDX),
        )

    def _notifier(self, index: int) -> Callable[[], None]:
        return lambda: self.virtio.notify(index)

    def _establish(self) -> None:
        name, chipset, softints = self.ifp.name, self.pa.chipset, self.host.engine.softints
        for rxq, txq in zip(self.rx, self.tx, strict=True):
            rxq.softint = softints.establish("net", self._receive, rxq, name=f"{name} RX{rxq.index} softint")
            txq.softint = softints.establish(
                "net", self.vioif_tx_vq_done, txq, name=f"{name} TX{txq.index} softint"
            )
        cpus = self.host.ncpu
        if self.intr_type == "msix":
            self._bind(0, self.config_intr, None, f"{name} CONFIG", 0)
            for rxq, txq in zip(self.rx, self.tx, strict=True):
                cpu = (self.unit + rxq.index) % cpus if len(self.rx) == 1 else rxq.index % cpus
                rxq.handle = self._bind(1 + 2 * rxq.index, self.rx_intr, rxq, f"{name} RX{rxq.index}", cpu)
                txq.handle = self._bind(2 + 2 * txq.index, self.tx_intr, txq, f"{name} TX{txq.index}", cpu)
        else:
            cookie = pci_intr_establish_xname(
                chipset, self._handles[0], IPL.NET, self.line_intr, None, f"{name} INTX", cpu=self.unit % cpus
            )
            self._cookies.append(cookie)
            self.rx[0].handle = self.tx[0].handle = cookie

    def _bind(self, entry: int, fn: Callable[[Any], object], arg: Any, name: str, cpu: int) -> IntrHandle:
        cookie = pci_intr_establish_xname(self.pa.chipset, self._handles[entry], IPL.NET, fn, arg, name, cpu=cpu)
        self._cookies.append(cookie)
        return cookie

    def _disestablish(self) -> None:
        for cookie in self._cookies:
            pci_intr_disestablish(self.pa.chipset, cookie)
        self._cookies.clear()
        for queue in (*self.rx, *self.tx):
            queue.handle = None
            if queue.softint is not None:
                self.host.engine.softints.disestablish(queue.softint)
                queue.softint = None


def _nothing() -> None:
    """Work of a cross-call that only waits."""
