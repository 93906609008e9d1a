"""Known bugs to plant: what each breaks, which scenario has to find it, and how soon.

Test doubles only: each replaces some attribute of the stack while an exploration is under way, and
nothing of it is in the stack.  The compiled tier has its own (``_fast/explore.MUTANTS``).

Context: the control program, inside ``swapped``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import ENOENT
from typing import Any, NamedTuple

from netstack.errors import NetstackError
from netstack.explore.patch import Patch
from netstack.kern import callout, condvar, intr, kernel_lock, mutex, pserialize, psref, softint, workqueue
from netstack.machine.explore_point import point
from netstack.net import bridge_iflist, bridge_rtable

__all__ = ["MUTANTS", "Mutant", "planted"]


class Mutant(NamedTuple):
    """One bug; ``budget`` is the schedules within which ``strategy`` finds it in ``scenario``."""

    name: str
    breaks: str
    scenario: str
    strategy: str
    budget: int
    plant: Callable[[Patch], object]


MUTANTS: dict[str, Mutant] = {}


def mutant(
    name: str, breaks: str, scenario: str, budget: int, strategy: str = "random"
) -> Callable[[Callable[[Patch], object]], Callable[[Patch], object]]:
    """Enter a function that plants a bug."""

    def enter(plant: Callable[[Patch], object]) -> Callable[[Patch], object]:
        MUTANTS[name] = Mutant(name, breaks, scenario, strategy, budget, plant)
        return plant

    return enter


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Plant a mutant for a ``with`` block; "" plants none.

    Raises: NetstackError(ENOENT) when there is no such mutant.
    """
    if name and name not in MUTANTS:
        raise NetstackError(ENOENT, f"mutant {name}: there are {', '.join(MUTANTS)}")
    patch = Patch()
    try:
        if name:
            MUTANTS[name].plant(patch)
        yield
    finally:
        patch.undo()


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """What a step does that a mutant leaves out."""
    point("left out")


# Member delete (paper §3.2.2): unlink, wait for readers, wait for references, free.


@mutant(
    "delete-no-references",
    "a member is freed without waiting for who holds a reference",
    "member-delete-held",
    500,
)
def _(patch: Patch) -> None:
    def destroy(target: Any, timeout_s: float = 10.0) -> None:
        target.is_draining = True
        target.klass.targets -= 1

    patch.set(psref.PsrefTarget, "destroy", destroy)


@mutant(
    "delete-purge-first",
    "the member's entries are removed before it is unlinked: learning puts them back",
    "member-delete",
    500,
)
def _(patch: Patch) -> None:
    release, remove = bridge_iflist.release_input, bridge_iflist.remove_addresses

    def purge_and_release(br: Any, member: Any) -> None:
        remove(br, member)
        release(br, member)

    patch.set(bridge_iflist, "release_input", purge_and_release)
    patch.set(bridge_iflist, "remove_addresses", _nothing)


@mutant(
    "delete-unlink-last",
    "the member is unlinked when readers and references were waited for, not before",
    "member-delete",
    500,
)
def _(patch: Patch) -> None:
    remove, free = bridge_iflist.remove_from_list, bridge_iflist.free_member

    def free_last(br: Any, member: Any) -> None:
        remove(br, member)
        br.publish()
        free(br, member)

    patch.set(bridge_iflist, "remove_from_list", _nothing)
    patch.set(bridge_iflist, "free_member", free_last)


@mutant(
    "perform-skipped", "pserialize_perform returns at once", "pserialize-free", 200
)
def _(patch: Patch) -> None:
    patch.set(pserialize.Pserialize, "perform", _nothing)


@mutant(
    "references-not-waited-for",
    "psref_target_destroy returns while somebody has a reference",
    "psref-drain",
    200,
)
def _(patch: Patch) -> None:
    MUTANTS["delete-no-references"].plant(patch)


@mutant(
    "growth-forgets",
    "what CPUs learned in the old table while it was replaced is not taken over",
    "maxaddr-growth",
    1000,
)
def _(patch: Patch) -> None:
    def replace_table(rtable: Any, maxaddr: int) -> None:
        larger = rtable._new_table(maxaddr)
        with rtable.mutex:
            rtable.table.copy_into(larger)
            rtable.table = larger
            if rtable.block is not None:
                rtable.block.set_table(larger)
            rtable.engine.pserialize.perform()
            rtable.removal.table_replaced()

    patch.set(bridge_rtable.BridgeRtable, "_replace_table", replace_table)


