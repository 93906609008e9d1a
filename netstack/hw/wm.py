"""Model of an I354-class NIC: queues, RSS, vectors, counters (paper §5, Fig. 2; Intel I350 datasheet).

Driven by register writes only.  A queue starts when its RXDCTL or TXDCTL enable bit is written: the model then looks up
the ring at the base address and puts a compiled engine on it.  With GPIE's multi-vector bit a cause of a queue is
raised on the MSI-X entry that its IVAR field names, else on the cause register (``hw/wm_causes.py``).
On the bus it is a function with its registers behind BAR 0 and its MSI-X table behind BAR 3.

Context: registers -- the driver's control plane; ``arrive`` -- any thread.
"""

from typing import Any

from netstack._fast.intr import IntrController
from netstack._fast.queue import RxQueue, TxQueue
from netstack._fast.rss import Rss
from netstack._fast.wire import Cable, HwRxQueue, HwTxQueue, TxPort
from netstack.hw.dma import DmaMap
from netstack.hw.intx import IntxFunction
from netstack.hw.msi import MsiCapability
from netstack.hw.msix import MsixCapability, MsixTable
from netstack.hw.pacing import Clock, Pacer
from netstack.hw.pci import PciFunction, Region
from netstack.hw.pci_regs import COMMAND_INTX_DISABLE, COMMAND_MASTER
from netstack.hw.regs import RegisterFile
from netstack.hw.wire import Wire
from netstack.hw.wm_causes import WmCauses
from netstack.hw.wm_regs import (
    BAR_MSIX,
    BAR_REGISTERS,
    CLASS_ETHERNET,
    CTRL_RST,
    DCTL_ENABLE,
    DEVICE_I354_SGMII,
    GPIE_MULTI_VECTOR,
    ICR_LSC,
    ICR_RXT0,
    ICR_TXDW,
    IVAR_VALID,
    MRQC_RSS,
    QUEUES_MAX,
    RCTL_EN,
    REGISTER_BYTES,
    STATUS_LU,
    TABLE,
    TCTL_EN,
    VECTORS_MAX,
    VENDOR_INTEL,
    ivar_field,
)

__all__ = ["WmModel"]

RETA_ENTRIES = 128


