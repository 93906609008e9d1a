"""A bridge's members and the port map made of them (paper §3.2.2; NetBSD struct bridge_iflist).

A member record is found while a read section is open and held by a reference after it: the paper's
scheme of pserialize for the walk and a count for what may take longer.  The map that the kernels
read is derived here, whole, from the member list; ``bridge_ctl`` publishes it.

Context: control plane, except the reference ``target``.
"""

from collections.abc import Sequence
from enum import IntFlag

from netstack._fast.bridge import PortSpec
from netstack._fast.dispositions import Drop
from netstack.kern.psref import PsrefClass, PsrefTarget
from netstack.net.ifnet import IFF, Ifnet

__all__ = ["IFBIF", "STATES", "BridgeMember", "port_specs"]

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

    def __init__(self, ifp: Ifnet, port: int, klass: PsrefClass) -> None:
        self.ifp = ifp
        self.port = port  # index in the port map and in table entries
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


def port_specs(members: Sequence[BridgeMember]) -> list[PortSpec]:
    """Return the port map of a member list, by port number; gaps have no interface."""
    specs = [_NO_MEMBER] * (1 + max((member.port for member in members), default=-1))
    for member in members:
        drop = member.egress_drop
        specs[member.port] = PortSpec(
            ifnet=member.ifp.block,
            ingress=_INGRESS.get(member.stp_state, "local"),
            learn=IFBIF.LEARNING in member.flags and member.stp_state in _LEARNS,
            is_protected=IFBIF.PROTECTED in member.flags,
            stp=IFBIF.STP in member.flags,
            egress_drop=-1 if drop is None else int(drop),
            unknown=[m.port for m in members if m.flags & IFBIF.DISCOVER and _reaches(member, m)],
            group=[m.port for m in members if _reaches(member, m)],
        )
    return specs


_NO_MEMBER = PortSpec(None, "local", False, False, False, -1, (), ())


def _reaches(source: BridgeMember, member: BridgeMember) -> bool:
    """Say whether a flood that entered by ``source`` leaves by ``member``."""
    is_private = bool(source.flags & member.flags & IFBIF.PROTECTED)
    return member is not source and member.egress_drop is None and not is_private
