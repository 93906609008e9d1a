"""Receive, Ethernet and transmit kernels, called one at a time from Python (paper §2.1, §3.2.1, §5.4)."""

import pytest
from frames import BROADCAST, frame, serial_of, station
from unit.fast.rig import LIVE, Nic, Rig, own_mac

from netstack._fast import kernels
from netstack._fast.dispositions import HELP, NAMES, Drop
from netstack._fast.ifnet import FLAG_LISTEN, FLAG_UP, IfnetBlock
from netstack._fast.mbuf import MbufVec

A, B = station(1), station(2)
FWDQ_SLOTS = 256
GROUP = bytes.fromhex("01005e000001")


def burst(count: int, first: int = 0) -> list[bytes]:
    return [frame(A, B, serial) for serial in range(first, first + count)]


def serials(mv: MbufVec) -> list[int]:
    return [serial_of(each) for each in mv.frames()]


def one(**settings: int) -> tuple[Rig, Nic]:
    rig = Rig(1, bridged=False, **settings)  # type: ignore[arg-type]
    return rig, rig.nics[0]


# Dispositions.


def test_every_way_to_lose_a_frame_has_a_name_and_help() -> None:
    reasons = [drop for drop in Drop if drop.name != "NDROP"]
    assert [int(drop) for drop in reasons] == list(range(len(NAMES)))
    for drop in reasons:
        name, text = HELP[int(drop)]
        assert name == NAMES[drop] == drop.name.lower()
        assert len(text) > 10
    assert len(NAMES) <= Drop.NDROP


def test_a_drop_frees_and_counts_on_the_cpu_that_did_it() -> None:
    rig, nic = one(ncpu=2)
    for reason, name in enumerate(NAMES):
        assert kernels.drop(rig.cpus[1], nic.ifp, rig.vector(burst(2), cpu=1), reason) == 2
        assert nic.ifp.drops()[name] == 2
    assert nic.ifp.drops(0) == {}
    assert nic.ifp.drops(1) == dict.fromkeys(NAMES, 2)
    assert rig.in_use == 0
    for bad in (-1, len(NAMES), int(Drop.NDROP)):
        with pytest.raises(ValueError, match="no disposition"):
            kernels.drop(rig.cpu, nic.ifp, rig.vector(burst(1)), bad)


def test_a_vector_works_on_its_own_cpu_only() -> None:
    rig, nic = one(ncpu=2)
    mv = rig.vector(burst(3), cpu=1)
    for call in (
        lambda: kernels.rx_drain(rig.cpu, nic.rxq, MbufVec(rig.pool, 1), 1),
        lambda: kernels.ether_parse(rig.cpu, nic.ifp, mv),
        lambda: kernels.ether_local(rig.cpu, nic.ifp, mv),
        lambda: kernels.ether_deliver(rig.cpu, nic.ifp, mv),
        lambda: kernels.bridge_decide(rig.cpu, rig.br, nic.ifp, mv),
        lambda: kernels.bridge_split(rig.cpu, rig.br, nic.ifp, mv),
        lambda: kernels.if_transmit(rig.cpu, nic.ifp, mv),
        lambda: kernels.fwdq_put(rig.cpu, nic.ifp, mv),
        lambda: kernels.fwdq_get(rig.cpu, MbufVec(rig.pool, 1)),
        lambda: kernels.drop(rig.cpu, nic.ifp, mv, 0),
    ):
        with pytest.raises(ValueError, match="vector of CPU 1 used on CPU 0"):
            call()
    assert len(mv) == 3


# Receiving.