# Interrupts, softints, callouts, work.


@mutant(
    "disestablish-no-wait",
    "softint_disestablish does not wait for a handler that runs",
    "softint-disestablish",
    200,
)
def _(patch: Patch) -> None:
    def disestablish(registry: Any, si: Any) -> None:
        si.is_dead = True

    patch.set(softint.SoftintRegistry, "disestablish", disestablish)


@mutant("halt-no-wait", "callout_halt does not wait for a call under way", "callout-halt", 200)
def _(patch: Patch) -> None:
    def halt(late: Any, interlock: Any = None, timeout_s: float = 10.0) -> bool:
        return bool(late.stop())

    patch.set(callout.Callout, "halt", halt)


@mutant(
    "move-unmasked",
    "an interrupt moves to another CPU without being masked first",
    "affinity-move",
    1000,
)
def _(patch: Patch) -> None:
    patch.set(intr.IntrRegistry, "_mask", _nothing)


@mutant(
    "work-forgotten",
    "a work queue's thread ends on what it saw before it let others know",
    "workqueue",
    500,
)
def _(patch: Patch) -> None:
    def drain(queues: Any, queue: Any) -> None:
        while queue.work:
            work, arg = queue.work.popleft()
            queue.running = work
            queues._pending.discard(work)
            queues._call(arg)
        point("workqueue thread ends")
        queue.running = workqueue.NOTHING
        queue.is_busy = False

    patch.set(workqueue.Workqueue, "_drain", drain)


# Locks and sleeping.


@mutant(
    "mutex-look-then-take",
    "a mutex is seen to be free in one step and taken in another",
    "mutex-handoff",
    500,
)
def _(patch: Patch) -> None:
    def take(lock: Any, me: Any) -> bool:
        if lock._word.held:
            return False
        point("mutex seen free")
        lock._word.try_enter()
        lock._owner = me
        return True

    patch.set(mutex.Mutex, "_take", take)


@mutant(
    "mutex-no-owner-check",
    "an adaptive mutex spins though its owner does not run",
    "mutex-handoff",
    500,
)
def _(patch: Patch) -> None:
    patch.set(mutex.Mutex, "_may_spin", lambda lock: True)


@mutant(
    "mutex-wakes-nobody", "a release does not wake who sleeps for the mutex", "mutex-handoff", 500
)
def _(patch: Patch) -> None:
    patch.set(mutex.Mutex, "_wake", _nothing)


@mutant("kernel-lock-kept", "KERNEL_LOCK is not given up over sleep", "kernel-lock-sleep", 50)
def _(patch: Patch) -> None:
    patch.set(kernel_lock.KernelLock, "release_all", lambda lock: (0, 0))


@mutant(
    "kernel-lock-depth",
    "after a sleep KERNEL_LOCK is held once, however often it was before",
    "kernel-lock-sleep",
    50,
)
def _(patch: Patch) -> None:
    def reacquire(lock: Any, held: tuple[int, int]) -> None:
        if held[0]:
            lock.lock.enter(1)

    patch.set(kernel_lock.KernelLock, "reacquire", reacquire)


@mutant(
    "giant-not-taken", "softints of GENERIC run without KERNEL_LOCK", "generic-contention", 200
)
def _(patch: Patch) -> None:
    patch.set(kernel_lock.KernelLock, "locks_of", lambda lock, is_mpsafe: False)


@mutant(
    "wakeup-lost",
    "cv_wait releases the mutex before it is in the queue",
    "condvar-handoff",
    500,
)
def _(patch: Patch) -> None:
    def wait(cv: Any, lock: Any, timeout_s: float | None, background: bool) -> int:
        lock.exit()
        point("cv_wait")
        sleeper = cv._queue.enqueue(f"condvar {cv.name}")
        try:
            return int(cv._queue.sleep(sleeper, None, timeout_s, background))
        finally:
            lock.enter()

    patch.set(condvar.CondVar, "_wait", wait)
