"""The classic driver frame, as measured in the paper (§2.3, §6.2): the hard handler drains the ring itself.

``if_input`` runs in hard interrupt context; a bridge member's ``bridge_input`` leaves forwarding to a softint behind a
bounded queue.  With the limit "ring" the handler loops until nothing is left, as the INTx handler of if_wm did: while
frames keep coming the softint does not run, its queue fills, and work already done is thrown away.
"""

from netstack._fast import kernels
from netstack.dev.queues import RxRing

__all__ = ["classic_drain", "classic_hardintr", "harddrv_attach"]


def harddrv_attach(ring: RxRing, name: str, intrid: str, cpu: int) -> None:
    """Establish the interrupt of a receive queue on a CPU.

    Context: control plane, before the queue runs.   Raises: what the registry raises.
    """
    kind = "python" if ring.host.path == "stages" else "classic"
    ring.establish(classic_hardintr, name, intrid, cpu, kind=kind)


def classic_hardintr(ring: RxRing) -> None:
    """Receive in the hard handler, up to the limit.

    Context: hard interrupt.
    Order:   as received.
    Source:  paper §2.3.1, §6.2; NetBSD if_wm.c of 2015 (wm_rxintr).
    """
    try:
        more = classic_drain(ring)
    except Exception:
        _again(ring)
        raise
    if more:
        _again(ring)
    elif not ring.queue.stopping:
        ring.source.enable()


def classic_drain(ring: RxRing) -> bool:
    """Receive up to the limit in the calling hard handler; say whether frames are left.

    Context: hard interrupt.
    """
    engine = ring.host.engine
    cpu = engine.curcpu()
    assert cpu is not None, "an interrupt is taken on a CPU"
    left = ring.queue.limit
    while left:
        want = min(left, 256)
        mv = ring.vector(cpu)
        count = kernels.rx_drain(cpu.block, ring.queue, mv, want)
        if count:
            engine.charge("rx", count)
            ring.input(mv, cpu)
            left -= count
        if count < want:
            return False
    return ring.queue.is_ready


def _again(ring: RxRing) -> None:
    """Enable the interrupt and have it raised at once: more frames may be there."""
    if not ring.queue.stopping:
        ring.source.raise_()
        ring.source.enable()
