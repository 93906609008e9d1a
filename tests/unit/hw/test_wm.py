"""The NIC model, driven by register writes alone (paper §5; Intel I350 datasheet)."""

from errno import EFAULT

import pytest
from frames import frame, ipv4, station
from unit.hw.board import SLOTS, Board

from netstack._fast.rss import Rss
from netstack.errors import NetstackError
from netstack.hw.wm_regs import CTRL_RST, DCTL_ENABLE, RCTL_EN, STATUS_LU, VECTORS_MAX

FRAMES = [frame(station(1), station(2), serial) for serial in range(40)]
FLOWS = [
    ipv4("10.0.0.1", f"10.0.1.{i}", (1000 + i, 7)).ljust(60, b"\0")  # long enough: no padding
    for i in range(64)
]


def test_figure_2_in_the_models_registers() -> None:
    board = Board(nrx=2, ntx=2)
    assert board.read("IVAR", 0) == 0x81838082
    assert board.read("IVAR_MISC") == 0x00008400


def test_nothing_is_received_until_everything_is_enabled() -> None:
    board = Board(start=False)
    assert board.hw.wire.send(FRAMES[0]) == 1
    assert board.hw.turned_away == 1
    board.write("RCTL", RCTL_EN)  # no queue yet
    board.hw.wire.send(FRAMES[1])
    assert board.hw.turned_away == 2
    board.start()
    board.hw.wire.send(FRAMES[2])
    assert (board.received(), board.hw.turned_away) == ([FRAMES[2]], 2)
    board.write("RCTL", 0)
    board.hw.wire.send(FRAMES[3])
    assert (board.received(), board.hw.turned_away) == ([], 3)


def test_a_queue_that_is_disabled_lets_frames_wait() -> None:
    board = Board()
    board.write("RXDCTL", 0)
    board.hw.wire.send(FRAMES[:3])
    assert (board.received(), board.hw.rx_engines[0].resting) == ([], 3)
    board.write("RXDCTL", DCTL_ENABLE)
    board.hw.wire.send(FRAMES[3])
    assert board.received() == FRAMES[:4]


def test_a_ring_at_an_address_nobody_mapped_is_a_fault() -> None:
    board = Board(start=False)
    board.dma.unmap(board.rxqs[0])
    with pytest.raises(NetstackError, match="nothing is mapped") as caught:
        board.write("RXDCTL", DCTL_ENABLE)
    assert caught.value.errno == EFAULT
    assert board.hw.rx_engines == []


def test_received_frames_raise_the_vector_of_their_queue() -> None:
    board = Board(nrx=2, ntx=2)
    board.hw.wire.send(FRAMES[0])
    assert board.causes() == [2]
    assert board.read("EICR") == 1 << 2
    board.hw.set_link(False)
    assert board.causes() == [2, 4]


def test_enabled_vectors_send_their_message_and_mask_themselves() -> None:
    board = Board()
    for number, source in enumerate(board.hw.msix.sources[:3]):
        source.route(0, 20 + number)
        source.unmask()
    board.write("EIMS", 0b111)
    board.hw.wire.send(FRAMES[:2])
    assert board.cpu.intr_peek() == [21]
    board.hw.wire.send(FRAMES[2:4])
    assert board.hw.msix.sources[1].raised == 1
    assert board.cpu.intr_next() == 21
    board.write("EIMS", 0b010)
    assert board.cpu.intr_peek() == [21], "the second burst's cause waited"
    board.write("EICS", 0b001)
    assert board.cpu.intr_peek() == [20, 21], "a software interrupt"


def test_masked_vectors_keep_quiet() -> None:
    board = Board()
    for source in board.hw.msix.sources[:3]:
        source.unmask()
    board.write("EIMS", 0b111)
    assert board.read("EIMS") == 0b111
    board.write("EIMC", 0b010)
    assert board.read("EIMS") == 0b101
    board.hw.wire.send(FRAMES[0])
    assert (board.cpu.intr_pending, board.causes()) == (False, [1])
    assert board.read("EIMC") == 0


