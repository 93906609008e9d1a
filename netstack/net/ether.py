"""Ethernet input and output of this machine (paper §2.1; NetBSD if_ethersubr.c).

``ether_input`` stands in an interface's ``if_input`` slot while it is in no bridge; ``ether_demux``
takes what it, or the bridge, found to be for this machine.  ``ether_output`` is how the local stack
sends.  This file does not know the bridge: a member's output goes there through a slot that the
bridge fills.

Context: input softint (hard interrupt in the classic frame); ``ether_output`` any.
"""

from errno import EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS

from netstack._fast import kernels
from netstack._fast.mbuf import MbufVec
from netstack.errors import NetstackError
from netstack.machine.api import Cpu
from netstack.net.ifnet import ETHER_HDR_LEN, Ifnet

__all__ = [
    "ether_demux",
    "ether_frame",
    "ether_ifattach",
    "ether_input",
    "ether_output",
    "ether_transmit",
]

ETHER_VLAN_ENCAP_LEN = 4
ETHERTYPES_VLAN = (b"\x81\x00", b"\x88\xa8")


def ether_ifattach(ifp: Ifnet) -> None:
    """Make a new interface an Ethernet: fill its input and output slots.

    Context: control plane; the driver calls it once, before the first frame.
    """
    ifp.set_input(ether_input, "ether")
    ifp.if_output = ether_output


def ether_input(ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
    """Take the frames that are for this machine; drop the others.

    Context:  softint; hard interrupt in the classic frame; no lock held.
    Consumes: every mbuf in ``mv``.
    Order:    kept.
    Outcome:  own address, or group: the CPU's queue to ``ether_demux``; else a drop: ``runt``,
              ``giant``, ``if_down``, ``not_for_us``, ``no_proto``, ``punt_full``.
    Source:   paper §2.1, Fig. 1; NetBSD ether_input.
    """
    ifp.machine.engine.charge("ether_input", len(mv))
    kernels.ether_parse(cpu.block, ifp.block, mv)
    kernels.ether_local(cpu.block, ifp.block, mv)


def ether_demux(ifp: Ifnet, mv: MbufVec, cpu: Cpu) -> None:
    """Hand frames that are for this machine, on ``ifp``, to listeners and protocols.

    Context:  the softint that drains the CPU's queue of such frames.
    Consumes: every mbuf in ``mv``.
    Outcome:  ``Netisr.input``.
    Source:   paper §2.1 (layer 3 never runs in a hard interrupt).
    """
    ifp.machine.netisr.input(ifp, mv, cpu)


def ether_output(ifp: Ifnet, frame: bytes, cpu: Cpu | None = None) -> None:
    """Send one whole frame from the local stack.

    Context: a CPU's handler, where it goes out at once, or a control thread, where it is queued.
    Args:    frame -- from the destination address on, without FCS; any buffer.
             cpu -- where this runs; None asks the machine.
    Raises:  NetstackError: ENETDOWN (not up and running), EMSGSIZE (longer than the MTU allows),
             EINVAL (shorter than a header, or no buffer), ENOBUFS (no mbuf, or queue full).
    Source:  NetBSD ether_output.
    """
    data = ether_frame(ifp, frame)
    if cpu is None:
        cpu = ifp.machine.engine.curcpu()
    output = ifp.bridge_output or ether_transmit
    if cpu is None:
        ifp.machine.netisr.post(output, ifp, data)
    else:
        output(ifp, data, cpu)


def ether_frame(ifp: Ifnet, frame: bytes) -> bytes:
    """Check a frame before it is sent and return it as bytes; errors as ``ether_output``."""
    if not ifp.is_live:
        raise NetstackError(ENETDOWN, f"{ifp.name} is down; {ifp.name}.up() first")
    try:
        data = memoryview(frame).tobytes()
    except TypeError as problem:
        text = f"{ifp.name}: a frame is a buffer of bytes, not {type(frame).__name__}"
        raise NetstackError(EINVAL, text) from problem
    if len(data) < ETHER_HDR_LEN:
        text = f"{ifp.name}: {len(data)} bytes hold no Ethernet header of {ETHER_HDR_LEN}"
        raise NetstackError(EINVAL, text)
    limit = ifp.mtu + ETHER_HDR_LEN
    if data[12:14] in ETHERTYPES_VLAN:
        limit += ETHER_VLAN_ENCAP_LEN
    if len(data) > limit:
        text = f"{ifp.name}: {len(data)} bytes are more than the {limit} its MTU allows"
        raise NetstackError(EMSGSIZE, text)
    return data


def ether_transmit(ifp: Ifnet, frame: bytes, cpu: Cpu) -> None:
    """Put one frame of the local stack into an mbuf and hand it to the interface.

    Context: a CPU's handler.   Raises: NetstackError(ENOBUFS) when the pool is empty.
    Outcome: as the ``if_transmit`` slot.
    """
    ifp.machine.engine.charge("ether_output")
    mv = MbufVec(ifp.machine.pool, cpu.index)
    mv.rcvif = ifp.index
    if not mv.append(frame):
        raise NetstackError(ENOBUFS, f"{ifp.name}: no mbuf left for a frame to send")
    ifp.block.count_originated(cpu.index, len(mv))
    ifp.if_transmit(ifp, mv, cpu)
