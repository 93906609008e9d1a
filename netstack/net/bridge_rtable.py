"""The bridge's address table seen from the control plane (paper §3.2.2; NetBSD bridge_rtable_*).

Learning and lookup are in the kernels; here are static entries, removal, ageing, trimming, listing.
Which table it is, the hash table of words or NetBSD's chains, and how many entries are removed at
once (``bridge_flush``), is chosen by name.

Context: control plane under the ``ifnet`` mutex, except ageing: a callout hands it to a thread, as
         a removal waits for readers and a softint may not.
Locks:   ``mutex`` guards removal, replacement and ageing; see ``bridge_flush``.
Limits:  ``BRIDGE_RTABLE_MAX_LIMIT`` addresses.  The members' own addresses count against nothing.
"""

from collections.abc import Callable
from errno import EINVAL, ENOENT, ENOSPC
from typing import NamedTuple

from netstack._fast.bridge import BridgeBlock
from netstack._fast.macchain import ChainTable
from netstack._fast.mactable import MacTable
from netstack.errors import NetstackError
from netstack.kern.callout import Callout
from netstack.kern.mutex import Mutex
from netstack.kern.workqueue import Workqueue
from netstack.machine.api import Engine
from netstack.net.bridge_flush import AGE_LOCAL, AGE_STATIC, REMOVALS, Removal, Select
from netstack.net.bridge_member import BridgeMember
from netstack.net.bridge_protect import Protection, PserializeProtection
from netstack.net.ifnet import format_mac
from netstack.params import (
    BRIDGE_RTABLE_AGE_PERIOD_S,
    BRIDGE_RTABLE_MAX_LIMIT,
    BRIDGE_RTABLE_SWEEP_ADDRESSES_PER_S,
    BRIDGE_RTABLE_TIMEOUT_LIMIT_S,
)

__all__ = ["AGE_LOCAL", "AGE_STATIC", "BridgeRtable", "Entry"]

NS_PER_S = 1_000_000_000
DEFAULT_REMOVAL = {"hash": "generation", "chained": "paper"}


class Entry(NamedTuple):
    """A line of the address table."""

    mac: bytes
    port: int
    remaining_s: int  # 0 for a static entry and for one that never expires
    is_static: bool


