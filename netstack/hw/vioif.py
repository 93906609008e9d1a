"""Model of a virtio network device on PCI, version 1: pairs of queues, control queue, MSI-X or a line (paper §3.2.1).

Driven by its registers and by what lies in shared memory.  What breaks a rule there is contained: the device stops,
sets NEEDS_RESET, says why in ``fault``, counts it in ``faults`` and interrupts for a change of configuration;
a reset makes it whole.

A frame that finds no buffer waits on the cable.  Which pair a flow goes to is a hash over its addresses.

Source:  VIRTIO 1.2, chapters 2, 4.1 and 5.1.
Context: registers -- the driver, from any handler for notifications; ``arrive`` -- any thread.
"""

from types import TracebackType
from typing import Any

from netstack._fast.intr import IntrController, IntrSource
from netstack._fast.lock import SpinLock
from netstack._fast.rss import Rss
from netstack.hw.intx import IntxFunction
from netstack.hw.msix import MsixCapability, MsixTable
from netstack.hw.pci import PciFunction, Region
from netstack.hw.pci_regs import COMMAND_INTX_DISABLE, COMMAND_MASTER
from netstack.hw.vioif_queues import ControlQueue, ModelQueue, NetRx, NetTx, TxEnd
from netstack.hw.vioif_regs import (
    BAR_MSIX,
    BAR_VIRTIO,
    CAP_BYTES,
    CAP_VENDOR,
    CFG_COMMON,
    CFG_DEVICE,
    CFG_ISR,
    CFG_NOTIFY,
    CLASS_ETHERNET,
    COMMON,
    CTRL_MQ_PAIRS_MAX,
    DEVICE_NET,
    ISR_CONFIG,
    ISR_QUEUE,
    NET_LINK_UP,
    NO_VECTOR,
    NOTIFY_STRIDE,
    STRUCTURES,
    VENDOR_VIRTIO,
    VIRTIO_BYTES,
    VIRTIO_NET_F,
    VirtioStatus,
)
from netstack.hw.virtq_regs import SharedMemory, VirtqFault
from netstack.hw.wire import Wire

__all__ = ["OFFERED", "VioifModel"]

OFFERED = (
    VIRTIO_NET_F.MAC
    | VIRTIO_NET_F.STATUS
    | VIRTIO_NET_F.CTRL_VQ
    | VIRTIO_NET_F.MQ
    | VIRTIO_NET_F.INDIRECT_DESC
    | VIRTIO_NET_F.EVENT_IDX
    | VIRTIO_NET_F.VERSION_1
)


