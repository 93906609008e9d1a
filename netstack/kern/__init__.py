"""Kernel facilities: one file, one manual page.  All waiting goes through ``machine.api``."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netstack.machine.api import Engine

__all__ = ["attach"]


def attach(engine: "Engine") -> None:
    """Put the kernel on a machine: KERNEL_LOCK, softints, interrupts, grace periods, callouts.

    Context: control thread, once, before anything runs.
    """
    from netstack.kern.callout import CalloutWheel
    from netstack.kern.intr import IntrRegistry
    from netstack.kern.kernel_lock import KernelLock
    from netstack.kern.pserialize import Pserialize
    from netstack.kern.softint import SoftintRegistry

    lock = KernelLock(engine)
    engine.kernel_lock = lock
    engine.softints = SoftintRegistry(engine, lock)
    engine.intrs = IntrRegistry(engine, lock)
    engine.pserialize = Pserialize(engine)
    engine.callouts = CalloutWheel(engine)
