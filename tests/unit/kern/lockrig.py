"""Locks that only report, and a way to run a function in any context: for tests of the checker."""

from collections.abc import Callable
from errno import errorcode
from typing import Any

import pytest
from sim.rig import Device, make

from netstack.kern.lockdebug import LockDebug, LockError
from netstack.kern.spl import splraise, splx
from netstack.machine.virtual import VirtualEngine


def checked(ncpu: int = 1, kernel: str = "NET_MPSAFE") -> tuple[VirtualEngine, LockDebug]:
    """Return a machine whose locks are checked, and the checker."""
    engine = make(ncpu, kernel, lockdebug=True)
    debug = engine.lockdebug
    assert isinstance(debug, LockDebug)
    return engine, debug


class Reporter:
    """What a real lock tells the checker, without a lock."""

    def __init__(self, debug: LockDebug, name: str, kind: Any = "spin", ipl: int = 0, klass: str = "") -> None:
        self.name = name
        self.ipl = ipl
        self.debug = debug
        self.saved = 0
        debug.alloc(self, name, klass or None, kind)

    def enter(self, shared: bool = False) -> None:
        """Want it, raise the SPL, have it."""
        self.debug.wantlock(self, shared)
        cpu = self.debug.engine.curcpu()
        if cpu is not None:
            self.saved = splraise(cpu, self.ipl)
        self.debug.locked(self, shared)

    def exit(self, shared: bool = False) -> None:
        """Release it and lower the SPL."""
        self.debug.unlocked(self, shared)
        cpu = self.debug.engine.curcpu()
        if cpu is not None:
            splx(cpu, self.saved)


def run_in(engine: VirtualEngine, context: str, fn: Callable[[], object], cpu: int = 0, ipl: int = 5) -> None:
    """Run ``fn`` to its end in a context of a machine at rest; what it raises comes out."""
    if context == "control":
        fn()
        return
    if context == "thread":
        engine.spawn(fn, cpu=cpu, name="worker")
    elif context == "soft":
        si = engine.softints.establish("net", lambda _: fn(), name="handler")
        engine.softints.schedule_cpu(si, cpu)
    else:
        Device(engine, f"dev{len(engine.intrs.list())}", cpu=cpu, ipl=ipl, then=fn).fire()
    engine.run()


def refused(rule: str, fn: Callable[[], object]) -> LockError:
    """Expect a violation of a rule; return the error."""
    with pytest.raises(LockError) as caught:
        fn()
    error = caught.value
    assert error.rule == rule, f"{error.rule}, not {rule}: {error}"
    assert f"LOCKDEBUG {rule}:" in str(error) and "\n  rule: " in str(error)
    assert errorcode[error.errno or 0] in str(error)
    return error