class BridgeRtable:
    """The table of one bridge: ``maxaddr`` addresses, learned ones for ``timeout_s`` seconds.

    Args:    table -- "hash": buckets of eight words; "chained": NetBSD's 1024 chained heads.
             flush -- "generation", "direct", "paper", "each"; see ``bridge_flush``.  None: the
             quickest that the table has.   protection -- what keeps readers apart.
    Raises:  NetstackError(EINVAL) for names and values that are not so.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        seed: int,
        maxaddr: int,
        timeout_s: int,
        table: str = "hash",
        flush: str | None = None,
        protection: Protection | None = None,
    ) -> None:
        self.engine = engine
        self.protection = protection or PserializeProtection(engine, name)
        self._name = name
        self._seed = seed
        self._kind = table
        self._timeout_s = self._checked_timeout(timeout_s)
        self.removal = self._checked_removal(table, flush)(self)
        self.table = self._new_table(self._checked_max(maxaddr))
        self.mutex = Mutex(engine, f"{name} rtable")
        # Set by the bridge: who its members are, and publishing their map, grace period included.
        self.block: BridgeBlock | None = None
        self.members: Callable[[], tuple[BridgeMember, ...]] = tuple
        self.publish: Callable[[], None] = lambda: None
        # What removals have cost; guarded by the mutex where it matters.
        self.counters = dict.fromkeys(
            ("performs", "retries", "allocations", "allocations_under_lock", "reclaims", "sweeps"), 0
        )
        self._callout = Callout(engine, self._timer, name=f"{name} ageing")
        self._worker = Workqueue(engine, f"{name} ageing", self._age_work)
        self._is_ageing = False  # guarded by the mutex
        self._is_destroyed = False

    @property
    def maxaddr(self) -> int:
        """Most addresses, static and learned."""
        return self.table.maxaddr

    @property
    def timeout_s(self) -> int:
        """Seconds a learned address lives without traffic; 0: for ever."""
        return self._timeout_s

    @timeout_s.setter
    def timeout_s(self, value: int) -> None:
        self._timeout_s = self._checked_timeout(value)
        with self.mutex:
            if self._is_ageing:
                self._arm_locked()

    def set_max(self, maxaddr: int) -> None:
        """Change the limit.

        Lowering ages first, then drops learned addresses, last seen first, until they fit; static
        entries survive.  Raising may take a larger table, and waits for readers of the old one.
        """
        self._checked_max(maxaddr)
        try:
            self.table.set_max(maxaddr)
        except ValueError:
            self._replace_table(maxaddr)
            return
        self.age()
        self.trim(maxaddr)

    def trim(self, maxaddr: int) -> None:
        """Remove learned addresses, last seen first, until at most so many are left (NetBSD bridge_rttrim)."""
        excess = self.table.count + self.table.statics - maxaddr
        if excess > 0:
            learned = [(seen, mac) for mac, _, age, seen in self.table.entries() if age < AGE_LOCAL]
            newest = sorted(learned, reverse=True)[:excess]
            self.removal.remove(Select(macs=[mac for _, mac in newest]))

    def set_port_max(self, member: BridgeMember, most: int) -> None:
        """Limit what is learned on a member; 0: by ``maxaddr`` alone.  What is there stays."""
        if not isinstance(most, int) or not 0 <= most <= BRIDGE_RTABLE_MAX_LIMIT:
            text = f"{self._name}: {most!r} addresses on {member.ifp.name}"
            raise NetstackError(EINVAL, f"{text}: 0..{BRIDGE_RTABLE_MAX_LIMIT}, 0 is no limit")
        with self.mutex:
            member.maxaddr = most
            self.table.set_cap(member.tag, most)

    def add_static(self, mac: bytes, member: BridgeMember) -> None:
        """Enter an address for good, or turn a learned one into a static one.

        Raises: NetstackError: EINVAL (group, zero, or a member's own address), ENOSPC (full).
        """
        if mac[0] & 1 or not any(mac):
            raise NetstackError(EINVAL, f"{self._name}: {format_mac(mac)} is no station's address")
        if self._age_code(mac) == AGE_LOCAL:
            text = f"{self._name}: {format_mac(mac)} is the address of a member itself"
            raise NetstackError(EINVAL, text)
        if not self.table.add_static(mac, member.port):
            text = f"{self._name}: all {self.maxaddr} addresses are taken; raise maxaddr"
            raise NetstackError(ENOSPC, text)

    def deladdr(self, mac: bytes) -> None:
        """Remove one entry.  Raises: NetstackError(ENOENT) when it is not listed."""
        if self._age_code(mac) == AGE_LOCAL or not self.removal.remove(Select(macs=[mac])):
            raise NetstackError(ENOENT, f"{self._name}: {format_mac(mac)} is not in the table")

    def flush(self, static: bool) -> int:
        """Remove learned entries, and static ones where asked; return how many."""
        return self.removal.flush(static)

    def purge(self, member: BridgeMember) -> int:
        """Remove every entry of a member: learned, static, and its own address; return how many."""
        removed = self.removal.purge(member)
        for number in {member.port, member.tag}:
            self.table.set_cap(number, 0)
        return removed

    def add_local(self, member: BridgeMember) -> None:
        """Enter a member's own address, unless another member has the same and came first."""
        if self._age_code(member.ifp.block.mac) != AGE_LOCAL:
            self.table.add_local(member.ifp.block.mac, member.port)

    def lookup(self, mac: bytes) -> tuple[int, int] | None:
        """Return port number and age code of an address, or None."""
        return self.table.lookup(mac)

    def member_of(self, number: int) -> BridgeMember | None:
        """Return whose a port number of an entry is."""
        return self.removal.numbers.members[number]

    def entries(self) -> list[Entry]:
        """Return what an operator sees: no own addresses, nothing expired; ordered by address."""
        now_s = self._second()
        found = []
        for mac, number, age, seen_s in self.table.entries():
            member = self.member_of(number)
            if member is None or age == AGE_LOCAL:
                continue
            remaining_s = max(0, self._timeout_s - (now_s - seen_s))
            if age == AGE_STATIC:
                found.append(Entry(mac, member.port, 0, True))
            elif remaining_s or not self._timeout_s:
                found.append(Entry(mac, member.port, remaining_s, False))
        return sorted(found)

    # Ageing.

    def age(self) -> int:
        """Remove learned entries whose time is over (NetBSD bridge_rtage); return how many.

        Context: a thread; may sleep.
        """
        now_s = self._second()
        self.counters["sweeps"] += 1
        timeout_s = self._timeout_s
        if not timeout_s or now_s < timeout_s:
            return 0
        return self.removal.remove(Select(seen_until=now_s - timeout_s))

    def start_ageing(self) -> None:
        """Sweep from now on, each time at the second when the next address expires.

        Source: NetBSD bridge_timer, bridge_rtage_work.  Departs: NetBSD sweeps every 300 s.
        """
        with self.mutex:
            self._is_ageing = True
            self._arm_locked()

    def stop_ageing(self) -> None:
        """Sweep no more: the bridge is down."""
        with self.mutex:
            self._is_ageing = False
            self._callout.stop()

    def destroy(self) -> None:
        """End ageing for good; wait for a sweep under way."""
        if self._is_destroyed:
            return
        self._is_destroyed = True
        self.stop_ageing()
        self._callout.halt()
        self._worker.destroy()

    def _timer(self, _arg: object) -> None:
        """bridge_timer: the time has come; a softint may not wait for readers, so a thread sweeps."""
        self._worker.enqueue()

    def _age_work(self, _work: object) -> None:
        """bridge_rtage_work: sweep, and make the next appointment."""
        self.age()
        with self.mutex:
            if self._is_ageing:
                self._arm_locked()

    def _arm_locked(self) -> None:
        """Wake up when the oldest address expires, and soon enough for the age codes.

        An address learned meanwhile expires no sooner than a whole timeout from this second.  A
        large table is swept less often, see ``params``.
        """
        self.mutex.assert_held()
        now_ns = self.engine.now_ns()
        now_s = now_ns // NS_PER_S
        oldest_s = self.table.mark_old(now_s)
        delay_s = float(BRIDGE_RTABLE_AGE_PERIOD_S)
        if self._timeout_s:
            due_s = (now_s if oldest_s is None else min(oldest_s, now_s)) + self._timeout_s
            least_s = self.maxaddr / BRIDGE_RTABLE_SWEEP_ADDRESSES_PER_S
            delay_s = min(delay_s, max(due_s - now_ns / NS_PER_S, least_s))
        self._callout.schedule(delay_s, background=True)

    # Inside.

    def _new_table(self, maxaddr: int) -> MacTable | ChainTable:
        if self._kind == "chained":
            return ChainTable(maxaddr, self._seed)
        return MacTable(maxaddr, self._seed)

    def _replace_table(self, maxaddr: int) -> None:
        """Put a larger table in place: copy, swap, wait for readers, take over what they learned."""
        larger = self._new_table(maxaddr)
        for member in self.members():
            larger.set_cap(member.tag, member.maxaddr)
        with self.mutex:
            old = self.table
            old.copy_into(larger)
            self.table = larger
            if self.block is not None:
                self.block.set_table(larger)
            self.protection.perform()
            old.copy_into(larger)
            self.removal.table_replaced()

    def _second(self) -> int:
        return self.engine.now_ns() // NS_PER_S

    def _age_code(self, mac: bytes) -> int | None:
        found = self.lookup(mac)
        return found[1] if found is not None else None

    def _checked_removal(self, table: str, flush: str | None) -> type[Removal]:
        if table not in DEFAULT_REMOVAL:
            raise NetstackError(EINVAL, f"{self._name}: table={table!r}: one of 'hash', 'chained'")
        removal = REMOVALS.get(flush or DEFAULT_REMOVAL[table])
        if removal is None or table not in removal.tables:
            fitting = ", ".join(repr(n) for n, r in REMOVALS.items() if table in r.tables)
            text = f"flush={flush!r}: a table={table!r} has {fitting}"
            raise NetstackError(EINVAL, f"{self._name}: {text}")
        return removal

    def _checked_max(self, maxaddr: int) -> int:
        if not isinstance(maxaddr, int) or not 1 <= maxaddr <= BRIDGE_RTABLE_MAX_LIMIT:
            text = f"{self._name}: maxaddr {maxaddr!r} is not 1..{BRIDGE_RTABLE_MAX_LIMIT}"
            raise NetstackError(EINVAL, text)
        return maxaddr

    def _checked_timeout(self, timeout_s: int) -> int:
        if not isinstance(timeout_s, int) or not 0 <= timeout_s <= BRIDGE_RTABLE_TIMEOUT_LIMIT_S:
            text = f"timeout {timeout_s!r} is not 0..{BRIDGE_RTABLE_TIMEOUT_LIMIT_S} s"
            raise NetstackError(EINVAL, f"{self._name}: {text}")
        return timeout_s
