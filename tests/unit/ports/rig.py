"""One CPU, interfaces and queues without a machine: what the engines of host ports need to run."""

import socket
import struct

from netstack._fast import kernels
from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.ifnet import FLAG_RUNNING, FLAG_UP, IfnetBlock
from netstack._fast.intr import IntrController
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.pserialize import PSerialize
from netstack._fast.queue import RxQueue, TxQueue

__all__ = ["NO_OFFLOAD", "Rig", "Ring", "pair", "vnet"]

BLOCK_BYTES = 1 << 18
FRAME_OFFSET = 48  # first frame of a block, behind struct tpacket_block_desc
DATA_OFFSET = 96  # frame bytes, behind struct tpacket3_hdr, sockaddr_ll and the offload header


def vnet(flags=0, gso_type=0, header=0, size=0, start=0, offset=0):
    """A virtio_net_hdr as the kernel passes it."""
    return struct.pack("=BBHHHH", flags, gso_type, header, size, start, offset)


NO_OFFLOAD = vnet()


def pair():
    """Two ends of a socket that keeps message boundaries, non-blocking, as a TAP does."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        end.setblocking(False)
    return ends


class Rig:
    """A CPU with a pool; ``rx`` and ``tx`` move frames through engines bound to queues."""

    def __init__(self, nmbufs=512):
        self.pool = MbufPool(nmbufs, 1)
        self.cpu = CpuBlock(0, IntrController(1), self.pool, SoftintTable(), PSerialize(1))
        self.interfaces = []
        self.rxqs = {}
        self.txqs = {}

    def interface(self, rx=None, tx=None):
        """A running interface with one queue of each engine given."""
        ifp = IfnetBlock(len(self.interfaces) + 1, bytes([2, 0, 0, 0, 0, len(self.interfaces)]))
        ifp.flags = FLAG_UP | FLAG_RUNNING
        self.interfaces.append(ifp)
        if rx is not None:
            queue = self.rxqs[ifp] = RxQueue(ifp, self.pool, 0, 8)
            rx.bind_rx(queue)
            queue.stopping = False
        if tx is not None:
            queue = self.txqs[ifp] = TxQueue(ifp, self.pool, 0, 8)
            tx.bind_tx(queue)
            queue.stopping = False
            ifp.set_txqs([queue], [0])
        return ifp

    def rx(self, ifp, limit=256):
        """One activation of the receive queue: the vector."""
        mv = MbufVec(self.pool, 0)
        kernels.rx_drain(self.cpu, self.rxqs[ifp], mv, limit)
        return mv

    def frames(self, ifp, limit=256):
        """One activation, as bytes; the mbufs go back."""
        mv = self.rx(ifp, limit)
        out = mv.frames()
        mv.clear()
        return out

    def tx(self, ifp, *frames):
        """Send plain frames."""
        mv = MbufVec(self.pool, 0)
        for frame in frames:
            assert mv.append(frame)
        kernels.if_transmit(self.cpu, ifp, mv)

    def forward(self, source, target):
        """Receive on one interface, send out of another."""
        mv = self.rx(source)
        kernels.if_transmit(self.cpu, target, mv)

    @property
    def is_whole(self):
        """All mbufs are back."""
        return self.pool.free_count == self.pool.nmbufs


class Ring:
    """Memory laid out as the kernel lays out a TPACKET_V3 ring (packet_mmap)."""

    def __init__(self, blocks=4):
        self.memory = bytearray(BLOCK_BYTES * blocks)
        self.blocks = blocks
        self.block = 0

    def status(self, block):
        return struct.unpack_from("=I", self.memory, block * BLOCK_BYTES + 8)[0]

    def fill(self, frames):
        """Fill the next block; each frame is (offload header, bytes, options)."""
        base = self.block * BLOCK_BYTES
        assert self.status(self.block) == 0
        at = base + FRAME_OFFSET
        for number, (header, data, *rest) in enumerate(frames):
            options = rest[0] if rest else {}
            step = (DATA_OFFSET + len(data) + 15) & ~15
            status = 1 | (0x10 if "tci" in options else 0) | (0x40 if "tpid" in options else 0)
            fields = (step if number < len(frames) - 1 else 0, 0, 0, len(data))
            fields += (options.get("length", len(data)), status, DATA_OFFSET, 0)
            vlan = (0, options.get("tci", 0), options.get("tpid", 0), 0)
            struct.pack_into("=6IHH", self.memory, at, *fields)
            struct.pack_into("=IIHH", self.memory, at + 28, *vlan)
            struct.pack_into("=HHiHB", self.memory, at + 48, 17, 0, 0, 1, options.get("type", 0))
            start = at + DATA_OFFSET
            self.memory[start - 10 : start] = header
            self.memory[start : start + len(data)] = data
            at += step
        struct.pack_into("=IIIII", self.memory, base, 1, 0, 1, len(frames), FRAME_OFFSET)
        self.block = (self.block + 1) % self.blocks
