"""Kernel facilities: one file, one manual page.  All waiting goes through ``machine.api``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.machine.api import Engine

__all__ = ["attach"]


def attach(engine: "Engine", lockdebug: bool | None = None) -> None:
    """Put the kernel on a machine: KERNEL_LOCK, softints, interrupts, grace periods, callouts.

    Context: control thread, once, before anything runs.
    Args:    lockdebug -- check the use of locks; None: in the checked build only.
    """
    from netstack._fast.lock import IS_CHECKED
    from netstack.kern.callout import CalloutWheel
    from netstack.kern.intr import IntrRegistry
    from netstack.kern.kernel_lock import KernelLock
    from netstack.kern.lockdebug import LockDebug
    from netstack.kern.pserialize import Pserialize
    from netstack.kern.sleepq import SleepTable
    from netstack.kern.softint import SoftintRegistry
    from netstack.kern.xcall import Xcalls

    is_checked = IS_CHECKED if lockdebug is None else lockdebug
    engine.lockdebug = LockDebug(engine) if is_checked else None
    engine.sleepqs = SleepTable(engine)
    lock = KernelLock(engine)
    engine.kernel_lock = lock
    engine.softints = SoftintRegistry(engine, lock)
    engine.intrs = IntrRegistry(engine, lock)
    engine.pserialize = Pserialize(engine)
    engine.callouts = CalloutWheel(engine)
    engine.xcalls = Xcalls(engine)