def test_frames_go_out_in_order() -> None:
    board = Board()
    board.send(*FRAMES[:20])
    assert board.hw.wire.recv() == FRAMES[:20]
    assert board.read("GPTC") == 20


def test_counters_of_the_device() -> None:
    board = Board()
    board.hw.wire.send([*FRAMES[:3], bytes(3000)])
    board.hw.wire.send(FRAMES[4])
    assert [board.read(name) for name in ("GPRC", "ROC", "MPC", "GPTC")] == [4, 1, 0, 0]


def test_frames_beyond_the_ring_wait_on_the_cable() -> None:
    board = Board()
    board.hw.wire.send(FRAMES[:30])
    assert board.rxqs[0].ready == SLOTS
    got = []
    while more := board.received():
        got += more
    assert got == FRAMES[:30]


def test_one_queue_needs_no_hash() -> None:
    board = Board()
    board.hw.wire.send(FLOWS[:4])
    assert board.received() == FLOWS[:4]


@pytest.mark.parametrize("nrx", [2, 3, 4, 8])
def test_rss_spreads_by_hash_and_table(nrx: int) -> None:
    board = Board(nrx=nrx)
    table = bytes(i * 5 % nrx for i in range(128))
    board.spread(table)
    oracle = Rss(table=table)
    expected: list[list[bytes]] = [[] for _ in range(nrx)]
    for each in FLOWS:
        board.hw.wire.send(each)
        expected[oracle.queue(each)].append(each)
        queue = oracle.queue(each)
        assert board.received(queue) == [each]
    assert all(expected), "the flows of this test reach every queue"
    arp = frame(b"\xff" * 6, station(1), ethertype=0x0806)
    board.hw.wire.send(arp)
    assert board.received(table[0]) == [arp]


def test_without_the_mode_bit_everything_goes_to_queue_0() -> None:
    board = Board(nrx=2)
    board.spread(bytes([1]) * 128)
    board.hw.wire.send(FLOWS[0])
    assert board.received(1) == [FLOWS[0]]
    board.write("MRQC", 0)
    board.hw.wire.send(FLOWS[0])
    assert (board.received(0), board.received(1)) == ([FLOWS[0]], [])


def test_the_key_is_taken_from_its_registers() -> None:
    board = Board(nrx=2)
    key = bytes(range(40))
    table = bytes(i % 2 for i in range(128))
    board.spread(table, key)
    assert [board.hw.rss.hash(each) for each in FLOWS] == [Rss(key).hash(each) for each in FLOWS]
    assert board.hw.rss.table == table


def test_each_vector_of_a_queue_by_its_ivar_field() -> None:
    board = Board(nrx=4, ntx=4)
    board.spread(bytes(i % 4 for i in range(128)))
    board.hw.wire.send(FLOWS)
    assert board.causes() == [4, 5, 6, 7]
    board.hw.tx_port.set_rate(8e9)
    board.send(FRAMES[0])
    board.clock.advance(1_000_000)
    assert board.causes() == [0, 4, 5, 6, 7]


def test_a_reset_stops_engines_and_vectors() -> None:
    board = Board()
    board.write("EIMS", 0b111)
    board.write("CTRL", CTRL_RST)
    assert [board.read(name) for name in ("RCTL", "TCTL", "CTRL", "EIMS")] == [0, 0, 0, 0]
    board.hw.wire.send(FRAMES[0])
    board.send(FRAMES[1])
    assert (board.hw.turned_away, board.hw.wire.recv(), board.txqs[0].in_ring) == (1, [], 1)
    assert not any(source.enabled for source in board.hw.msix.sources)


def test_the_link_is_in_the_status_register_and_has_a_vector() -> None:
    board = Board()
    assert board.read("STATUS") & STATUS_LU
    board.hw.set_link(False)
    assert not board.read("STATUS") & STATUS_LU
    assert board.causes() == [2]
    board.hw.wire.send(FRAMES[0])
    assert (board.received(), board.hw.turned_away) == ([], 1)
    board.hw.set_link(True)
    board.hw.wire.send(FRAMES[1])
    assert board.received() == [FRAMES[1]]


def test_the_device_has_its_vectors() -> None:
    assert len(Board().hw.msix.sources) == VECTORS_MAX
