"""Nanoseconds a frame of each kernel, for vectors of 1, 32 and 256 frames.

Every call comes from Python, so at one frame the number is the call itself.  Kernels that leave the
vector as it was are called again and again over up to 64 vectors of other frames each; those that
consume it get fresh vectors, filled untimed.
"""

from itertools import cycle

import pytest

from bench.kernelrig import STATIONS, KernelRig
from netstack._fast import kernels
from netstack._fast.ifqueue import IfQueue
from netstack._fast.mbuf import MbufVec
from netstack.rfc2544.traffic import addresses

SIZES = (1, 32, 256)

# Vectors a repeatable kernel goes round, as far as there are stations for.
ROUND_VECTORS = 64

# Vectors a consuming kernel gets in one timed call, so that the clock's own cost does not show.
BATCH_FRAMES = 2048

pytestmark = pytest.mark.parametrize("frames", SIZES)


@pytest.fixture(scope="module")
def rig():
    return KernelRig()


def vectors(make, frames):
    """Return an endless round of vectors that name other stations each."""
    return cycle([make(frames) for _ in range(min(ROUND_VECTORS, STATIONS // frames))])


def batch(make, frames):
    """Return a set-up that gives one list of fresh vectors."""
    return lambda: ([make(frames) for _ in range(max(1, BATCH_FRAMES // max(frames, 8)))],)


def batch_frames(frames):
    return frames * max(1, BATCH_FRAMES // max(frames, 8))


@pytest.mark.benchmark(group="receive, transmit: generator, ring, mbufs, if_snd, ring, sink")
def test_rx_drain_if_transmit(rig, per_frame, frames):
    mv = MbufVec(rig.pool, 0)
    receive, send = rig.ports
    drain, transmit = kernels.rx_drain, kernels.if_transmit

    def cycle_once():
        receive.hwrx.run(1)
        drain(rig.cpu, receive.rxq, mv, frames)
        transmit(rig.cpu, send.ifp, mv)

    per_frame(cycle_once, frames)
    sent = send.hwtx.frames
    assert sent == receive.ifp.counters()["ipackets"]


@pytest.mark.benchmark(group="ether_parse")
def test_ether_parse(rig, per_frame, frames):
    ring = vectors(rig.vector, frames)
    per_frame(lambda: kernels.ether_parse(rig.cpu, rig.ports[0].ifp, next(ring)), frames)


@pytest.mark.benchmark(group="bridge_decide: learn and look up")
def test_bridge_decide(rig, per_frame, frames):
    ring = vectors(rig.parsed, frames)
    ifp = rig.ports[0].ifp
    per_frame(lambda: kernels.bridge_decide(rig.cpu, rig.bridge, ifp, next(ring)), frames)
    assert rig.bridge.counters()["flooded"] == 0


@pytest.mark.benchmark(group="bridge_split: by output port")
def test_bridge_split(rig, per_frame, frames):
    ifp = rig.ports[0].ifp

    def split(batch):
        for mv in batch:
            kernels.bridge_split(rig.cpu, rig.bridge, ifp, mv)

    per_frame(split, batch_frames(frames), batch(rig.decided, frames))


@pytest.mark.benchmark(group="if_transmit: if_snd, ring, sink, mbufs back")
def test_if_transmit(rig, per_frame, frames):
    ifp = rig.ports[1].ifp

    def transmit(batch):
        for mv in batch:
            kernels.if_transmit(rig.cpu, ifp, mv)

    per_frame(transmit, batch_frames(frames), batch(rig.vector, frames))


@pytest.mark.benchmark(group="if_snd: put and get")
def test_if_snd(rig, per_frame, frames):
    queue, mv = IfQueue(rig.pool, 1024), rig.vector(frames)

    def put_and_get():
        queue.put(mv)
        queue.get(mv, frames)

    per_frame(put_and_get, frames)
    assert len(mv) == frames and queue.dropped == 0


@pytest.mark.benchmark(group="MacTable.lookup: one call an address")
def test_mactable_lookup(rig, per_frame, frames):
    macs = addresses(1, STATIONS)
    ring = cycle([macs[i : i + frames] for i in range(0, STATIONS - frames + 1, frames)])
    lookup = rig.table.lookup

    def look_up():
        for mac in next(ring):
            lookup(mac)

    per_frame(look_up, frames)
    assert lookup(macs[0])[0] == 1
