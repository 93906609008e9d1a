"""The bridge's control plane: brconfig's verbs as methods (paper §3.2.2; NetBSD if_bridge.c).

Every change derives a new port map from the member list and publishes it: one store, then a grace
period in which readers leave the old one.  So a call returns when no frame uses the old state.
How members come and go is in ``bridge_iflist``, the address table in ``bridge_rtable``.

Context: a thread or the main program; may sleep.  Several threads may call at once.
Locks:   the ``ifnet`` mutex of the machine over each operation; below it those of pserialize and
         of the address table.
Limits:  252 members (a port is 8 bits of a table entry), ``BRIDGE_RTABLE_MAX`` addresses at first.
Source:  NetBSD brconfig(8), bridge(4); where they and the code differ see docs/differences.md.
"""

import re
from collections.abc import Iterable
from errno import EINVAL, ENOENT
from typing import TypeAlias

from netstack._fast.bridge import BridgeBlock
from netstack.errors import NetstackError, NoSuchInterfaceError
from netstack.kern.psref import PsrefClass
from netstack.kern.workqueue import Workqueue
from netstack.net.bridge_iflist import bridge_add_member, bridge_delete_member
from netstack.net.bridge_member import (
    IFBIF,
    STATES,
    BridgeMember,
    check_candidate,
    port_specs,
)
from netstack.net.bridge_protect import protection
from netstack.net.bridge_rtable import AGE_LOCAL, BridgeRtable
from netstack.net.ifnet import Ifnet, Stack, format_mac, parse_mac
from netstack.params import (
    BRIDGE_RTABLE_MAX,
    BRIDGE_RTABLE_TIMEOUT_S,
    IF_MTU_MAX,
    IF_MTU_MIN,
)

__all__ = ["Address", "Bridge"]

# What ``addresses`` returns per entry: address, VLAN (0: the key is the address alone), interface,
# seconds left (0: static, or never expires), flags ("" or "STATIC").
Address: TypeAlias = tuple[str, int, str, int, str]

NAME = re.compile(r"bridge\d+")
GOLDEN = 0x9E3779B97F4A7C15  # spreads the machine's seed over its bridges


