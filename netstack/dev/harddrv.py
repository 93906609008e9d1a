"""The classic driver frame, as measured in the paper (§2.3, §6.2): the hard handler drains the ring itself.

``if_input`` runs in hard interrupt context; a bridge member's ``bridge_input`` leaves forwarding to a softint behind a
bounded queue.  With the limit "ring" the handler loops until nothing is left, as the INTx handler of if_wm did: while
frames keep coming the softint does not run, its queue fills, and work already done is thrown away.
"""

from netstack._fast import kernels
from netstack.dev.queues import RxRing
from netstack.kern.spl import IPL

__all__ = ["classic_hardintr", "harddrv_attach"]


def harddrv_attach(ring: RxRing, name: str, intrid: str, cpu: int) -> None:
    """Establish the interrupt of a receive queue on a CPU.

    Context: control plane, before the queue runs.   Raises: what the registry raises.
    """
    ring.handle = ring.host.engine.intrs.establish(
        ring.source,
        IPL.VM,
        classic_hardintr,
        ring,
        name=name,
        intrid=intrid,
        cpu=cpu,
        kind="python" if ring.host.path == "stages" else "classic",
        queue=ring.queue,
    )


def classic_hardintr(ring: RxRing) -> None:
    """Receive in the hard handler, up to the limit.

    Context: hard interrupt.
    Order:   as received.
    Source:  paper §2.3.1, §6.2; NetBSD if_wm.c of 2015 (wm_rxintr).
    """
    engine = ring.host.engine
    cpu = engine.curcpu()
    assert cpu is not None, "an interrupt is taken on a CPU"
    left = ring.queue.limit
    count = want = 0
    while left:
        want = min(left, 256)
        mv = ring.vector(cpu)
        count = kernels.rx_drain(cpu.block, ring.queue, mv, want)
        if count:
            engine.charge("rx", count)
            try:
                ring.input(mv, cpu)
            except Exception:
                _again(ring)
                raise
            left -= count
        if count < want:
            break
    if count == want and ring.queue.is_ready:
        _again(ring)
    elif not ring.queue.stopping:
        ring.source.enable()


def _again(ring: RxRing) -> None:
    """Enable the interrupt and have it raised at once: more frames may be there."""
    if not ring.queue.stopping:
        ring.source.raise_()
        ring.source.enable()
