"""A NIC on a bench: the model, host memory, a clock to turn by hand, and registers poked directly."""

from collections.abc import Callable

from netstack._fast import kernels
from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.ifnet import FLAG_RUNNING, FLAG_UP, IfnetBlock
from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pserialize import PSerialize
from netstack._fast.queue import RxQueue, TxQueue
from netstack._fast.rss import DEFAULT_KEY
from netstack.hw.dma import DmaMap
from netstack.hw.wm import WmModel
from netstack.hw.wm_regs import (
    DCTL_ENABLE,
    GPIE_MULTI_VECTOR,
    IVAR_VALID,
    MRQC_RSS,
    RCTL_EN,
    TCTL_EN,
    ivar_field,
)

SLOTS = 8


class HandClock:
    """Machine time that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 0
        self.events: list[tuple[int, Callable[[], object]]] = []

    def now_ns(self) -> int:
        return self.now

    def at(self, when_ns: int, fn: Callable[[], object], background: bool = False) -> None:
        self.events.append((when_ns, fn))

    def advance(self, until_ns: int) -> list[int]:
        """Make all calls due until a time; return when they were made."""
        made = []
        while due := [event for event in self.events if event[0] <= until_ns]:
            event = min(due, key=lambda each: each[0])
            self.events.remove(event)
            self.now = max(self.now, event[0])
            made.append(self.now)
            event[1]()
        self.now = until_ns
        return made


class Board:
    """A model with ``nrx`` and ``ntx`` queues programmed as a driver does it; vectors: TX, RX, link."""

    def __init__(self, nrx: int = 1, ntx: int = 1, *, start: bool = True) -> None:
        self.clock = HandClock()
        self.controller = IntrController(2)
        self.pool = MbufPool(512, 2)
        soft, psz = SoftintTable(), PSerialize(2)
        self.cpu = CpuBlock(0, self.controller, self.pool, soft, psz)
        self.ifp = IfnetBlock(1, b"\x02\0\0\0\0\1")
        self.ifp.flags = FLAG_UP | FLAG_RUNNING
        self.dma = DmaMap()
        self.hw = WmModel("wm0", self.clock, self.controller, self.dma, 1000)
        self.regs = self.hw.regs
        self.hw.msix.set_control(enabled=True, masked=False)
        self.write("GPIE", GPIE_MULTI_VECTOR)
        self.rxqs = [RxQueue(self.ifp, self.pool, i, SLOTS) for i in range(nrx)]
        self.txqs = [TxQueue(self.ifp, self.pool, i, SLOTS) for i in range(ntx)]
        self.ifp.set_txqs(self.txqs, [0, min(1, ntx - 1), 0])
        for queue in self.rxqs:
            self.base("RDB", queue)
            self.vector(queue.index, ntx + queue.index, is_tx=False)
            queue.fill()
            queue.stopping = False
        for out in self.txqs:
            self.base("TDB", out)
            self.vector(out.index, out.index, is_tx=True)
            out.stopping = False
        self.write("IVAR_MISC", (ntx + nrx | IVAR_VALID) << 8)
        if start:
            self.start()

    def start(self) -> None:
        """Enable queues, then the engines."""
        for i in range(len(self.rxqs)):
            self.write("RXDCTL", DCTL_ENABLE, i)
        for i in range(len(self.txqs)):
            self.write("TXDCTL", DCTL_ENABLE, i)
        self.write("TCTL", TCTL_EN)
        self.write("RCTL", RCTL_EN)

    def write(self, name: str, value: int, index: int = 0) -> None:
        self.regs.write(self.regs.offset(name, index), value)

    def read(self, name: str, index: int = 0) -> int:
        return self.regs.read(self.regs.offset(name, index))

    def base(self, prefix: str, queue: RxQueue | TxQueue) -> None:
        """Program the base address of a ring."""
        address = self.dma.map(queue)
        self.write(f"{prefix}AL", address, queue.index)
        self.write(f"{prefix}AH", address >> 32, queue.index)

    def vector(self, queue: int, vector: int, is_tx: bool) -> None:
        """Program an IVAR field."""
        index, shift = ivar_field(queue, is_tx)
        old = self.read("IVAR", index) & ~(0xFF << shift)
        self.write("IVAR", old | (vector | IVAR_VALID) << shift, index)

    def spread(self, table: bytes, key: bytes = DEFAULT_KEY) -> None:
        """Program RSS."""
        for i in range(10):
            self.write("RSSRK", int.from_bytes(key[4 * i : 4 * i + 4], "little"), i)
        for i in range(32):
            self.write("RETA", int.from_bytes(table[4 * i : 4 * i + 4], "little"), i)
        self.write("MRQC", MRQC_RSS)

    def causes(self) -> list[int]:
        """Vectors whose cause is set."""
        return [number for number, source in enumerate(self.hw.msix.sources) if source.cause]

    def received(self, queue: int = 0) -> list[bytes]:
        """Take what arrived in a ring."""
        mv = MbufVec(self.pool, 0)
        kernels.rx_drain(self.cpu, self.rxqs[queue], mv, 256)
        frames = mv.frames()
        mv.clear()
        return frames

    def send(self, *frames: bytes) -> None:
        """Have CPU 0 transmit frames."""
        mv = MbufVec(self.pool, 0)
        for each in frames:
            mv.append(each)
        kernels.if_transmit(self.cpu, self.ifp, mv)
        self.hw.ring_doorbell()
