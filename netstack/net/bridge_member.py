"""A bridge's members and the port map made of them (paper §3.2.2; NetBSD struct bridge_iflist).

A member record is found while a read section is open and held by a reference after it: the paper's
scheme of pserialize for the walk and a count for what may take longer.  The map that the kernels
read is derived here, whole, from the member list; ``bridge_ctl`` publishes it.

Context: control plane, except the reference ``target``.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntFlag
from errno import EBUSY, EEXIST, EINVAL
from typing import TYPE_CHECKING

from netstack._fast.bridge import PortSpec
from netstack._fast.dispositions import Drop
from netstack.errors import NetstackError
from netstack.kern.psref import PsrefClass, PsrefTarget
from netstack.net.ether import ether_input
from netstack.net.ifnet import IFF, Ifnet

if TYPE_CHECKING:
    from netstack.net.bridge_ctl import Bridge

__all__ = ["IFBIF", "STATES", "BridgeMember", "check_candidate", "port_specs"]

BRIDGE_PORT_PRIORITY = 0x80  # shown only: the protocol engine is not part of this version
BRIDGE_PATH_COST = 55

# By number, as the bridge's ioctl reports them.
STATES = ("disabled", "listening", "learning", "forwarding", "blocking")

# What a state allows (802.1D-1998 8.4; NetBSD bridge_input, bridge_forward, bridge_output).  A
# listening member may still send what is forwarded to it; NetBSD tests no more than that.
_INGRESS = {"forwarding": "forward", "learning": "learn"}
_LEARNS = ("forwarding", "learning")
_MUTE = ("disabled", "blocking")
_MUTE_FOR_STACK = ("disabled", "listening", "blocking")


class IFBIF(IntFlag):
    """Flags of a member, NetBSD's bits and names; brconfig's ``private`` is PROTECTED."""

    LEARNING = 0x1
    DISCOVER = 0x2
    STP = 0x4
    PROTECTED = 0x8


class BridgeMember:
    """One interface in one bridge.

    Fields are guarded by the ``ifnet`` mutex; CPUs hold the record by a reference on ``target``.
    """

    def __init__(self, ifp: Ifnet, klass: PsrefClass) -> None:
        self.ifp = ifp
        # Numbers given by ``bridge_flush`` when it is admitted, -1 before.
        self.port = -1  # index in the port map and in entries that are fixed
        self.tag = -1  # the number in entries learned here: the port, or changed by every flush
        self.maxaddr = 0  # most addresses learned here; 0: as many as the table takes
        self.flags = IFBIF.LEARNING | IFBIF.DISCOVER
        self.state = "forwarding"  # honoured while STP is set
        self.priority = BRIDGE_PORT_PRIORITY
        self.path_cost = BRIDGE_PATH_COST
        self.target = PsrefTarget(klass, f"member {ifp.name}")

    @property
    def stp_state(self) -> str:
        """The state the data plane honours: ``forwarding`` unless STP is set."""
        return self.state if IFBIF.STP in self.flags else "forwarding"

    @property
    def egress_drop(self) -> Drop | None:
        """Why it may not send what is forwarded to it, or None."""
        if not self.ifp.is_live:
            return Drop.IF_DOWN
        return Drop.STP_STATE if self.stp_state in _MUTE else None

    def may_send_for_stack(self, chosen: Ifnet) -> bool:
        """Say whether the local stack's frame may leave here; ``chosen`` is the stack's choice."""
        if not self.ifp.is_live:
            return False
        return self.ifp is chosen or self.stp_state not in _MUTE_FOR_STACK

    @property
    def is_listening(self) -> bool:
        """Whether somebody in this machine takes frames from it."""
        return bool(self.ifp.block.flags & IFF.LISTEN)

    def __repr__(self) -> str:
        return f"<BridgeMember {self.ifp.name} port {self.port} {self.flags!r} {self.stp_state}>"


def check_candidate(br: Bridge, ifp: Ifnet) -> None:
    """Refuse an interface that cannot become a member of ``br``.

    Raises: NetstackError: EEXIST, EBUSY, EINVAL, in NetBSD's order; see ``Bridge.add``.
    """
    if ifp.bridge is br:
        raise NetstackError(EEXIST, f"{ifp.name} is a member of {br.name} already")
    if ifp.bridge is not None:
        text = f"{ifp.name} is a member of {ifp.bridge.name}; delete it there first"
        raise NetstackError(EBUSY, text)
    if ifp.if_input != ether_input:
        text = f"{ifp.name}: something else takes its input; restore if_input first"
        raise NetstackError(EINVAL, text)
    if IFF.SIMPLEX not in ifp.flags:
        raise NetstackError(EINVAL, f"{ifp.name} hears its own frames (not SIMPLEX)")
    if not ifp.is_ethernet:
        raise NetstackError(EINVAL, f"{ifp.name} is no Ethernet")
    if ifp.mtu != br.mtu:
        text = f"{ifp.name} has MTU {ifp.mtu}, {br.name} has {br.mtu}; make them equal"
        raise NetstackError(EINVAL, text)


def port_specs(members: Sequence[BridgeMember]) -> list[PortSpec]:
    """Return the port map of a member list, by port number; gaps have no interface."""
    specs = [_NO_MEMBER] * (1 + max((member.port for member in members), default=-1))
    group = _Flood([m for m in members if m.egress_drop is None])
    unknown = _Flood([m for m in group.members if m.flags & IFBIF.DISCOVER])
    for member in members:
        drop = member.egress_drop
        specs[member.port] = PortSpec(
            ifnet=member.ifp.block,
            ingress=_INGRESS.get(member.stp_state, "local"),
            learn=IFBIF.LEARNING in member.flags and member.stp_state in _LEARNS,
            is_protected=IFBIF.PROTECTED in member.flags,
            stp=IFBIF.STP in member.flags,
            egress_drop=-1 if drop is None else int(drop),
            unknown=unknown.ports_from(member),
            group=group.ports_from(member),
            tag=member.tag,
        )
    return specs


_NO_MEMBER = PortSpec(None, "local", False, False, False, -1, (), ())


class _Flood:
    """Who a flood reaches; its lists share their work, as there is one per member."""

    def __init__(self, members: list[BridgeMember]) -> None:
        self.members = members
        self._ports = [m.port for m in members]
        self._ports_public = [m.port for m in members if not m.flags & IFBIF.PROTECTED]
        self._place = {m.port: i for i, m in enumerate(members)}

    def ports_from(self, source: BridgeMember) -> list[int]:
        """Return the ports that a flood entering by ``source`` leaves by, in member order."""
        if source.flags & IFBIF.PROTECTED:
            return self._ports_public
        place = self._place.get(source.port)
        if place is None:
            return self._ports
        return self._ports[:place] + self._ports[place + 1 :]
