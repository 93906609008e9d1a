"""An existing Linux interface as a port, through AF_XDP sockets: fewer steps of the host per frame.

Every frame that the interface receives comes here; the host's own stack gets none of them.  A program of
five instructions is attached for that, in the interface's driver where it can, else in the generic path,
and is gone with the port.  Frames are copied between the host's buffers and ours on both ways.

What AF_XDP does not carry is offload state: a host behind this port must fill in its own checksums and cut
its own frames (``ethtool -K IF tx off gso off tso off`` at the far end of a veth).  Frames for which that
is not done arrive damaged; ``packet:`` ports have no such condition.

Context: control.   Source: Linux Documentation/networking/af_xdp.rst, include/uapi/linux/if_xdp.h.
Limits:  a frame of ``CHUNK_BYTES`` less the headroom of the driver (256 bytes).
"""

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from netstack._fast.xdp import XdpMemory, XdpRx, XdpTx
from netstack.errors import EnvironmentLacksError, NetstackError
from netstack.ports import bpf
from netstack.ports.hostif import GONE, Link, check_name, explain
from netstack.ports.hostport import HostPort
from netstack.ports.rtnl import LinkCounters

__all__ = ["XdpPort"]

CHUNK_BYTES = 2048
RING_ENTRIES = 2048  # of each ring, and chunks each way
QUEUES_MAX = 64
BUSY_S = 1.0

# Numbers of <linux/if_xdp.h>, <linux/socket.h>, <linux/if_packet.h>.
AF_XDP = 44
SOL_XDP = 283
XDP_MMAP_OFFSETS = 1
XDP_RX_RING = 2
XDP_TX_RING = 3
XDP_UMEM_REG = 4
XDP_UMEM_FILL_RING = 5
XDP_UMEM_COMPLETION_RING = 6
XDP_STATISTICS = 7
XDP_COPY = 1 << 1
XDP_PGOFF = {XDP_RX_RING: 0, XDP_TX_RING: 0x80000000}
XDP_PGOFF |= {XDP_UMEM_FILL_RING: 0x100000000, XDP_UMEM_COMPLETION_RING: 0x180000000}
RINGS = (XDP_RX_RING, XDP_TX_RING, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING)
OFFSETS = struct.Struct("16Q")  # struct xdp_mmap_offsets: producer, consumer, desc, flags of each of RINGS
STATISTICS = struct.Struct("6Q")  # struct xdp_statistics
UMEM_REG = struct.Struct("QQIIII")
SOCKADDR = struct.Struct("HHIII")  # struct sockaddr_xdp
SOL_PACKET, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC = 263, 1, 1
MEMBERSHIP = struct.Struct("iHH8s")

_libc = ctypes.CDLL(None, use_errno=True)


