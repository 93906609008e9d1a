"""The I354 driver: vectors, registers, affinity, queue selection, start and stop (paper §5, §6.1)."""

from errno import EBUSY, ENOMEM
from typing import Any

import pytest
from frames import frame, serial_of, station

from netstack import NetstackError
from netstack.hw.wm_regs import RAH_VALID, RCTL_EN
from netstack.net.ifnet import IFF
from netstack.params import WM_RX_SLOTS, WM_TX_SLOTS

CLOCKS = ["virtual", "wall"]
A, B = station(1), station(2)


def burst(count: int, first: int = 0) -> list[bytes]:
    return [frame(B, A, serial) for serial in range(first, first + count)]


def serials(frames: list[bytes]) -> list[int]:
    return [serial_of(each) for each in frames]


def affinity(m: Any, name: str) -> dict[str, int]:
    """CPU of each vector of an interface, by the vector's name without the interface's."""
    rows = [row for row in m.intrctl.list() if row.devices == name]
    return {row.name.removeprefix(f"{name} "): row.affinity[0] for row in rows}


def queue_of_cpu(m: Any, ifp: Any) -> list[int]:
    """TX queue that each CPU uses: have a thread on each send one frame."""
    used = []
    for cpu in range(m.ncpu):
        before = [engine.frames for engine in ifp.hw.tx_engines]
        m.engine.spawn(lambda: ifp.send(frame(B, A)), cpu=cpu)
        m.run()
        after = [engine.frames for engine in ifp.hw.tx_engines]
        (queue,) = [i for i, (x, y) in enumerate(zip(before, after, strict=True)) if x != y]
        used.append(queue)
    ifp.wire.recv()
    return used


# Attach.


def test_one_vector_a_queue_and_one_for_the_link(machine: Any) -> None:
    m = machine(ncpu=2)
    m.nic("wm0", rx_queues=2, tx_queues=2)
    m.nic("wm5", rx_queues=1, tx_queues=3)
    assert [(row.name, row.intrid, row.devices) for row in m.intrctl.list()] == [
        ("wm0 TX0", "msix0 vec 0", "wm0"),
        ("wm0 TX1", "msix0 vec 1", "wm0"),
        ("wm0 RX0", "msix0 vec 2", "wm0"),
        ("wm0 RX1", "msix0 vec 3", "wm0"),
        ("wm0 LINK", "msix0 vec 4", "wm0"),
        ("wm5 TX0", "msix1 vec 0", "wm5"),
        ("wm5 TX1", "msix1 vec 1", "wm5"),
        ("wm5 TX2", "msix1 vec 2", "wm5"),
        ("wm5 RX0", "msix1 vec 3", "wm5"),
        ("wm5 LINK", "msix1 vec 4", "wm5"),
    ]


def test_the_driver_programs_figure_2(machine: Any) -> None:
    regs = machine().nic("wm0", rx_queues=2, tx_queues=2).hw.regs
    assert regs.get("IVAR", 0) == 0x81838082
    assert regs.get("IVAR_MISC") == 0x00008400


def test_the_driver_programs_rings_and_address(machine: Any) -> None:
    m = machine()
    ifp = m.nic("wm0", rx_queues=3, tx_queues=2, mac="02:11:22:33:44:55")
    regs = ifp.hw.regs
    assert (regs.get("RAL"), regs.get("RAH")) == (0x33221102, RAH_VALID | 0x5544)
    for prefix, queues, slots in (("RD", ifp.rx_queues, WM_RX_SLOTS), ("TD", ifp.tx_queues, WM_TX_SLOTS)):
        for queue in queues:
            base = regs.get(f"{prefix}BAH", queue.index) << 32 | regs.get(f"{prefix}BAL", queue.index)
            assert base == queue.ring.address
            assert regs.get(f"{prefix}LEN", queue.index) == 16 * slots
            assert m.dma.ring(base) is queue


