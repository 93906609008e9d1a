"""The queues of a virtio network device: what each kind does with a chain (VIRTIO 1.2, 5.1.6).

Context: the model, under its lock.   Errors: ``VirtqFault`` for what the driver may not do.
"""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING

from netstack._fast.wire import Cable
from netstack.hw.vioif_regs import (
    CTRL_MQ,
    CTRL_MQ_PAIRS_SET,
    CTRL_OK,
    HEADER,
    HEADER_BYTES,
    NO_VECTOR,
    VIRTIO_NET_F,
)
from netstack.hw.virtq_regs import VirtqFault, VringLayout
from netstack.hw.virtqueue import DeviceQueue

if TYPE_CHECKING:
    from netstack.hw.vioif import VioifModel

__all__ = ["ControlQueue", "ModelQueue", "NetRx", "NetTx", "TxEnd"]

SIZE_MAX = 256
FRAME_BYTES_MAX = 65550  # VIRTIO 1.2, 5.1.6.2
CTRL_ERR = 1
RX_HEADER = pack(HEADER, 0, 0, 0, 0, 0, 0, 1)  # one buffer, no offload


class TxEnd:
    """The outgoing cable."""

    has_rate = False

    def __init__(self, limit_frames: int) -> None:
        self.cable = Cable(limit_frames)
        self.lost = 0  # frames the far end had no room for
        self.counting = False


class ModelQueue:
    """Registers of one queue, and the ring behind them while it is enabled."""

    def __init__(self, model: VioifModel, name: str) -> None:
        self.model = model
        self.name = f"{model.name} {name}"
        self.reset()

    def reset(self) -> None:
        """Back to what it is after power-up."""
        self.size = SIZE_MAX
        self.vector = NO_VECTOR
        self.vring: DeviceQueue | None = None
        self._words = dict.fromkeys(
            (f"queue_{area}_{half}" for area in ("desc", "driver", "device") for half in ("lo", "hi")), 0
        )

    def get(self, name: str, index: int) -> int:
        """Return a register."""
        if name in self._words:
            return self._words[name]
        if name == "queue_size":
            return self.size
        if name == "queue_msix_vector":
            return self.vector
        return index if name == "queue_notify_off" else int(self.vring is not None)

    def set(self, name: str, value: int) -> None:
        """Take a register; a size above what it can be is cut down."""
        if name == "queue_size":
            self.size = min(value, SIZE_MAX)
        elif name in self._words:
            self._words[name] = value

    def enable(self, features: VIRTIO_NET_F) -> None:
        """Put a ring on what the registers say.  VirtqFault when that cannot be."""
        words = self._words
        desc, driver, device = (
            words[f"queue_{area}_hi"] << 32 | words[f"queue_{area}_lo"] for area in ("desc", "driver", "device")
        )
        layout = VringLayout(self.model.memory, self.name, self.size, desc, driver, device)
        self.vring = DeviceQueue(
            layout,
            may_indirect=bool(features & VIRTIO_NET_F.INDIRECT_DESC),
            has_event_idx=bool(features & VIRTIO_NET_F.EVENT_IDX),
        )

    def run(self) -> None:
        """Do what there is to do."""
        raise NotImplementedError  # each kind of queue has its own


class NetRx(ModelQueue):
    """Receive queue: frames from the cable into buffers of the driver."""

    def __init__(self, model: VioifModel, pair: int, limit_frames: int) -> None:
        super().__init__(model, f"RX{pair}")
        self.cable = Cable(limit_frames)
        self.received = 0
        self.missed = 0  # nothing is lost for want of a buffer: it waits
        self.generated = 0
        self.oversize = 0  # longer than a buffer

    @property
    def resting(self) -> int:
        """Frames that wait on the cable."""
        return len(self.cable)

    def run(self) -> None:
        """Fill buffers while there are frames; ask for a notification when there are no buffers."""
        vring = self.vring
        assert vring is not None
        vring.stop_notify()
        while len(self.cable):
            chain = vring.pop()
            if chain is None:
                if vring.start_notify():
                    continue
                return
            if chain.readable or chain.room < HEADER_BYTES:
                raise VirtqFault(f"{self.name}: a buffer of {chain.room} bytes, or one to read, cannot receive")
            (frame,) = self.cable.take(1)
            if HEADER_BYTES + len(frame) > chain.room:
                self.oversize += 1
                vring.put_back()
                continue
            vring.push(chain.head, vring.scatter(chain, RX_HEADER + frame))
            self.received += 1


class NetTx(ModelQueue):
    """Transmit queue: frames of the driver to the cable."""

    def __init__(self, model: VioifModel, pair: int) -> None:
        super().__init__(model, f"TX{pair}")
        self.frames = 0
        self.nbytes = 0
        self.counted = 0

    @property
    def pending(self) -> int:
        """Frames it has not looked at."""
        try:
            return 0 if self.vring is None else self.vring.pending
        except VirtqFault:
            return 0

    def run(self) -> None:
        """Send all there is."""
        vring, model = self.vring, self.model
        assert vring is not None
        vring.stop_notify()
        while not model.is_paused:
            chain = vring.pop()
            if chain is None:
                if vring.start_notify():
                    continue
                return
            data = vring.gather(chain) if sum(n for _, n in chain.readable) <= FRAME_BYTES_MAX else b""
            if len(data) < HEADER_BYTES:
                raise VirtqFault(f"{self.name}: a frame without header, or of more than {FRAME_BYTES_MAX} bytes")
            if data[0] or data[1]:
                raise VirtqFault(f"{self.name}: asks for an offload that was not negotiated")
            if not model.tx_port.cable.put(data[HEADER_BYTES:]):
                model.tx_port.lost += 1
            self.frames += 1
            self.nbytes += len(data) - HEADER_BYTES
            vring.push(chain.head, 0)


class ControlQueue(ModelQueue):
    """Commands: a class, a command, data; the answer is one byte (VIRTIO 1.2, 5.1.6.5)."""

    def __init__(self, model: VioifModel, pairs: int) -> None:
        super().__init__(model, "CTRL")
        self.commands = 0
        self.refused = 0

    def run(self) -> None:
        """Answer every command."""
        vring = self.vring
        assert vring is not None
        while (chain := vring.pop()) is not None or vring.start_notify():
            if chain is None:
                continue
            if sum(n for _, n in chain.readable) < 2 or not chain.room:
                raise VirtqFault(f"{self.name}: a command without class, or without room for the answer")
            is_done = self._obey(vring.gather(chain))
            self.commands += 1
            self.refused += not is_done
            vring.push(chain.head, vring.scatter(chain, bytes([CTRL_OK if is_done else CTRL_ERR])))

    def _obey(self, command: bytes) -> bool:
        if command[:2] != bytes([CTRL_MQ, CTRL_MQ_PAIRS_SET]) or len(command) != 4:
            return False
        return self.model.set_pairs(int.from_bytes(command[2:], "little"))