def test_rx_takes_up_to_its_limit_and_says_where_from() -> None:
    rig, nic = one()
    nic.arrive(burst(10))
    mv = MbufVec(rig.pool, 0)
    assert kernels.rx_drain(rig.cpu, nic.rxq, mv, 4) == 4
    assert (serials(mv), mv.rcvif, mv.queue) == ([0, 1, 2, 3], 1, 0)
    assert mv.lengths() == [60] * 4
    with pytest.raises(ValueError, match="not empty"):
        kernels.rx_drain(rig.cpu, nic.rxq, mv, 4)
    mv.clear()
    assert kernels.rx_drain(rig.cpu, nic.rxq, mv, 1000) == 6
    assert nic.rxq.held == 64, "every slot has a buffer again"
    counted = nic.ifp.counters()
    assert (counted["ipackets"], counted["ibytes"], counted["rx_vectors"]) == (10, 600, 2)


def test_a_stopping_queue_gives_nothing() -> None:
    rig, nic = one()
    nic.arrive(burst(3))
    nic.rxq.stopping = True
    mv = MbufVec(rig.pool, 0)
    assert kernels.rx_drain(rig.cpu, nic.rxq, mv, 4) == 0
    assert (nic.rxq.ready, nic.ifp.counters()["ipackets"]) == (3, 0)


def test_without_a_fresh_mbuf_the_frame_is_lost_and_the_ring_keeps_its_buffer() -> None:
    rig, nic = one(nmbufs=70)  # six are left beside the ring
    nic.arrive(burst(10))
    mv = MbufVec(rig.pool, 0)
    assert kernels.rx_drain(rig.cpu, nic.rxq, mv, 10) == 6
    assert serials(mv) == [0, 1, 2, 3, 4, 5]
    assert nic.ifp.drops() == {"no_mbuf": 4}
    assert nic.ifp.counters()["ipackets"] == 10
    assert (nic.rxq.held, rig.pool.failures) == (64, 4)
    mv.clear()
    nic.arrive(burst(3, first=50))
    assert kernels.rx_drain(rig.cpu, nic.rxq, mv, 10) == 3
    assert serials(mv) == [50, 51, 52]


def test_with_nothing_free_a_burst_of_losses_ends() -> None:
    rig, nic = one(nmbufs=64)
    nic.arrive(burst(100))
    mv = MbufVec(rig.pool, 0)
    rounds = 0
    while nic.rxq.ready or nic.hwrx.resting:
        assert kernels.rx_drain(rig.cpu, nic.rxq, mv, 16) == 0
        rounds += 1
        assert rounds < 20
    assert nic.ifp.drops() == {"no_mbuf": 100}


# Ethernet.


def test_parse_drops_runts_and_giants_by_name() -> None:
    rig, nic = one()
    tag, qinq = 0x8100, 0x88A8
    sizes = {  # ethertype, size -> passes
        (0x0800, 14): True,
        (0x0800, 1514): True,
        (0x0800, 1515): False,
        (tag, 1518): True,
        (tag, 1519): False,
        (qinq, 1518): True,
        (qinq, 1519): False,
        (0x0800, 3000): False,
    }
    frames = [frame(A, B, 0, size, kind) for kind, size in sizes]
    mv = rig.vector([b"", frame(A, B)[:13], *frames])
    assert kernels.ether_parse(rig.cpu, nic.ifp, mv) == sum(sizes.values())
    passed = [each for each, ok in zip(frames, sizes.values(), strict=True) if ok]
    assert mv.frames() == passed
    assert nic.ifp.drops() == {"runt": 2, "giant": 4}


@pytest.mark.parametrize("flags", [0, FLAG_UP, LIVE & ~FLAG_UP])
def test_parse_drops_everything_while_the_interface_is_not_live(flags: int) -> None:
    rig, nic = one()
    nic.ifp.flags = flags
    assert kernels.ether_parse(rig.cpu, nic.ifp, rig.vector(burst(3))) == 0
    assert nic.ifp.drops() == {"if_down": 3}
    assert rig.in_use == 0


def test_group_frames_are_counted_as_they_come_and_as_they_go() -> None:
    rig, nic = one()
    mv = rig.vector([frame(BROADCAST, A), frame(GROUP, A), frame(B, A)])
    kernels.ether_parse(rig.cpu, nic.ifp, mv)
    kernels.if_transmit(rig.cpu, nic.ifp, mv)
    counted = nic.ifp.counters()
    assert (counted["imcasts"], counted["omcasts"], counted["opackets"]) == (2, 2, 3)


