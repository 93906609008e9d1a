"""Mutexes: spin and adaptive, one interface (paper §3.1.1, Table 1; NetBSD mutex(9)).

The level says which.  Up to the softint levels a mutex is *adaptive*: who finds it held spins while
its owner runs on another CPU, and sleeps otherwise; threads and softints may take it.  At ``IPL.VM``
and above it is a *spin* mutex: it raises the SPL of the CPU and busy-waits; any handler up to its
level may take it.  Spin mutexes nest; the SPL comes back at the outermost release of the CPU, in
whatever order they are released.

An adaptive mutex is given to whoever comes first after a release: waiters are woken, not served.
Who sleeps for one gives up KERNEL_LOCK meanwhile, and nobody spins for an owner that waits for
KERNEL_LOCK: two such threads would wait for each other.

Does not nest.  No priority inheritance: threads here have no priorities.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from errno import EBUSY, EDEADLK, EINVAL, EPERM, ETIMEDOUT
from types import TracebackType

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.spl import IPL, splraise, splx
from netstack.kern.turnstile import check_cycle
from netstack.machine.api import Cpu, Engine, Lwp, Sleeper

__all__ = ["Mutex"]


class Mutex:
    """A lock; ``with mutex:`` takes it.

    Args:   name -- for messages; locks whose names differ in digits only are of one class.
            ipl -- the highest level it is taken from: ``IPL.NONE`` or a softint level makes it
            adaptive, ``IPL.VM`` and above a spin mutex.
    Source: NetBSD mutex_init(MUTEX_DEFAULT, ipl).
    """

    def __init__(self, engine: Engine, name: str, ipl: int = IPL.NONE) -> None:
        self.name = name
        self.ipl = int(ipl)
        self.is_spin = self.ipl >= IPL.VM
        self.contended = 0  # enters that had to wait; what is adaptive counts without a lock
        self._engine = engine
        self._kind = "mutex (spin)" if self.is_spin else "mutex (adaptive)"
        self._is_dead = False
        self._spin = engine.new_lock(f"mutex {name}") if self.is_spin else None
        # Of an adaptive one:
        self._word = SpinLock()
        self._owner: Lwp | None = None  # written by who holds the word
        self._waiters: deque[Sleeper] = deque()  # those that sleep; any thread appends and pops
        self._spinning = 0
        debug = engine.lockdebug
        if debug is not None:
            debug.alloc(self, name, None, "spin" if self.is_spin else "adaptive")

    # --- taking and releasing

    def enter(self, timeout_s: float | None = None) -> None:
        """Take it, waiting for another holder.

        Context: spin: any, up to its level.  Adaptive: thread, control thread, or softint, which
                 blocks (softint(9)).
        Raises:  NetstackError -- EDEADLK, the caller holds it, or waits in a circle, or may not
                 wait here, or nothing runs that could release it; EINVAL, it is destroyed;
                 ETIMEDOUT, adaptive only: after ``timeout_s``, or the machine's patience.
        """
        engine = self._engine
        assert_callable_from(engine, self._kind)
        self._check_alive()
        debug = engine.lockdebug
        if debug is not None:
            debug.wantlock(self)
        if self._spin is not None:
            self._enter_spin()
        else:
            engine.charge("lock")
            me = engine.curlwp()
            if not self._take(me):
                self._enter_slow(me, timeout_s)
        if debug is not None:
            debug.locked(self)

    def try_enter(self) -> bool:
        """Take it if it is free (NetBSD mutex_tryenter).

        Context: as ``enter``; never waits.
        """
        engine = self._engine
        assert_callable_from(engine, self._kind)
        self._check_alive()
        debug = engine.lockdebug
        if debug is not None:
            debug.wantlock(self, is_try=True)
        engine.charge("lock")
        is_taken = self._try_spin() if self._spin is not None else self._take(engine.curlwp())
        if is_taken and debug is not None:
            debug.locked(self)
        return is_taken

    def exit(self) -> None:
        """Release it; a spin mutex that is the CPU's last restores the SPL.

        Raises: NetstackError -- EPERM, the caller does not hold it.
        """
        engine = self._engine
        if not self.owned:
            raise NetstackError(
                EPERM, f"mutex {self.name}: released by {self._caller()}; {self.holder} holds it"
            )
        debug = engine.lockdebug
        if debug is not None:
            debug.unlocked(self)
        if self._spin is not None:
            self._spin.exit()
            self._leave_spl()
            return
        engine.charge("lock", 0)  # costs nothing; others may come in before the release
        self._owner = None
        self._word.exit()
        self._wake()

    def destroy(self) -> None:
        """End it; later use is an error.

        Raises: NetstackError -- EBUSY, it is held or waited for; EINVAL, destroyed before.
        """
        self._check_alive()
        debug = self._engine.lockdebug
        if debug is not None:
            debug.free(self)
        if self.is_held or self._waiters:
            raise NetstackError(EBUSY, f"mutex {self.name}: destroyed while {self.holder} holds it")
        self._is_dead = True

    # --- questions

    @property
    def is_held(self) -> bool:
        """True while anyone holds it."""
        return self._spin.depth > 0 if self._spin is not None else self._word.held

    @property
    def owned(self) -> bool:
        """True when the caller holds it (NetBSD mutex_owned): for asserts only."""
        if self._spin is not None:
            return self._spin.is_mine
        return self._owner is not None and self._owner is self._engine.curlwp()

    @property
    def owner(self) -> Lwp | None:
        """The thread that holds an adaptive mutex."""
        return self._owner

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        if self._spin is not None:
            return self._spin.holder
        owner = self._owner
        return "nobody" if owner is None else owner.name

    def assert_held(self) -> None:
        """Refuse to go on without the lock: first line of ``_locked`` functions.

        Raises: NetstackError -- EDEADLK.
        """
        if not self.owned:
            raise NetstackError(
                EDEADLK, f"mutex {self.name} must be held here; {self.holder} holds it"
            )

    def __enter__(self) -> Mutex:
        self.enter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.exit()

    def __repr__(self) -> str:
        return f"<Mutex {self.name} {'spin' if self.is_spin else 'adaptive'}, {self.holder}>"

    # --- spin

    def _enter_spin(self) -> None:
        lock = self._spin
        assert lock is not None
        cpu = self._engine.curcpu()
        s = splraise(cpu, self.ipl) if cpu is not None else 0  # first: what comes here may want it
        try:
            self._engine.charge("lock")
            self._check_self(lock.is_mine)
            if not lock.try_enter():
                self.contended += 1
                lock.enter()
        except BaseException:
            if cpu is not None:
                splx(cpu, s)
            raise
        self._keep_spl(cpu, s)

    def _try_spin(self) -> bool:
        lock = self._spin
        assert lock is not None
        cpu = self._engine.curcpu()
        s = splraise(cpu, self.ipl) if cpu is not None else 0
        if not lock.is_mine and lock.try_enter():
            self._keep_spl(cpu, s)
            return True
        if cpu is not None:
            splx(cpu, s)
        return False

    def _keep_spl(self, cpu: Cpu | None, s: int) -> None:
        """Count a spin mutex; the first one keeps the SPL from before (mtx_count, mtx_oldspl)."""
        seat = self._engine.curlwp() if cpu is None else cpu
        if seat.mtx_count == 0:
            seat.mtx_oldspl = s
        seat.mtx_count += 1

    def _leave_spl(self) -> None:
        cpu = self._engine.curcpu()
        seat = self._engine.curlwp() if cpu is None else cpu
        seat.mtx_count -= 1
        if seat.mtx_count == 0 and cpu is not None:
            splx(cpu, cpu.mtx_oldspl)

    # --- adaptive

    def _take(self, me: Lwp) -> bool:
        if not self._word.try_enter():
            return False
        self._owner = me
        return True

    def _may_spin(self) -> bool:
        """Say whether the owner will be quick: it runs, and does not wait for KERNEL_LOCK."""
        owner = self._owner  # None: just released, or about to be written
        return owner is None or (owner.is_running and not owner.wants_kernel_lock)

    def _is_free(self) -> bool:
        return not self._word.held

    def _enter_slow(self, me: Lwp, timeout_s: float | None) -> None:
        self._check_self(self._owner is me)
        self.contended += 1
        me.blocked_on = self
        try:
            while not self._take(me):
                self._check_alive()
                check_cycle(me, self)
                if self._may_spin():
                    self._spinning += 1
                    try:
                        is_free = self._engine.spin_while(
                            self._may_spin, self._is_free, self._word, self
                        )
                    finally:
                        self._spinning -= 1
                    if is_free:
                        continue
                self._sleep(timeout_s)
        finally:
            me.blocked_on = None

    def _sleep(self, timeout_s: float | None) -> None:
        """Sleep until a release; back at once when it was released meanwhile."""
        engine = self._engine
        what = f"mutex {self.name}, held by {self.holder}"
        sleeper = engine.new_sleeper(what)
        self._waiters.append(sleeper)
        try:
            engine.charge("lock", 0)
            # Queued first, looked at then: a release sees the one or we see the other.
            if self._is_free():
                return
            limit_s = engine.patience_s if timeout_s is None else timeout_s
            held = engine.kernel_lock.release_all()
            try:
                is_woken = sleeper.sleep(limit_s, background=timeout_s is None)
            finally:
                engine.kernel_lock.reacquire(held)
        finally:
            with suppress(ValueError):
                self._waiters.remove(sleeper)
        if not is_woken:
            raise NetstackError(ETIMEDOUT, f"waited {limit_s:g} s for {what}")

    def _wake(self) -> None:
        engine = self._engine
        waiters = self._waiters
        for _ in range(len(waiters)):
            with suppress(IndexError):  # one that gave up meanwhile
                waiters.popleft().wake()
        if self._spinning:
            engine.spin_poll()
        cpu = engine.curcpu()
        if cpu is not None and cpu.soft_ready:
            engine.unmask(cpu)  # a softint that blocked goes before the thread below it

    # --- errors

    def _caller(self) -> str:
        cpu = self._engine.curcpu()
        return repr(cpu) if cpu is not None else self._engine.curlwp().name

    def _check_self(self, is_mine: bool) -> None:
        if is_mine:
            raise NetstackError(
                EDEADLK,
                f"mutex {self.name}: {self._caller()} holds it already (owner: {self.holder}); "
                "a mutex does not nest: call a _locked variant, or release it first",
            )

    def _check_alive(self) -> None:
        if self._is_dead:
            raise NetstackError(EINVAL, f"mutex {self.name} is destroyed; make another")
