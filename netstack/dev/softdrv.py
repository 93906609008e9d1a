"""The softint-only driver frame (paper §3.3): the hard handler marks and schedules, a softint does the work.

Receive: drain up to the limit, hand each vector to ``ifp.if_input`` with the RX mutex dropped, look at the
stopping flag again on the way back; then run again, or enable the interrupt when the ring is empty.  A cause
that came meanwhile raises at once on enabling: nothing is lost between the last look and the enable.

The compiled chain does the same for interfaces whose slots are the default ones; ``path="stages"`` runs this file.
"""

from netstack._fast import chain, kernels
from netstack.dev.queues import RxRing, TxRing

__all__ = [
    "hardintr",
    "reclaim",
    "rx_softint",
    "softdrv_attach",
    "softdrv_detach",
    "softdrv_drain",
    "softdrv_rx",
    "softdrv_tx",
]

# What the compiled chain does per frame, for the virtual clock.
CHAIN_STEPS = ("rx", "bridge_input", "bridge_forward", "if_transmit", "tx", "reclaim")


def softdrv_attach(ring: RxRing | TxRing, name: str, intrid: str, cpu: int) -> None:
    """Establish the softint and the interrupt of a queue on a CPU.

    Context: control plane, before the queue runs.   Raises: what the registries raise.
    """
    engine = ring.host.engine
    is_rx = isinstance(ring, RxRing)
    kind = "python" if ring.host.path == "stages" else ("rx" if is_rx else "tx")
    handler = rx_softint if isinstance(ring, RxRing) else softdrv_tx
    ring.softint = engine.softints.establish(
        "net", handler, ring, kind=kind, queue=ring.queue, name=f"{name} softint"
    )
    ring.queue.softint = ring.softint.handle
    ring.establish(hardintr, name, intrid, cpu, kind="softdrv", softint=ring.softint.handle)


def softdrv_detach(ring: RxRing | TxRing) -> None:
    """Undo ``softdrv_attach``; waits until neither handler runs any more."""
    engine = ring.host.engine
    ring.disestablish()
    if ring.softint is not None:
        engine.softints.disestablish(ring.softint)
        ring.softint = None


def hardintr(ring: RxRing | TxRing) -> None:
    """Hard handler: the device has masked the vector itself; leave the rest to the softint.

    Context: hard interrupt.   Cost: one schedule.
    """
    if ring.softint is not None:
        ring.host.engine.softints.schedule(ring.softint)


def rx_softint(ring: RxRing) -> None:
    """Serve a receive queue: by the compiled chain, or stage by stage.

    Context: softint at level net, on the CPU of the queue's interrupt.
    """
    engine = ring.host.engine
    if ring.softint is None:
        return
    if ring.host.path == "stages":
        softdrv_rx(ring)
        return
    cpu = engine.curcpu()
    assert cpu is not None, "a softint runs on a CPU"
    before = ring.queue.frames
    chain.softint_run(cpu.block, ring.softint.handle)
    frames = ring.queue.frames - before
    for step in CHAIN_STEPS:
        engine.charge(step, frames)


def softdrv_rx(ring: RxRing) -> None:
    """Drain a receive queue through the Python stages, up to its limit.

    Context:  softint; no lock held.
    Order:    as received.
    Outcome:  ``ifp.if_input``; what a slot of the user's own leaves is dropped as ``hook``, and when it
              raises, the queue goes on all the same.
    Source:   paper §3.2.1 (lock dropped around if_input, stopping flag), §3.3.
    """
    engine = ring.host.engine
    assert ring.softint is not None, "a softint runs"
    try:
        more = softdrv_drain(ring)
    except Exception:
        engine.softints.schedule(ring.softint)
        raise
    if more:
        engine.softints.schedule(ring.softint)
    elif not ring.queue.stopping:
        ring.source.enable()


def softdrv_drain(ring: RxRing) -> bool:
    """Receive up to the limit in the calling softint; say whether frames are left.

    Context: softint; no lock held.
    """
    engine = ring.host.engine
    cpu = engine.curcpu()
    assert cpu is not None, "a softint runs on a CPU"
    left = ring.queue.limit
    mv = ring.vector(cpu)
    while left:
        want = min(left, 256)
        count = kernels.rx_drain(cpu.block, ring.queue, mv, want)
        if count:
            engine.charge("rx", count)
            ring.input(mv, cpu)
            left -= count
        if count < want:
            return False
    return ring.queue.is_ready


def softdrv_tx(ring: TxRing) -> None:
    """Transmit completion: take back what was sent, restart what had to wait.

    Context: softint at level net.
    """
    reclaim(ring)
    if not ring.queue.stopping:
        ring.source.enable()
    if ring.ifp.driver is not None:
        ring.ifp.driver.doorbell()


def reclaim(ring: TxRing) -> None:
    """Take back what was sent, and restart what had to wait.

    Context: any handler on a CPU.
    """
    engine = ring.host.engine
    cpu = engine.curcpu()
    assert cpu is not None, "a handler runs on a CPU"
    engine.charge("reclaim", kernels.tx_complete(cpu.block, ring.queue))
