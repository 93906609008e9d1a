"""Pools of constructed kernel objects, with magazines per CPU (NetBSD pool_cache(9), pool(9)).

A *pool* makes and unmakes raw objects and keeps some idle.  A *cache* in front of it keeps objects
constructed: a CPU takes from and gives to a group of its own (a magazine) without a lock; groups go
whole through a depot.  Two groups to a CPU mean that a CPU which gets and puts in turn goes to the
depot at most once in a group's length.  An object may be put back on another CPU than it came from.

The mbufs of the data plane have a pool of their own, compiled (``_fast/mbuf``).

Limits: groups of ``PCG_OBJECTS``; the hard limit of a pool is its user's.  ``make``, ``ctor``,
        ``dtor`` and ``unmake`` run without a lock held.
"""

from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOMEM
from typing import Generic, TypeVar

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.spl import IPL, splraise, splx
from netstack.kern.xcall import XC_HIGHPRI, xc_broadcast, xc_wait
from netstack.machine.api import Engine

__all__ = ["PCG_OBJECTS", "PoolCache"]

T = TypeVar("T")

PCG_OBJECTS = 15  # objects of one group, NetBSD's PCG_NOBJECTS_NORMAL on a 64-bit machine


class _PerCpu(Generic[T]):
    """Two groups of one CPU, and what it has counted; nobody else touches them."""

    __slots__ = ("current", "hits", "misses", "previous")

    def __init__(self) -> None:
        self.current: list[T] = []
        self.previous: list[T] = []
        self.hits = 0  # served by the CPU's groups
        self.misses = 0  # had to go to the depot


