"""Who is calling: a token for owners of locks, the same kind on both machines (paper §3.1, Table 1).

A thread has one for life; a handler has one for each activation, and knows what it interrupted.
Tokens hang on the greenlet that runs, which on the wall machine is the OS thread, so they follow a
thread that sleeps and wakes.  Used by the owners of mutexes in every build and by LOCKDEBUG.

Limits: threads of the virtual machine and of the wall machine; a coroutine is part of its thread.
"""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

if TYPE_CHECKING:
    from netstack.machine.cpu import Context, Cpu

__all__ = ["Caller", "caller_begins", "caller_ends", "caller_of"]

KEY = "netstack_caller"


class Caller:
    """One thread, or one activation of a handler.  Compared by identity.

    ``held``, ``inside`` and ``waits`` are LOCKDEBUG's.
    """

    __slots__ = ("__weakref__", "context", "cpu_index", "held", "inside", "ipl", "name", "parent", "waits")

    def __init__(self, name: str, context: Context, cpu_index: int | None, ipl: int, parent: Caller | None) -> None:
        self.name = name
        self.context = context
        self.cpu_index = cpu_index  # None: a control thread
        self.ipl = ipl  # SPL it began at
        self.parent = parent  # what it interrupted, if that is known
        self.held: list[Any] = []
        self.inside: list[Any] = []
        self.waits: Any = None

    def __repr__(self) -> str:
        if self.cpu_index is None:
            return self.name
        kind = {"hard": "hard interrupt", "soft": "softint"}.get(self.context, "thread")
        return f"{kind} '{self.name}' on CPU {self.cpu_index}"


def caller_of(engine: Any) -> Caller:
    """Return the token of the caller, a new one when a thread is seen for the first time.

    Context: any.
    """
    green = getcurrent().__dict__
    caller: Caller | None = green.get(KEY)
    if caller is None:
        caller = green[KEY] = _new_thread(engine.curcpu())
    return caller


def caller_begins(cpu: Cpu) -> Caller:
    """Begin the activation of ``cpu.handler`` in ``cpu.context``, on top of what runs there.

    Context: ``cpu`` itself, with its SPL, context and handler set; a ``caller_ends`` follows.
    """
    green = getcurrent().__dict__
    parent: Caller | None = green.get(KEY)
    caller = Caller(cpu.handler, cpu.context or "thread", cpu.index, cpu.spl, parent)
    green[KEY] = caller
    return caller


def caller_ends(caller: Caller) -> None:
    """End an activation: what it interrupted is the caller again."""
    green = getcurrent().__dict__
    if caller.parent is None:
        green.pop(KEY, None)
    else:
        green[KEY] = caller.parent


def _new_thread(cpu: Cpu | None) -> Caller:
    if cpu is not None:
        return Caller(cpu.handler or "idle", cpu.context or "thread", cpu.index, 0, None)
    thread = current_thread()
    name = "control thread" if thread is main_thread() else f"thread '{thread.name}'"
    return Caller(name, "thread", None, 0, None)
