"""LOCKDEBUG: misuse of locks is an error at the call, with everything the caller holds (paper §3.1).

Off (``engine.lockdebug is None``) or on, for a machine: on in the checked build, and by
``Machine(lockdebug=True)`` in any.  The facilities of ``kern/`` report what they do; the rules are
here, and each violation is a ``LockError`` with the name of its rule (``RULES``).

What one run shows without anybody being stuck: an order of locks taken the other way round before
(``kern/lockgraph.py``; locks are ordered by class, and "grace period", "GIL", "workqueue ..." are
nodes of the same graph), and a spin lock that a handler takes while others leave the handler's
level open.  What no run shows: code that did not run, and locks inside compiled kernels, which the
model checkers and the explorer see.

Source: NetBSD lockdebug(9), rules of ``mutex(9)``, ``rwlock(9)``, ``pserialize(9)``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBUSY, EDEADLK, EINVAL, EPERM
from warnings import warn
from weakref import ref

from netstack.kern.lockgraph import Edge, LockGraph
from netstack.kern.lockrecord import (
    GIL,
    GRACE_PERIOD,
    NO_WAIT,
    RULES,
    SLEEPING,
    Hold,
    Inside,
    Kind,
    LockError,
    Mark,
    Place,
    Record,
    Use,
    class_of,
    place_of_caller,
    text_of,
)
from netstack.machine.api import Caller, Cpu, Engine, caller_of
from netstack.params import LOCKDEBUG_LOCKS_MAX, LOCKDEBUG_REPORTS_MAX

__all__ = ["GRACE_PERIOD", "RULES", "LockDebug", "LockError"]

# Facilities that tell more than their name when they are entered: which lock, which mutex.
SELF_CHECKED = ("KERNEL_LOCK", "mutex (adaptive)", "rwlock", "pserialize (reader)", "cv_wait")


class LockDebug:
    """The checker of one machine."""

    def __init__(self, engine: Engine, graph: LockGraph | None = None) -> None:
        self.engine = engine
        self.reports: list[LockError] = []  # the first LOCKDEBUG_REPORTS_MAX findings
        self.findings = 0
        self.is_full = False  # of locks; what does not fit is not checked
        self._token = object()
        self._has_gil = engine.clock == "wall" and getattr(sys, "_is_gil_enabled", lambda: True)()
        self._graph = graph if graph is not None else LockGraph()
        self._records: dict[int, Record] = {}
        self._taken_by: dict[str, Use] = {}  # class -> highest interrupt that spins for it
        self._open_at: dict[str, Use] = {}  # class -> lowest SPL it was held at

    def graph(self) -> LockGraph:
        """Return the order of lock classes seen so far."""
        return self._graph

    def stats(self) -> dict[str, int]:
        """Return sizes of the tables, and what was found."""
        return {
            "locks": len(self._records),
            "classes": len(self._graph.nodes()),
            "edges": self._graph.count,
            "is_full": int(self.is_full or self._graph.is_full),
            "findings": self.findings,
        }

    def held(self) -> list[str]:
        """Return what the caller holds, the latest last, in words."""
        return [str(hold) for hold in self._mine(caller_of(self.engine))]

    # --- life of a lock

    def alloc(self, lock: object, name: str, klass: str | None, kind: Kind) -> None:
        """Note a lock that was made.

        Context: any.   Raises: LockError -- EINVAL, it exists already.
        """
        key = id(lock)
        record = self._records.get(key)
        place = place_of_caller()
        if record is not None and not record.is_dead:
            made = f"it was made at {text_of(record.place)}"
            self._fail(EINVAL, "double init", f"{record} is made again; {made}", place)
        if record is None and len(self._records) >= LOCKDEBUG_LOCKS_MAX:
            if not self.is_full:
                self.is_full = True
                warn(
                    f"LOCKDEBUG: {LOCKDEBUG_LOCKS_MAX} locks exist: further ones are NOT checked; "
                    "raise LOCKDEBUG_LOCKS_MAX, or destroy locks that are no longer used",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return
        ipl = int(getattr(lock, "ipl", 0) or 0) if kind == "spin" else 0
        record = Record(self._token, name, klass or class_of(name), kind, ipl, place)
        records = self._records
        try:
            record.lock = ref(lock, lambda _: records.pop(key, None))
        except TypeError:
            record.lock = lock
        records[key] = record

    def free(self, lock: object) -> None:
        """Note that a lock is destroyed.

        Raises: LockError -- EBUSY, somebody holds it; EINVAL, never made, or destroyed before.
        """
        record = self._record(lock, "destroyed")
        if record is None:
            return
        place = place_of_caller()
        if record.owner is not None or record.readers:
            holder = f"{record.owner} holds" if record.owner else f"{record.readers} readers hold"
            self._fail(EBUSY, "destroy while held", f"{record} is destroyed while {holder} it", place)
        record.is_dead = True
        record.place = place

    # --- taking and releasing

    def wantlock(self, lock: object, shared: bool = False, is_try: bool = False) -> None:
        """Check what can be known before a lock is waited for, and note the order.

        Context: any.   Raises: LockError -- EINVAL, EDEADLK.
        """
        record = self._record(lock, "wanted")
        if record is None:
            return
        caller = caller_of(self.engine)
        place = place_of_caller()
        held = self._mine(caller)
        self._check_context(record, caller, held, place)
        if is_try:
            return
        if record.kind != "kernel_lock":
            self._check_self(record, caller, held, place)
        caller.waits = record
        if record.kind == "condvar":
            return
        self._note_order(record, caller, place)
        if self._has_gil and record.kind not in SLEEPING:
            # A Python holder may lose the GIL and wait for it, with the lock (docs/decisions/0002).
            self._edge(record.klass, GIL, place, caller, place)

    def locked(self, lock: object, shared: bool = False) -> None:
        """Note that the caller has the lock now, at the SPL it holds it at.

        Raises: LockError -- EDEADLK, somebody else has it too, or an interrupt could deadlock on it.
        """
        record = self._record(lock, "taken")
        if record is None:
            return
        caller = caller_of(self.engine)
        was_wanted, caller.waits = caller.waits is record, None
        place = place_of_caller()
        others = record.owner is not None or (record.readers and not shared)
        if others and record.kind != "kernel_lock":
            holder = record.owner or f"{record.readers} readers"
            self._fail(EDEADLK, "broken exclusion", f"{record} was given to {caller} while {holder} had it", place)
        caller.held.append(Hold(record, shared, place))
        if shared:
            record.readers += 1
        else:
            record.owner = caller
        if record.kind == "spin":
            self._check_levels(record, caller, place, was_wanted)

    def unlocked(self, lock: object, shared: bool = False) -> None:
        """Note that the caller is about to release the lock.

        Raises: LockError -- EPERM, it is not the caller's.
        """
        record = self._record(lock, "released")
        if record is None:
            return
        caller = caller_of(self.engine)
        owner: Caller | None = caller
        while owner is not None:
            for i in range(len(owner.held) - 1, -1, -1):
                hold = owner.held[i]
                if hold.record is record and hold.is_shared == shared:
                    del owner.held[i]
                    if shared:
                        record.readers -= 1
                    elif all(hold.record is not record for hold in owner.held):
                        record.owner = None
                    return
            # A big lock belongs to the CPU: what interrupts its holder has it too.
            owner = owner.parent if record.kind == "kernel_lock" else None
        holder = f"{record.owner} holds it" if record.owner else "nobody holds it"
        if record.readers:
            holder = f"{record.readers} readers hold it"
        self._fail(EPERM, "unlock by non-owner", f"{record} is released by {caller}; {holder}", place_of_caller())

    # --- waiting

    def sleepable(self, what: str) -> None:
        """Check that the caller may sleep now.

        Raises: LockError -- EDEADLK.
        """
        caller = caller_of(self.engine)
        waits = caller.waits
        if waits is not None and waits.kind not in SLEEPING:
            return  # it spins; a waiting machine is how that looks
        if caller.context == "hard" or (caller.context == "soft" and waits is None):
            self._fail(EDEADLK, "sleep in interrupt", f"{caller} would sleep for {what}", place_of_caller())
        self._check_may_wait(caller, what, place_of_caller())

    def enters(self, facility: str) -> None:
        """Check that the caller may use a facility that may wait; see ``kern/context.py``.

        Raises: LockError -- EDEADLK.
        """
        if facility not in SELF_CHECKED:
            self._check_may_wait(caller_of(self.engine), facility, place_of_caller())

    def wait_for(self, node: str, what: str = "") -> None:
        """Note that the caller waits for something that others hold up like a lock.

        Args:   node -- "grace period", "psref drain of ...", "workqueue ...", "GIL".
        Raises: LockError -- EDEADLK, from a context that cannot wait, or against the order.
        """
        caller = caller_of(self.engine)
        place = place_of_caller()
        klass = class_of(node)
        if node != GIL:
            if caller.context == "hard":
                self._fail(EDEADLK, "sleep in interrupt", f"{caller} would wait for {node}", place)
            self._check_may_wait(caller, what or node, place)
        if any(entry.node == node for entry in caller.inside):
            self._fail(EDEADLK, "self-lock", f"{caller} is inside of {node} and waits for it", place)
        for hold in self._mine(caller):
            if hold.record.kind != "kernel_lock":  # which is released over sleep
                self._edge(hold.record.klass, klass, hold.place, caller, place)
        for entry in caller.inside:
            self._edge(class_of(entry.node), klass, entry.place, caller, place)

    @contextmanager
    def inside(self, node: str) -> Iterator[None]:
        """Note that who waits for ``node`` waits for the caller while the ``with`` block lasts."""
        caller = caller_of(self.engine)
        entry = Inside(node, place_of_caller())
        caller.inside.append(entry)
        try:
            yield
        finally:
            caller.inside.remove(entry)

    # --- read sections, handlers, SPL

    def section_begins(self, cpu: Cpu) -> None:
        """Note a pserialize read section: who waits for a grace period waits for the caller."""
        caller = caller_of(self.engine)
        if any(hold.record.kind == "spin" for hold in self._mine(caller)):
            text = f"{caller} opens a read section"
            self._fail(EDEADLK, "read section under spin lock", text, place_of_caller())
        if any(entry.node == GRACE_PERIOD for entry in caller.inside):
            text = f"{caller} opens a read section in a read section"
            self._fail(EDEADLK, "nested read section", text, place_of_caller())
        caller.inside.append(Inside(GRACE_PERIOD, place_of_caller()))

    def section_ends(self, cpu: Cpu) -> None:
        """Note the end of a read section.

        Raises: LockError -- EINVAL, the caller has none open.
        """
        caller = caller_of(self.engine)
        for entry in reversed(caller.inside):
            if entry.node == GRACE_PERIOD:
                caller.inside.remove(entry)
                return
        text = f"{caller} closes a read section that it did not open"
        self._fail(EINVAL, "unbalanced read section", text, place_of_caller())

    def spl_lowered(self, cpu: Cpu, s: int) -> None:
        """Check that the SPL may go down to ``s``; called before it does."""
        caller = caller_of(self.engine)
        text = f"{caller} lowers the SPL to {s}"
        if s < caller.ipl:
            self._fail(EDEADLK, "SPL lowered", f"{text}; it began at {caller.ipl}", place_of_caller())
        for hold in self._mine(caller):
            if s < hold.record.ipl:
                text = f"{text} with {hold.record}, whose level is {hold.record.ipl}"
                self._fail(EDEADLK, "SPL lowered", text, place_of_caller())

    def handler_begins(self, cpu: Cpu) -> Mark:
        """Note what the caller has, for ``handler_ends``."""
        caller = caller_of(self.engine)
        is_in_section = self.engine.psz.in_section(cpu.index)
        return Mark(caller, len(caller.held), len(caller.inside), is_in_section)

    def handler_ends(self, cpu: Cpu, mark: Mark, name: str) -> None:
        """Check that a handler leaves nothing behind.

        Raises: LockError -- EDEADLK.
        """
        caller = mark.caller
        leaked = caller.held[mark.held :]
        if leaked:
            what = ", ".join(str(hold.record) for hold in leaked)
            self._fail(EDEADLK, "lock leaked", f"{name} returned with {what}", leaked[-1].place)
        opened = [entry for entry in caller.inside[mark.inside :] if entry.node == GRACE_PERIOD]
        if opened or (self.engine.psz.in_section(cpu.index) and not mark.is_in_section):
            place = opened[-1].place if opened else place_of_caller()
            text = f"{name} left a pserialize read section open"
            self._fail(EDEADLK, "read section leaked", text, place)
        if caller.context in ("hard", "soft") and cpu.spl != caller.ipl:
            text = f"{name} returned at SPL {cpu.spl}; it began at {caller.ipl}"
            self._fail(EDEADLK, "SPL leaked", text, place_of_caller())

    # --- the rules

    def _check_context(self, record: Record, caller: Caller, held: list[Hold], place: Place) -> None:
        if record.kind == "spin":
            return
        if caller.context == "hard" and record.kind in SLEEPING:
            self._fail(EDEADLK, "sleeping lock in interrupt", f"{record} wanted by {caller}", place)
        if record.kind == "condvar":
            return
        bond = self._bond(caller, held)
        if bond:
            text = f"{record} wanted by {caller}"
            self._fail(EDEADLK, f"sleeping lock {bond}", text, place)

    def _check_self(self, record: Record, caller: Caller, held: list[Hold], place: Place) -> None:
        # Who interrupted the holder of a spin lock waits for ever; a sleeping lock can be slept for.
        mine = held if record.kind in SLEEPING else self._chain(caller)
        for hold in mine:
            if hold.record is record:
                who = "which" if hold in held else "and what it interrupted"
                text = f"{record} wanted by {caller}, {who} holds it already: locking against myself"
                self._fail(EDEADLK, "self-lock", text, place)

    def _check_may_wait(self, caller: Caller, what: str, place: Place) -> None:
        bond = self._bond(caller, self._mine(caller))
        if bond:
            self._fail(EDEADLK, f"sleep {bond}", f"{caller} would wait for {what}", place)

    def _bond(self, caller: Caller, held: list[Hold]) -> str:
        """Why the caller may not wait, in the words of the rules; "" when it may."""
        for entry in caller.inside:
            if entry.node in NO_WAIT:
                return "in read section" if entry.node == GRACE_PERIOD else "with percpu reference"
        if any(hold.record.kind == "spin" for hold in held):
            return "under spin lock"
        if caller.context != "hard":  # the section is that of what it interrupted
            cpu = self.engine.curcpu()
            if cpu is not None and self.engine.psz.in_section(cpu.index):
                return "in read section"
        return ""

    def _check_levels(self, record: Record, caller: Caller, place: Place, has_spun: bool) -> None:
        """Keep the two extremes of a class, and compare them: open below an interrupt that spins."""
        cpu = self.engine.curcpu()
        if cpu is None:
            return  # nothing interrupts a control thread
        klass = record.klass
        taken, opened = self._taken_by.get(klass), self._open_at.get(klass)
        if has_spun and caller.context != "thread" and (taken is None or caller.ipl > taken.spl):
            taken = self._taken_by[klass] = Use(caller.ipl, repr(caller), place)
        if opened is None or cpu.spl < opened.spl:
            opened = self._open_at[klass] = Use(cpu.spl, repr(caller), place)
        if taken is not None and opened.spl < taken.spl:
            self._fail(
                EDEADLK,
                "interrupt-unsafe",
                f"spin locks of class '{klass}' are taken by {taken.by} at SPL {taken.spl} "
                f"({text_of(taken.place)}) and held by {opened.by} at SPL {opened.spl} "
                f"({text_of(opened.place)}): the interrupt would spin for the CPU it interrupts; "
                f"make the lock with ipl {taken.spl}",
                place,
            )

    def _note_order(self, record: Record, caller: Caller, place: Place) -> None:
        chain = self._chain(caller)
        if any(hold.record is record for hold in chain):
            return  # deeper into a big lock
        for hold in chain:
            other = hold.record
            if other.kind == "kernel_lock" and record.kind in SLEEPING:
                continue  # who sleeps has released it
            before, after = other.klass, record.klass
            if before == after:
                before, after = f"{before} [{other.name}]", f"{after} [{record.name}]"
                if before == after:
                    continue
            self._edge(before, after, hold.place, caller, place)
        each: Caller | None = caller
        while each is not None:
            for entry in each.inside:
                self._edge(class_of(entry.node), record.klass, entry.place, caller, place)
            each = each.parent

    def _edge(self, before: str, after: str, held_at: Place, caller: Caller, place: Place) -> None:
        if self._graph.knows(before, after):
            return
        edge = Edge(before, after, text_of(held_at), text_of(place), repr(caller))
        way = self._graph.add(edge)
        if way:
            seen = "\n  the other way round: ".join(str(each) for each in way)
            text = (
                f"'{after}' is wanted by {caller} with '{before}', against the order seen before; "
                f"take them in one order everywhere\n  the other way round: {seen}"
            )
            self._fail(EDEADLK, "order", text, place)

    # --- helpers

    def _record(self, lock: object, verb: str) -> Record | None:
        record = self._records.get(id(lock))
        if record is not None and not record.is_dead:
            return record
        if record is None and self.is_full:
            return None
        name = getattr(lock, "name", type(lock).__name__)
        why = "it was never made" if record is None else f"it was destroyed at {text_of(record.place)}"
        self._fail(EINVAL, "uninitialised", f"'{name}' is {verb}, but {why}", place_of_caller())
        return None

    def _mine(self, caller: Caller) -> list[Hold]:
        return [hold for hold in caller.held if hold.record.debug is self._token]

    def _chain(self, caller: Caller) -> list[Hold]:
        """What the caller holds, and what those hold that it interrupted and keeps from going on."""
        held: list[Hold] = []
        each: Caller | None = caller
        while each is not None:
            held = self._mine(each) + held
            each = each.parent
        return held

    def _fail(self, errno: int, rule: str, text: str, place: Place) -> None:
        caller = caller_of(self.engine)
        held = [f"\n  held: {hold}" for hold in self._chain(caller)] or ["\n  held: no lock"]
        held += [f"\n  in: {entry}" for entry in caller.inside]
        message = f"LOCKDEBUG {rule}: {text} [{text_of(place)}]\n  rule: {RULES[rule]}{''.join(held)}"
        error = LockError(errno, message, rule)
        self.findings += 1
        if len(self.reports) < LOCKDEBUG_REPORTS_MAX:
            self.reports.append(error)
        raise error