class PoolCache(Generic[T]):
    """Objects of one kind.

    Args: make, unmake -- take a raw object from, and give it to, wherever raw objects come from.
          ctor, dtor -- called with an object when it enters and when it leaves the cache.
          ipl -- highest level it is used from.
          hardlimit -- objects there may be; None: no limit.   lowat -- raw objects the pool keeps
          when it drains.   hiwat -- raw objects it keeps at most.
    Raises: NetstackError -- EINVAL, the limits contradict each other.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        make: Callable[[], T],
        unmake: Callable[[T], object] | None = None,
        *,
        ctor: Callable[[T], object] | None = None,
        dtor: Callable[[T], object] | None = None,
        ipl: int = IPL.SOFTNET,
        hardlimit: int | None = None,
        lowat: int = 0,
        hiwat: int | None = None,
        group_objects: int = PCG_OBJECTS,
    ) -> None:
        if group_objects < 1:
            raise NetstackError(EINVAL, f"pool {name}: groups of {group_objects} objects")
        self.name = name
        self.ipl = int(ipl)
        self.group_objects = group_objects
        self._engine = engine
        self._make, self._unmake = make, unmake
        self._ctor, self._dtor = ctor, dtor
        self._is_destroyed = False
        self._percpu: list[_PerCpu[T]] = [_PerCpu() for _ in range(len(engine.cpus) + 1)]
        self._control = engine.new_lock(f"pool {name}")  # guards the last, of control threads
        self._lock = SpinLock()  # guards all below; held for a few lines, no calls out
        self._full: list[list[T]] = []  # the depot: groups of constructed objects
        self._idle: list[T] = []  # the pool: raw objects
        self._out: dict[int, T] = {}  # in their users' hands, by id()
        self._total = 0  # objects there are, wherever
        self._ngets = self._nputs = self._nfails = self._contended = 0
        self._hardlimit, self._lowat, self._hiwat = hardlimit, lowat, hiwat
        self._set_limits(hardlimit, lowat, hiwat)
        self.prime(lowat)

    # --- get and put

    def get(self, wait: bool = False, timeout_s: float = 10.0) -> T | None:
        """Take a constructed object; None when the hard limit is reached (PR_NOWAIT).

        Context: any up to the cache's level.
        Args:    wait -- PR_WAITOK: wait until one is put back; thread or control thread only.
        Raises:  NetstackError -- EINVAL, the cache is destroyed; EDEADLK and ETIMEDOUT of waiting;
                 what ``make`` and ``ctor`` raise.
        """
        if wait:  # whether it has to wait or not
            assert_callable_from(self._engine, "pool_cache_get (PR_WAITOK)")
        item = self._get()
        if item is None and wait:
            debug = self._engine.lockdebug
            if debug is not None:
                debug.wait_for(f"pool {self.name}")
            what = f"an object of pool {self.name}: all {self._hardlimit} are out"
            while item is None:
                self._engine.wait_until(self._may_succeed, what, timeout_s)
                self.invalidate()  # what other CPUs have cached is no use to them now
                item = self._get()
        return item

    def put(self, item: T) -> None:
        """Give an object back, constructed, on whatever CPU.

        Context: any up to the cache's level.
        Raises:  NetstackError -- EINVAL, it is not out: put twice, or not of this pool.
        """
        self._take_back(item)
        index, s = self._enter()
        mine = self._percpu[index]
        try:
            if len(mine.current) == self.group_objects:
                if mine.previous:
                    self._depot_enter()
                    self._full.append(mine.previous)
                    self._lock.exit()
                    mine.misses += 1
                else:
                    mine.hits += 1
                mine.current, mine.previous = [], mine.current
            else:
                mine.hits += 1
            mine.current.append(item)
        finally:
            self._exit(s)

    def destruct(self, item: T) -> None:
        """Give an object back for good: it is not kept constructed (pool_cache_destruct_object()).

        Context: as ``put``.
        """
        self._take_back(item)
        self._release([item], self._hiwat)

    # --- control

    def invalidate(self) -> None:
        """Destruct everything that is cached, on every CPU (pool_cache_invalidate()).

        Context: thread or control thread; waits for a cross-call.
        """
        assert_callable_from(self._engine, "pool_cache_invalidate")
        found: list[T] = []
        xc_wait(
            self._engine,
            xc_broadcast(self._engine, lambda: self._empty(found), level=XC_HIGHPRI),
        )
        self._empty_control(found)
        self._lock.enter()
        groups, self._full = self._full, []
        self._lock.exit()
        for group in groups:
            found += group
        self._release(found, self._hiwat)

    def drain(self) -> int:
        """Give memory back: what is cached, and idle raw objects beyond the low-water mark.

        Context: thread or control thread; waits.
        Returns: raw objects unmade, those of the cache included.
        """
        before = self._total
        self.invalidate()
        self._trim(self._lowat)
        return before - self._total

    def prime(self, count: int) -> None:
        """Have so many raw objects idle (pool_prime()).

        Context: thread or control thread.
        Raises:  NetstackError -- ENOMEM, that is above the hard limit.
        """
        while len(self._idle) < count:
            if not self._reserve():
                text = f"pool {self.name}: {count} idle objects need more than {self._hardlimit}"
                raise NetstackError(ENOMEM, text)
            item = self._made()
            self._lock.enter()
            self._idle.append(item)
            self._lock.exit()

    def setlimits(
        self, *, hardlimit: int | None = None, lowat: int = 0, hiwat: int | None = None
    ) -> None:
        """Change the limits (pool_sethardlimit(), pool_setlowat(), pool_sethiwat()); prime ``lowat``.

        Context: thread or control thread.
        Raises:  NetstackError -- EINVAL, they contradict each other, or more objects are there.
        """
        if hardlimit is not None and hardlimit < self._total:
            text = f"pool {self.name}: {self._total} objects are there, above a limit of {hardlimit}"
            raise NetstackError(EINVAL, f"{text}; drain it")
        self._set_limits(hardlimit, lowat, hiwat)
        self.prime(lowat)

    def destroy(self) -> None:
        """End the cache and its pool.

        Context: thread or control thread; waits.
        Raises:  NetstackError -- EBUSY, objects are out; EINVAL, destroyed before.
        """
        self._check()
        if self._out:
            text = f"pool {self.name}: {len(self._out)} objects are out; put them back first"
            raise NetstackError(EBUSY, text)
        self._is_destroyed = True
        self.invalidate()
        self._trim(0)

    def stats(self) -> dict[str, int]:
        """Return counters; exact when nobody is at work."""
        cached = sum(len(each.current) + len(each.previous) for each in self._percpu)
        return {
            "total": self._total,
            "out": len(self._out),
            "idle": len(self._idle),
            "cached": cached + sum(len(group) for group in self._full),
            "depot_groups": len(self._full),
            "gets": self._ngets,
            "puts": self._nputs,
            "fails": self._nfails,
            "hits": sum(each.hits for each in self._percpu),
            "misses": sum(each.misses for each in self._percpu),
            "contended": self._contended,
        }

    # --- the caller's CPU

    def _enter(self) -> tuple[int, int]:
        """Keep others off the caller's groups; return their index and what ``_exit`` wants."""
        cpu = self._engine.curcpu()
        if cpu is None:
            self._control.enter()
            return len(self._percpu) - 1, -1
        return cpu.index, splraise(cpu, self.ipl)

    def _exit(self, s: int) -> None:
        cpu = self._engine.curcpu()
        if cpu is None:
            self._control.exit()
        else:
            splx(cpu, s)

    def _get(self) -> T | None:
        self._check()
        index, s = self._enter()
        mine = self._percpu[index]
        item: T | None = None
        try:
            if not mine.current and mine.previous:
                mine.current, mine.previous = mine.previous, mine.current
            if mine.current:
                mine.hits += 1
            else:
                mine.misses += 1
                self._depot_enter()
                if self._full:
                    mine.current = self._full.pop()
                self._lock.exit()
            if mine.current:
                item = mine.current.pop()
        finally:
            self._exit(s)
        if item is None:
            item = self._construct()
        self._lock.enter()
        if item is None:
            self._nfails += 1
        else:
            self._ngets += 1
            self._out[id(item)] = item
        self._lock.exit()
        return item

    def _take_back(self, item: T) -> None:
        self._lock.enter()
        found = self._out.pop(id(item), None)
        self._nputs += found is item
        self._lock.exit()
        if found is not item:
            raise NetstackError(
                EINVAL, f"pool {self.name}: {item!r} is not out; put twice, or of another pool"
            )

    def _depot_enter(self) -> None:
        if not self._lock.try_enter():
            self._lock.enter()
            self._contended += 1

    def _empty(self, found: list[T]) -> None:
        """Take the groups of the caller's CPU."""
        index, s = self._enter()
        mine = self._percpu[index]
        found += mine.current + mine.previous
        mine.current, mine.previous = [], []
        self._exit(s)

    def _empty_control(self, found: list[T]) -> None:
        self._control.enter()
        mine = self._percpu[-1]
        found += mine.current + mine.previous
        mine.current, mine.previous = [], []
        self._control.exit()

    # --- the pool

    def _may_succeed(self) -> bool:
        """Say whether a get that failed is worth another try."""
        return (
            self._hardlimit is None
            or self._total < self._hardlimit
            or bool(self._idle or self._full)
            or any(each.current or each.previous for each in self._percpu)
        )

    def _reserve(self) -> bool:
        """Count an object that is going to be made, if the limit lets one more in."""
        self._lock.enter()
        has_room = self._hardlimit is None or self._total < self._hardlimit
        self._total += has_room
        self._lock.exit()
        return has_room

    def _made(self) -> T:
        try:
            return self._make()
        except BaseException:
            self._lock.enter()
            self._total -= 1
            self._lock.exit()
            raise

    def _construct(self) -> T | None:
        """Return a raw object made ready; None at the limit."""
        self._lock.enter()
        item = self._idle.pop() if self._idle else None
        self._lock.exit()
        if item is None:
            if not self._reserve():
                return None
            item = self._made()
        if self._ctor is not None:
            try:
                self._ctor(item)
            except BaseException:
                self._lock.enter()
                self._idle.append(item)
                self._lock.exit()
                raise
        return item

    def _release(self, items: list[T], keep: int | None) -> None:
        """Destruct objects and give them to the pool, which keeps up to ``keep`` raw ones."""
        for item in items:
            if self._dtor is not None:
                self._dtor(item)
        self._lock.enter()
        self._idle += items
        self._lock.exit()
        if keep is not None:
            self._trim(keep)

    def _trim(self, keep: int) -> None:
        self._lock.enter()
        surplus, self._idle = self._idle[keep:], self._idle[:keep]
        self._total -= len(surplus)
        self._lock.exit()
        if self._unmake is not None:
            for item in surplus:
                self._unmake(item)

    def _set_limits(self, hardlimit: int | None, lowat: int, hiwat: int | None) -> None:
        top = [limit for limit in (hiwat, hardlimit) if limit is not None]
        if lowat < 0 or any(limit < max(lowat, 0) for limit in top):
            text = f"hardlimit={hardlimit}, lowat={lowat}, hiwat={hiwat}: lowat is not the least"
            raise NetstackError(EINVAL, f"pool {self.name}: {text}")
        self._hardlimit, self._lowat, self._hiwat = hardlimit, lowat, hiwat

    def _check(self) -> None:
        if self._is_destroyed:
            raise NetstackError(EINVAL, f"pool {self.name} is destroyed")
