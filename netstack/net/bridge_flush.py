"""Ways to remove many addresses at once from the bridge's table (paper §3.2.2).

The paper's problem: a grace period is slow, and a flush removes a bunch of entries, so one grace
period must do for all of them; the buffer that remembers them meanwhile must be allocated before the
lock is taken, and can turn out short.  ``PaperRemoval`` is that method.  What it is compared with:

  each        one grace period for every entry: what the paper avoids
  direct      entries of the hash table have no memory of their own: clear them where they stand
  generation  give the members new numbers, so that what was learned under the old ones counts for
              nothing: a flush costs the same whatever the table holds

All give the same address list and the same frames.  Each waits for exactly one grace period per
call (``each``: per entry), and for none when nothing was removed.

Context: threads that may sleep.  Callers of ``flush`` and ``purge`` hold the ``ifnet`` mutex.
Locks:   the table's adaptive mutex over each removal, its grace period included; inside it the
         table's spin lock, which learners take too, for the unlinking alone: a learner is inside a
         read section and must never wait for somebody who waits for read sections.
Limits:  port numbers, see ``Numbers``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from errno import ENOSPC
from typing import TYPE_CHECKING, NamedTuple

from netstack._fast.mactable import DYNAMIC, LOCAL, STATIC, MacTable, RtList
from netstack.errors import NetstackError
from netstack.params import BRIDGE_MEMBERS_MAX

if TYPE_CHECKING:
    from netstack.net.bridge_member import BridgeMember
    from netstack.net.bridge_rtable import BridgeRtable

__all__ = [
    "AGE_LOCAL",
    "AGE_STATIC",
    "REMOVALS",
    "DirectRemoval",
    "EachRemoval",
    "GenerationRemoval",
    "PaperRemoval",
    "Removal",
    "Select",
]

KINDS = (DYNAMIC, STATIC, LOCAL)
ALL = DYNAMIC | STATIC | LOCAL

# Age codes of ``_fast/mactable.pxd`` that are no ages.
AGE_LOCAL = 254
AGE_STATIC = 255


class Select(NamedTuple):
    """Which entries to remove."""

    kinds: int = DYNAMIC
    number: int | None = None  # port number of the entry; None: any
    seen_until: int | None = None  # second of the last frame or earlier; None: whenever
    macs: Sequence[bytes] | None = None  # these addresses, and nothing else matters


class Removal:
    """What the ways have in common: numbers of members, and flush and purge made of ``remove``."""

    name = ""
    tables: tuple[str, ...] = ("hash", "chained")

    def __init__(self, rtable: BridgeRtable) -> None:
        self.rtable = rtable
        self.numbers = Numbers()

    def remove(self, select: Select) -> int:
        """Remove entries and wait until nobody uses them; return how many.

        Context: a thread; may sleep; the table's mutex is not held.
        """
        raise NotImplementedError

    def flush(self, static: bool) -> int:
        """Remove learned entries, and static ones where asked; return how many."""
        return self.remove(Select(DYNAMIC | STATIC if static else DYNAMIC))

    def purge(self, member: BridgeMember) -> int:
        """Remove every entry of a member that is out of the port map; return how many."""
        return self.remove(Select(ALL, number=member.port))

    def admit(self, member: BridgeMember) -> None:
        """Give a new member its number.  Raises: NetstackError(ENOSPC)."""
        member.port = member.tag = self.numbers.take_lowest(member)

    def dismiss(self, member: BridgeMember) -> None:
        """Take the numbers of a member back; nothing in the table has them."""
        self.numbers.give_back(member.port, member.tag)

    def table_replaced(self) -> None:
        """The table is another one now, with live entries only."""

    def perform(self) -> None:
        """Wait for readers to leave, once; counted."""
        self.rtable.counters["performs"] += 1
        self.rtable.protection.perform()


class PaperRemoval(Removal):
    """The method of the paper: collect, one grace period for all, destroy."""

    name = "paper"

    def remove(self, select: Select) -> int:
        """Remove entries at one grace period.

        Source: paper §3.2.2, the pseudo code around pserialize_perform; NetBSD
                bridge_rtlist_iterate_remove.  Departs: from the slips of the printed listing.
        """
        table, counters = self.rtable.table, self.rtable.counters
        while True:
            allocated = table.entry_count if select.macs is None else len(select.macs)
            if not allocated:
                return 0
            entries = self.allocate(allocated)
            # Here the number of entries can change.
            with self.rtable.mutex:
                table = self.rtable.table
                removed = self.unlink(entries, select)
                if removed:
                    self.perform()  # waiting for users having gone
            if removed is not None:
                break
            counters["retries"] += 1  # the entries have increased: we need more memory
        table.destroy(entries)
        return removed

    def allocate(self, count: int) -> RtList:
        """Make the temporary buffer; it may sleep, so no lock is held (counted if one is)."""
        counters = self.rtable.counters
        counters["allocations"] += 1
        counters["allocations_under_lock"] += self.rtable.mutex.owned
        return RtList(count)

    def unlink(self, entries: RtList, select: Select) -> int | None:
        """Remove entries from the table into the buffer; None, and none is, when it is too short."""
        table = self.rtable.table
        if select.macs is not None:
            return table.unlink_macs(entries, select.macs)
        return table.unlink(entries, select.number, select.kinds, select.seen_until)


class EachRemoval(PaperRemoval):
    """Every entry through a grace period of its own: "longer time than we desire"."""

    name = "each"

    def remove(self, select: Select) -> int:
        """Remove entries one by one, each as the paper would remove many."""
        macs = select.macs if select.macs is not None else self.chosen(select)
        return sum(super(EachRemoval, self).remove(Select(macs=(mac,))) for mac in macs)

    def chosen(self, select: Select) -> list[bytes]:
        """Return the addresses that are in the table now and meant."""
        found = []
        for mac, number, age, seen in self.rtable.table.entries():
            kind = STATIC if age == AGE_STATIC else LOCAL if age == AGE_LOCAL else DYNAMIC
            is_late = select.seen_until is not None and seen > select.seen_until
            if kind & select.kinds and select.number in (None, number) and not is_late:
                found.append(mac)
        return found


class DirectRemoval(Removal):
    """Clear entries in place: a removed word leaves nothing behind that somebody could stand on."""

    name = "direct"
    tables = ("hash",)

    def remove(self, select: Select) -> int:
        with self.rtable.mutex:
            removed = self.clear(select)
            if removed:
                self.perform()  # no look-up made before is still acted on
        return removed

    def clear(self, select: Select) -> int:
        """Clear entries; the caller holds the mutex and waits for readers."""
        table = self.words()
        if select.macs is not None:
            return sum(table.remove(mac) for mac in select.macs)
        if select.seen_until is not None:
            return table.expire(select.seen_until)
        return table.clear(select.number, select.kinds)

    def words(self) -> MacTable:
        """Return the table: the hash table, as these ways know no other."""
        table = self.rtable.table
        assert isinstance(table, MacTable), "entries that are nodes cannot be cleared in place"
        return table


class GenerationRemoval(DirectRemoval):
    """Flush by new numbers.

    A member has a number for what is fixed, its port, and one for what is learned, its tag: its
    generation.  Both lead to it in the port map.  A flush retires the tags and publishes a map with
    new ones; whatever has an old one leads nowhere.  Entries of retired tags are swept up later, by
    learning that needs the slots, by ageing, or when numbers run out.

    Cost:   a map and a grace period, and once in a hundred flushes or so a walk over the table.
    Limits: a flush needs a free number for every member that learned something.  A bridge of more
            than about 80 members falls back to ``direct`` now and then, one of more than 126 always.
    """

    name = "generation"

    def flush(self, static: bool) -> int:
        rtable = self.rtable
        with rtable.mutex:
            removed = self.clear(Select(STATIC)) if static and rtable.table.statics else 0
            learned = self.next_generation()
            if removed and not learned:
                self.perform()
        return removed + learned

    def next_generation(self) -> int:
        """Make what every member has learned void; return how many entries that was.

        Locks: the caller holds the table's mutex, so that nobody reclaims a tag which a reader of
               the old map may still learn with.
        """
        rtable = self.rtable
        learners = [m for m in rtable.members() if rtable.table.held(m.tag)]
        if not learners:
            return 0
        tags = self.spare_numbers(len(learners)) if all(m.tag != m.port for m in learners) else []
        if not tags:
            removed = self.clear(Select())
            if removed:
                self.perform()
            return removed
        retired = [member.tag for member in learners]
        removed = self.words().retire(retired)
        for member, tag in zip(learners, tags, strict=True):
            self.give_tag(member, tag)
        rtable.counters["performs"] += 1
        rtable.publish()  # waits for readers of the old map
        self.numbers.retire(retired)
        return removed

    def spare_numbers(self, count: int) -> list[int]:
        """Return free numbers, highest first; none when there are not as many."""
        if self.numbers.free_count < count:
            self.reclaim()
        return self.numbers.highest(count)

    def give_tag(self, member: BridgeMember, tag: int) -> None:
        """Let a member learn under a number."""
        self.numbers.assign(tag, member)
        member.tag = tag
        self.rtable.table.set_cap(tag, member.maxaddr)

    def reclaim(self) -> None:
        """Sweep up the entries of retired numbers, which may then serve again.

        Locks: the caller holds the table's mutex.
        """
        if self.numbers.retired:
            self.rtable.counters["reclaims"] += 1
            self.words().reclaim()
            self.numbers.reuse_retired()

    def remove(self, select: Select) -> int:
        """Single entries and ageing: directly; ageing sweeps up at the same time."""
        with self.rtable.mutex:
            removed = self.clear(select)
            if removed:
                self.perform()
            if select.seen_until is not None:
                self.reclaim()
        return removed

    def purge(self, member: BridgeMember) -> int:
        """Retire the member's numbers.  Readers of maps with them are gone: nothing to wait for."""
        table = self.words()
        with self.rtable.mutex:
            used = [n for n in {member.port, member.tag} if any(table.held(n, k) for k in KINDS)]
            return table.retire(used)

    def dismiss(self, member: BridgeMember) -> None:
        """Its entries are swept up before its numbers serve again."""
        with self.rtable.mutex:
            self.numbers.retire({member.port, member.tag})

    def admit(self, member: BridgeMember) -> None:
        with self.rtable.mutex:
            self.reclaim()
            if not self.numbers.free_count:
                self.give_up_tags()
            super().admit(member)
            if 3 * len(self.rtable.members()) < BRIDGE_MEMBERS_MAX and self.numbers.free_count:
                self.give_tag(member, self.numbers.highest(1)[0])

    def give_up_tags(self) -> None:
        """So many members need every number as a port: what was learned goes, and tags with it."""
        tagged = [m for m in self.rtable.members() if m.tag != m.port]
        if tagged:
            retired = [member.tag for member in tagged]
            self.words().retire(retired)
            for member in tagged:
                member.tag = member.port
                self.rtable.table.set_cap(member.port, member.maxaddr)
            self.rtable.publish()
            self.numbers.retire(retired)
            self.reclaim()

    def table_replaced(self) -> None:
        self.numbers.reuse_retired()


