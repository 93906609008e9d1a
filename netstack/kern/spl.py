"""Interrupt priority levels, and the SPL of a CPU (paper §2.2.2; NetBSD spl(9)).

An SPL holds off interrupts of its own level and below on one CPU; it says nothing to other CPUs.
Raising never lowers.  ``splx`` restores, and then runs everything that became unmasked.
"""

from enum import IntEnum
from errno import EINVAL

from netstack.errors import NetstackError
from netstack.machine.api import Cpu

__all__ = [
    "IPL",
    "SOFTINT_IPL",
    "makeiplcookie",
    "splhigh",
    "splnet",
    "splraise",
    "splraiseipl",
    "splsched",
    "splserial",
    "splsoftbio",
    "splsoftclock",
    "splsoftnet",
    "splsoftserial",
    "splvm",
    "splx",
]


class IPL(IntEnum):
    """Levels in ascending order; NET is VM and SERIAL is HIGH, as on NetBSD."""

    NONE = 0
    SOFTCLOCK = 1
    SOFTBIO = 2
    SOFTNET = 3
    SOFTSERIAL = 4
    VM = 5
    NET = 5
    SCHED = 6
    HIGH = 7
    SERIAL = 7


# By softint level: clock, bio, net, serial.
SOFTINT_IPL = (IPL.SOFTCLOCK, IPL.SOFTBIO, IPL.SOFTNET, IPL.SOFTSERIAL)


def splraise(cpu: Cpu, ipl: int) -> int:
    """Raise the SPL of ``cpu`` to ``ipl``, or leave it when it is higher; return the old one.

    Context: any, on ``cpu`` itself.
    """
    old = cpu.spl
    if ipl > old:
        cpu.spl = int(ipl)
    return old


def makeiplcookie(ipl: int) -> int:
    """Return what ``splraiseipl`` takes for a level that is known at run time only.

    Raises: NetstackError -- EINVAL, no such level.
    """
    if ipl not in set(IPL):
        raise NetstackError(EINVAL, f"IPL {ipl} is none of {', '.join(IPL.__members__)}")
    return int(ipl)


def splraiseipl(cpu: Cpu, cookie: int) -> int:
    """Raise the SPL to the level of a cookie; return the old one (NetBSD splraiseipl(9))."""
    return splraise(cpu, cookie)


def splx(cpu: Cpu, s: int) -> None:
    """Go back to the SPL that a raise returned; run what was held off, highest first.

    Context: any, on ``cpu`` itself.  A value above the SPL is ignored: ``splx`` does not raise.
             Nobody goes below the level that a handler began at (Table 1, note 4).
    """
    if s < cpu.spl:
        debug = cpu.machine.lockdebug
        if debug is not None:
            debug.spl_lowered(cpu, int(s))
        cpu.spl = int(s)
        cpu.machine.unmask(cpu)


def splsoftclock(cpu: Cpu) -> int:
    """Hold off softints of level clock."""
    return splraise(cpu, IPL.SOFTCLOCK)


def splsoftbio(cpu: Cpu) -> int:
    """Hold off softints up to level bio."""
    return splraise(cpu, IPL.SOFTBIO)


def splsoftnet(cpu: Cpu) -> int:
    """Hold off softints up to level net."""
    return splraise(cpu, IPL.SOFTNET)


def splsoftserial(cpu: Cpu) -> int:
    """Hold off every softint."""
    return splraise(cpu, IPL.SOFTSERIAL)


def splvm(cpu: Cpu) -> int:
    """Hold off softints and the hard interrupts of block and network devices."""
    return splraise(cpu, IPL.VM)


def splnet(cpu: Cpu) -> int:
    """Hold off hard interrupts of network devices: the old protection of a driver's queues."""
    return splraise(cpu, IPL.NET)


def splsched(cpu: Cpu) -> int:
    """Hold off what may take a scheduler lock."""
    return splraise(cpu, IPL.SCHED)


def splserial(cpu: Cpu) -> int:
    """Hold off the hard interrupts of serial lines, which is everything."""
    return splraise(cpu, IPL.SERIAL)


def splhigh(cpu: Cpu) -> int:
    """Hold off everything."""
    return splraise(cpu, IPL.HIGH)
