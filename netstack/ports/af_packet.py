"""An existing Linux interface as a port, through packet sockets (packet(7), packet_mmap).

Receiving: one socket with a TPACKET_V3 ring, promiscuous, deaf to what the host itself sends.
Sending: one socket per TX queue.  Both carry offload state (PACKET_VNET_HDR), so hosts need not
turn their offloads off.  The interface stays the host's: frames it receives reach the host's own
stack as well.

Context: control.  Limits: a frame of at most ``RING_BLOCK_BYTES`` less its header.
Sends go through the interface's queueing discipline while offload is on: the bypass cannot cut
long frames for an interface that cannot.  With ``offload=False`` there are none, and it is used.
"""

import contextlib
import errno
import mmap
import socket
import struct

from netstack._fast.hostport import PacketRx, PacketTx
from netstack.errors import NetstackError
from netstack.ports.hostif import GONE, Link, check_name, explain
from netstack.ports.hostport import HostPort
from netstack.ports.rtnl import LinkCounters

__all__ = ["PacketPort"]

RING_BLOCK_BYTES = 1 << 18  # takes the 64 KiB frames of segmentation offload, three of them
RING_BLOCKS = 32
RING_FRAME_BYTES = 1 << 11  # a formality with TPACKET_V3: frames of a block are packed
RETIRE_MS = 1  # how long the kernel may sit on a block that is not full; its smallest
SEND_BUFFER_BYTES = 4 << 20
TX_QUEUES_MAX = 64

# Numbers of <linux/if_packet.h>, <linux/if_ether.h> and <asm/socket.h>.
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_RX_RING = 5
PACKET_VERSION = 10
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
PACKET_IGNORE_OUTGOING = 23
PACKET_MR_PROMISC = 1
TPACKET_V3 = 2
ETH_P_ALL = 3
SO_SNDBUFFORCE = 32
REQUEST = struct.Struct("7I")  # struct tpacket_req3
MEMBERSHIP = struct.Struct("iHH8s")  # struct packet_mreq


class PacketPort(HostPort[PacketRx, PacketTx]):
    """The interface ``name`` of the host.

    Args:   name -- of an Ethernet interface in this process's network namespace.
            tx_queues -- sending sockets, one for each CPU of the machine at best.
            offload -- False when other ports of the machine cannot take offloaded frames:
            checksums are then filled in and long frames cut as they come in.
    Raises: NetstackError(EINVAL) for the name or a non-Ethernet interface,
            NoSuchInterfaceError(ENXIO), PrivilegeError(EPERM) without CAP_NET_RAW.
    """

    kind = "af_packet"
    mtu = 1500  # of the stack's interface; the host enforces its own, ``host_mtu``

    def __init__(self, name: str, *, tx_queues: int = 1, offload: bool = True) -> None:
        self.name = check_name(name)
        if not 1 <= tx_queues <= TX_QUEUES_MAX:
            raise NetstackError(errno.EINVAL, f"{name}: 1 to {TX_QUEUES_MAX} TX queues")
        self.offload = offload
        self.receivers = []
        self.transmitters = []
        with contextlib.ExitStack() as undo:
            try:
                receiving = undo.enter_context(self._socket())
                self.link = Link(receiving, name)
                self.index = self.link.index
                self._counters = LinkCounters(self.index)
                undo.callback(self._counters.close)
                self.mac = self.link.mac()
                self.host_mtu = self.link.mtu()
                ring = undo.enter_context(self._ring(receiving))
                self.receivers.append(PacketRx(receiving.fileno(), ring, RING_BLOCK_BYTES, offload))
                undo.callback(self._close_engines)
                for _ in range(tx_queues):
                    sending = undo.enter_context(self._socket())
                    self._prepare_sending(sending)
                    self.transmitters.append(PacketTx(sending.fileno()))
                # frames start to arrive here
                receiving.bind((self.link.name(), ETH_P_ALL))
            except NetstackError:
                raise
            except OSError as problem:
                raise explain(problem, name) from None
            self._undo = undo.pop_all()

    def _socket(self) -> socket.socket:
        """Return a packet socket that hears nothing yet; close-on-exec as all of Python's."""
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)

    def _ring(self, receiving: socket.socket) -> mmap.mmap:
        """Set the receiving socket up and return the mapping of its ring."""
        set_option = receiving.setsockopt
        set_option(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        set_option(SOL_PACKET, PACKET_VNET_HDR, 1)
        with contextlib.suppress(OSError):  # before Linux 4.20 the engine skips them itself
            set_option(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        ring_bytes = RING_BLOCK_BYTES * RING_BLOCKS
        request = REQUEST.pack(
            RING_BLOCK_BYTES,
            RING_BLOCKS,
            RING_FRAME_BYTES,
            ring_bytes // RING_FRAME_BYTES,
            RETIRE_MS,
            0,
            0,
        )
        set_option(SOL_PACKET, PACKET_RX_RING, request)
        promiscuous = MEMBERSHIP.pack(self.index, PACKET_MR_PROMISC, 0, b"")
        set_option(SOL_PACKET, PACKET_ADD_MEMBERSHIP, promiscuous)
        return mmap.mmap(receiving.fileno(), ring_bytes, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def _prepare_sending(self, sending: socket.socket) -> None:
        """Bind a sending socket to the interface and to no protocol: it hears nothing."""
        sending.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        if not self.offload:
            sending.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        try:
            sending.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES)
        except PermissionError:  # needs CAP_NET_ADMIN; the host's limit then holds
            sending.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        sending.bind((self.link.name(), 0))

    def state(self) -> str:
        """Return ``up``, ``down`` or ``gone``: also gone when it left for another namespace."""
        return self.link.state()

    def alive(self) -> bool:
        """Say whether the interface still exists here."""
        return self.link.state() != GONE

    @property
    def missed(self) -> int:
        """Frames the kernel dropped because the ring was full."""
        return sum(engine.missed for engine in self.receivers)

    def __repr__(self) -> str:
        return f"<PacketPort {self.name} index {self.index}>"
