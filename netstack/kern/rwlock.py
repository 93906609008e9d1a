"""Readers and one writer (paper §3.1.2, Table 1; NetBSD rwlock(9)).

Many readers or one writer.  A writer that waits holds off new readers; a writer that leaves lets in
the readers that waited meanwhile, and the last of these the longest-waiting writer: neither side
starves.  A release hands the lock over, so that nobody can overtake who was chosen.  A waiter spins
while a writer runs on another CPU and nobody sleeps, and sleeps otherwise, without KERNEL_LOCK.

Context: threads, control threads and softints, which block; never hard interrupts.  Does not nest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EBUSY, EDEADLK, EINVAL, EPERM, ETIMEDOUT
from typing import Literal, NamedTuple, TypeAlias

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.turnstile import check_cycle
from netstack.machine.api import Engine, Lwp, Sleeper

__all__ = ["RW_READER", "RW_WRITER", "RwLock"]

Op: TypeAlias = Literal["reader", "writer"]
RW_READER: Op = "reader"
RW_WRITER: Op = "writer"


class Entry(NamedTuple):
    """One that waits."""

    sleeper: Sleeper
    op: Op
    lwp: Lwp


class RwLock:
    """A readers/writer lock; ``with lock.reading():`` and ``with lock.writing():`` take it."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self.contended = 0
        self._engine = engine
        self._is_dead = False
        # Guards all below; held for a few lines without a call into the machine.
        self._guard = SpinLock()
        self._writer: Lwp | None = None
        self._readers: dict[Lwp, None] = {}
        self._queue: deque[Entry] = deque()
        self._spinning = 0
        debug = engine.lockdebug
        if debug is not None:
            debug.alloc(self, name, None, "rwlock")

    # --- taking and releasing

    def enter(self, op: Op, timeout_s: float | None = None) -> None:
        """Take it, waiting where others come first.

        Context: thread, control thread or softint.
        Args:    op -- ``RW_READER`` or ``RW_WRITER``.
        Raises:  NetstackError -- EDEADLK, the caller holds it in whatever way, or waits in a circle,
                 or nothing runs that could release it; EINVAL, it is destroyed, or no such ``op``;
                 ETIMEDOUT, after ``timeout_s`` or the machine's patience.
        """
        engine = self._engine
        assert_callable_from(engine, "rwlock")
        self._check(op)
        debug = engine.lockdebug
        if debug is not None:
            debug.wantlock(self, shared=op == RW_READER)
        engine.charge("lock")
        me = engine.curlwp()
        if self._holds(me):
            raise NetstackError(
                EDEADLK,
                f"rwlock {self.name}: {me.name} is its {'writer' if self._writer is me else 'reader'}"
                f" and wants it as {op}; it does not nest: tryupgrade, or release it first",
            )
        if not self._take(me, op):
            self._enter_slow(me, op, timeout_s)
        if debug is not None:
            debug.locked(self, shared=op == RW_READER)

    def try_enter(self, op: Op) -> bool:
        """Take it if that needs no waiting (NetBSD rw_tryenter).

        Context: as ``enter``; a reader is refused while a writer waits.
        """
        engine = self._engine
        assert_callable_from(engine, "rwlock")
        self._check(op)
        debug = engine.lockdebug
        if debug is not None:
            debug.wantlock(self, shared=op == RW_READER, is_try=True)
        engine.charge("lock")
        me = engine.curlwp()
        is_taken = not self._holds(me) and self._take(me, op)
        if is_taken and debug is not None:
            debug.locked(self, shared=op == RW_READER)
        return is_taken

    def exit(self) -> None:
        """Release it, in whatever way the caller holds it.

        Raises: NetstackError -- EPERM, the caller does not.
        """
        me = self._engine.curlwp()
        is_reader = me in self._readers
        if not is_reader and self._writer is not me:
            raise NetstackError(
                EPERM, f"rwlock {self.name}: released by {me.name}; {self.holder} holds it"
            )
        debug = self._engine.lockdebug
        if debug is not None:
            debug.unlocked(self, shared=is_reader)
        self._engine.charge("lock", 0)  # costs nothing; others may come in before the release
        self._guard.enter()
        if is_reader:
            del self._readers[me]
            chosen = [] if self._readers else self._next_after_reader()
        else:
            self._writer = None
            chosen = self._next_after_writer()
        self._grant(chosen)
        self._guard.exit()
        self._wake(chosen)

    def tryupgrade(self) -> bool:
        """Become the writer without letting go: only the sole reader can (NetBSD rw_tryupgrade).

        Returns: False when there are other readers; the caller stays a reader.
        Raises:  NetstackError -- EPERM, the caller is no reader.
        """
        me = self._must(self._readers, "upgraded")
        debug = self._engine.lockdebug
        self._guard.enter()
        is_sole = len(self._readers) == 1
        if is_sole:
            del self._readers[me]
            self._writer = me
        self._guard.exit()
        if is_sole and debug is not None:
            debug.unlocked(self, shared=True)
            debug.locked(self)
        return is_sole

    def downgrade(self) -> None:
        """Become a reader without letting go; readers that wait come in too (NetBSD rw_downgrade).

        Raises: NetstackError -- EPERM, the caller is not the writer.
        """
        me = self._must({} if self._writer is None else {self._writer: None}, "downgraded")
        debug = self._engine.lockdebug
        if debug is not None:
            debug.unlocked(self)
            debug.locked(self, shared=True)
        self._guard.enter()
        self._writer = None
        self._readers[me] = None
        chosen = self._waiting(RW_READER)
        self._grant(chosen)
        self._guard.exit()
        self._wake(chosen)

    def destroy(self) -> None:
        """End it; later use is an error.

        Raises: NetstackError -- EBUSY, it is held or waited for; EINVAL, destroyed before.
        """
        self._check(RW_READER)
        debug = self._engine.lockdebug
        if debug is not None:
            debug.free(self)
        if self._writer is not None or self._readers or self._queue:
            raise NetstackError(EBUSY, f"rwlock {self.name}: destroyed; {self.holder} holds it")
        self._is_dead = True

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold it as a reader over a ``with`` block."""
        self.enter(RW_READER)
        try:
            yield
        finally:
            self.exit()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold it as the writer over a ``with`` block."""
        self.enter(RW_WRITER)
        try:
            yield
        finally:
            self.exit()

    # --- questions, for asserts only

    @property
    def read_held(self) -> bool:
        """True when the caller is a reader."""
        return self._engine.curlwp() in self._readers

    @property
    def write_held(self) -> bool:
        """True when the caller is the writer."""
        return self._writer is not None and self._writer is self._engine.curlwp()

    @property
    def lock_held(self) -> bool:
        """True when the caller holds it in whatever way."""
        return self._holds(self._engine.curlwp())

    @property
    def owner(self) -> Lwp | None:
        """The writer."""
        return self._writer

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        writer = self._writer
        if writer is not None:
            return f"{writer.name} (writer)"
        readers = ", ".join(lwp.name for lwp in list(self._readers))
        return f"{readers} (reading)" if readers else "nobody"

    @property
    def waiting(self) -> int:
        """Threads that sleep for it."""
        return len(self._queue)

    def __repr__(self) -> str:
        return f"<RwLock {self.name}, {self.holder}, {self.waiting} wait>"

    # --- inside

    def _holds(self, lwp: Lwp) -> bool:
        return self._writer is lwp or lwp in self._readers

    def _is_open(self, op: Op) -> bool:
        """Say whether a newcomer gets it: readers wait behind writers that wait."""
        if self._writer is not None:
            return False
        if op == RW_WRITER:
            return not self._readers
        return all(entry.op == RW_READER for entry in self._queue)

    def _take(self, me: Lwp, op: Op) -> bool:
        self._guard.enter()
        is_open = self._is_open(op)
        if is_open:
            self._admit(me, op)
        self._guard.exit()
        return is_open

    def _admit(self, lwp: Lwp, op: Op) -> None:
        if op == RW_WRITER:
            self._writer = lwp
        else:
            self._readers[lwp] = None

    def _may_spin(self) -> bool:
        writer = self._writer
        return (
            not self._queue
            and writer is not None
            and writer.is_running
            and not writer.wants_kernel_lock
        )

    def _enter_slow(self, me: Lwp, op: Op, timeout_s: float | None) -> None:
        engine = self._engine
        self.contended += 1
        me.blocked_on = self
        try:
            check_cycle(me, self)
            if self._may_spin():
                self._spinning += 1
                try:
                    engine.spin_while(self._may_spin, lambda: self._is_open(op), None, self)
                finally:
                    self._spinning -= 1
            what = f"rwlock {self.name} as {op}, held by {self.holder}"
            entry = Entry(engine.new_sleeper(what), op, me)
            if self._take_or_queue(entry):
                return
            engine.charge("lock", 0)
            if entry in self._queue:  # else the lock was handed over meanwhile, and is the caller's
                check_cycle(me, self)
            limit_s = engine.patience_s if timeout_s is None else timeout_s
            held = engine.kernel_lock.release_all()
            try:
                is_woken = entry.sleeper.sleep(limit_s, background=timeout_s is None)
            except BaseException:
                self._give_up(entry)
                raise
            finally:
                engine.kernel_lock.reacquire(held)
            if not is_woken and self._give_up(entry):
                raise NetstackError(ETIMEDOUT, f"waited {limit_s:g} s for {what}")
        finally:
            me.blocked_on = None

    def _take_or_queue(self, entry: Entry) -> bool:
        self._guard.enter()
        is_open = self._is_open(entry.op)
        if is_open:
            self._admit(entry.lwp, entry.op)
        else:
            self._queue.append(entry)
        self._guard.exit()
        return is_open

    def _give_up(self, entry: Entry) -> bool:
        """Leave the queue; False when the lock was handed over just now."""
        self._guard.enter()
        is_waiting = entry in self._queue
        chosen: list[Entry] = []
        if is_waiting:
            self._queue.remove(entry)
            if self._writer is None and not self._waiting(RW_WRITER):
                chosen = self._waiting(RW_READER)  # only this writer held them off
                self._grant(chosen)
        self._guard.exit()
        self._wake(chosen)
        return is_waiting

    def _waiting(self, op: Op) -> list[Entry]:
        return [entry for entry in self._queue if entry.op == op]

    def _next_after_writer(self) -> list[Entry]:
        return self._waiting(RW_READER) or self._waiting(RW_WRITER)[:1]

    def _next_after_reader(self) -> list[Entry]:
        return self._waiting(RW_WRITER)[:1] or self._waiting(RW_READER)

    def _grant(self, chosen: list[Entry]) -> None:
        for entry in chosen:
            self._queue.remove(entry)
            self._admit(entry.lwp, entry.op)

    def _wake(self, chosen: list[Entry]) -> None:
        for entry in chosen:
            entry.sleeper.wake()
        if self._spinning:
            self._engine.spin_poll()
        cpu = self._engine.curcpu()
        if cpu is not None and cpu.soft_ready:
            self._engine.unmask(cpu)  # a softint that blocked goes before the thread below it

    def _must(self, holders: dict[Lwp, None], verb: str) -> Lwp:
        me = self._engine.curlwp()
        if me not in holders:
            raise NetstackError(
                EPERM, f"rwlock {self.name}: {verb} by {me.name}; {self.holder} holds it"
            )
        return me

    def _check(self, op: str) -> None:
        if self._is_dead:
            raise NetstackError(EINVAL, f"rwlock {self.name} is destroyed; make another")
        if op not in (RW_READER, RW_WRITER):
            raise NetstackError(EINVAL, f"rwlock {self.name}: {op!r} is no RW_READER or RW_WRITER")
