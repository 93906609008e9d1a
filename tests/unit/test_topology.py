"""The public face: making machines, NICs and bridges, errors, counters, the end of a machine (design §6)."""

from errno import EEXIST, EINVAL, ENETDOWN, ENOBUFS, ENOENT, ENXIO
from typing import Any

import pytest
from frames import BROADCAST, frame, serial_of, station

from netstack import Machine, NetstackError

CLOCKS = ["virtual", "wall"]
A, B, C = map(station, range(1, 4))


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def bridged(m: Any, count: int = 2, **settings: Any) -> list[Any]:
    """Return interfaces wm0, wm1, ... in bridge0."""
    nics = [m.nic(f"wm{i}") for i in range(count)]
    m.bridge("bridge0", nics, **settings)
    return nics


def exchange(m: Any, sender: Any, receiver: Any, *frames: bytes) -> list[bytes]:
    sender.wire.send(list(frames))
    m.run()
    return list(receiver.wire.recv())


# The contract, as the design prints it.


def test_the_contract(clock: str) -> None:
    one, two = frame(B, A, 1), frame(A, B, 2)
    with Machine(ncpu=2, clock=clock, kernel="NET_MPSAFE", seed=7) as m:
        wm0 = m.nic("wm0", rx_queues=4, tx_queues=4)
        wm1 = m.nic("wm1", rx_queues=4, tx_queues=4, mac="02:00:00:00:00:01")
        br = m.bridge("bridge0", members=[wm0, wm1], timeout=1200, maxaddr=100)
        wm0.wire.send(one)
        m.run()
        assert wm1.wire.recv() == [one]
        wm1.wire.send([two, bytearray(two)])
        m.run()
        assert wm0.wire.recv() == [two, two]
        assert [row[:3] for row in br.addresses()] == [
            ("0a:00:00:00:00:01", 0, "wm0"),
            ("0a:00:00:00:00:02", 0, "wm1"),
        ]
        assert all(1190 < row[3] <= 1200 and row[4] == "" for row in br.addresses())
        br.static(wm1, "02:00:00:00:00:09")
        assert ("02:00:00:00:00:09", 0, "wm1", 0, "STATIC") in br.addresses()
        br.deladdr("0a:00:00:00:00:01")
        br.flush()
        assert len(br.addresses()) == 1
        br.flushall()
        assert br.addresses() == []
        br.learn(wm0, False)
        br.discover(wm1, False)
        br.private(wm0)
        br.stp(wm0)
        br.delete(wm0)
        br.add("wm0")
        assert "wm0" in m.command("brconfig bridge0")
        assert "wm1" in m.command("ifconfig wm1")
        m.intrctl.affinity("wm0 RX1", cpu=1)
        assert "wm0 RX1" in m.command("intrctl list")
        report = m.audit()
        assert all(sides["left"] == sides["right"] for sides in report.values())
        assert m.stats()["interfaces"]["wm0"]["ipackets"] == 1
    assert issubclass(NetstackError, OSError)


def test_runs_pass_machine_time() -> None:
    with Machine(clock="virtual") as m:
        m.run(seconds=2.5)
        assert m.engine.now_ns() == 2_500_000_000
        m.run()
        assert m.engine.now_ns() == 2_500_000_000
    with Machine(clock="wall") as m:
        before = m.engine.now_ns()
        m.run(seconds=0.01)
        assert m.engine.now_ns() - before >= 10_000_000


# Errors.

BAD_MACHINES = [
    ({"ncpu": 0}, "ncpu=0"),
    ({"ncpu": 65}, "ncpu=65"),
    ({"ncpu": "2"}, "ncpu='2'"),
    ({"ncpu": True}, "ncpu=True"),
    ({"clock": "sundial"}, "clock='sundial'"),
    ({"kernel": "LINUX"}, "LINUX"),
    ({"frame": "polling"}, "frame='polling'"),
    ({"path": "scenic"}, "path='scenic'"),
    ({"drain": 0}, "drain=0"),
    ({"drain": "two"}, "drain='two'"),
    ({"drain": True}, "drain=True"),
    ({"seed": "seven"}, "seed='seven'"),
    ({"mbufs": 0}, "mbufs=0"),
    ({"mbufs": 1 << 30}, "mbufs"),
]


