"""Queues of the virtio network driver: a ring, a mutex, buffers (paper §3.2.1).

A device reaches its shared memory only, so frames are copied between it and mbufs, as bus_dma(9) does with bounce
buffers.  Functions named ``_locked`` are called with the queue's mutex held.
"""

from collections.abc import Callable

from netstack._fast.dispositions import Drop
from netstack._fast.mbuf import MbufVec
from netstack.dev.host import DriverHost
from netstack.dev.pci_handle import PciIntrHandle
from netstack.dev.virtqueue import VirtQueue
from netstack.errors import NetstackError
from netstack.hw.vioif_regs import CTRL_MQ, CTRL_MQ_PAIRS_SET, CTRL_OK, HEADER_BYTES
from netstack.hw.virtq_regs import VirtqFault
from netstack.kern.mutex import Mutex
from netstack.kern.pcq import Pcq
from netstack.kern.spl import IPL
from netstack.machine.api import Cpu, IntrHandle, Softint
from netstack.net.ifnet import Ifnet

__all__ = ["BUFFER_BYTES", "FRAME_BYTES_MAX", "RING_SLOTS", "VioifControl", "VioifRx", "VioifTx"]

RING_SLOTS = 256
BUFFER_BYTES = 2048
FRAME_BYTES_MAX = BUFFER_BYTES - HEADER_BYTES


class VioifQueue:
    """What both directions have.

    Args: index -- of the pair.   notify -- tells the device that the ring has something new.
    """

    is_copy = True  # frames in it are copies: no mbuf is held for them

    def __init__(
        self, host: DriverHost, ifp: Ifnet, index: int, vq: VirtQueue, notify: Callable[[], None]
    ) -> None:
        self.host = host
        self.ifp = ifp
        self.index = index
        self.vq = vq
        self.notify = notify
        self.lock = Mutex(host.engine, vq.name, IPL.NET)
        self.stopping = True  # guarded by the lock; paper §3.2.1
        self.intr: PciIntrHandle | None = None
        self.handle: IntrHandle | None = None
        self.softint: Softint | None = None
        memory = vq.memory
        self._buffers = [memory.alloc(BUFFER_BYTES) for _ in range(vq.size)]
        self._spare = list(self._buffers)

    def kick_locked(self) -> None:
        """Publish what was added."""
        if self.vq.publish():
            self.notify()

    def set_stopping(self, value: bool) -> None:
        """Set the flag as it must be set: under the lock."""
        with self.lock:
            self.stopping = value


class VioifRx(VioifQueue):
    """One receive queue."""

    held = 0  # mbufs

    def __init__(
        self, host: DriverHost, ifp: Ifnet, index: int, vq: VirtQueue, notify: Callable[[], None]
    ) -> None:
        super().__init__(host, ifp, index, vq, notify)
        self.frames = 0
        self.activations = 0
        self.limit = 0
        self.is_due = False  # frames were left when it was served last
        self._given: dict[int, int] = {}  # head -> buffer the device has
        self._vectors: dict[int, MbufVec] = {}

    @property
    def ready(self) -> int:
        """Frames the device has written that are not taken yet."""
        return self.vq.ready

    def vector(self, cpu: Cpu) -> MbufVec:
        """Return the empty vector this queue works with on a CPU."""
        mv = self._vectors.get(cpu.index)
        if mv is None or len(mv):
            mv = self._vectors[cpu.index] = MbufVec(self.host.pool, cpu.index)
        mv.rcvif = self.ifp.index
        mv.queue = self.index
        return mv

    def populate_locked(self) -> None:
        """Give the device every spare buffer (vioif_populate_rx_mbufs); nothing while stopping."""
        if self.stopping:
            return
        while self._spare:
            address = self._spare.pop()
            head = self.vq.add((), ((address, BUFFER_BYTES),))
            if head is None:
                self._spare.append(address)
                break
            self._given[head] = address
        self.kick_locked()

    def take_locked(self, cpu: Cpu, mv: MbufVec, limit: int) -> int:
        """Take up to ``limit`` received frames into an empty vector; how many were taken off the ring.

        Raises: VirtqFault -- the used ring lies; frames before the lie are in the vector.
        """
        taken = nbytes = 0
        vq, block = self.vq, self.ifp.block
        try:
            while taken < limit and (found := vq.take()) is not None:
                head, written = found
                address = self._given.pop(head)
                self._spare.append(address)
                if written < HEADER_BYTES:
                    block.count_lost(cpu.index, Drop.STOPPED, 1)
                    raise VirtqFault(f"{vq.name}: used ring claims {written} bytes, less than a header")
                taken += 1
                frame = vq.memory.read(address + HEADER_BYTES, written - HEADER_BYTES)
                if mv.append(frame):
                    nbytes += len(frame)
                else:
                    block.count_lost(cpu.index, Drop.NO_MBUF, 1)
        finally:
            if taken:
                self.frames += taken
                block.count_in(cpu.index, len(mv), nbytes)
        return taken

    def forget(self) -> int:
        """The device was reset: all buffers are ours; how many frames were in them."""
        lost = self.vq.ready
        self.is_due = False
        self.vq.reset()
        self._given.clear()
        self._spare = list(self._buffers)
        return lost


