"""The bridge's member list: how members come, and how they go while frames use them (paper §3.2.2).

The list changes rarely and is read by every frame, so pserialize protects it.  But a member may be
held over operations that sleep, and a reader of pserialize may not sleep; so a reader takes a
reference inside its section and gives it back after using the member.  Who removes a member has to
wait for both, in the order of ``bridge_delete_member``.

Readers are ``bridge_forward`` and ``bridge_output`` in ``net/bridge``, and the compiled loop, which
holds its section over the whole use and needs no reference.

Context: threads that may sleep.   Locks: ``br.lock``, the machine's ``ifnet`` mutex.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstack.net.bridge import bridge_input, bridge_output
from netstack.net.bridge_member import BridgeMember
from netstack.net.ether import ether_input
from netstack.net.ifnet import Ifnet

if TYPE_CHECKING:
    from netstack.net.bridge_ctl import Bridge

__all__ = ["bridge_add_member", "bridge_delete_member"]


def bridge_add_member(br: Bridge, ifp: Ifnet) -> None:
    """Make an interface a member: the member first, then its addresses, then its frames.

    Context: a thread; ``br.lock`` is held, the interface was found fit.
    Raises:  NetstackError(ENOSPC): no number is left for it.
    Source:  NetBSD bridge_ioctl_add.
    """
    member = BridgeMember(ifp, br.psref_class)
    try:
        br.rtable.removal.admit(member)
    except BaseException:
        member.target.destroy()
        raise
    br.by_index[ifp.index] = member
    br.iflist = (member, *br.iflist)
    ifp.bridge = br
    ifp.bridge_output = bridge_output
    br.publish()
    br.rtable.add_local(member)  # its port must be in the map before the table names it
    br.block.attach(ifp.block, member.port)
    ifp.promisc(True)
    ifp.set_input(bridge_input, "bridge")


def bridge_delete_member(br: Bridge, member: BridgeMember) -> None:
    """Release a member while frames go through it.

    The paper: "we first remove a bridge member from the member list and then use pserialize_perform
    to guarantee nobody is trying to hold the bridge member anymore.  Then, we synchronize on the
    reference count of the bridge member to wait for a possible user to release the bridge member.
    After that, we can [...] safely free the bridge member."

    Context: a thread; may sleep, without ``br.lock`` while it waits for references: a holder may
             need it.  Of two callers one gets here; for the other it is no member any more.
    Raises:  NetstackError: ETIMEDOUT or EDEADLK when a holder does not let go; the member is out of
             the bridge then, and only its record is left.
    Source:  paper §3.2.2; NetBSD bridge_delete_member, bridge_release_member.
    """
    release_input(br, member)
    remove_from_list(br, member)
    wait_for_readers(br)
    remove_addresses(br, member)
    br.leaving.append(member)
    br.lock.exit()
    try:
        wait_for_references(member)
    finally:
        br.lock.enter()
    free_member(br, member)


def release_input(br: Bridge, member: BridgeMember) -> None:
    """Its frames no longer come here: the slots of the interface get Ethernet's functions back."""
    ifp = member.ifp
    if ifp.if_input == bridge_input:  # else a hook is in the slot, and stays
        ifp.set_input(ether_input, "ether")
    ifp.bridge = None
    ifp.bridge_output = None
    br.block.detach(ifp.block)


def remove_from_list(br: Bridge, member: BridgeMember) -> None:
    """Nobody who looks from now on finds it."""
    br.iflist = tuple(other for other in br.iflist if other is not member)


def wait_for_readers(br: Bridge) -> None:
    """pserialize_perform: who is inside a section may still find it; afterwards nobody tries to hold it.

    Nobody learns its addresses any more either: learning is in the same sections.
    """
    br.publish()


def remove_addresses(br: Bridge, member: BridgeMember) -> None:
    """Every table entry of it goes, its own address too; no reader knows its numbers: none appears again."""
    br.rtable.purge(member)
    for other in br.iflist:  # one of them may have the same address
        br.rtable.add_local(other)
    member.ifp.promisc(False)


def wait_for_references(member: BridgeMember) -> None:
    """Holders took their reference inside a section, and may sleep with it; wait for the last one."""
    member.target.destroy()


def free_member(br: Bridge, member: BridgeMember) -> None:
    """Nobody has the member: its numbers may be another's."""
    br.leaving.remove(member)
    br.rtable.removal.dismiss(member)
    if br.by_index.get(member.ifp.index) is member:  # else the interface is back already
        del br.by_index[member.ifp.index]