@pytest.mark.parametrize(("settings", "named"), BAD_MACHINES)
def test_a_machine_that_cannot_be_names_the_argument(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(NetstackError, match=named) as caught:
        Machine(**settings)
    assert caught.value.errno == EINVAL


BAD_NICS = [
    (("eth0",), {}, EINVAL),
    (("wm",), {}, EINVAL),
    (("0",), {}, EINVAL),
    (("wm1x",), {}, EINVAL),
    (("wm0",), {}, EEXIST),
    (("wm1",), {"rx_queues": 0}, EINVAL),
    (("wm1",), {"tx_queues": 9}, EINVAL),
    (("wm1",), {"rx_queues": True}, EINVAL),
    (("wm1",), {"mac": "01:00:5e:00:00:01"}, EINVAL),
    (("wm1",), {"mac": "no address"}, EINVAL),
    (("wm1",), {"mac": bytes(6)}, EINVAL),
    (("wm1",), {"mtu": 1501}, EINVAL),
    (("wm1",), {"mtu": 67}, EINVAL),
    (("wm1",), {"rate": -1.0}, EINVAL),
]


@pytest.mark.parametrize(("args", "settings", "errno"), BAD_NICS)
def test_a_nic_that_cannot_be(
    machine: Any, args: tuple[str, ...], settings: dict[str, Any], errno: int
) -> None:
    m = machine()
    m.nic("wm0")
    before = m.pool.free_count, m.intrctl.list()
    with pytest.raises(NetstackError) as caught:
        m.nic(*args, **settings)
    assert caught.value.errno == errno
    assert list(m.interfaces) == ["wm0"]
    assert (m.pool.free_count, m.intrctl.list()) == before


def test_a_pool_that_is_too_small_for_rings_is_an_error_not_a_deaf_nic(machine: Any) -> None:
    m = machine(mbufs=300)
    with pytest.raises(NetstackError, match="mbufs=300") as caught:
        m.nic("wm0", rx_queues=2)
    assert caught.value.errno == ENOBUFS
    assert m.interfaces == {}


def test_a_rate_needs_the_virtual_clock(machine: Any) -> None:
    with pytest.raises(NetstackError, match="virtual clock") as caught:
        machine(clock="wall").nic("wm0", rate=1e9)
    assert caught.value.errno == EINVAL


def test_bridges_that_cannot_be(machine: Any, clock: str) -> None:
    m = machine(clock=clock)
    wm0 = m.nic("wm0")
    m.bridge("bridge0")
    other = machine().nic("wm0")
    for args, errno in (
        (("bridge0",), EEXIST),
        (("br0",), EINVAL),
        (("bridge1", ["wm9"]), ENOENT),
        (("bridge1", [wm0, other]), ENOENT),
        (("bridge1", [wm0, wm0]), EEXIST),
    ):
        with pytest.raises(NetstackError) as caught:
            m.bridge(*args)
        assert caught.value.errno == errno
        assert list(m.bridges) == ["bridge0"]
        assert wm0.bridge is None, "a bridge that failed leaves no member behind"
    with pytest.raises(NetstackError):
        m.bridge("bridge1", maxaddr=0)


@pytest.mark.parametrize("line", ["", "   ", "ls", "sh -c ls", "brconfig 'bridge0"])
def test_only_the_operators_tools_are_commands(machine: Any, line: str) -> None:
    with pytest.raises(NetstackError) as caught:
        machine().command(line)
    assert caught.value.errno == EINVAL


def test_a_tools_error_is_the_calls_error(machine: Any) -> None:
    m = machine()
    with pytest.raises(NetstackError, match="bridge7"):
        m.command("brconfig bridge7")


def test_an_error_says_its_errno_by_name(machine: Any) -> None:
    with pytest.raises(OSError, match=r"wm0: .*\(EINVAL\)"):
        machine().nic("wm0", rx_queues=100)


# Looking at a machine.


def test_reprs_say_what_they_are(machine: Any, clock: str) -> None:
    m = machine(ncpu=3, clock=clock, kernel="GENERIC", seed=5)
    wm0, _ = bridged(m)
    assert repr(m) == f"<Machine {clock} clock, GENERIC, 3 CPUs, seed 5, 2 interfaces>"
    assert "wm0" in repr(wm0) and "UP,RUNNING" in repr(wm0) and "bridge0" in repr(wm0)
    assert repr(m.bridges["bridge0"]).startswith("<Bridge bridge0 UP,RUNNING: wm1 wm0")
    assert repr(wm0.wire) == "<Wire of wm0>"
    m.close()
    assert "closed" in repr(m)
    assert "cut" in repr(wm0.wire)


def test_counters_and_drops_by_reason(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock)
    wm0, wm1 = bridged(m)
    assert exchange(m, wm0, wm1, frame(B, A), b"short", frame(A, A), frame(BROADCAST, A, 0, 99))
    stats = m.stats()
    assert set(stats) >= {"interfaces", "bridges", "cpus", "interrupts", "mbufs", "pserialize"}
    counted = stats["interfaces"]["wm0"]
    assert (counted["ipackets"], counted["ibytes"]) == (4, 60 + 5 + 60 + 99)
    assert counted["drops"] == {"runt": 1, "same_member": 1}
    assert stats["interfaces"]["wm1"]["opackets"] == 2
    assert stats["bridges"]["bridge0"]["learned"] == 1
    assert stats["mbufs"]["free"] == m.pool.free_count
    assert len(stats["cpus"]) == 2
    assert sum(stats["interrupts"]["wm0 RX0"]) >= 1


def test_the_audit_shows_both_sides_and_finds_what_is_missing(machine: Any) -> None:
    m = machine()
    wm0, wm1 = bridged(m)
    assert exchange(m, wm0, wm1, frame(B, A)) == [frame(B, A)]
    report = m.audit()
    assert set(report) == {"mbufs", "frames", "wm0 rx", "wm0 tx", "wm1 rx", "wm1 tx"}
    assert report["frames"]["ipackets"] == report["frames"]["opackets"] == 1
    wm0.block.count_drop(0, 0)
    with pytest.raises(NetstackError, match=r"frames do not add up: left 1, right 2") as caught:
        m.audit()
    assert caught.value.errno == EINVAL
    wm0.block.count_originated(0, 1)
    m.audit()
    wm1.wire.send(frame(A, B))
    wm1.hw.rx_engines[0].cable.take()
    assert m.audit()["wm1 rx"]["ready"] == 1


def test_an_mbuf_that_somebody_holds_is_missed(machine: Any) -> None:
    from netstack._fast.mbuf import MbufVec

    m = machine()
    held = MbufVec(m.pool, 0)
    assert held.append(frame(B, A))
    with pytest.raises(NetstackError, match="mbufs do not add up"):
        m.audit()
    held.clear()
    m.audit()


# Destroying.


def test_destroying_a_member_takes_it_out_of_its_bridge(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock)
    wm0, wm1, wm2 = bridged(m, 3)
    br = m.bridges["bridge0"]
    exchange(m, wm1, wm0, frame(BROADCAST, B))
    for nic in (wm0, wm2):
        nic.wire.recv()
    br.static(wm1, C)
    m.destroy(wm1)
    assert br.members == [wm2, wm0]
    assert br.addresses() == []
    assert list(m.interfaces) == ["wm0", "wm2"]
    assert exchange(m, wm0, wm2, frame(B, A)) == [frame(B, A)]
    with pytest.raises(NetstackError) as caught:
        wm1.wire.send(frame(A, B))
    assert caught.value.errno == ENETDOWN
    for again in (wm1, "wm1", "wm9"):
        with pytest.raises(NetstackError) as caught:
            m.destroy(again)
        assert caught.value.errno == ENXIO
    new = m.nic("wm1")
    assert new.index not in (wm0.index, wm1.index, wm2.index)
    br.add(new)
    assert exchange(m, new, wm2, frame(A, B)) == [frame(A, B)] or wm0.wire.recv()
    m.audit()


def test_destroying_with_frames_under_way_loses_them_by_name(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock)
    wm0, wm1, wm2 = bridged(m, 3)
    wm0.wire.send([frame(BROADCAST, A, i) for i in range(100)])
    wm1.wire.send([frame(BROADCAST, B, i) for i in range(100)])
    m.destroy("wm1")
    m.run()
    assert [serial_of(each) for each in wm2.wire.recv() if each[6:12] == A] == list(range(100))
    m.audit()


def test_an_interface_of_another_machine_is_not_ours_to_destroy(machine: Any) -> None:
    m, other = machine(), machine()
    m.nic("wm0")
    with pytest.raises(NetstackError) as caught:
        m.destroy(other.nic("wm0"))
    assert caught.value.errno == ENXIO
    assert list(m.interfaces) == ["wm0"]


# The end.


def test_a_closed_machine_does_nothing_more(machine: Any, clock: str) -> None:
    m = machine(ncpu=2, clock=clock)
    wm0, _ = bridged(m)
    m.close()
    m.close()
    for call in (
        m.run,
        lambda: m.run(seconds=0.1),
        lambda: m.nic("wm7"),
        lambda: m.bridge("bridge7"),
        lambda: m.command("brconfig bridge0"),
        lambda: m.destroy("wm0"),
    ):
        with pytest.raises(NetstackError, match="closed") as caught:
            call()
        assert caught.value.errno == ENXIO
    with pytest.raises(NetstackError) as caught:
        wm0.wire.send(frame(B, A))
    assert caught.value.errno == ENETDOWN
    assert m.stats()["interfaces"]["wm0"]["ipackets"] == 0
    m.audit()


def test_leaving_the_block_closes_whatever_happened(clock: str) -> None:
    with pytest.raises(KeyError), Machine(clock=clock) as m:
        raise KeyError("something in the test")
    with pytest.raises(NetstackError, match="closed"):
        m.run()


def test_a_machine_can_be_closed_with_frames_in_it(clock: str) -> None:
    m = Machine(ncpu=2, clock=clock)
    wm0, _ = bridged(m)
    wm0.wire.send([frame(BROADCAST, A, i) for i in range(300)])
    m.close()
    assert wm0.wire.recv() == []


# Machines beside each other, and the same again.


def test_machines_do_not_know_each_other(machine: Any) -> None:
    machines = [machine(clock=clock, seed=i) for i, clock in enumerate(CLOCKS * 2)]
    nics = [bridged(m) for m in machines]
    assert len({wm0.mac for wm0, _ in nics}) == 4, "addresses follow the seed"
    for i, (m, (wm0, wm1)) in enumerate(zip(machines, nics, strict=True)):
        assert exchange(m, wm0, wm1, frame(B, A, i)) == [frame(B, A, i)]


def test_the_same_seed_gives_the_same_run(machine: Any) -> None:
    digests = []
    for seed in (3, 3):
        m = machine(ncpu=4, seed=seed)
        nics = bridged(m, 4)
        for i in range(40):
            nics[i % 4].wire.send([frame(station(i % 7), station(i % 11), i)] * (i % 5))
            m.run(seconds=1e-5)
        m.run()
        digests.append((m.engine.digest(), [nic.wire.recv() for nic in nics]))
    assert digests[0] == digests[1]


def test_both_kernels_forward_the_same_frames(machine: Any, clock: str) -> None:
    results = []
    for kernel in ("GENERIC", "NET_MPSAFE"):
        m = machine(ncpu=2, clock=clock, kernel=kernel)
        nics = bridged(m, 3)
        for i in range(30):
            src, dst = station(i % 5), station((i * 7) % 6)
            nics[i % 3].wire.send([frame(dst, src, 10 * i + k) for k in range(10)])
            m.run()
        results.append([nic.wire.recv() for nic in nics])
    assert results[0] == results[1]
    assert sum(map(len, results[0])) > 100


@pytest.mark.parametrize("ncpu", [1, 3, 64])
def test_from_one_cpu_to_sixty_four(machine: Any, ncpu: int) -> None:
    m = machine(ncpu=ncpu)
    wm0, wm1 = m.nic("wm0", rx_queues=8, tx_queues=8), m.nic("wm1", rx_queues=8, tx_queues=8)
    m.bridge("bridge0", [wm0, wm1])
    assert exchange(m, wm0, wm1, *[frame(B, A, i) for i in range(50)])
    assert (m.path, m.clock) == ("stages", "virtual")