class Bridge:
    """A learning bridge of one machine; made by ``Machine.bridge``.

    Args:    members -- interfaces or their names, added in this order.
             timeout -- seconds an address lives without traffic, 0: for ever.
             maxaddr -- addresses held.   mtu -- its members'.
             forward_control -- forward 01:80:c2:00:00:00..0f as NetBSD does, not drop it.
             table -- "hash", or NetBSD's "chained" lists.   flush -- how many addresses are removed
             at once: "generation", "direct", "paper", "each"; None: the quickest the table has.
             protect -- "pserialize"; on path="stages" also "mutex", "rwlock".
    Raises:  NetstackError: EINVAL (name, limits), and what ``add`` raises.
    """

    def __init__(
        self,
        machine: Stack,
        name: str,
        index: int,
        members: Iterable[Ifnet | str] = (),
        *,
        timeout: int = BRIDGE_RTABLE_TIMEOUT_S,
        maxaddr: int = BRIDGE_RTABLE_MAX,
        mtu: int = 1500,
        forward_control: bool = False,
        table: str = "hash",
        flush: str | None = None,
        protect: str = "pserialize",
    ) -> None:
        if not NAME.fullmatch(name):
            raise NetstackError(EINVAL, f"{name} is not a bridge: call it bridge0, bridge1, ...")
        if not IF_MTU_MIN <= mtu <= IF_MTU_MAX:
            raise NetstackError(EINVAL, f"{name}: MTU {mtu!r} is not {IF_MTU_MIN}..{IF_MTU_MAX}")
        engine = machine.engine
        seed = (machine.seed + (index + 1) * GOLDEN) % 2**64
        self.machine = machine
        self.name = name
        self.index = index
        self.mtu = mtu
        self.is_running = False
        self.protection = protection(engine, name, protect, getattr(machine, "path", "stages"))
        self.rtable = BridgeRtable(engine, name, seed, maxaddr, timeout, table, flush, self.protection)
        self.block = BridgeBlock(index, self.rtable.table, engine.psz)
        self.rtable.block = self.block
        self.rtable.members = lambda: self.iflist
        self.rtable.publish = self.publish
        self._forward_control = forward_control
        self.lock = machine.netisr.ifnet_lock
        self.psref_class = PsrefClass(engine, name)
        self._changes = Workqueue(engine, f"{name} members", lambda _: self._republish())
        # Replaced whole, never changed in place: the data plane reads it without a lock.
        self.iflist: tuple[BridgeMember, ...] = ()
        self.leaving: list[BridgeMember] = []  # out of the list, still held by somebody
        self.by_index: dict[int, BridgeMember] = {}  # by interface index
        self.up()
        try:
            for ifp in members:
                self.add(ifp)
        except NetstackError:
            self.destroy()
            raise

    # Members.

    @property
    def members(self) -> list[Ifnet]:
        """Member interfaces in member order: the last one added comes first."""
        return [member.ifp for member in self.iflist]

    def add(self, ifp: Ifnet | str) -> None:
        """Make an interface a member: it learns, discovers, is promiscuous, feeds ``bridge_input``.

        Raises: NetstackError: ENOENT (no such interface), EEXIST (is a member), EBUSY (of another
                bridge), EINVAL (input slot taken, not SIMPLEX, not Ethernet, MTU differs), ENOSPC.
        Source: NetBSD bridge_ioctl_add; checks in its order.
        """
        ifp = self._interface(ifp)
        with self.lock:
            check_candidate(self, ifp)
            bridge_add_member(self, ifp)

    def delete(self, ifp: Ifnet | str) -> None:
        """Release a member.  When it returns, no frame uses it and none of its addresses is left.

        Raises: NetstackError: ENOENT when it is no member, ETIMEDOUT when somebody holds it for long.
        Source: paper §3.2.2; see ``bridge_iflist``.
        """
        with self.lock:
            bridge_delete_member(self, self._member(ifp))

    def learn(self, ifp: Ifnet | str, on: bool = True) -> None:
        """Learn the addresses of frames that arrive on a member, or not.  Raises: ENOENT."""
        self._set_flag(ifp, IFBIF.LEARNING, on)

    def discover(self, ifp: Ifnet | str, on: bool = True) -> None:
        """Send frames for unknown addresses to a member, or not.  Raises: ENOENT."""
        self._set_flag(ifp, IFBIF.DISCOVER, on)

    def private(self, ifp: Ifnet | str, on: bool = True) -> None:
        """Protect a member: nothing passes between two protected ones.  Raises: ENOENT."""
        self._set_flag(ifp, IFBIF.PROTECTED, on)

    def stp(self, ifp: Ifnet | str, on: bool = True) -> None:
        """Let a member obey its spanning tree state, at first forwarding.  Raises: ENOENT.

        The protocol engine is not part of this version: ``set_state`` changes the state by hand.
        """
        self._set_flag(ifp, IFBIF.STP, on)

    def set_state(self, ifp: Ifnet | str, state: str) -> None:
        """Set a member's state: disabled, listening, learning, forwarding, blocking.

        Raises: NetstackError: ENOENT (no member), EINVAL (no such state, or stp is off there).
        """
        with self.lock:
            member = self._member(ifp)
            if state not in STATES:
                raise NetstackError(EINVAL, f"{state!r} is none of {', '.join(STATES)}")
            if IFBIF.STP not in member.flags:
                text = f"{member.ifp.name} has no state to obey; {self.name}.stp(ifp) first"
                raise NetstackError(EINVAL, text)
            member.state = state
            self.publish()

    def member(self, ifp: Ifnet | str) -> BridgeMember:
        """Return a member's record: port, flags, state.  Raises: NetstackError(ENOENT)."""
        return self._member(ifp)

    # Addresses.

    @property
    def maxaddr(self) -> int:
        """Most addresses the table holds; lowering it drops learned ones until they fit."""
        return self.rtable.maxaddr

    @maxaddr.setter
    def maxaddr(self, value: int) -> None:
        with self.lock:
            self.rtable.set_max(value)

    def ifmaxaddr(self, ifp: Ifnet | str, most: int) -> None:
        """Limit the addresses learned on a member; 0: no limit but ``maxaddr``.

        When the table or the member is full, new stations are not learned and stations do not move
        here; frames pass all the same, those to unlearned stations as floods.

        Raises: NetstackError: ENOENT (no member), EINVAL (out of range).   Source: FreeBSD ifconfig(8).
        """
        with self.lock:
            self.rtable.set_port_max(self._member(ifp), most)

    @property
    def timeout(self) -> int:
        """Seconds a learned address lives without traffic; 0: for ever."""
        return self.rtable.timeout_s

    @timeout.setter
    def timeout(self, value: int) -> None:
        with self.lock:
            self.rtable.timeout_s = value

    def addresses(self) -> list[Address]:
        """Return the address table, ordered by address."""
        found = []
        for entry in self.rtable.entries():
            member = self.rtable.member_of(entry.port)
            if member is not None:
                flags = "STATIC" if entry.is_static else ""
                row = (format_mac(entry.mac), 0, member.ifp.name, entry.remaining_s, flags)
                found.append(row)
        return found

    def static(self, ifp: Ifnet | str, mac: str | bytes) -> None:
        """Pin an address to a member; learning does not change it.

        Raises: NetstackError: ENOENT (no member), EINVAL (bad address), ENOSPC (table full).
        """
        address = parse_mac(mac)
        with self.lock:
            self.rtable.add_static(address, self._member(ifp))
            self._grace()  # no look-up made before is acted on any more

    def deladdr(self, mac: str | bytes) -> None:
        """Remove an address.  Raises: NetstackError: ENOENT (not there), EINVAL (bad address)."""
        address = parse_mac(mac)
        with self.lock:
            self.rtable.deladdr(address)

    def flush(self) -> None:
        """Remove all learned addresses."""
        with self.lock:
            self.rtable.flush(static=False)

    def flushall(self) -> None:
        """Remove all addresses, static ones too."""
        with self.lock:
            self.rtable.flush(static=True)

    # The bridge itself.

    @property
    def forward_control(self) -> bool:
        """Whether 01:80:c2:00:00:00..0f are forwarded, as NetBSD does; 802.1D says drop."""
        return self._forward_control

    @forward_control.setter
    def forward_control(self, value: bool) -> None:
        with self.lock:
            self._forward_control = value
            self.publish()

    def up(self) -> None:
        """Start forwarding and ageing."""
        with self.lock:
            self.is_running = True
            self.publish()
            self.rtable.start_ageing()

    def down(self) -> None:
        """Stop forwarding, and forget learned addresses: members act as if in no bridge."""
        with self.lock:
            self.is_running = False
            self.publish()
            self.rtable.stop_ageing()
            self.rtable.flush(static=False)

    def destroy(self) -> None:
        """Release all members and leave the machine."""
        for ifp in self.members:
            self.delete(ifp)
        self.down()
        engine = self.machine.engine
        if self.leaving:
            engine.wait_until(lambda: not self.leaving, f"members of {self.name} that are held")
        self.rtable.destroy()
        self.psref_class.destroy()
        if self.machine.bridges.get(self.name) is self:
            del self.machine.bridges[self.name]

    @property
    def counters(self) -> dict[str, int]:
        """Frames taken in for forwarding, learning and flooding, summed over CPUs."""
        return self.block.counters()

    def member_changed(self) -> None:
        """Derive the port map again, as a member went up or down.

        Context: any; from an interrupt (a link that changed) a thread does it soon, and until then
                 ``if_transmit`` drops what the old map sends to an interface that is down.
        """
        cpu = self.machine.engine.curcpu()
        if cpu is None or cpu.context == "thread":
            self._republish()
        else:
            self._changes.enqueue()

    def __repr__(self) -> str:
        state = "UP,RUNNING" if self.is_running else "DOWN"
        names = " ".join(ifp.name for ifp in self.members) or "no members"
        held = f"{len(self.rtable.entries())} of {self.maxaddr} addresses"
        return f"<Bridge {self.name} {state}: {names}, {held}>"

    # For the data plane, inside a read section.

    def member_of_index(self, index: int) -> BridgeMember:
        """Return the member whose interface has an index; it outlives the maps that name it."""
        return self.by_index[index]

    def member_of(self, ifp: Ifnet) -> BridgeMember | None:
        """Return an interface's record, or None when it is no member, or no longer."""
        return next((member for member in self.iflist if member.ifp is ifp), None)

    def output_members(self, ifp: Ifnet, destination: bytes) -> tuple[list[BridgeMember], list[BridgeMember]]:
        """Return where a frame of the local stack goes: members to send it, members to hear it."""
        found = None if destination[0] & 1 else self.rtable.lookup(destination)
        if found is not None:
            number, age = found
            member = self.rtable.member_of(number)
            if member is not None and member in self.iflist:
                if age == AGE_LOCAL:
                    return [], [member]
                return [member] if member.may_send_for_stack(ifp) else [], []
        senders = [member for member in self.iflist if member.may_send_for_stack(ifp)]
        hearers = [m for m in self.iflist if m.is_listening and m.ifp is not ifp]
        return senders, hearers if destination[0] & 1 else []

    # Under the lock.

    def _republish(self) -> None:
        with self.lock:
            self.publish()

    def publish(self) -> None:
        """Make the port map of the list as it is now, and wait until nobody reads the old one."""
        old = self.block.publish(port_specs(self.iflist), self.is_running, self._forward_control)
        self._grace()
        del old  # readers are gone

    def _grace(self) -> None:
        """Wait until no read section that could see the old state is open."""
        self.protection.perform()

    def _set_flag(self, ifp: Ifnet | str, flag: IFBIF, on: bool) -> None:
        with self.lock:
            member = self._member(ifp)
            if flag is IFBIF.STP:
                member.state = "forwarding"
            member.flags = member.flags | flag if on else member.flags & ~flag
            self.publish()

    def _interface(self, ifp: Ifnet | str) -> Ifnet:
        """Resolve a name; refuse interfaces of other machines."""
        name = ifp if isinstance(ifp, str) else getattr(ifp, "name", repr(ifp))
        found = self.machine.interfaces.get(name)
        if found is None or not (isinstance(ifp, str) or found is ifp):
            known = " ".join(self.machine.interfaces) or "none"
            text = f"{name} is no interface of this machine (there are: {known})"
            raise NoSuchInterfaceError(ENOENT, text)
        return found

    def _member(self, ifp: Ifnet | str) -> BridgeMember:
        name = ifp if isinstance(ifp, str) else getattr(ifp, "name", repr(ifp))
        for member in self.iflist:
            if member.ifp is ifp or member.ifp.name == ifp:
                return member
        text = f"{name} is no member of {self.name}; {self.name}.add({name}) makes it one"
        raise NetstackError(ENOENT, text)
