"""Cables, generators and the two engines of a NIC: the device's half of the data path (paper §6.1)."""

import pytest
from frames import frame, headers, station
from unit.fast.rig import Nic, Rig

from netstack._fast import kernels
from netstack._fast.mbuf import MbufVec
from netstack._fast.wire import Cable, Generator, HwRxQueue, HwTxQueue, TxPort

FOREVER = 1 << 62
PAIRS = [(station(1), station(11)), (station(2), station(12)), (station(3), station(13))]


def burst(count: int, nbytes: int = 60) -> list[bytes]:
    return [frame(station(1), station(2), serial, nbytes) for serial in range(count)]


def one(**settings: int) -> tuple[Rig, Nic]:
    rig = Rig(1, bridged=False, **settings)  # type: ignore[arg-type]
    return rig, rig.nics[0]


def take(rig: Rig, nic: Nic, limit: int = 256) -> list[bytes]:
    """Receive up to ``limit`` frames as the driver does."""
    mv = MbufVec(rig.pool, 0)
    kernels.rx_drain(rig.cpu, nic.rxq, mv, limit)
    frames = mv.frames()
    mv.clear()
    return frames


# Cables.


def test_a_cable_is_a_bounded_fifo() -> None:
    cable = Cable(3)
    assert [cable.put(each) for each in burst(5)] == [True] * 3 + [False] * 2
    assert (len(cable), cable.passed, cable.refused) == (3, 3, 2)
    assert cable.take(2) == burst(3)[:2]
    assert cable.put(b"x" * 60)
    assert cable.take() == [burst(3)[2], b"x" * 60]
    assert cable.take() == []
    with pytest.raises(ValueError, match="at least one"):
        Cable(0)


@pytest.mark.parametrize(
    ("nbytes", "arrives"), [(0, 0), (13, 13), (14, 60), (59, 60), (60, 60), (61, 61), (1514, 1514)]
)
def test_the_sender_pads_all_but_runts(nbytes: int, arrives: int) -> None:
    cable = Cable()
    cable.put(bytes([7]) * nbytes)
    (got,) = cable.take()
    assert got == (bytes([7]) * nbytes).ljust(arrives, b"\0")


def test_a_cable_takes_any_contiguous_buffer() -> None:
    cable = Cable()
    cable.put(bytearray(range(60)))
    cable.put(memoryview(bytes(100))[20:90])
    assert [len(each) for each in cable.take()] == [60, 70]
    with pytest.raises((TypeError, BufferError, ValueError)):
        cable.put(memoryview(bytes(200))[::2])
    assert len(cable) == 0


# Receiving.


def test_frames_wait_on_the_cable_for_descriptors() -> None:
    rig, nic = one(slots=8)
    nic.arrive(burst(20))
    assert (nic.rxq.ready, nic.hwrx.resting, nic.hwrx.received) == (8, 12, 8)
    got = take(rig, nic, 3)  # new descriptors: the engine goes on by itself
    assert (nic.rxq.ready, nic.hwrx.resting) == (8, 9)
    while more := take(rig, nic):
        got += more
    assert got == burst(20)
    assert (nic.hwrx.received, nic.hwrx.missed, nic.hwrx.resting) == (20, 0, 0)


def test_one_interrupt_for_what_came_at_once() -> None:
    rig, nic = one()
    nic.source.route(0, 3)
    nic.source.unmask()
    nic.source.enable()
    nic.arrive(burst(5))
    nic.arrive(burst(5))
    assert (rig.cpu.intr_next(), nic.source.raised, nic.source.cause) == (3, 1, True)
    nic.hwrx.run(0)  # nothing came: no interrupt
    nic.source.enable()
    assert (nic.source.raised, nic.source.cause) == (2, False)


def test_a_disabled_engine_does_nothing() -> None:
    rig, nic = one()
    nic.hwrx.enabled = False
    nic.arrive(burst(3))
    assert (nic.hwrx.run(0), nic.rxq.ready, nic.hwrx.resting) == (0, 0, 3)
    nic.hwrx.enabled = True
    assert nic.hwrx.run(0) == 3
    assert take(rig, nic) == burst(3)


