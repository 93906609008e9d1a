"""The bridge's address table seen from the control plane (paper §3.2.2; NetBSD bridge_rtable_*).

Learning and lookup are in the kernels; here are static entries, removal, flush, ageing, trimming,
listing.  Removal clears one word per entry, so nothing is freed; the grace period that follows each
removal is what makes "gone" true when the call returns: no look-up made before is in use any more.

Context: control plane under the ``ifnet`` mutex, except the ageing callout (a softint), which takes
         the table's own lock only.
Limits:  ``BRIDGE_RTABLE_MAX_LIMIT`` addresses.  The members' own addresses count against nothing.
"""

from errno import EINVAL, ENOENT, ENOSPC
from typing import NamedTuple

from netstack._fast.bridge import BridgeBlock
from netstack._fast.mactable import MacTable
from netstack.errors import NetstackError
from netstack.kern.callout import Callout
from netstack.machine.api import Engine
from netstack.net.bridge_member import BridgeMember
from netstack.net.ifnet import format_mac
from netstack.params import (
    BRIDGE_RTABLE_AGE_PERIOD_S,
    BRIDGE_RTABLE_MAX_LIMIT,
    BRIDGE_RTABLE_TIMEOUT_LIMIT_S,
)

__all__ = ["AGE_LOCAL", "AGE_STATIC", "BridgeRtable", "Entry"]

# Age codes of ``_fast/mactable.pxd`` that are no ages.
AGE_LOCAL = 254
AGE_STATIC = 255

NS_PER_S = 1_000_000_000


class Entry(NamedTuple):
    """A line of the address table."""

    mac: bytes
    port: int
    remaining_s: int  # 0 for a static entry and for one that never expires
    is_static: bool


class BridgeRtable:
    """The table of one bridge: ``maxaddr`` addresses, learned ones for ``timeout_s`` seconds."""

    def __init__(self, engine: Engine, name: str, seed: int, maxaddr: int, timeout_s: int) -> None:
        self._engine = engine
        self._name = name
        self._seed = seed
        self._timeout_s = self._checked_timeout(timeout_s)
        self.table = MacTable(self._checked_max(maxaddr), seed)
        self.block: BridgeBlock | None = None  # set once the bridge has one
        self._callout = Callout(engine, self._sweep, name=f"{name} ageing")
        self._is_ageing = False

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
        if self._is_ageing:
            self.start_ageing()

    def set_max(self, maxaddr: int) -> MacTable | None:
        """Change the limit; returns the table replaced by a larger one, if that was needed.

        Lowering ages first, then drops learned addresses, last seen first, until they fit; static
        entries survive.  After a replacement the caller waits for readers and calls ``finish_max``.
        """
        self._checked_max(maxaddr)
        table = self.table
        try:
            table.set_max(maxaddr)
        except ValueError:
            larger = MacTable(maxaddr, self._seed)
            table.copy_into(larger)
            self.table = larger
            if self.block is not None:
                self.block.set_table(larger)
            return table
        self.age()
        table.trim(maxaddr)
        return None

    def finish_max(self, replaced: MacTable) -> None:
        """Take over what CPUs learned in the old table while it was being replaced."""
        replaced.copy_into(self.table)

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
        if self._age_code(mac) == AGE_LOCAL or not self.table.remove(mac):
            raise NetstackError(ENOENT, f"{self._name}: {format_mac(mac)} is not in the table")

    def flush(self, static: bool) -> None:
        """Remove learned entries, and static ones where asked."""
        self.table.flush_ports(None, static, False)

    def remove_local(self, member: BridgeMember) -> None:
        """Remove a member's own address, unless the entry is another member's."""
        if self.table.lookup(member.ifp.block.mac) == (member.port, AGE_LOCAL):
            self.table.remove(member.ifp.block.mac)

    def purge(self, member: BridgeMember) -> None:
        """Remove every entry of a member: learned, static, and its own address."""
        self.table.flush_ports(member.port, True, True)

    def add_local(self, member: BridgeMember) -> None:
        """Enter a member's own address, unless another member has the same and came first."""
        if self._age_code(member.ifp.block.mac) != AGE_LOCAL:
            self.table.add_local(member.ifp.block.mac, member.port)

    def lookup(self, mac: bytes) -> tuple[int, int] | None:
        """Return port and age code of an address, or None."""
        return self.table.lookup(mac)

    def entries(self) -> list[Entry]:
        """Return what an operator sees: no own addresses, nothing expired; ordered by address."""
        now_s = self._second()
        found = []
        for mac, port, age, seen_s in self.table.entries():
            if age == AGE_STATIC:
                found.append(Entry(mac, port, 0, True))
            elif age != AGE_LOCAL:
                remaining_s = max(0, self._timeout_s - (now_s - seen_s))
                if remaining_s or not self._timeout_s:
                    found.append(Entry(mac, port, remaining_s, False))
        return sorted(found)

    def age(self) -> int:
        """Remove learned entries whose time is over; returns how many."""
        return self.table.age(self._second(), self._timeout_s)

    def start_ageing(self) -> None:
        """Sweep from now on, often enough that an entry lives at most 5/4 of its timeout.

        The period also has the limit that age codes set, see ``_fast/mactable.pxd``.  Source:
        NetBSD bridge_timer.  Departs: the callout itself sweeps, since nothing is freed.
        """
        self._is_ageing = True
        quarter_s = self._timeout_s // 4 or 1
        limit_s = BRIDGE_RTABLE_AGE_PERIOD_S
        period_s = min(limit_s, quarter_s) if self._timeout_s else limit_s
        self._callout.schedule(period_s, background=True)

    def stop_ageing(self) -> None:
        """Sweep no more: the bridge is down."""
        self._is_ageing = False
        self._callout.stop()

    def _sweep(self, _arg: object) -> None:
        self.age()
        if self._is_ageing:
            self.start_ageing()

    def _second(self) -> int:
        return self._engine.now_ns() // NS_PER_S

    def _age_code(self, mac: bytes) -> int | None:
        found = self.table.lookup(mac)
        return found[1] if found is not None else None

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
