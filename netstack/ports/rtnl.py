"""One question to the kernel's routing socket: what an interface has dropped itself (rtnetlink(7)).

A frame that the host took from us may still be lost: its driver, or nobody reading the other end.
The host counts that on the interface; a port's report has to show it, or "sent" would claim too
much.
"""

import socket
import struct
import threading
from typing import NamedTuple

__all__ = ["Dropped", "LinkCounters"]

# Numbers of <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>.
NETLINK_ROUTE = 0
NLM_F_REQUEST = 1
RTM_NEWLINK = 16
RTM_GETLINK = 18
IFLA_STATS64 = 23
NLMSGHDR = struct.Struct("=IHHII")
IFINFOMSG = struct.Struct("=BxHiII")
RTATTR = struct.Struct("=HH")
STATS64 = struct.Struct("=8Q")  # the first fields of struct rtnl_link_stats64
ANSWER_BYTES_MAX = 1 << 16
WAIT_S = 1.0


class Dropped(NamedTuple):
    """Frames an interface dropped, as its host counts them."""

    rx: int
    tx: int


class LinkCounters:
    """The counters of the interface with an index, in the namespace this is made in."""

    def __init__(self, index: int) -> None:
        self.index = index
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.settimeout(WAIT_S)
        self._sequence = 0
        self._lock = threading.Lock()  # one question at a time: a live view asks from its own thread
        self._start = self.total()
        self._last = Dropped(0, 0)

    def total(self) -> Dropped | None:
        """Return what it dropped since it exists; None when it is not there (any more)."""
        with self._lock:
            self._sequence += 1
            length = NLMSGHDR.size + IFINFOMSG.size
            header = NLMSGHDR.pack(length, RTM_GETLINK, NLM_F_REQUEST, self._sequence, 0)
            try:
                self._socket.send(header + IFINFOMSG.pack(socket.AF_UNSPEC, 0, self.index, 0, 0))
                while True:
                    answer = self._socket.recv(ANSWER_BYTES_MAX)
                    _, kind, _, sequence, _ = NLMSGHDR.unpack_from(answer)
                    if sequence == self._sequence:
                        return parsed(answer) if kind == RTM_NEWLINK else None
            except OSError:
                return None

    def since_start(self) -> Dropped:
        """Return what it dropped since this object was made, or up to when it was seen last."""
        now = self.total()
        if now is not None and self._start is not None:
            self._last = Dropped(now.rx - self._start.rx, now.tx - self._start.tx)
        return self._last

    def close(self) -> None:
        """Close the socket; harmless when repeated."""
        self._socket.close()


def parsed(answer: bytes) -> Dropped | None:
    """Return the counters in an RTM_NEWLINK message, if it has them."""
    at = NLMSGHDR.size + IFINFOMSG.size
    while at + RTATTR.size <= len(answer):
        length, kind = RTATTR.unpack_from(answer, at)
        if length < RTATTR.size:
            return None
        if kind == IFLA_STATS64 and length >= RTATTR.size + STATS64.size:
            fields = STATS64.unpack_from(answer, at + RTATTR.size)
            return Dropped(fields[6], fields[7])
        at += (length + 3) & ~3
    return None
