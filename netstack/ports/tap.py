"""A TAP interface as a port: what the host sends out of it, this process receives (tun(4)).

The interface is made if it does not exist and then vanishes with the process, unless somebody made
it persistent.  Frames carry offload headers (IFF_VNET_HDR), so the host may leave checksums and
segmentation to whoever gets them.

Context: control.  The address of this end is not the interface's (that is the host's, a station
beyond the port) but one made from its name.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import select
import socket
import struct

from netstack._fast.hostport import TapRx, TapTx
from netstack.errors import EnvironmentLacksError, NetstackError, PrivilegeError
from netstack.ports.hostif import DOWN, GONE, UP, Link, check_name, explain
from netstack.ports.hostport import HostPort
from netstack.ports.rtnl import LinkCounters

__all__ = ["TapPort"]

DEVICE = "/dev/net/tun"
QUEUES_MAX = 64

# Numbers of <linux/if_tun.h>.
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
# Checksum, TSO for IPv4 and IPv6 also with ECN; then UDP segmentation (Linux 6.2).
OFFLOAD_TCP = 0x01 | 0x02 | 0x04 | 0x08
OFFLOAD_UDP = 0x20 | 0x40
VNET_HEADER_BYTES = 10
IFREQ = struct.Struct("16sH22x")


class TapPort(HostPort[TapRx, TapTx]):
    """The process's end of the TAP interface ``name``.

    Args:   name -- made if the host has none of this name.
            queues -- receive and transmit queues; more than one needs a multi-queue TAP.
            offload -- False: the host finishes its frames before it hands them over.
            vnet -- False: no offload headers; this end then finishes what it sends.
    Raises: NetstackError(EINVAL) for the name or an interface that is no such TAP, (EBUSY) when
            another process holds it, PrivilegeError(EPERM) without CAP_NET_ADMIN,
            EnvironmentLacksError(ENOENT) without /dev/net/tun.
    """

    kind = "tap"
    mtu = 1500  # of the stack's interface; the host enforces its own, ``host_mtu``

    def __init__(self, name: str, *, queues: int = 1, offload: bool = True, vnet: bool = True) -> None:
        self.name = check_name(name)
        if not 1 <= queues <= QUEUES_MAX:
            raise NetstackError(errno.EINVAL, f"{name}: 1 to {QUEUES_MAX} queues")
        self.mac = address_of(name)
        self.receivers = []
        self.transmitters = []
        flags = IFF_TAP | IFF_NO_PI
        flags |= (IFF_VNET_HDR if vnet else 0) | (IFF_MULTI_QUEUE if queues > 1 else 0)
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_engines)
            for _ in range(queues):
                fd = open_device()
                undo.callback(os.close, fd)
                self._attach(fd, flags, offload and vnet)
                self.receivers.append(TapRx(fd, vnet))
                self.transmitters.append(TapTx(fd, vnet))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                link = Link(control, name)
                self.host_mtu = link.mtu()
                self._counters = LinkCounters(link.index)
                undo.callback(self._counters.close)
                # An unprivileged owner cannot; whoever made the TAP for it has set it up.
                with contextlib.suppress(PermissionError):
                    link.set_up()
            self._undo = undo.pop_all()

    def _attach(self, fd: int, flags: int, offload: bool) -> None:
        """Tie a descriptor to the interface and agree on what its frames look like."""
        try:
            fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(os.fsencode(self.name), flags))
            if flags & IFF_VNET_HDR:
                fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
            if not offload:
                fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
                return
            try:
                fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOAD_TCP | OFFLOAD_UDP)
            except OSError:
                fcntl.ioctl(fd, TUNSETOFFLOAD, OFFLOAD_TCP)
        except OSError as problem:
            raise self._refusal(problem) from None

    def _refusal(self, problem: OSError) -> NetstackError:
        if problem.errno == errno.EBUSY:
            return NetstackError(errno.EBUSY, f"{self.name}: another process holds this TAP")
        if problem.errno == errno.EINVAL:
            return NetstackError(
                errno.EINVAL,
                f"{self.name}: the host has an interface of this name that is no TAP, or a TAP "
                "with another number of queues; choose another name",
            )
        return explain(problem, self.name, "CAP_NET_ADMIN")

    def state(self) -> str:
        """Return ``up``, ``down`` or ``gone``; also of a TAP that moved to another namespace.

        The descriptor says it all: writable while the interface is up, in error once it is gone.
        """
        fd = self.receivers[0].fd
        if fd < 0:
            return GONE
        look = select.poll()
        look.register(fd, select.POLLOUT)
        seen = sum(events for _, events in look.poll(0))
        if seen & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
            return GONE
        return UP if seen & select.POLLOUT else DOWN

    def alive(self) -> bool:
        """Say whether the interface still exists, here or in another namespace."""
        return self.state() != GONE

    @property
    def missed(self) -> int:
        """Frames the host sent here and dropped, because this process did not read fast enough.

        Not known of a TAP that is in another namespace: then what was known before.
        """
        return self.host_dropped.tx

    def __repr__(self) -> str:
        return f"<TapPort {self.name}>"


def open_device() -> int:
    """Return a descriptor of the TUN/TAP device: non-blocking, close-on-exec."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError as problem:
        raise PrivilegeError(
            problem.errno or errno.EACCES,
            f"{DEVICE}: this user may not open it, and a TAP takes CAP_NET_ADMIN; run as root",
        ) from None
    except OSError as problem:
        raise EnvironmentLacksError(
            problem.errno or errno.ENOENT,
            f"{DEVICE} cannot be opened ({problem.strerror}); load the driver: modprobe tun",
        ) from None


def address_of(name: str) -> bytes:
    """Return this end's address: locally administered, the same for the same name."""
    digest = hashlib.sha256(b"netstack tap " + os.fsencode(name)).digest()
    return bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]
