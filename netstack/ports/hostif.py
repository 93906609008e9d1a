"""What the host's kernel says of its interfaces: index, address, MTU, flags (netdevice(7)).

Here too: which names are acceptable (checked before any system call) and how an errno of the host
becomes an error that names the interface and the cure.
"""

import errno
import fcntl
import os
import re
import socket
import struct

from netstack.errors import (
    EnvironmentLacksError,
    NetstackError,
    NoSuchInterfaceError,
    PrivilegeError,
)

__all__ = ["DOWN", "GONE", "UP", "Link", "check_name", "explain"]

UP = "up"
DOWN = "down"
GONE = "gone"

NAME_BYTES_MAX = 15  # IFNAMSIZ less the terminating zero
NAME_REFUSED = re.compile(r"[\s/:%\0]")

# Numbers of <linux/sockios.h>, <net/if.h> and <linux/if_arp.h>.
SIOCGIFNAME = 0x8910
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCGIFMTU = 0x8921
SIOCGIFHWADDR = 0x8927
SIOCGIFINDEX = 0x8933
IFF_UP = 0x1
IFF_RUNNING = 0x40
ARPHRD_ETHER = 1
IFREQ = struct.Struct("16s24s")

CURE = {
    "CAP_NET_RAW": "run as root, or give the interpreter the capability: "
    "setcap cap_net_raw,cap_net_admin+ep $(readlink -f $(command -v python3))",
    "CAP_NET_ADMIN": "run as root, or have root make the TAP for you: ip tuntap add dev {name} mode tap user {user}",
}


class Link:
    """One interface of the host, asked through a socket of its network namespace.

    It is known by its index, so a rename does not lose it and a namesake does not replace it.

    Raises: NoSuchInterfaceError(ENXIO) -- there is none of this name.
    """

    def __init__(self, control: socket.socket, name: str) -> None:
        self._control = control
        try:
            self.index = int(struct.unpack("i", self._ask(SIOCGIFINDEX, name)[:4])[0])
        except OSError as problem:
            raise explain(problem, name) from None

    def _ask(self, request: int, name: str, argument: bytes = b"") -> bytes:
        packed = IFREQ.pack(os.fsencode(name), argument)
        answer: bytes = fcntl.ioctl(self._control.fileno(), request, packed)
        return answer[16:]

    def name(self) -> str:
        """Return the present name; OSError(ENODEV) when the interface is gone."""
        packed = IFREQ.pack(b"", struct.pack("i", self.index))
        answer: bytes = fcntl.ioctl(self._control.fileno(), SIOCGIFNAME, packed)
        return os.fsdecode(answer[:16].rstrip(b"\0"))

    def state(self) -> str:
        """Return ``up`` (administratively up, with carrier), ``down`` or ``gone``."""
        try:
            flags = self._flags()
        except (OSError, ValueError):  # no such index here; or the control socket is closed
            return GONE
        return UP if flags & IFF_UP and flags & IFF_RUNNING else DOWN

    def _flags(self) -> int:
        return int(struct.unpack("H", self._ask(SIOCGIFFLAGS, self.name())[:2])[0])

    def set_up(self) -> None:
        """Set the interface administratively up; OSError when that is not ours to do."""
        self._ask(SIOCSIFFLAGS, self.name(), struct.pack("H", self._flags() | IFF_UP))

    def mtu(self) -> int:
        """Return the MTU in bytes, without the Ethernet header."""
        return int(struct.unpack("i", self._ask(SIOCGIFMTU, self.name())[:4])[0])

    def mac(self) -> bytes:
        """Return the Ethernet address; NetstackError(EINVAL) when it is no Ethernet interface."""
        answer = self._ask(SIOCGIFHWADDR, self.name())
        kind = struct.unpack("H", answer[:2])[0]
        if kind != ARPHRD_ETHER:
            raise NetstackError(
                errno.EINVAL,
                f"{self.name()}: not an Ethernet interface (hardware type {kind}); "
                "name an Ethernet, veth or TAP interface",
            )
        return answer[2:8]


def check_name(name: str) -> str:
    """Return ``name`` if the kernel would accept it for an interface.

    Raises: NetstackError(EINVAL) -- empty, longer than 15 bytes, "." or "..", or with a slash,
            colon, percent sign, blank or zero byte.  (To the kernel an empty name or a percent
            sign means "invent one".)
    """
    if not isinstance(name, str):
        raise TypeError(f"an interface name is a str, not {type(name).__name__}")
    if not name:
        raise NetstackError(errno.EINVAL, "an interface name is empty; give one")
    try:
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        raise NetstackError(errno.EINVAL, f"{name!r}: no interface name can be that") from None
    if length > NAME_BYTES_MAX:
        raise NetstackError(errno.EINVAL, f"{name}: an interface name has at most {NAME_BYTES_MAX} bytes")
    if name in (".", "..") or NAME_REFUSED.search(name):
        raise NetstackError(
            errno.EINVAL,
            f"{name!r}: an interface name has no blank, slash, colon or percent sign",
        )
    return name


def explain(problem: OSError, name: str, capability: str = "CAP_NET_RAW") -> NetstackError:
    """Return the error to raise for what the host answered about an interface."""
    code = problem.errno or errno.EIO
    if code in (errno.EPERM, errno.EACCES):
        cure = CURE[capability].format(name=name, user=os.environ.get("USER", "$USER"))
        return PrivilegeError(code, f"{name}: this process lacks {capability}; {cure}")
    if code in (errno.ENODEV, errno.ENXIO):
        return NoSuchInterfaceError(errno.ENXIO, f"{name}: the host has no such interface; 'ip link' lists them")
    if code in (errno.EAFNOSUPPORT, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT):
        return EnvironmentLacksError(code, f"{name}: this kernel has no packet sockets of the kind needed ({problem})")
    return NetstackError(code, f"{name}: {problem.strerror or problem}")