@pytest.mark.parametrize("nrx", [1, 3, 4, 8])
def test_rss_is_programmed_only_when_there_is_a_choice(machine: Any, nrx: int) -> None:
    regs = machine().nic("wm0", rx_queues=nrx).hw.regs
    table = b"".join(regs.get("RETA", i).to_bytes(4, "little") for i in range(32))
    assert regs.get("MRQC") == (2 if nrx > 1 else 0)
    assert table == (bytes(i % nrx for i in range(128)) if nrx > 1 else bytes(128))


@pytest.mark.parametrize(
    ("ncpu", "nrx", "expected"),
    [
        (8, 4, [1, 2, 3, 4]),  # CPU 0 is left to others where that is possible
        (4, 4, [0, 1, 2, 3]),
        (2, 4, [0, 1, 0, 1]),
        (1, 2, [0, 0]),
    ],
)
def test_default_affinity_spreads_queues(
    machine: Any, ncpu: int, nrx: int, expected: list[int]
) -> None:
    m = machine(ncpu=ncpu)
    m.nic("wm0", rx_queues=nrx, tx_queues=nrx)
    found = affinity(m, "wm0")
    assert [found[f"RX{i}"] for i in range(nrx)] == expected
    assert [found[f"TX{i}"] for i in range(nrx)] == expected
    assert found["LINK"] == 0


def test_interfaces_with_one_queue_are_spread_themselves(machine: Any) -> None:
    m = machine(ncpu=2)
    for unit in range(3):
        m.nic(f"wm{unit}")
    assert [affinity(m, f"wm{unit}")["RX0"] for unit in range(3)] == [0, 1, 0]


def test_a_shielded_cpu_gets_no_vector(machine: Any) -> None:
    m = machine(ncpu=2)
    m.intrctl.nointr(1)
    m.nic("wm0", rx_queues=2, tx_queues=2)
    assert set(affinity(m, "wm0").values()) == {0}


@pytest.mark.parametrize(("ncpu", "errno"), [(1, EBUSY), (4, ENOMEM)])
def test_an_attach_that_fails_leaves_nothing_behind(machine: Any, ncpu: int, errno: int) -> None:
    m = machine(ncpu=ncpu, mbufs=16384)
    made = 0
    while True:
        rows, names = m.intrctl.list(), list(m.interfaces)
        free = m.pool.free_count
        try:
            m.nic(f"wm{made}", tx_queues=8)
        except NetstackError as refusal:
            assert refusal.errno == errno
            break
        made += 1
    assert made > 20
    assert (m.intrctl.list(), list(m.interfaces), m.pool.free_count) == (rows, names, free)
    m.destroy("wm0")
    m.nic("wm100", tx_queues=8)


# Queue selection.


def test_the_papers_list_of_tx_queues(machine: Any) -> None:
    m = machine(ncpu=8)
    ifp = m.nic("wm0", tx_queues=4)
    assert queue_of_cpu(m, ifp) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_one_tx_queue_serves_all(machine: Any) -> None:
    m = machine(ncpu=4)
    assert queue_of_cpu(m, m.nic("wm0")) == [0, 0, 0, 0]


def test_a_cpu_uses_the_queue_whose_interrupt_it_takes(machine: Any) -> None:
    m = machine(ncpu=4)
    ifp = m.nic("wm0", rx_queues=4, tx_queues=4)
    for queue, cpu in enumerate((3, 2, 1, 0)):
        m.intrctl.affinity(f"wm0 TX{queue}", cpu=cpu)
    assert queue_of_cpu(m, ifp) == [3, 2, 1, 0]


def test_vectors_that_are_not_spread_say_nothing_about_queues(machine: Any) -> None:
    m = machine(ncpu=4)
    ifp = m.nic("wm0", rx_queues=4, tx_queues=4)
    for queue in range(4):
        m.intrctl.affinity(f"wm0 TX{queue}", cpu=0)
    assert queue_of_cpu(m, ifp) == [0, 1, 2, 3]


# Settings.


