"""Who waits for whom: circles of threads that wait for each other's locks (NetBSD turnstile(9)).

NetBSD walks this chain to lend priorities; here it is walked to name a deadlock instead of hanging.
Called by mutex and rwlock, with the thread about to wait.

Limits: locks with one owner; readers of an rwlock, KERNEL_LOCK and conditions are not followed.
"""

from __future__ import annotations

from errno import EDEADLK
from typing import Protocol

from netstack.errors import NetstackError
from netstack.machine.api import Lwp

__all__ = ["Owned", "check_cycle"]

CHAIN_MAX = 64


class Owned(Protocol):
    """A lock that one thread owns."""

    name: str

    @property
    def owner(self) -> Lwp | None: ...


def check_cycle(me: Lwp, lock: Owned) -> None:
    """Refuse to wait for a lock whose owner waits, perhaps through others, for the caller.

    Raises: NetstackError -- EDEADLK, with the whole circle.
    Cost:   one look at the owner, where that does not wait for a lock itself.
    """
    circle = _circle(me, lock)
    # On the wall machine others go on meanwhile.  Who is in a circle does not: the second walk
    # finds the same, or it was none.
    if circle and circle == _circle(me, lock):
        steps = " -> ".join(f"{name}, held by {owner.name}" for name, owner in circle)
        raise NetstackError(EDEADLK, f"{me.name} waits for itself: {steps}; take them in one order")


def _circle(me: Lwp, lock: Owned) -> list[tuple[str, Lwp]]:
    """Return the chain of locks and owners that leads back to the caller, or nothing."""
    chain: list[tuple[str, Lwp]] = []
    while len(chain) < CHAIN_MAX:
        owner = lock.owner
        if owner is None:
            return []
        chain.append((lock.name, owner))
        if owner is me:
            return chain
        if owner.blocked_on is None:
            return []
        lock = owner.blocked_on
    return []