class VioifTx(VioifQueue):
    """One transmit queue with its intermediate queue, which takes frames without a lock."""

    def __init__(
        self, host: DriverHost, ifp: Ifnet, index: int, vq: VirtQueue, notify: Callable[[], None]
    ) -> None:
        super().__init__(host, ifp, index, vq, notify)
        self.queue: Pcq[bytes] = Pcq(vq.size)
        self.is_full = False  # OACTIVE of this queue: completion clears it
        self.full = 0  # times it was
        self.handovers = 0  # bursts left to who held the lock
        self._header = vq.memory.alloc(HEADER_BYTES)  # all zero: no offload
        self._sent: dict[int, tuple[int, int, bool]] = {}  # head -> buffer, bytes, to a group

    @property
    def snd_len(self) -> int:
        """Frames in the intermediate queue."""
        return len(self.queue)

    @property
    def in_ring(self) -> int:
        """Frames the device has, or has sent without our having looked."""
        return len(self._sent)

    @property
    def lock_contended(self) -> int:
        """Times the mutex had to be waited for."""
        return self.lock.contended

    def start_locked(self, cpu: Cpu) -> None:
        """Send what the intermediate queue holds, as far as the ring takes it (vioif_start).

        Raises: VirtqFault -- the used ring lies.
        """
        vq, queue = self.vq, self.queue
        count = 0
        self.reclaim_locked(cpu)
        while (frame := queue.peek()) is not None:
            if self._enqueue(frame):
                queue.get()
                count += 1
                continue
            self.kick_locked()
            if self.reclaim_locked(cpu):
                continue
            if vq.postpone_intr() and self.reclaim_locked(cpu):
                continue
            self.is_full = True
            self.full += 1
            return
        self.kick_locked()
        self.reclaim_locked(cpu)
        while vq.outstanding:
            if not vq.start_intr():
                return
            self.reclaim_locked(cpu)
        vq.stop_intr()

    def reclaim_locked(self, cpu: Cpu | None) -> int:
        """Take back what was sent and count it as output; how many frames."""
        count = nbytes = groups = 0
        try:
            while (found := self.vq.take()) is not None:
                address, length, is_group = self._sent.pop(found[0])
                self._spare.append(address)
                count += 1
                nbytes += length
                groups += is_group
        finally:
            if count:
                self.is_full = False
                at = self.host.ncpu if cpu is None else cpu.index
                self.ifp.block.count_out(at, count, nbytes, groups)
        return count

    def forget(self) -> int:
        """The device was reset: all buffers are ours; how many frames were not sent, those queued included."""
        try:
            self.reclaim_locked(None)  # what the device has sent before is sent
        except VirtqFault:
            pass  # a ring that lies says nothing about the rest
        lost = len(self._sent)
        while self.queue.get() is not None:
            lost += 1
        self.vq.reset()
        self._sent.clear()
        self._spare = list(self._buffers)
        self.is_full = False
        return lost

    def _enqueue(self, frame: bytes) -> bool:
        if not self._spare:
            return False
        address = self._spare[-1]
        parts = ((self._header, HEADER_BYTES), (address, len(frame)))
        head = self.vq.add(parts)
        if head is None:
            return False
        self._spare.pop()
        self.vq.memory.write(address, frame)  # before it is published
        self._sent[head] = (address, len(frame), bool(frame and frame[0] & 1))
        return True


class VioifControl:
    """The control queue: one command at a time, from the control plane.

    Args: index -- of the queue at the device.
    """

    def __init__(self, host: DriverHost, index: int, vq: VirtQueue, notify: Callable[[], None]) -> None:
        self.index = index
        self.vq = vq
        self._host = host
        self._notify = notify
        self._buffer = vq.memory.alloc(16)

    def set_pairs(self, pairs: int) -> bool:
        """Have the device use so many pairs (VIRTIO_NET_CTRL_MQ); False when it does not grant it, or answer.

        Context: thread or control thread; waits.
        """
        memory, answer = self.vq.memory, self._buffer + 8
        command = bytes([CTRL_MQ, CTRL_MQ_PAIRS_SET]) + pairs.to_bytes(2, "little")
        memory.write(self._buffer, command)
        memory.write(answer, b"\xff")
        self.vq.add(((self._buffer, len(command)),), ((answer, 1),))
        if self.vq.publish():
            self._notify()
        try:
            self._host.engine.wait_until(lambda: self.vq.ready > 0, f"an answer to {self.vq.name}")
            self.vq.take()
        except NetstackError:
            return False
        return memory.read(answer, 1) == bytes([CTRL_OK])