@pytest.mark.parametrize(
    ("driver_frame", "drain", "limit"),
    [
        ("softint", "one", 1),
        ("softint", 7, 7),
        ("softint", "ring", WM_RX_SLOTS),
        ("softint", None, 256),
        ("classic", "one", 1),
        ("classic", "ring", 1 << 30),  # until nothing is left
    ],
)
def test_the_drain_limit_is_that_of_the_queues(
    machine: Any, driver_frame: str, drain: Any, limit: int
) -> None:
    m = machine(frame=driver_frame, drain=drain)
    assert [queue.limit for queue in m.nic("wm0", rx_queues=2).rx_queues] == [limit, limit]


# Start and stop.


class Spy:
    """Notes, at each register write, what the driver has done so far."""

    def __init__(self, ifp: Any) -> None:
        self.seen: dict[str, tuple[bool, set[bool], set[int]]] = {}
        self.order: list[str] = []
        regs = ifp.hw.regs
        names = {regs.offset(name, i): name for name, r in regs.table.items() for i in range(r.instances)}
        write = ifp.driver.regs.write

        def spying(offset: int, value: int) -> None:
            queues = (*ifp.rx_queues, *ifp.tx_queues)
            is_running = IFF.RUNNING in ifp.flags
            self.order.append(names[offset])
            self.seen[names[offset]] = (
                is_running,
                {queue.stopping for queue in queues},
                {queue.held for queue in ifp.rx_queues},
            )
            write(offset, value)

        ifp.driver.regs.write = spying


def test_stop_masks_then_flags_then_switches_off_and_only_then_empties_rings(machine: Any) -> None:
    ifp = machine(ncpu=2).nic("wm0", rx_queues=2, tx_queues=2)
    spy = Spy(ifp)
    ifp.driver.stop()
    assert spy.order == ["EIMC", "RCTL", "TCTL"]
    assert spy.seen["EIMC"] == (False, {False}, {WM_RX_SLOTS})
    assert spy.seen["RCTL"] == (False, {True}, {WM_RX_SLOTS})
    assert {queue.held for queue in ifp.rx_queues} == {0}
    assert not any(engine.enabled for engine in (*ifp.hw.rx_engines, *ifp.hw.tx_engines))


def test_init_fills_rings_and_clears_flags_before_the_device_may_work(machine: Any) -> None:
    ifp = machine(ncpu=2).nic("wm0", rx_queues=2, tx_queues=2)
    ifp.driver.stop()
    spy = Spy(ifp)
    ifp.driver.init()
    assert spy.order[-3:] == ["TCTL", "EIMS", "RCTL"]
    assert spy.seen["RCTL"] == (False, {False}, {WM_RX_SLOTS})
    assert IFF.RUNNING in ifp.flags
    assert all(engine.enabled for engine in (*ifp.hw.rx_engines, *ifp.hw.tx_engines))


