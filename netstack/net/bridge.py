"""The bridge's data plane: a frame's way from one member to others (paper §2.3.2, §3.2.2, Fig. 1).

Read it top to bottom: ``bridge_input`` stands in a member's ``if_input`` slot, ``bridge_forward``
learns and looks up, ``bridge_enqueue`` hands to the member that the table names.  Each is one
compiled kernel and the order of things around it; the compiled run loop composes the same kernels.
Frames for this machine do not come back here: the split puts them on the CPU's queue to
``ether_demux``.  ``bridge_output`` is the way of what the local stack sends.

Who decides: the published port map and the address table, both made by ``bridge_ctl``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from netstack._fast import kernels
from netstack._fast.dispositions import Drop
from netstack._fast.mbuf import MbufVec
from netstack.kern.psref import Psref
from netstack.machine.api import Cpu
from netstack.net.ether import ether_demux, ether_input, ether_transmit
from netstack.net.ifnet import Ifnet, Stack

if TYPE_CHECKING:
    from netstack.net.bridge_ctl import Bridge

__all__ = [
    "bridge_enqueue",
    "bridge_forward",
    "bridge_input",
    "bridge_intr",
    "bridge_output",
    "bridge_resume",
]


def bridge_input(ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
    """Take what a member received; the ``if_input`` slot of members.

    Context:  softint; no lock held.  Classic frame: hard interrupt, a softint will forward.
    Consumes: every mbuf in ``mv`` (1..256 frames, all from ``ifp``).
    Order:    kept.
    Outcome:  ``bridge_forward``; no longer a member -> ``ether_input``; or a drop: ``runt``,
              ``giant``, ``if_down``, ``fwdq_full``.
    Cost:     one pass over the headers.
    Source:   paper §2.3.2, Fig. 1; NetBSD if_bridge.c bridge_input.
    """
    br = ifp.bridge
    if br is None:
        ether_input(ifp, mv, cpu)
        return
    ifp.machine.engine.charge("bridge_input", len(mv))
    kernels.ether_parse(cpu.block, ifp.block, mv)
    if not mv:
        return
    if cpu.context == "hard":
        kernels.fwdq_put(cpu.block, ifp.block, mv)
    else:
        bridge_forward(br, ifp, mv, cpu)


def bridge_intr(machine: Stack) -> None:
    """Forward what hard handlers of this CPU have queued: the bridge's softint (classic frame).

    Context: softint, established for every CPU; it runs where the frame was received (paper §5.1).
    Order:   as received; one vector never mixes interfaces.
    Outcome: ``bridge_forward``; no longer a member -> local input, as in ``ether_input``.
    Source:  paper §2.3.2; NetBSD bridge_forward_worker.  Departs: not always on CPU 0.
    """
    cpu = machine.engine.curcpu()
    assert cpu is not None, "a softint runs on a CPU"
    mv = MbufVec(machine.pool, cpu.index)
    while kernels.fwdq_get(cpu.block, mv):
        ifp = machine.ifnet_by_index[mv.rcvif]
        br = ifp.bridge
        if br is None:
            kernels.ether_local(cpu.block, ifp.block, mv)
        else:
            bridge_forward(br, ifp, mv, cpu)


def bridge_forward(br: Bridge, ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
    """Send each frame of ``mv`` to the member its destination was learned on.

    Context:  softint; no lock held; may not sleep.
    Consumes: every mbuf in ``mv``.
    Order:    learn and look up frame by frame, so a burst equals its frames one at a time; frames
              for one output leave in the order they came.
    Outcome:  known member -> ``bridge_enqueue``; unknown -> a copy to each member that discovers;
              group -> a copy to each member and to each local listener; own address -> the queue to
              ``ether_demux``; bridge down -> as ``ether_input``; else a drop: ``same_member``,
              ``own_source``, ``control_addr``, ``stp_state``, ``protected``, ``no_egress``,
              ``not_for_us``, ``no_proto``, ``no_mbuf``, ``punt_full``.
    Cost:     one read section per call; one enqueue per output member.
    Source:   paper §2.3.2, §3.2.2; NetBSD bridge_forward and bridge_broadcast, which is part of the
              split here.  Departs: a bridge that is down frees what is not for this machine.
    """
    engine = ifp.machine.engine
    count = len(mv)
    outputs: list[tuple[Psref, Ifnet, MbufVec]] = []
    s = br.protection.read_enter(cpu, count)
    if kernels.bridge_decide(cpu.block, br.block, ifp.block, mv):
        for index, mv_out in kernels.bridge_split(cpu.block, br.block, ifp.block, mv):
            member = br.member_of_index(index)
            psref = member.target.acquire()  # held beyond the section, over the output
            outputs.append((psref, member.ifp, mv_out))
    br.protection.read_exit(cpu, s)
    copies = sum(len(mv_out) for _, _, mv_out in outputs) - count
    if copies > 0:
        engine.charge("bridge_broadcast", copies)
    kernels.ether_local(cpu.block, ifp.block, mv)  # what was not decided: bridge down, member gone
    try:
        for _, ifp_out, mv_out in outputs:
            bridge_enqueue(ifp_out, mv_out, cpu)
    finally:
        for psref, ifp_out, mv_out in outputs:
            kernels.drop(cpu.block, ifp_out.block, mv_out, Drop.HOOK)  # empty unless a hook failed
            psref.release()


def bridge_enqueue(ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
    """Hand frames to one output member.

    Context:  softint or thread; the member is referenced, no read section open.
    Consumes: every mbuf in ``mv``; what an ``if_transmit`` hook leaves is dropped as ``hook``.
    Order:    kept.
    Outcome:  the interface's ``if_transmit`` slot.
    Source:   paper §5.4; NetBSD bridge_enqueue.
    """
    ifp.if_transmit(ifp, mv, cpu)
    if mv:
        kernels.drop(cpu.block, ifp.block, mv, Drop.HOOK)


def bridge_resume(ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
    """Hand to an output member what the compiled loop left to the hook in its ``if_transmit`` slot.

    Between there and here the member may have left, and then nothing goes out by it any more.

    Context:  softint; no lock held.
    Consumes: every mbuf in ``mv``, all for ``ifp``.
    Order:    kept.
    Outcome:  ``bridge_enqueue``; or dropped as ``no_member``.
    """
    pserialize = ifp.machine.engine.pserialize
    s = pserialize.read_enter(cpu)
    member = ifp.bridge.member_of(ifp) if ifp.bridge is not None else None
    psref = member.target.acquire() if member is not None else None
    pserialize.read_exit(cpu, s)
    if psref is None:
        kernels.drop(cpu.block, ifp.block, mv, Drop.NO_MEMBER)
        return
    try:
        bridge_enqueue(ifp, mv, cpu)
    finally:
        psref.release()


def bridge_output(ifp: Ifnet, frame: bytes, cpu: Cpu) -> None:
    """Send one frame of the local stack by the member(s) its destination calls for.

    Context: a CPU's handler.  Stands in a member's ``bridge_output`` slot.
    Args:    ifp -- the member the stack chose; it always may send.
    Outcome: known -> the table's member, whatever the stack chose; a member's own address -> that
             member's local stack; unknown or group -> every member that runs and may send, and a
             group frame also to the local listeners on other members.  Bridge down: ``ifp`` only.
    Raises:  NetstackError(ENOBUFS) when the pool is empty; what was sent by then stays sent.
    Source:  NetBSD bridge_output.  Departs: a frame to an own address is not flooded.
    """
    br = ifp.bridge
    if br is None or not br.is_running:
        ether_transmit(ifp, frame, cpu)
        return
    s = br.protection.read_enter(cpu)
    senders, hearers = br.output_members(ifp, frame[:6])
    psrefs = [member.target.acquire() for member in (*senders, *hearers)]
    br.protection.read_exit(cpu, s)
    if not psrefs:
        ifp.block.count_originated(cpu.index, 1)
        ifp.block.count_drop(cpu.index, Drop.NO_EGRESS)
    try:
        for member in senders:
            ether_transmit(member.ifp, frame, cpu)
        for member in hearers:
            loop_back(member.ifp, frame, cpu)
    finally:
        for psref in psrefs:
            psref.release()


def loop_back(ifp: Ifnet, frame: bytes, cpu: Cpu) -> None:
    """Give one frame of the local stack to the local stack of a member (NetBSD bridge_output)."""
    mv = MbufVec(ifp.machine.pool, cpu.index)
    mv.rcvif = ifp.index
    ifp.block.count_originated(cpu.index, 1)
    if mv.append(frame):
        ether_demux(ifp, mv, cpu)
    else:
        ifp.block.count_drop(cpu.index, Drop.NO_MBUF)
