"""Producer-consumer queue: many producers, one consumer, no lock (NetBSD pcq(9)).

For handing kernel objects from any context to one that takes them: a producer never waits, the
consumer never blocks a producer.  The frames of ``kern/pktqueue.py`` go through the same compiled
ring (``_fast/pcq``).

Departs: a queue made for n items holds n; NetBSD's holds n - 1, as one slot stays empty.
"""

from errno import EINVAL
from typing import Generic, TypeVar, cast

from netstack._fast.pcq import MAXITEMS_LIMIT, ObjectPcq
from netstack.errors import NetstackError

__all__ = ["MAXITEMS_LIMIT", "Pcq"]

T = TypeVar("T")


class Pcq(Generic[T]):
    """A queue of up to ``maxitems`` objects; None is no item.

    Args:   start -- where the 32-bit indices begin.
    Raises: NetstackError -- EINVAL, ``maxitems`` is not 1..65535.
    """

    def __init__(self, maxitems: int, *, start: int = 0) -> None:
        if not 1 <= maxitems <= MAXITEMS_LIMIT:
            raise NetstackError(EINVAL, f"pcq of {maxitems} items: 1 to {MAXITEMS_LIMIT}")
        self._ring = ObjectPcq(maxitems, start)

    def put(self, item: T) -> bool:
        """Append an item; False when the queue is full: it is the caller's to keep or to drop.

        Context: any.
        """
        return self._ring.put(item)

    def get(self) -> T | None:
        """Take the oldest item; None when there is none.

        Context: any, but one consumer at a time: a softint of one CPU, a thread, a lock's holder.
        """
        return cast("T | None", self._ring.get())

    def peek(self) -> T | None:
        """Return the oldest item without taking it; None when there is none.

        Context: the consumer.
        """
        return cast("T | None", self._ring.peek())

    @property
    def maxitems(self) -> int:
        """Items it can hold."""
        return self._ring.maxitems

    def __len__(self) -> int:
        return len(self._ring)