class Numbers:
    """Port numbers of a bridge: free, a member's, or retired until the table is swept."""

    def __init__(self) -> None:
        self.members: list[BridgeMember | None] = [None] * BRIDGE_MEMBERS_MAX
        self.retired: set[int] = set()

    @property
    def free_count(self) -> int:
        """Numbers that nothing uses."""
        return self.members.count(None) - len(self.retired)

    def take_lowest(self, member: BridgeMember) -> int:
        """Give the lowest free number to a member.  Raises: NetstackError(ENOSPC)."""
        for number, owner in enumerate(self.members):
            if owner is None and number not in self.retired:
                self.members[number] = member
                return number
        text = f"a bridge has {BRIDGE_MEMBERS_MAX} members at most; delete one before adding"
        raise NetstackError(ENOSPC, text)

    def highest(self, count: int) -> list[int]:
        """Return so many free numbers from above, or none."""
        free = [n for n, owner in enumerate(self.members) if owner is None and n not in self.retired]
        return free[: -count - 1 : -1] if len(free) >= count else []

    def assign(self, number: int, member: BridgeMember) -> None:
        """Give a free number to a member."""
        assert self.members[number] is None and number not in self.retired, "a number has one owner"
        self.members[number] = member

    def retire(self, numbers: Iterable[int]) -> None:
        """Let numbers lead nowhere, and keep them until the table has been swept."""
        for number in numbers:
            self.members[number] = None
            self.retired.add(number)

    def give_back(self, *numbers: int) -> None:
        """Numbers that no entry has; those retired stay so."""
        for number in numbers:
            self.members[number] = None

    def reuse_retired(self) -> None:
        """The table has no entry with a retired number any more."""
        self.retired.clear()


REMOVALS: dict[str, type[Removal]] = {
    each.name: each for each in (PaperRemoval, EachRemoval, DirectRemoval, GenerationRemoval)
}