class XdpPort(HostPort[XdpRx, XdpTx]):
    """The interface ``name`` of the host, one socket for each of its receive queues.

    Args:   name -- of an Ethernet interface in this process's network namespace.
            queues -- receive queues to take, from the first; None: all.  Frames of the others go to
            the host's stack.
            native -- attach in the driver (True), in the generic path (False), or as it can be done (None).
    Raises: NetstackError(EINVAL) for the name or a non-Ethernet interface, NoSuchInterfaceError(ENXIO),
            PrivilegeError(EPERM) without CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF, EnvironmentLacksError
            where the kernel has no AF_XDP; NetstackError(EBUSY), the interface has a program already.
    """

    kind = "af_xdp"
    mtu = 1500  # of the stack's interface; the host enforces its own, ``host_mtu``

    def __init__(self, name: str, *, queues: int | None = None, native: bool | None = None) -> None:
        self.name = check_name(name)
        if queues is not None and not 1 <= queues <= QUEUES_MAX:
            raise NetstackError(errno.EINVAL, f"{name}: 1 to {QUEUES_MAX} queues")
        self.receivers = []
        self.transmitters = []
        self._sockets: list[socket.socket] = []
        self.is_native = native is not False
        with contextlib.ExitStack() as undo:
            try:
                self._open(undo, queues, native)
            except NetstackError:
                raise
            except OSError as problem:
                raise _explain(problem, name) from None
            self._undo = undo.pop_all()

    def _open(self, undo: contextlib.ExitStack, queues: int | None, native: bool | None) -> None:
        control = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        self.link = Link(control, self.name)
        self.index = self.link.index
        self._counters = LinkCounters(self.index)
        undo.callback(self._counters.close)
        self.mac = self.link.mac()
        self.host_mtu = self.link.mtu()
        promiscuous = MEMBERSHIP.pack(self.index, PACKET_MR_PROMISC, 0, b"")
        control.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
        count = queues if queues is not None else min(QUEUES_MAX, _queues_of(self.name))
        sockets_map = bpf.map_sockets(count)
        undo.callback(os.close, sockets_map)
        undo.callback(self._close_engines)
        for queue in range(count):
            self._add_queue(undo, queue, sockets_map)
        program = bpf.redirect_program(sockets_map)
        undo.callback(os.close, program)
        link = self._attach(program, native)  # frames start to arrive here
        undo.callback(os.close, link)

    def _add_queue(self, undo: contextlib.ExitStack, queue: int, sockets_map: int) -> None:
        """Open the socket of a queue with memory, rings and engines."""
        sock = undo.enter_context(socket.socket(AF_XDP, socket.SOCK_RAW, 0))
        memory = XdpMemory(2 * RING_ENTRIES, CHUNK_BYTES)
        register = UMEM_REG.pack(memory.address, memory.nbytes, CHUNK_BYTES, 0, 0, 0)
        sock.setsockopt(SOL_XDP, XDP_UMEM_REG, register)
        for ring in RINGS:
            sock.setsockopt(SOL_XDP, ring, RING_ENTRIES)
        words = OFFSETS.unpack(sock.getsockopt(SOL_XDP, XDP_MMAP_OFFSETS, OFFSETS.size))
        rings = {}
        for place, ring in enumerate(RINGS):
            producer, consumer, desc, _flags = words[4 * place : 4 * place + 4]
            nbytes = desc + RING_ENTRIES * (16 if ring in (XDP_RX_RING, XDP_TX_RING) else 8)
            view = mmap.mmap(sock.fileno(), nbytes, mmap.MAP_SHARED, offset=XDP_PGOFF[ring])
            rings[ring] = (view, (producer, consumer, desc), RING_ENTRIES)
        fd = sock.fileno()
        fill, done = rings[XDP_UMEM_FILL_RING], rings[XDP_UMEM_COMPLETION_RING]
        receiver = XdpRx(fd, memory, CHUNK_BYTES, rings[XDP_RX_RING], fill, 0, RING_ENTRIES)
        sender = XdpTx(fd, memory, CHUNK_BYTES, rings[XDP_TX_RING], done, RING_ENTRIES, RING_ENTRIES)
        _bind(fd, SOCKADDR.pack(AF_XDP, XDP_COPY, self.index, queue, 0))
        bpf.set_socket(sockets_map, queue, fd)
        self.receivers.append(receiver)
        self.transmitters.append(sender)
        self._sockets.append(sock)

    def _attach(self, program: int, native: bool | None) -> int:
        """Attach the program; without a wish in the driver if it can do that."""
        try:
            return bpf.attach(program, self.index, self.is_native)
        except OSError as problem:
            if native is not None or problem.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self.is_native = False
            return bpf.attach(program, self.index, False)

    def state(self) -> str:
        """Return ``up``, ``down`` or ``gone``: also gone when it left for another namespace."""
        return self.link.state()

    def alive(self) -> bool:
        """Say whether the interface still exists here."""
        return self.link.state() != GONE

    @property
    def missed(self) -> int:
        """Frames the kernel dropped because a ring was full or a frame did not fit its chunk."""
        return sum(dropped + full for dropped, full in self._statistics())

    def _statistics(self) -> Iterator[tuple[int, int]]:
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                words = STATISTICS.unpack(sock.getsockopt(SOL_XDP, XDP_STATISTICS, STATISTICS.size))
                yield words[0], words[3]

    def __repr__(self) -> str:
        where = "native" if self.is_native else "generic"
        return f"<XdpPort {self.name} index {self.index}, {len(self.receivers)} queues, {where}>"


def _bind(fd: int, address: bytes) -> None:
    """Bind a socket of a family that Python does not know.

    The kernel lets go of a closed socket's queue a little later: a queue that is busy is tried for a while.
    """
    end = time.monotonic() + BUSY_S
    while _libc.bind(fd, address, len(address)):
        code = ctypes.get_errno()
        if code != errno.EBUSY or time.monotonic() > end:
            raise OSError(code, os.strerror(code))
        time.sleep(BUSY_S / 50)


def _queues_of(name: str) -> int:
    """Return how many receive queues an interface has."""
    return max(1, sum(1 for _ in Path(f"/sys/class/net/{name}/queues").glob("rx-*")))


def _explain(problem: OSError, name: str) -> NetstackError:
    """Return the error to raise for what the host answered about AF_XDP on an interface."""
    if problem.errno in (errno.EBUSY, errno.EEXIST):
        text = f"{name}: the interface has an XDP program or socket already; 'ip link set {name} xdp off' removes one"
        return NetstackError(errno.EBUSY, text)
    if problem.errno in (errno.EAFNOSUPPORT, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOSYS):
        text = f"{name}: AF_XDP is not to be had here ({problem.strerror}); use packet:{name}"
        return EnvironmentLacksError(problem.errno, text)
    return explain(problem, name, "CAP_NET_ADMIN")
