"""Time for a NIC: generators and wires with a rate, by events of the clock (paper §6.1)."""

from itertools import pairwise

import pytest
from frames import frame, headers, station
from unit.hw.board import Board

from netstack._fast import kernels
from netstack._fast.wire import Generator
from netstack.params import TX_ITR_NS

FRAMES = [frame(station(1), station(2), serial, 76) for serial in range(40)]
BLOCKS = headers([(station(1), station(2))])
BYTE_A_NS = 8e9  # bits a second


def generator(board: Board, queue: int, start_ns: int, stop_ns: int, fps: float) -> Generator:
    made = Generator(BLOCKS, 60)
    made.start(start_ns, stop_ns, fps)
    board.hw.rx_engines[queue].generator = made
    return made


def test_a_generators_frames_come_at_their_times() -> None:
    board = Board()
    made = generator(board, 0, 1000, 2000, 1e7)  # every 100 ns
    board.hw.pace(board.clock)
    times = board.clock.advance(5000)
    assert made.sent == 10
    assert len(times) == 10
    # an event may be a nanosecond late: it must not be early
    assert all(0 <= at - (1000 + 100 * i) <= 1 for i, at in enumerate(times))
    assert board.clock.events == [], "nothing more is due"


def test_generators_of_several_queues_each_have_their_pace() -> None:
    board = Board(nrx=2)
    fast = generator(board, 0, 0, 10_000, 1e7)
    slow = generator(board, 1, 0, 10_000, 1e6)
    board.hw.pace(board.clock)
    board.clock.advance(20_000)
    assert (fast.sent, slow.sent) == (100, 10)
    assert (board.hw.rx_engines[0].missed, board.hw.rx_engines[1].missed) == (92, 2)


def test_a_queue_without_a_generator_has_no_events() -> None:
    board = Board(nrx=2)
    generator(board, 1, 0, 1000, 1e7)
    board.hw.pace(board.clock)
    assert len(board.clock.events) == 1


def test_a_pace_that_starts_late_catches_up() -> None:
    board = Board()
    made = generator(board, 0, 0, 1000, 1e7)
    board.clock.advance(450)
    board.hw.pace(board.clock)
    assert min(when for when, _ in board.clock.events) >= 450
    board.clock.advance(2000)
    assert made.sent == 10


def test_a_taken_away_generator_ends_its_events() -> None:
    board = Board()
    generator(board, 0, 0, 10_000, 1e7)
    board.hw.pace(board.clock)
    board.clock.advance(550)
    board.hw.rx_engines[0].generator = None
    board.clock.advance(20_000)
    assert board.clock.events == []
    assert board.hw.rx_engines[0].generated == 6


def test_without_a_rate_no_event_is_needed() -> None:
    board = Board()
    board.send(*FRAMES[:3])
    assert board.clock.events == []
    assert board.hw.wire.recv() == FRAMES[:3]


def test_completions_are_reported_at_most_once_per_throttle_time() -> None:
    board = Board()
    board.hw.tx_port.set_rate(BYTE_A_NS)  # 100 ns a frame
    board.send(*FRAMES[:5])
    board.hw.ring_doorbell()
    assert len(board.clock.events) == 1, "one event a queue, however often the doorbell rings"
    (made,) = board.clock.advance(1_000_000)
    assert made == TX_ITR_NS
    assert board.hw.wire.recv() == FRAMES[:5]
    assert board.causes() == [0]
    assert board.clock.events == []


def test_a_slow_wire_is_looked_at_when_its_first_frame_has_left() -> None:
    board = Board()
    board.hw.tx_port.set_rate(BYTE_A_NS / 1000)  # 100 us a frame
    board.send(*FRAMES[:3])
    times = board.clock.advance(10_000_000)
    assert board.hw.wire.recv() == FRAMES[:3]
    assert times[0] == pytest.approx(100_000, abs=2)
    assert all(b - a >= TX_ITR_NS for a, b in pairwise(times))
    assert times[-1] >= 300_000


def test_what_waits_in_if_snd_goes_on_after_completion() -> None:
    board = Board()
    board.hw.tx_port.set_rate(BYTE_A_NS)
    board.send(*FRAMES)  # the ring has 8 slots
    assert (board.txqs[0].in_ring, board.txqs[0].snd_len) == (8, 32)
    for _ in range(10):
        board.clock.advance(board.clock.now + 10 * TX_ITR_NS)
        board.cpu.now_ns = board.clock.now
        kernels.tx_complete(board.cpu, board.txqs[0])
        board.hw.ring_doorbell()
    assert board.hw.wire.recv() == FRAMES
    assert board.clock.events == []


def test_two_queues_share_the_wire() -> None:
    board = Board(ntx=2)
    board.hw.tx_port.set_rate(BYTE_A_NS / 1000)
    board.send(FRAMES[0])
    board.ifp.set_txqs(board.txqs, [1, 1, 1])
    board.send(FRAMES[1])
    board.clock.advance(150_000)
    assert board.hw.wire.recv() == FRAMES[:1]
    board.clock.advance(250_000)
    assert board.hw.wire.recv() == FRAMES[1:2]