def test_local_input_of_an_interface_in_no_bridge() -> None:
    rig, nic = one()
    frames = [frame(own_mac(1), A, 1), frame(B, A, 2), frame(GROUP, A, 3)]
    kernels.ether_local(rig.cpu, nic.ifp, rig.parsed(frames))
    assert nic.ifp.drops() == {"no_proto": 2, "not_for_us": 1}
    nic.ifp.flags |= FLAG_LISTEN
    kernels.ether_local(rig.cpu, nic.ifp, rig.parsed(frames))
    assert nic.ifp.drops() == {"no_proto": 2, "not_for_us": 2}
    mv = MbufVec(rig.pool, 0)
    assert rig.cpu.punt_take(mv) == "local"
    assert kernels.ether_deliver(rig.cpu, nic.ifp, mv) == [frames[0], frames[2]]
    assert nic.ifp.counters()["delivered"] == 2
    assert rig.in_use == 0


# The classic frame's queue.


def test_the_forwarding_queue_keeps_runs_of_one_interface() -> None:
    rig = Rig(2)
    for port, frames in ((0, burst(2)), (1, burst(1, 10)), (0, burst(2, 20))):
        assert kernels.fwdq_put(rig.cpu, rig.nics[port].ifp, rig.parsed(frames, port)) == len(frames)
    got = []
    mv = MbufVec(rig.pool, 0)
    while kernels.fwdq_get(rig.cpu, mv):
        got.append((mv.rcvif, serials(mv)))
        mv.clear()
    assert got == [(1, [0, 1]), (2, [10]), (1, [20, 21])]


def test_the_forwarding_queue_is_bounded_and_drops_the_newest() -> None:
    rig = Rig(1)
    handle = rig.softints.add(2, True, "bridge")
    rig.cpu.fwdq_softint = handle
    assert kernels.fwdq_put(rig.cpu, rig.nics[0].ifp, rig.parsed(burst(200))) == 200
    assert kernels.fwdq_put(rig.cpu, rig.nics[0].ifp, rig.parsed(burst(100, 200))) == 56
    assert rig.cpu.fwdq_len == FWDQ_SLOTS
    assert rig.nics[0].ifp.drops() == {"fwdq_full": 44}
    assert (rig.cpu.softint_next(2), rig.cpu.softint_next(2)) == (handle, -1)
    mv = MbufVec(rig.pool, 0)
    assert kernels.fwdq_get(rig.cpu, mv) == 256
    assert serials(mv) == list(range(256))
    with pytest.raises(ValueError, match="not empty"):
        kernels.fwdq_get(rig.cpu, mv)


def test_queued_frames_come_out_ready_to_be_decided() -> None:
    rig = Rig(2)
    kernels.fwdq_put(rig.cpu, rig.nics[0].ifp, rig.parsed([frame(B, A)]))
    mv = MbufVec(rig.pool, 0)
    kernels.fwdq_get(rig.cpu, mv)
    assert kernels.bridge_decide(rig.cpu, rig.br, rig.nics[0].ifp, mv) == 1
    ((index, part),) = kernels.bridge_split(rig.cpu, rig.br, rig.nics[0].ifp, mv)
    assert (index, part.frames()) == (2, [frame(B, A)])
    assert rig.table.lookup(A) is not None


# Transmitting.


def test_an_interface_that_cannot_send_drops_by_name() -> None:
    rig, nic = one()
    nic.ifp.flags = FLAG_UP
    assert kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(2))) == 0
    lonely = IfnetBlock(9, own_mac(9))
    lonely.flags = LIVE
    assert kernels.if_transmit(rig.cpu, lonely, rig.vector(burst(3))) == 0
    nic.ifp.flags = LIVE
    nic.txq.stopping = True
    assert kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(4))) == 0
    assert nic.ifp.drops() == {"if_down": 2, "stopped": 4}
    assert lonely.drops() == {"tx_error": 3}
    assert (rig.in_use, len(nic.cable_out)) == (0, 0)


