"""What LOCKDEBUG knows: its rules, a record for each lock, who holds what since where.

The words of the checker in ``kern/lockdebug.py``, which is the only user.
"""

from __future__ import annotations

import re
import sys
from errno import errorcode
from pathlib import Path
from types import FrameType
from typing import Literal, NamedTuple

from netstack.errors import NetstackError
from netstack.machine.api import Caller

__all__ = [
    "GIL",
    "GRACE_PERIOD",
    "NO_WAIT",
    "PINNED",
    "RULES",
    "SLEEPING",
    "Hold",
    "Inside",
    "Kind",
    "LockError",
    "Mark",
    "Place",
    "Record",
    "Use",
    "class_of",
    "place_of_caller",
    "text_of",
]

Kind = Literal["spin", "adaptive", "rwlock", "condvar", "kernel_lock"]
Place = tuple[str, int]

GRACE_PERIOD = "grace period"
GIL = "GIL"
PINNED = "percpu reference"
NO_WAIT = (GRACE_PERIOD, PINNED)  # who is inside does not wait

RULES = {
    "uninitialised": "a lock is made before it is used, and not used after it is destroyed",
    "double init": "a lock is made once",
    "destroy while held": "a lock is destroyed when nobody holds it",
    "self-lock": "a lock is not taken by who holds it (Table 1: not reentrant)",
    "broken exclusion": "a lock has one owner at a time",
    "unlock by non-owner": "a lock is released by who took it",
    "sleeping lock in interrupt": "no lock that may sleep in a hard interrupt (Table 1)",
    "sleeping lock under spin lock": "under a spin lock only spin locks (Table 1)",
    "sleeping lock in read section": "in a read section only spin locks (Table 1)",
    "sleeping lock with percpu reference": "who is bound to a CPU takes only spin locks",
    "sleep in interrupt": "an interrupt handler does not sleep",
    "sleep under spin lock": "nobody sleeps with a spin lock (Table 1)",
    "sleep in read section": "nobody sleeps in a read section (Table 1)",
    "sleep with percpu reference": "nobody sleeps between getref and putref",
    "read section under spin lock": "under a spin lock only spin locks (Table 1)",
    "nested read section": "a read section is not opened inside another (Table 1, note 6)",
    "unbalanced read section": "a read section is closed by who opened it, once",
    "lock leaked": "a handler gives back what it took before it returns",
    "read section leaked": "a handler closes its read sections before it returns",
    "SPL leaked": "a handler returns at the SPL it began at",
    "SPL lowered": "the SPL does not fall below that of a handler or of a held spin lock (note 4)",
    "order": "two classes of locks are taken in one order",
    "interrupt-unsafe": "a spin lock that a handler takes is held at the handler's level elsewhere",
}

WORDS = {
    "spin": "spin mutex",
    "adaptive": "adaptive mutex",
    "rwlock": "rwlock",
    "condvar": "condition variable",
    "kernel_lock": "big lock",
}
SLEEPING = ("adaptive", "rwlock", "condvar")

# Files whose frames are not where a lock was taken: the facilities themselves.
FACILITY_FILES = {
    f"{stem}.py"
    for stem in (
        "lockdebug lockrecord mutex rwlock condvar sleepq kernel_lock pserialize psref context spl contextlib "
        "virtual virtual_lock virtual_threads wall wall_lock wall_threads scheduler turnstile"
    ).split()
}


class LockError(NetstackError):
    """Misuse of a lock; ``rule`` is a key of ``RULES``."""

    def __init__(self, errno: int, message: str, rule: str = "") -> None:
        super().__init__(errno, message)
        self.rule = rule

    def __str__(self) -> str:
        first, *others = str(self.strerror).split("\n")
        return "\n".join([f"{first} ({errorcode.get(self.errno or 0, self.errno)})", *others])


class Inside(NamedTuple):
    """What others wait for while the caller is in it: a read section, the run of a work queue."""

    node: str
    place: Place

    def __str__(self) -> str:
        what = "read section" if self.node == GRACE_PERIOD else self.node
        return f"{what}, since {text_of(self.place)}"


class Hold(NamedTuple):
    """A lock that a caller has."""

    record: Record
    is_shared: bool
    place: Place

    def __str__(self) -> str:
        how = " (as reader)" if self.is_shared else ""
        return f"{self.record}{how} taken at {text_of(self.place)}"


class Record:
    """What is known of a lock."""

    __slots__ = ("debug", "ipl", "is_dead", "kind", "klass", "lock", "name", "owner", "place", "readers")

    def __init__(self, debug: object, name: str, klass: str, kind: Kind, ipl: int, place: Place) -> None:
        self.debug = debug  # token of its checker: a thread may hold locks of several machines
        self.name = name
        self.klass = klass
        self.kind = kind
        self.ipl = ipl  # a spin mutex holds the SPL up to here
        self.place = place  # where it was made, or destroyed
        self.is_dead = False
        self.owner: Caller | None = None
        self.readers = 0
        self.lock: object = None  # keeps the record's key valid

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} {self.name}"


class Use(NamedTuple):
    """How a class of spin locks is used, at the extreme."""

    spl: int
    by: str
    place: Place


class Mark(NamedTuple):
    """What a caller had when a handler began."""

    caller: Caller
    held: int
    inside: int
    is_in_section: bool


def class_of(name: str) -> str:
    """Return the class of a lock's name: the name without its numbers."""
    return " ".join(re.sub(r"\d+", "", name).split()) or "lock"


def place_of_caller() -> Place:
    """Where the caller stands: the nearest frame that is not a facility's own."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code.co_filename.rpartition("/")[2] not in FACILITY_FILES:
            return code.co_filename, frame.f_lineno
        frame = frame.f_back
    return "?", 0


def text_of(place: Place) -> str:
    return f"{'/'.join(Path(place[0]).parts[-2:])}:{place[1]}"
