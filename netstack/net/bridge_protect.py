"""What protects the bridge's member list and table from its readers: interchangeable (paper §3.1, §3.2.2).

The paper's choice is pserialize, because locks that every frame takes do not scale.  To see that, the
same bridge runs under a mutex or an rwlock: the same frames come out, and CPUs wait for each other.
A reader's section is between ``read_enter`` and ``read_exit``; a writer publishes first and calls
``perform`` then, which returns when no section that was open is open any more.

The compiled loop knows pserialize only, so locks need the Python layers: ``Machine(path="stages")``.
Context: readers: softints and threads; ``perform``: threads.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from typing import Protocol

from netstack.errors import NetstackError
from netstack.kern.mutex import Mutex
from netstack.kern.rwlock import RW_READER, RwLock
from netstack.kern.spl import SOFTINT_IPL
from netstack.machine.api import Cpu, Engine

__all__ = ["PROTECTIONS", "MutexProtection", "Protection", "PserializeProtection", "RwLockProtection", "protection"]


class Protection(Protocol):
    """One way to keep readers and writers apart."""

    def read_enter(self, cpu: Cpu, forwards: int = 0) -> int:
        """Open a section, in which so many frames are going to be forwarded."""

    def read_exit(self, cpu: Cpu, s: int) -> None:
        """Close it."""

    def perform(self) -> None:
        """Wait until every section that is open now is closed."""


class PserializeProtection:
    """Readers announce themselves, and wait for nobody."""

    def __init__(self, engine: Engine, _name: str) -> None:
        self._engine = engine

    def read_enter(self, cpu: Cpu, forwards: int = 0) -> int:
        if forwards:
            self._engine.charge("bridge_forward", forwards)  # no time may pass inside
        return self._engine.pserialize.read_enter(cpu)

    def read_exit(self, cpu: Cpu, s: int) -> None:
        self._engine.pserialize.read_exit(cpu, s)

    def perform(self) -> None:
        self._engine.pserialize.perform()


class MutexProtection:
    """One reader at a time."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.lock = Mutex(engine, f"{name} readers", SOFTINT_IPL[2])

    def read_enter(self, cpu: Cpu, forwards: int = 0) -> int:
        self.lock.enter()
        if forwards:
            self._engine.charge("bridge_forward", forwards)
        return cpu.spl

    def read_exit(self, _cpu: Cpu, _s: int) -> None:
        self.lock.exit()

    def perform(self) -> None:
        with self.lock:  # whoever had it has left
            pass


class RwLockProtection:
    """Readers beside each other, but all through one lock word."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self.lock = RwLock(engine, f"{name} readers")

    def read_enter(self, cpu: Cpu, forwards: int = 0) -> int:
        self.lock.enter(RW_READER)
        if forwards:
            self._engine.charge("bridge_forward", forwards)
        return cpu.spl

    def read_exit(self, _cpu: Cpu, _s: int) -> None:
        self.lock.exit()

    def perform(self) -> None:
        with self.lock.writing():  # every reader has left
            pass


PROTECTIONS: dict[str, Callable[[Engine, str], Protection]] = {
    "pserialize": PserializeProtection,
    "mutex": MutexProtection,
    "rwlock": RwLockProtection,
}


def protection(engine: Engine, name: str, protect: str, path: str) -> Protection:
    """Return a protection by name.

    Raises: NetstackError(EINVAL): no such name, or a lock where the compiled loop serves frames.
    """
    if protect not in PROTECTIONS:
        text = f"{name}: protect={protect!r}: one of {', '.join(map(repr, PROTECTIONS))}"
        raise NetstackError(EINVAL, text)
    if protect != "pserialize" and path == "compiled":
        text = f"{name}: protect={protect!r}: the compiled loop takes no lock"
        raise NetstackError(EINVAL, f"{text}; make the machine with path='stages'")
    return PROTECTIONS[protect](engine, name)
