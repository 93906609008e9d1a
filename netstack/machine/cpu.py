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

KERNELS = ("GENERIC", "NET_MPSAFE")

# What runs on a CPU right now; None is the idle loop.  Table 1 of the paper is in these words.
Context = Literal["hard", "soft", "thread"]


class Cpu:
    """One CPU.

    ``spl`` (an IPL number of ``kern/spl.py``), ``context`` and ``handler`` belong to the CPU:
    only code that runs on it changes them.
    """

    __slots__ = ("block", "context", "handler", "index", "machine", "spl")

    def __init__(self, index: int, block: CpuBlock) -> None:
        self.index = index
        self.block = block
        self.machine: Engine
        self.spl = 0
        self.context: Context | None = None
        self.handler = ""

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
