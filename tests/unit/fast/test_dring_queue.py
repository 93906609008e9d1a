"""Descriptor rings and the queues made of them: what is where, and that nothing stays behind (paper §3.2.1)."""

import pytest
from frames import frame, serial_of, station
from unit.fast.rig import Rig

from netstack._fast import kernels
from netstack._fast.dring import DescRing
from netstack._fast.ifnet import IfnetBlock
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack._fast.queue import RxQueue, TxQueue


def burst(count: int, first: int = 0) -> list[bytes]:
    return [frame(station(1), station(2), serial) for serial in range(first, first + count)]


@pytest.mark.parametrize("slots", [0, -8, 4, 12, 8192])
def test_rings_are_powers_of_two(slots: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        DescRing(slots)


def test_a_ring_has_an_aligned_address_of_its_own() -> None:
    rings = [DescRing(8 << i) for i in range(10)]
    assert [ring.slots for ring in rings] == [8 << i for i in range(10)]
    assert len({ring.address for ring in rings}) == 10
    assert all(ring.address % 128 == 0 for ring in rings)


def test_fill_gives_every_slot_a_buffer_and_drain_takes_them_back() -> None:
    pool = MbufPool(100, 1)
    queue = RxQueue(IfnetBlock(1, bytes(5) + b"\2"), pool, 3, 64)
    assert (queue.index, queue.ring.slots, queue.held, queue.stopping) == (3, 64, 0, True)
    assert queue.fill() == 64
    assert queue.fill() == 64
    assert (queue.held, queue.ready, pool.free_count) == (64, 0, 36)
    assert queue.drain() == 0
    assert (queue.held, pool.free_count) == (0, 100)


def test_fill_takes_what_a_short_pool_has() -> None:
    pool = MbufPool(40, 1)
    queue = RxQueue(IfnetBlock(1, bytes(5) + b"\2"), pool, 0, 64)
    assert queue.fill() == 40
    assert pool.free_count == 0


def test_dead_queues_give_their_mbufs_back() -> None:
    rig = Rig(1, bridged=False)
    pool = MbufPool(100, 1)
    queue = RxQueue(IfnetBlock(1, bytes(5) + b"\2"), pool, 0, 64)
    queue.fill()
    del queue
    assert pool.free_count == 100
    assert rig.in_use == 0


def test_a_drain_limit_is_at_least_one_frame() -> None:
    queue = RxQueue(IfnetBlock(1, bytes(5) + b"\2"), MbufPool(8, 1), 0, 8)
    queue.limit = 1
    assert queue.limit == 1
    with pytest.raises(ValueError, match="at least one"):
        queue.limit = 0


def test_drain_counts_frames_that_nobody_will_take() -> None:
    rig = Rig(1, bridged=False)
    nic = rig.nics[0]
    nic.arrive(burst(5))
    assert nic.rxq.ready == 5
    nic.hwrx.enabled = False
    assert nic.rxq.drain() == 5
    assert (nic.rxq.held, rig.pool.free_count) == (0, rig.pool.nmbufs)


@pytest.mark.parametrize("before", [0, 10, 64, 100])
@pytest.mark.parametrize("untaken", [0, 7, 64])
def test_after_drain_and_fill_the_ring_starts_anew(before: int, untaken: int) -> None:
    rig = Rig(1, bridged=False)
    nic = rig.nics[0]
    mv = MbufVec(rig.pool, 0)
    nic.arrive(burst(before))
    while kernels.rx_drain(rig.cpu, nic.rxq, mv, 256):
        mv.clear()
    nic.arrive(burst(untaken))
    nic.hwrx.enabled = False
    assert nic.rxq.drain() == untaken
    assert nic.rxq.fill() == 64
    nic.hwrx.enabled = True
    nic.arrive(burst(150, first=1000))
    assert nic.rxq.ready == 64, "as many as there are descriptors"
    assert nic.hwrx.resting == 86, "the rest waits on the cable"
    got = []
    while kernels.rx_drain(rig.cpu, nic.rxq, mv, 256):
        got += [serial_of(each) for each in mv.frames()]
        mv.clear()
    assert got == list(range(1000, 1150))


def test_receive_counters_of_a_queue() -> None:
    rig = Rig(1, bridged=False)
    nic = rig.nics[0]
    mv = MbufVec(rig.pool, 0)
    nic.arrive(burst(10))
    for taken in (4, 4, 2, 0):
        assert kernels.rx_drain(rig.cpu, nic.rxq, mv, 4) == taken
        mv.clear()
    assert (nic.rxq.activations, nic.rxq.frames) == (4, 10)


@pytest.mark.parametrize("snd_maxlen", [0, 70_000])
def test_send_queue_lengths_are_those_of_ifqueue(snd_maxlen: int) -> None:
    with pytest.raises(ValueError, match=r"1\.\.65535 frames"):
        TxQueue(IfnetBlock(1, bytes(5) + b"\2"), MbufPool(8, 1), 0, 8, snd_maxlen)


def test_purge_empties_ring_and_send_queue() -> None:
    rig = Rig(1, tx_slots=8, bridged=False)
    nic = rig.nics[0]
    nic.hwtx.enabled = False  # nothing leaves
    assert kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(20))) == 20
    assert (nic.txq.in_ring, nic.txq.snd_len, nic.txq.is_full) == (8, 12, True)
    nic.txq.stopping = True
    assert nic.txq.purge() == 20
    assert (nic.txq.in_ring, nic.txq.snd_len, nic.txq.is_full) == (0, 0, False)
    assert rig.in_use == 0


def test_after_a_purge_only_new_frames_are_sent() -> None:
    rig = Rig(1, tx_slots=8, bridged=False)
    nic = rig.nics[0]
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(3)))
    nic.hwtx.enabled = False
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(5, first=100)))
    nic.txq.stopping = True
    assert nic.txq.purge() == 5
    nic.hwtx.enabled = True
    nic.txq.stopping = False
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(20, first=200)))
    sent = [serial_of(each) for each in nic.cable_out.take()]
    assert sent == [0, 1, 2, *range(200, 220)]
    assert nic.ifp.counters()["opackets"] == 23
    assert (nic.hwtx.frames, nic.hwtx.pending, rig.in_use) == (23, 0, 0)


def test_a_purge_counts_what_the_device_has_sent_as_sent() -> None:
    rig = Rig(1, tx_slots=8, bridged=False)
    nic = rig.nics[0]
    nic.hwtx.enabled = False
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(4)))
    nic.hwtx.enabled = True
    nic.hwtx.run(0)  # sent, but not taken back yet
    assert (nic.txq.in_ring, nic.hwtx.frames) == (4, 4)
    nic.txq.stopping = True
    assert nic.txq.purge() == 0, "none of them was lost"
    assert nic.ifp.counters()["opackets"] == 4
    assert rig.in_use == 0