def test_each_cpu_uses_its_queue() -> None:
    rig, nic = one(ncpu=4, tx_queues=2)
    for cpu in range(4):
        kernels.if_transmit(rig.cpus[cpu], nic.ifp, rig.vector(burst(cpu + 1), cpu=cpu))
    assert [engine.frames for engine in nic.hwtxs] == [1 + 3, 2 + 4]
    nic.ifp.set_txqs(nic.txqs, [1, 1, 1, 1, 1])
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(10)))
    assert [engine.frames for engine in nic.hwtxs] == [4, 16]
    assert nic.ifp.ntxq == 2
    with pytest.raises(ValueError, match="selection beyond"):
        nic.ifp.set_txqs(nic.txqs, [2])


def test_a_full_ring_fills_if_snd_which_refuses_the_rest() -> None:
    rig, nic = one(tx_slots=8, snd_maxlen=16)
    nic.tx_port.set_rate(8e9)
    assert kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(30))) == 24
    assert (nic.txq.in_ring, nic.txq.snd_len, nic.txq.is_full) == (8, 16, True)
    assert nic.ifp.drops() == {"snd_full": 6}
    assert kernels.if_start(rig.cpu, nic.txq) == 16
    nic.hwtx.run(10**9)
    rig.cpu.now_ns = 10**9
    assert kernels.tx_complete(rig.cpu, nic.txq) == 8
    assert (nic.txq.in_ring, nic.txq.snd_len) == (8, 8)
    for _ in range(2):
        rig.cpu.now_ns += 10**9
        nic.hwtx.run(rig.cpu.now_ns)
        kernels.tx_complete(rig.cpu, nic.txq)
    assert [serial_of(each) for each in nic.cable_out.take()] == list(range(24))
    assert (rig.in_use, nic.txq.is_full, nic.ifp.counters()["opackets"]) == (0, False, 24)


def test_frames_behind_a_queue_do_not_overtake_it() -> None:
    rig, nic = one(tx_slots=8)
    nic.hwtx.enabled = False
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(12)))
    nic.hwtx.enabled = True
    nic.hwtx.run(0)
    kernels.if_transmit(rig.cpu, nic.ifp, rig.vector(burst(5, 12)))
    while nic.txq.in_ring or nic.txq.snd_len:
        kernels.tx_complete(rig.cpu, nic.txq)
    assert [serial_of(each) for each in nic.cable_out.take()] == list(range(17))


def test_a_chain_does_not_fit_the_device() -> None:
    rig, nic = one()
    mv = rig.vector([frame(A, B, 1), frame(A, B, 2, 3000), frame(A, B, 3)])
    kernels.if_transmit(rig.cpu, nic.ifp, mv)
    assert [serial_of(each) for each in nic.cable_out.take()] == [1, 3]
    assert nic.ifp.drops() == {"giant": 1}
    assert rig.in_use == 0


# Splitting by hand.


def test_prefix_moves_the_first_frames() -> None:
    rig = Rig(2)
    mv = rig.parsed([frame(B, A, 0), frame(A, B, 1), frame(B, A, 2)])
    part = MbufVec(rig.pool, 0)
    assert kernels.prefix(mv, part, 2) == 2
    assert (serials(part), serials(mv), part.rcvif) == ([0, 1], [2], 1)
    assert kernels.bridge_decide(rig.cpu, rig.br, rig.nics[0].ifp, mv) == 1
    ((_, out),) = kernels.bridge_split(rig.cpu, rig.br, rig.nics[0].ifp, mv)
    assert serials(out) == [2], "keys moved along with their frames"
    with pytest.raises(ValueError, match="not empty"):
        kernels.prefix(mv, part, 1)
    for n, moved in ((-1, 0), (0, 0), (99, 2)):
        goal = MbufVec(rig.pool, 0)
        assert kernels.prefix(part, goal, n) == moved
