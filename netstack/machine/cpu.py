"""A CPU of a machine, and the making of a set of them (paper §2.2.2, §4.2).

Both engines build their CPUs here, so the compiled blocks, the interrupt controller, the softint
table and the pserialize object are wired the same way on the wall and in virtual time.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EINVAL
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from netstack._fast.cpu import CpuBlock, SoftintTable
from netstack._fast.intr import IntrController
from netstack._fast.lock import SpinLock
from netstack._fast.mbuf import MbufPool
from netstack._fast.pserialize import PSerialize
from netstack.errors import NetstackError

if TYPE_CHECKING:
    from netstack.machine.api import Engine

__all__ = ["KERNELS", "Context", "Cpu", "CpuSet", "build_cpus", "is_giant_locked"]

CPU_MAX = 64  # as in _fast/defs.pxd
SOFTINT_LEVELS = 4

KERNELS = ("GENERIC", "NET_MPSAFE")

# What runs on a CPU right now; None is the idle loop.  Table 1 of the paper is in these words.
Context = Literal["hard", "soft", "thread"]


class Cpu:
    """One CPU.

    All but ``index``, ``block`` and ``machine`` belong to the CPU: only code that runs on it changes
    them, except ``soft_ready``, which wakers set under the machine's rules.
    """

    __slots__ = (
        "block",
        "context",
        "handler",
        "index",
        "machine",
        "mtx_count",
        "mtx_oldspl",
        "soft_blocked",
        "soft_blocks",
        "soft_ready",
        "spl",
    )

    def __init__(self, index: int, block: CpuBlock) -> None:
        self.index = index
        self.block = block
        self.machine: Engine
        self.spl = 0  # an IPL number of kern/spl.py
        self.context: Context | None = None
        self.handler = ""
        self.mtx_count = 0  # spin mutexes held here, and the SPL before the first of them
        self.mtx_oldspl = 0
        self.soft_blocked = 0  # bit per softint level: its handler here waits for a lock,
        self.soft_ready = 0  # and may go on
        self.soft_blocks = [0] * SOFTINT_LEVELS  # how often, by level

    def __repr__(self) -> str:
        return f"<CPU#{self.index} {self.context or 'idle'} {self.handler} spl {self.spl}>"


C = TypeVar("C", bound=Cpu)


class CpuSet(NamedTuple):
    """What ``build_cpus`` makes; ``giant``: lock word of compiled loops, or None on NET_MPSAFE."""

    controller: IntrController
    softints: SoftintTable
    psz: PSerialize
    giant: SpinLock | None
    cpus: Sequence[Any]


def is_giant_locked(kernel: str) -> bool:
    """Say whether a kernel runs the network under KERNEL_LOCK; the one place that reads the switch.

    Raises: NetstackError -- EINVAL, a kernel nobody has built.
    Source: paper §2.1 and §6.1.
    """
    if kernel not in KERNELS:
        raise NetstackError(EINVAL, f"kernel {kernel!r} is none of {', '.join(KERNELS)}")
    return kernel == "GENERIC"


def build_cpus(
    ncpu: int,
    pool: MbufPool,
    kernel: str,
    controller: IntrController | None = None,
    *,
    make: type[C] | type[Cpu] = Cpu,
    psz_strategy: str = "auto",
) -> CpuSet:
    """Make the CPUs of a machine and what they share.

    Args:    ncpu -- 1..64.   kernel -- a word of ``KERNELS``.   make -- the class of a CPU.
    Raises:  NetstackError -- EINVAL, ``ncpu`` or ``kernel`` out of range.
    """
    if not 1 <= ncpu <= CPU_MAX:
        raise NetstackError(EINVAL, f"{ncpu} CPUs: a machine has 1 to {CPU_MAX}")
    giant = SpinLock() if is_giant_locked(kernel) else None
    controller = controller if controller is not None else IntrController(ncpu)
    softints = SoftintTable()
    psz = PSerialize(ncpu, psz_strategy)
    blocks = [CpuBlock(i, controller, pool, softints, psz, giant) for i in range(ncpu)]
    return CpuSet(controller, softints, psz, giant, [make(b.index, b) for b in blocks])