SETTINGS = [
    {"clock": "virtual"},
    {"clock": "virtual", "frame": "classic", "drain": "one"},
    {"clock": "virtual", "kernel": "GENERIC"},
    {"clock": "virtual", "path": "compiled", "drain": 7},
    {"clock": "wall"},
    {"clock": "wall", "frame": "classic"},
    {"clock": "wall", "path": "stages"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: " ".join(map(str, s.values())))
@pytest.mark.parametrize("microseconds", [0, 30, 200])
def test_stop_with_traffic_in_flight(
    machine: Any, settings: dict[str, Any], microseconds: int
) -> None:
    m = machine(ncpu=2, **settings)
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    m.bridge("bridge0", [wm0, wm1])
    wm0.wire.send(burst(200))
    m.run(seconds=microseconds * 1e-6)
    wm0.driver.stop()
    received = wm0.block.counters()["ipackets"]
    assert received == 200, "what was not taken was counted as lost by the stop"
    assert wm0.rx_queues[0].held == 0
    m.audit()
    m.run()
    before = wm1.wire.recv()
    assert serials(before) == list(range(len(before)))
    assert len(before) + sum(wm0.block.drops().values()) == 200
    wm0.wire.send(burst(50))
    m.run()
    assert (wm1.wire.recv(), wm0.block.counters()["ipackets"]) == ([], received)
    assert m.stats()["interfaces"]["wm0"]["drops"].get("stopped", 0) >= 50
    assert m.pool.free_count == m.pool.nmbufs - WM_RX_SLOTS, "only wm1's ring has buffers"
    m.audit()
    wm0.driver.init()
    for first in range(1000, 1600, 200):
        wm0.wire.send(burst(200, first))
        m.run()
    assert serials(wm1.wire.recv()) == list(range(1000, 1600))


@pytest.mark.parametrize("nanoseconds", [0, 20_000, 60_000, 100_000, 300_000])
def test_stop_while_frames_wait_for_a_slow_wire(machine: Any, nanoseconds: int) -> None:
    m = machine(ncpu=2)
    wm0, wm1 = m.nic("wm0"), m.nic("wm1", rate=1e8)
    m.bridge("bridge0", [wm0, wm1])
    wm0.wire.send(burst(40))
    m.run(seconds=nanoseconds * 1e-9)
    wm1.driver.stop()
    m.audit()
    m.run()
    first = wm1.wire.recv()
    assert m.pool.free_count == m.pool.nmbufs - WM_RX_SLOTS
    wm1.driver.init()
    wm0.wire.send(burst(20, first=500))
    m.run()
    assert serials(first) == list(range(len(first)))
    assert serials(wm1.wire.recv()) == list(range(500, 520))
    lost = sum(wm1.block.drops().values()) + sum(wm0.block.drops().values())
    assert len(first) + lost == 40


@pytest.mark.parametrize("clock", CLOCKS)
def test_frames_for_a_stopped_interface_are_dropped_by_name(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock)
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    br = m.bridge("bridge0", [wm0, wm1])
    br.static(wm1, B)
    wm1.driver.stop()
    wm0.wire.send(burst(5))
    m.run()
    assert wm0.block.drops() == {"if_down": 5}
    with pytest.raises(NetstackError, match="wm1 is down"):
        wm1.send(frame(A, B))


@pytest.mark.parametrize("clock", CLOCKS)
def test_detach_gives_everything_back(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock, mbufs=8192)
    m.nic("wm9")
    free, rows = m.pool.free_count, len(m.intrctl.list())
    for _ in range(17):  # 17 * 16 softints are more than there are
        ifp = m.nic("wm0", rx_queues=8, tx_queues=8)
        address = ifp.rx_queues[0].ring.address
        assert m.dma.ring(address) is ifp.rx_queues[0]
        m.destroy(ifp)
        assert (m.pool.free_count, len(m.intrctl.list())) == (free, rows)
        with pytest.raises(NetstackError, match="nothing is mapped"):
            m.dma.ring(address)
    m.run()


# The link.


@pytest.mark.parametrize("clock", CLOCKS)
def test_the_link_is_followed_whether_in_a_bridge_or_not(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock)
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    br = m.bridge("bridge0", [wm0, wm1])
    br.static(wm1, B)

    def settle(is_up: bool) -> None:
        wm1.hw.set_link(is_up)
        m.run()
        m.engine.wait_until(lambda: (IFF.RUNNING in wm1.flags) == is_up, "the link to be followed")
        m.run()

    settle(False)
    wm0.wire.send(burst(3))
    m.run()
    assert (wm1.wire.recv(), wm0.block.drops()) == ([], {"if_down": 3})
    settle(True)
    wm0.wire.send(burst(3))
    m.run()
    assert serials(wm1.wire.recv()) == [0, 1, 2]
    br.delete(wm1)
    settle(False)
    settle(True)


def test_a_link_that_is_down_keeps_a_new_start_from_running(machine: Any) -> None:
    m = machine()
    ifp = m.nic("wm0")
    ifp.driver.stop()
    ifp.hw.set_link(False)
    ifp.driver.init()
    assert IFF.RUNNING not in ifp.flags
    assert ifp.hw.regs.get("RCTL") == RCTL_EN
    ifp.hw.set_link(True)
    m.run()
    assert IFF.RUNNING in ifp.flags


def test_a_link_that_comes_back_does_not_start_a_stopped_interface(machine: Any) -> None:
    m = machine()
    ifp = m.nic("wm0")
    ifp.hw.set_link(False)
    ifp.driver.stop()
    ifp.hw.set_link(True)
    m.run()
    assert IFF.RUNNING not in ifp.flags