def test_a_frame_longer_than_a_buffer_is_counted_and_gone() -> None:
    rig, nic = one()
    good = burst(2, 2048)
    nic.arrive([good[0], bytes(2049), good[1]])
    assert nic.hwrx.oversize == 1
    assert take(rig, nic) == good


# Generators.


def test_generators_refuse_nonsense() -> None:
    for bad in (b"", bytes(15), bytes(17)):
        with pytest.raises(ValueError, match="blocks of 16"):
            Generator(bad, 60)
    for nbytes in (15, 2049):
        with pytest.raises(ValueError, match=r"16\.\.2048"):
            Generator(headers(PAIRS), nbytes)
    generator = Generator(headers(PAIRS), 60)
    for args in ((0, 1, -1.0), (5, 4, 1.0), (0, 1, 1.0, 0)):
        with pytest.raises(ValueError, match="not negative"):
            generator.start(*args)


def test_headers_come_in_turn_with_their_length() -> None:
    rig, nic = one()
    nic.hwrx.generator = Generator(headers(PAIRS), 333)
    nic.hwrx.generator.start(0, FOREVER, 1e9)
    assert nic.hwrx.run(4) == 5  # at 0, 1, 2, 3, 4 ns
    got = take(rig, nic)
    assert [each[:16] for each in got] == [headers([PAIRS[i % 3]]) for i in range(5)]
    assert {len(each) for each in got} == {333}
    assert nic.hwrx.generated == 5


def test_a_paced_generator_sends_what_is_due_and_no_frame_at_its_end() -> None:
    rig, nic = one()
    generator = nic.hwrx.generator = Generator(headers(PAIRS), 60)
    assert nic.hwrx.generator is generator
    generator.start(1000, 2000, 1e7)  # every 100 ns: ten frames
    assert nic.hwrx.run(999) == 0
    assert generator.next_due_ns() in (1000, 1001)
    assert nic.hwrx.run(1000) == 1
    assert nic.hwrx.run(1099) == 0
    assert nic.hwrx.run(1350) == 3
    assert nic.hwrx.run(10_000) == 6
    assert nic.hwrx.run(20_000) == 0
    assert (generator.sent, generator.late, nic.hwrx.received) == (10, 0, 10)
    assert generator.next_due_ns() >= generator.stop_ns == 2000
    assert len(take(rig, nic)) == 10


def test_what_meets_no_descriptor_is_missed() -> None:
    rig, nic = one(slots=8)
    generator = nic.hwrx.generator = Generator(headers(PAIRS), 60)
    generator.start(0, 2000, 1e8)  # every 10 ns
    assert nic.hwrx.run(199) == 8
    assert (generator.sent, nic.hwrx.missed) == (20, 12)
    assert len(take(rig, nic, 3)) == 3
    assert nic.hwrx.run(200) == 1
    assert (generator.sent, nic.hwrx.missed, nic.hwrx.received) == (21, 12, 9)


def test_a_generator_far_behind_counts_itself_late() -> None:
    _, nic = one()
    generator = nic.hwrx.generator = Generator(headers(PAIRS), 60)
    generator.start(0, 10_000, 1e8, burst_max=16)
    assert nic.hwrx.run(995) == 16
    assert (generator.sent, generator.late) == (16, 84)
    assert nic.hwrx.run(1000) == 1
    assert (generator.sent, generator.late, nic.hwrx.missed) == (17, 84, 0)


def test_without_a_rate_descriptors_are_the_rate() -> None:
    rig, nic = one(slots=8)
    generator = nic.hwrx.generator = Generator(headers(PAIRS), 60)
    generator.start(0, 100, 0.0)
    assert nic.hwrx.run(5) == 8
    assert nic.hwrx.run(6) == 0
    take(rig, nic, 4)
    assert nic.hwrx.run(7) == 4
    take(rig, nic)
    assert nic.hwrx.run(100) == 0  # its time is over
    assert (generator.sent, nic.hwrx.missed) == (12, 0)