class WmModel:
    """One NIC.

    Args: name -- of the device, for messages.   clock -- machine time.   controller -- where its
          messages go.   dma -- host memory.   limit_frames -- what the cable holds each way.
    """

    def __init__(
        self, name: str, clock: Clock, controller: IntrController, dma: DmaMap, limit_frames: int
    ) -> None:
        self.name = name
        self.clock = clock
        self.msix = MsixTable(controller, VECTORS_MAX)
        self.regs = RegisterFile(TABLE)
        self.causes = WmCauses(controller, self.regs)
        self.rss = Rss()
        self.rx_engines: list[HwRxQueue] = []
        self.tx_engines: list[HwTxQueue] = []
        self.limit_frames = limit_frames
        self.tx_port = TxPort(Cable(limit_frames))
        self.pacer = Pacer(clock, self)
        self.wire = Wire(name, self)
        self.turned_away = 0  # frames that came while receiving was off
        self._dma = dma
        self._cables: list[Cable] = []
        self._is_spread = False  # more than one receive queue: RSS decides
        self._hook_registers()
        self._build_function(controller)

    def _build_function(self, controller: IntrController) -> None:
        """What the bus sees."""
        self.function = PciFunction(VENDOR_INTEL, DEVICE_I354_SGMII, CLASS_ETHERNET)
        self.msi_capability = MsiCapability(controller, list(self.causes.sources.values()))
        self.msix_capability = MsixCapability(self.msix, BAR_MSIX)
        self.function.add_region(BAR_REGISTERS, Region(REGISTER_BYTES, self.regs.read, self.regs.write))
        self.function.add_region(BAR_MSIX, self.msix_capability.region)
        self.function.add_capability(self.msi_capability)
        self.function.add_capability(self.msix_capability)
        self.intx = IntxFunction(
            list(self.causes.sources.values()), self._may_use_line, lambda: self.causes.is_asserted
        )
        self.function.is_asserted = lambda: self.causes.is_asserted
        self.function.command_changed = self._follow_command

    def _may_use_line(self) -> bool:
        is_message = self.msi_capability.is_enabled or self.msix_capability.is_enabled
        return not is_message and not self.function.command & COMMAND_INTX_DISABLE

    def _follow_command(self) -> None:
        is_master = bool(self.function.command & COMMAND_MASTER)
        for capability in (self.msi_capability, self.msix_capability):
            if capability.is_allowed != is_master:
                capability.is_allowed = is_master
                capability.apply()
        if self.intx.line is not None:
            self.intx.line.apply()

    # The wire.

    def arrive(self, frames: list[Any]) -> int:
        """Take frames from the far end: pick the queue, let its engine work; how many found room."""
        engines = self.rx_engines
        if not engines or not self.regs.get("RCTL") & RCTL_EN or not self.regs.get("STATUS") & STATUS_LU:
            self.turned_away += len(frames)
            return len(frames)
        done = 0
        queues: set[int] = set()
        if not self._is_spread:
            put = engines[0].cable.put
            for frame in frames:
                if not put(frame):
                    break
                done += 1
            queues.add(0)
        else:
            for frame in frames:
                hashed = self.rss.hash(frame)
                queue = self.rss.table[hashed & RETA_ENTRIES - 1]
                if not engines[queue].cable.put(frame, hashed):
                    break
                done += 1
                queues.add(queue)
        now_ns = self.clock.now_ns()
        for queue in sorted(queues):
            engines[queue].run(now_ns)
        return done

    def depart(self, count: int) -> list[bytes]:
        """Return frames that went out."""
        return self.tx_port.cable.take(count)

    def pace(self, clock: Clock) -> None:
        """Let machine time drive the generators of this NIC's queues (virtual clock)."""
        self.pacer.pace_rx(clock)

    def ring_doorbell(self) -> None:
        """Tell the device that transmit descriptors were added: only a wire with a rate needs it."""
        self.pacer.kick_tx()

    def set_link(self, is_up: bool) -> None:
        """Plug the cable in or pull it; raises the link interrupt."""
        before = self.regs.get("STATUS")
        self.regs.set("STATUS", before | STATUS_LU if is_up else before & ~STATUS_LU)
        vector = self.regs.get("IVAR_MISC") >> 8 & 0xFF
        if not self._is_multi_vector:
            self.causes.sources[ICR_LSC].raise_()
        elif vector & IVAR_VALID and vector & ~IVAR_VALID < VECTORS_MAX:
            self.msix.sources[vector & ~IVAR_VALID].raise_()

    # Registers.

    @property
    def _is_multi_vector(self) -> bool:
        return bool(self.regs.get("GPIE") & GPIE_MULTI_VECTOR)

    def _hook_registers(self) -> None:
        regs = self.regs
        regs.on_write("CTRL", self._write_ctrl)
        regs.on_write("RXDCTL", self._write_rxdctl)
        regs.on_write("TXDCTL", self._write_txdctl)
        regs.on_write("EIMS", lambda _i, value: self._each_vector(value, "enable"))
        regs.on_write("EIMC", self._write_eimc)
        regs.on_write("EICS", lambda _i, value: self._each_vector(value, "raise_"))
        regs.on_write("RETA", lambda _i, _v: self._load_rss())
        regs.on_write("RSSRK", lambda _i, _v: self._load_rss())
        regs.on_write("MRQC", lambda _i, _v: self._load_rss())
        regs.on_write("RCTL", lambda _i, _v: self._enable_engines())
        regs.on_write("TCTL", lambda _i, _v: self._enable_engines())
        regs.on_read("EICR", lambda _i: sum(s.cause << n for n, s in enumerate(self.msix.sources)))
        regs.on_read("MPC", lambda _i: sum(hw.missed for hw in self.rx_engines))
        regs.on_read("ROC", lambda _i: sum(hw.oversize for hw in self.rx_engines))
        regs.on_read("GPRC", lambda _i: sum(hw.received for hw in self.rx_engines))
        regs.on_read("GPTC", lambda _i: sum(hw.frames for hw in self.tx_engines))
        regs.set("STATUS", STATUS_LU)

    def _write_ctrl(self, _index: int, value: int) -> None:
        if value & CTRL_RST:
            engines: list[HwRxQueue | HwTxQueue] = [*self.rx_engines, *self.tx_engines]
            for engine in engines:
                engine.enabled = False
            for name in ("RCTL", "TCTL", "CTRL"):
                self.regs.set(name, 0)
            self._write_eimc(0, (1 << VECTORS_MAX) - 1)

    def _each_vector(self, bits: int, action: str) -> None:
        for number, source in enumerate(self.msix.sources):
            if bits >> number & 1:
                getattr(source, action)()

    def _write_eimc(self, _index: int, value: int) -> None:
        self._each_vector(value, "disable")
        self.regs.set("EIMS", self.regs.get("EIMS") & ~value)

    def _write_rxdctl(self, index: int, value: int) -> None:
        if value & DCTL_ENABLE and index == len(self.rx_engines):
            queue = self._dma.ring(self._base("RDB", index))
            assert isinstance(queue, RxQueue)
            cable = Cable(self.limit_frames)
            self._cables.append(cable)
            engine = HwRxQueue(queue, cable)
            self._bind_vector(engine, index, is_tx=False)
            self.rx_engines.append(engine)
        self._enable_engines()

    def _write_txdctl(self, index: int, value: int) -> None:
        if value & DCTL_ENABLE and index == len(self.tx_engines):
            queue = self._dma.ring(self._base("TDB", index))
            assert isinstance(queue, TxQueue)
            engine = HwTxQueue(queue, self.tx_port)
            self._bind_vector(engine, index, is_tx=True)
            self.tx_engines.append(engine)
        self._enable_engines()

    def _base(self, register: str, index: int) -> int:
        return self.regs.get(f"{register}AH", index) << 32 | self.regs.get(f"{register}AL", index)

    def _bind_vector(self, engine: HwRxQueue | HwTxQueue, queue: int, is_tx: bool) -> None:
        if not self._is_multi_vector:
            engine.set_intr(self.causes.sources[ICR_TXDW if is_tx else ICR_RXT0])
            return
        index, shift = ivar_field(queue, is_tx)
        field = self.regs.get("IVAR", index) >> shift & 0xFF
        if field & IVAR_VALID and field & ~IVAR_VALID < VECTORS_MAX:
            engine.set_intr(self.msix.sources[field & ~IVAR_VALID])

    def _enable_engines(self) -> None:
        rx_on = bool(self.regs.get("RCTL") & RCTL_EN)
        tx_on = bool(self.regs.get("TCTL") & TCTL_EN)
        for index, hw in enumerate(self.rx_engines):
            hw.enabled = rx_on and bool(self.regs.get("RXDCTL", index) & DCTL_ENABLE)
        for index, out in enumerate(self.tx_engines):
            out.enabled = tx_on and bool(self.regs.get("TXDCTL", index) & DCTL_ENABLE)

    def _load_rss(self) -> None:
        words = [self.regs.get("RETA", i) for i in range(32)]
        table = b"".join(word.to_bytes(4, "little") for word in words)
        key = b"".join(self.regs.get("RSSRK", i).to_bytes(4, "little") for i in range(10))
        self._is_spread = self.regs.get("MRQC") & 7 == MRQC_RSS
        top = max(QUEUES_MAX - 1, 0)
        self.rss = Rss(key, bytes(min(entry, top) for entry in table))
