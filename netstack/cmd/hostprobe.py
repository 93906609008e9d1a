"""Questions to the host that ``doctor`` asks: capabilities, sockets, the clock, membarrier(2).

Every probe answers; none raises and none changes the host.
"""

import ctypes
import platform
import socket
import time

__all__ = [
    "can_open_socket",
    "clock_resolution_ns",
    "clock_step_ns",
    "has_capability",
    "has_membarrier",
]

# Bit numbers of capabilities(7).
CAPABILITY_BITS = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}

# Address families by number, since ``socket`` does not name AF_XDP on every Python.
FAMILIES = {"AF_PACKET": 17, "AF_XDP": 44}

# membarrier(2): system call number by machine, and the command that asks for the supported ones.
MEMBARRIER_NUMBERS = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356}
MEMBARRIER_CMD_QUERY = 0
MEMBARRIER_CMD_PRIVATE_EXPEDITED = 1 << 3


def has_capability(name: str) -> bool:
    """Say whether the capability is effective, by /proc/self/status."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            effective = next(line for line in lines if line.startswith("CapEff:"))
    except (OSError, StopIteration):
        return False
    return bool(int(effective.split()[1], 16) >> CAPABILITY_BITS[name] & 1)


def can_open_socket(family: str) -> bool:
    """Say whether a raw socket of the family opens; it is closed at once."""
    try:
        socket.socket(FAMILIES[family], socket.SOCK_RAW, 0).close()
    except OSError:
        return False
    return True


def has_membarrier() -> bool:
    """Say whether the kernel offers the process-wide barrier that pserialize can use."""
    number = MEMBARRIER_NUMBERS.get(platform.machine())
    if number is None:
        return False
    supported: int = ctypes.CDLL(None).syscall(number, MEMBARRIER_CMD_QUERY, 0)
    return supported > 0 and bool(supported & MEMBARRIER_CMD_PRIVATE_EXPEDITED)


def clock_resolution_ns() -> float:
    """Return what the system says of its monotonic clock."""
    return time.get_clock_info("perf_counter").resolution * 1e9


def clock_step_ns(samples: int = 1000) -> int:
    """Return the smallest step between two readings, which includes the cost of reading."""
    smallest = 1 << 62
    before = time.perf_counter_ns()
    for _ in range(samples):
        now = time.perf_counter_ns()
        if now > before:
            smallest = min(smallest, now - before)
        before = now
    return smallest