def test_start_begins_a_new_count() -> None:
    _, nic = one()
    generator = nic.hwrx.generator = Generator(headers(PAIRS), 60)
    for begin in (0, 1000):
        generator.start(begin, begin + 50, 1e8)
        nic.hwrx.run(begin + 500)
        assert (generator.sent, generator.late) == (5, 0)
    assert nic.hwrx.generated == 10


# Sending.


def send(rig: Rig, nic: Nic, frames: list[bytes]) -> int:
    return kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(frames))


def test_a_wire_without_a_rate_takes_no_time_and_raises_no_interrupt() -> None:
    rig, nic = one()
    nic.hwtx.set_intr(nic.source)
    send(rig, nic, burst(5))
    assert nic.cable_out.take() == burst(5)
    assert (nic.hwtx.frames, nic.hwtx.nbytes, nic.hwtx.pending) == (5, 300, 0)
    assert not nic.tx_port.has_rate
    assert not nic.source.cause
    assert rig.in_use == 0


def test_frames_leave_at_the_rate_of_the_wire() -> None:
    rig, nic = one()
    nic.hwtx.set_intr(nic.source)
    nic.tx_port.set_rate(8e9)  # a byte each ns; 24 bytes of overhead a frame
    rig.cpu.now_ns = 1000
    send(rig, nic, burst(3, 76))
    assert (nic.hwtx.frames, nic.hwtx.pending, nic.txq.in_ring) == (0, 3, 3)
    assert nic.hwtx.next_finish_ns() == 1100
    assert nic.tx_port.busy_until_ns == 1300
    assert [nic.hwtx.run(at) for at in (1099, 1100, 1150, 1300)] == [0, 1, 0, 2]
    assert nic.source.cause
    assert nic.hwtx.next_finish_ns() == 0
    assert nic.cable_out.take() == burst(3, 76)
    assert kernels.tx_complete(rig.cpu, nic.txq) == 3
    assert rig.in_use == 0
    with pytest.raises(ValueError, match="not negative"):
        nic.tx_port.set_rate(-1)


def test_queues_of_one_wire_take_turns() -> None:
    rig, nic = one(ncpu=2, tx_queues=2)
    nic.tx_port.set_rate(8e9)
    for cpu in (0, 1, 0):
        kernels.if_transmit(rig.cpus[cpu], nic.ifp, rig.vector(burst(1, 76), cpu=cpu))
    assert [engine.pending for engine in nic.hwtxs] == [2, 1]
    assert [engine.next_finish_ns() for engine in nic.hwtxs] == [100, 200]
    assert nic.tx_port.busy_until_ns == 300
    assert [engine.run(300) for engine in nic.hwtxs] == [2, 1]
    for cpu, txq in zip(rig.cpus, nic.txqs, strict=True):
        kernels.tx_complete(cpu, txq)


def test_a_far_end_that_is_full_loses_frames_by_count() -> None:
    rig = Rig(1, bridged=False)
    nic = rig.nics[0]
    port = TxPort(Cable(3))
    engine = HwTxQueue(nic.txq, port)
    engine.enabled = True
    send(rig, nic, burst(5))
    assert (engine.frames, port.lost, port.cable.passed) == (5, 2, 3)
    assert port.cable.take() == burst(3)


def test_a_counting_sink_keeps_nothing() -> None:
    rig, nic = one()
    nic.tx_port.counting = True
    send(rig, nic, burst(5))
    assert (nic.hwtx.counted, nic.hwtx.frames, len(nic.cable_out)) == (5, 5, 0)


def test_engines_belong_to_their_queues() -> None:
    rig = Rig(1, bridged=False)
    nic = rig.nics[0]
    assert nic.rxq.engine is nic.hwrx and nic.hwrx.queue is nic.rxq
    assert nic.txq.engine is nic.hwtx and nic.hwtx.queue is nic.txq
    cable = Cable()
    assert HwRxQueue(nic.rxq, cable).cable is cable