class VioifModel:
    """One device.

    Args: memory -- all it may reach.   mac -- of its configuration.   pairs -- queue pairs it has.
          limit_frames -- what the cable holds each way.   features -- those it offers.
          vectors -- entries of its MSI-X table; 0: it has none.
    """

    def __init__(
        self,
        name: str,
        controller: IntrController,
        memory: SharedMemory,
        mac: bytes,
        pairs: int,
        limit_frames: int,
        features: VIRTIO_NET_F = OFFERED,
        vectors: int | None = None,
    ) -> None:
        self.name = name
        self.memory = memory
        self.mac = mac
        self.pairs = pairs
        self.features = features
        self.driver_features = VIRTIO_NET_F(0)
        self.status = VirtioStatus(0)
        self.active_pairs = 1
        self.is_link_up = True
        self.is_paused = False  # the far end holds our sending off (flow control)
        self.fault = ""  # why it needs a reset
        self.faults = 0
        self.resets = 0
        self.turned_away = 0  # frames that came while it was not receiving
        self.tx_port = TxEnd(limit_frames)
        self.rx_engines = [NetRx(self, i, limit_frames) for i in range(pairs)]
        self.tx_engines = [NetTx(self, i) for i in range(pairs)]
        self.control = ControlQueue(self, pairs)
        self.wire = Wire(name, self)
        self._rss = Rss()
        self._lock = OneAtATime()
        self._isr = 0
        self._generation = 0
        self._select = {"device_feature_select": 0, "driver_feature_select": 0, "queue_select": 0}
        self._config_vector = NO_VECTOR
        self._build_function(controller, 2 * pairs + 1 if vectors is None else vectors)

    def _build_function(self, controller: IntrController, vectors: int) -> None:
        """What the bus sees."""
        self.function = PciFunction(VENDOR_VIRTIO, DEVICE_NET, CLASS_ETHERNET, revision=1)
        self.function.add_region(BAR_VIRTIO, Region(VIRTIO_BYTES, self._memory_read, self._memory_write))
        for kind in STRUCTURES:
            self.function.add_capability(VirtioCapability(kind))
        self.msix: MsixTable | None = None
        self._msix_capability: MsixCapability | None = None
        if vectors:
            self.msix = MsixTable(controller, vectors)
            self._msix_capability = MsixCapability(self.msix, BAR_MSIX)
            self.function.add_region(BAR_MSIX, self._msix_capability.region)
            self.function.add_capability(self._msix_capability)
            for source in self.msix.sources:
                source.enable()
        self._line_source = IntrSource(controller)
        self._line_source.enable()
        self.intx = IntxFunction([self._line_source], self._may_use_line, lambda: self._isr != 0)
        self.function.is_asserted = lambda: self._isr != 0
        self.function.command_changed = self._follow_command

    # The wire.

    def arrive(self, frames: list[Any]) -> int:
        """Take frames from the far end; how many found room on the cable."""
        with self._lock:
            if not self.is_running or not self.is_link_up:
                self.turned_away += len(frames)
                return len(frames)
            done = 0
            touched: set[int] = set()
            for frame in frames:
                pair = self._rss.hash(frame) % self.active_pairs if self.active_pairs > 1 else 0
                if not self.rx_engines[pair].cable.put(frame):
                    break
                touched.add(pair)
                done += 1
            for pair in sorted(touched):
                self._work(self.rx_engines[pair])
        return done

    def depart(self, count: int) -> list[bytes]:
        """Return frames that went out."""
        return self.tx_port.cable.take(count)

    def set_link(self, is_up: bool) -> None:
        """Plug the cable in or pull it; interrupts for a change of configuration."""
        with self._lock:
            self.is_link_up = is_up
            self._config_changed()

    def pause(self, is_paused: bool) -> None:
        """Hold sending off, or let it go on, as flow control from the far end does."""
        with self._lock:
            self.is_paused = is_paused
            if not is_paused and self.is_running:
                for engine in self.tx_engines:
                    self._work(engine)

    @property
    def is_running(self) -> bool:
        """Whether the driver has started it, and nothing is broken."""
        return bool(self.status & VirtioStatus.DRIVER_OK) and not self.status & VirtioStatus.NEEDS_RESET

    # Queues.

    def queue(self, index: int) -> ModelQueue | None:
        """Return a queue by its number: receive and transmit in turn, control after the last pair."""
        if 0 <= index < 2 * self.pairs:
            return self.tx_engines[index // 2] if index % 2 else self.rx_engines[index // 2]
        has_control = self.features & VIRTIO_NET_F.CTRL_VQ
        return self.control if index == 2 * self.pairs and has_control else None

    def set_pairs(self, pairs: int) -> bool:
        """Control queue: use so many pairs.  False: the driver may not ask for that."""
        if not self.driver_features & VIRTIO_NET_F.MQ or not 1 <= pairs <= min(self.pairs, CTRL_MQ_PAIRS_MAX):
            return False
        self.active_pairs = pairs
        return True

    def _work(self, queue: ModelQueue) -> None:
        """Serve one queue; what is wrong in it stops the device."""
        if not self.is_running or queue.vring is None:
            return
        try:
            queue.run()
        except VirtqFault as fault:
            self._break(str(fault))
            return
        if queue.vring.wants_interrupt():
            self._interrupt(queue.vector, ISR_QUEUE)

    def _break(self, text: str) -> None:
        """Contain: stop, and say so."""
        self.fault = text
        self.faults += 1
        self.status |= VirtioStatus.NEEDS_RESET
        if self.status & VirtioStatus.DRIVER_OK:
            self._config_changed()

    def _reset(self) -> None:
        self.resets += 1
        self.status = VirtioStatus(0)
        self.fault = ""
        self.driver_features = VIRTIO_NET_F(0)
        self.active_pairs = 1
        self._isr = 0
        self._config_vector = NO_VECTOR
        self._select = dict.fromkeys(self._select, 0)
        for queue in (*self.rx_engines, *self.tx_engines, self.control):
            queue.reset()

    # Interrupts.

    def _interrupt(self, vector: int, cause: int) -> None:
        """Signal by the vector, or by the line.  There is no mask in the device: the source is open again at once."""
        capability = self._msix_capability
        if capability is not None and capability.is_enabled:
            if self.msix is not None and vector < len(self.msix.sources):
                source = self.msix.sources[vector]
                source.raise_()
                source.enable()
            return
        self._isr |= cause
        self._line_source.raise_()
        self._line_source.enable()

    def _config_changed(self) -> None:
        self._generation = (self._generation + 1) & 0xFF
        self._interrupt(self._config_vector, ISR_CONFIG)

    def _may_use_line(self) -> bool:
        is_message = self._msix_capability is not None and self._msix_capability.is_enabled
        return not is_message and not self.function.command & COMMAND_INTX_DISABLE

    def _follow_command(self) -> None:
        is_master = bool(self.function.command & COMMAND_MASTER)
        capability = self._msix_capability
        if capability is not None and capability.is_allowed != is_master:
            capability.is_allowed = is_master
            capability.apply()
        if self.intx.line is not None:
            self.intx.line.apply()

    # Registers.

    def _memory_read(self, offset: int) -> int:
        kind, at = _structure(offset)
        with self._lock:
            if kind == CFG_COMMON:
                fields = ((name, place) for name, place in COMMON.items() if place[0] & ~3 == at)
                return sum(self._get(name) << 8 * (start - at) for name, (start, _) in fields)
            if kind == CFG_ISR:
                isr, self._isr = self._isr, 0
                return isr
            if kind == CFG_DEVICE:
                return int.from_bytes(self._config()[at : at + 4], "little")
        return 0

    def _memory_write(self, offset: int, value: int) -> None:
        kind, at = _structure(offset)
        with self._lock:
            if kind == CFG_COMMON:
                for name, (start, nbytes) in COMMON.items():
                    if start & ~3 == at:
                        part = value >> 8 * (start - at) & (1 << 8 * nbytes) - 1
                        if part != self._get(name):
                            self._set(name, part)
            elif kind == CFG_NOTIFY:
                queue = self.queue(value & 0xFFFF)
                if queue is not None:
                    self._work(queue)

    def _config(self) -> bytes:
        """The device's own structure: address, status, pairs."""
        link = NET_LINK_UP if self.is_link_up else 0
        return self.mac + link.to_bytes(2, "little") + self.pairs.to_bytes(2, "little") + bytes(2)

    @property
    def _selected(self) -> ModelQueue | None:
        return self.queue(self._select["queue_select"])

    def _get(self, name: str) -> int:
        """Value of a field of the common structure."""
        if name in self._select:
            return self._select[name]
        if name in ("device_feature", "driver_feature"):
            features = self.features if name == "device_feature" else self.driver_features
            select = self._select[f"{name}_select"]
            return int(features) >> 32 * select & 0xFFFFFFFF if select < 2 else 0
        match name:
            case "config_msix_vector":
                return self._config_vector
            case "num_queues":
                return 2 * self.pairs + bool(self.features & VIRTIO_NET_F.CTRL_VQ)
            case "device_status":
                return int(self.status)
            case "config_generation":
                return self._generation
        queue = self._selected
        if queue is None:
            return NO_VECTOR if name == "queue_msix_vector" else 0
        return queue.get(name, self._select["queue_select"])

    def _set(self, name: str, value: int) -> None:
        """Take a field of the common structure that changes."""
        if name in self._select:
            self._select[name] = value
        elif name == "driver_feature":
            self._set_features(self._select["driver_feature_select"], value)
        elif name == "device_status":
            self._set_status(value)
        elif name == "config_msix_vector":
            self._config_vector = self._vector(value)
        elif name == "queue_msix_vector":
            if (queue := self._selected) is not None:
                queue.vector = self._vector(value)
        elif name == "queue_enable":
            if value == 1 and self.status & VirtioStatus.FEATURES_OK and (queue := self._selected) is not None:
                self._enable(queue)
        elif name.startswith("queue_") and name != "queue_notify_off":
            if (queue := self._selected) is not None and queue.vring is None:
                queue.set(name, value)

    def _vector(self, value: int) -> int:
        """A vector that is not there reads back as none."""
        return value if self.msix is not None and value < len(self.msix.sources) else NO_VECTOR

    def _set_features(self, select: int, value: int) -> None:
        if select < 2 and not self.status & VirtioStatus.FEATURES_OK:
            kept = int(self.driver_features) & ~(0xFFFFFFFF << 32 * select)
            self.driver_features = VIRTIO_NET_F(kept | value << 32 * select)

    def _set_status(self, value: int) -> None:
        if not value:
            self._reset()
            return
        new = VirtioStatus(value) & ~VirtioStatus.NEEDS_RESET | self.status  # only a reset takes bits back
        wants = self.driver_features
        if new & VirtioStatus.FEATURES_OK and (
            int(wants) & ~int(self.features) or not wants & VIRTIO_NET_F.VERSION_1
        ):
            new &= ~VirtioStatus.FEATURES_OK  # the driver reads back that it is refused
        if not new & VirtioStatus.FEATURES_OK:
            new &= ~VirtioStatus.DRIVER_OK
        self.status = new
        if self.is_running:
            for engine in self.rx_engines:
                self._work(engine)  # frames that wait on the cable from before

    def _enable(self, queue: ModelQueue) -> None:
        try:
            queue.enable(self.driver_features)
        except VirtqFault as fault:
            self._break(str(fault))


class OneAtATime:
    """Who has the device's state.  Never held over a call into the machine; who waits gives the interpreter up."""

    def __init__(self) -> None:
        self._lock = SpinLock()

    def __enter__(self) -> None:
        if not self._lock.try_enter():
            self._lock.enter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.exit()


class VirtioCapability:
    """An entry of the capability list that says where one structure lies (VIRTIO 1.2, 4.1.4)."""

    ident = CAP_VENDOR

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.nbytes = CAP_BYTES + 4 * (kind == CFG_NOTIFY)

    def read(self, offset: int) -> int:
        """Return a word: length and kind, BAR, offset, bytes, and the stride of notifications."""
        at, nbytes = STRUCTURES[self.kind]
        words = (self.nbytes << 16 | self.kind << 24, BAR_VIRTIO, at, nbytes, NOTIFY_STRIDE)
        return words[offset // 4]

    def write(self, offset: int, value: int) -> None:
        """Nothing here can be written."""


def _structure(offset: int) -> tuple[int, int]:
    """Return which structure lies at an offset behind the BAR, and where in it."""
    for kind, (start, nbytes) in STRUCTURES.items():
        if start <= offset < start + nbytes:
            return kind, offset - start
    return 0, 0
