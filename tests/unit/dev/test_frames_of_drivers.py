"""Both NICs and driver frames, all drain limits, paths, clocks: the same frames come out (paper §2.3, §3.3, §6.2)."""

from itertools import product
from random import Random
from typing import Any

import pytest
from frames import BROADCAST, frame, station

from netstack.dev.softdrv import CHAIN_STEPS

FRAMES_OF_DRIVERS = ("softint", "classic")
DRAINS = ("one", 7, "ring")
CONFIGURATIONS = [
    {"clock": clock, "frame": driver, "drain": drain, "path": path, "kernel": kernel}
    for clock, driver, drain, path, kernel in product(
        ("virtual", "wall"),
        FRAMES_OF_DRIVERS,
        DRAINS,
        ("compiled", "stages"),
        ("NET_MPSAFE", "GENERIC"),
    )
]


def trace(seed: int) -> list[tuple[int, list[bytes]]]:
    """Return bursts: (interface, frames) of a dozen stations on three wires that now and then move."""
    random = Random(seed)
    stations = [station(n) for n in range(12)]
    where = {mac: random.randrange(3) for mac in stations}
    bursts = []
    serial = 0
    for _ in range(12):
        port = random.randrange(3)
        moving = random.choice(stations)
        where[moving] = port
        ours = [mac for mac in stations if where[mac] == port]
        frames = []
        for _ in range(random.randint(1, 90)):
            dst = BROADCAST if random.random() < 0.05 else random.choice(stations)
            frames.append(frame(dst, random.choice(ours), serial, random.choice((60, 300, 1514))))
            serial += 1
        bursts.append((port, frames))
    return bursts


def forwarded(machine: Any, nic_model: str, settings: dict[str, Any], seed: int) -> list[list[bytes]]:
    """Return what each of three bridged interfaces put on its wire."""
    m = machine(ncpu=2, mbufs=8192, **settings)
    nics = [m.nic(f"{nic_model}{i}") for i in range(3)]
    m.bridge("bridge0", nics)
    out: list[list[bytes]] = [[] for _ in nics]
    for port, frames in trace(seed):
        nics[port].wire.send(frames)
        m.run()
        for got, nic in zip(out, nics, strict=True):
            got += nic.wire.recv()
    lost = {name: n for nic in nics for name, n in nic.block.drops().items()}
    assert set(lost) <= {"same_member"}
    m.audit()
    m.close()
    return out


@pytest.fixture(scope="module")
def expected() -> dict[int, list[list[bytes]]]:
    """Results of the first configuration, by seed."""
    return {}


@pytest.mark.parametrize("settings", CONFIGURATIONS, ids=lambda s: " ".join(map(str, s.values())))
@pytest.mark.parametrize("nic_model", ["wm", "vioif"])
def test_the_same_frames_come_out(
    machine: Any, nic_model: str, settings: dict[str, Any], expected: dict[int, list[list[bytes]]], seed: int
) -> None:
    out = forwarded(machine, nic_model, settings, seed)
    first = expected.setdefault(seed, out)
    assert sum(map(len, first)) > 300
    assert out == first, f"seed {seed}"


@pytest.mark.parametrize("driver", FRAMES_OF_DRIVERS)
def test_a_limit_of_one_takes_one_frame_an_activation(machine: Any, driver: str) -> None:
    m = machine(frame=driver, drain="one")
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    m.bridge("bridge0", [wm0, wm1])
    wm0.wire.send([frame(station(1), station(2), i) for i in range(20)])
    m.run()
    assert len(wm1.wire.recv()) == 20
    assert wm0.rx_queues[0].activations >= 20
    assert wm0.block.counters()["rx_vectors"] == 20


def test_the_classic_frames_queue_fills_while_the_hard_handler_drains_the_ring(machine: Any) -> None:
    """What the paper measured as GENERIC (§6.2): frames received at full cost, then thrown away."""
    lost = {}
    for drain in ("one", "ring"):
        m = machine(frame="classic", drain=drain)
        wm0, wm1 = m.nic("wm0"), m.nic("wm1")
        m.bridge("bridge0", [wm0, wm1])
        wm0.wire.send([frame(station(1), station(2), i) for i in range(1000)])
        m.run()
        lost[drain] = wm0.block.drops().get("fwdq_full", 0)
        assert len(wm1.wire.recv()) + lost[drain] == 1000
    assert lost["ring"] > 0


def test_the_softint_frame_loses_nothing_where_the_classic_one_does(machine: Any) -> None:
    m = machine(frame="softint", drain="ring")
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    m.bridge("bridge0", [wm0, wm1])
    wm0.wire.send([frame(station(1), station(2), i) for i in range(1000)])
    m.run()
    assert len(wm1.wire.recv()) == 1000


def test_the_compiled_path_costs_virtual_time_like_the_stages(machine: Any) -> None:
    times = {}
    for path in ("compiled", "stages"):
        m = machine(path=path)
        wm0, wm1 = m.nic("wm0"), m.nic("wm1")
        m.bridge("bridge0", [wm0, wm1])
        wm0.wire.send([frame(station(1), station(2), i) for i in range(100)])
        m.run()
        times[path] = m.engine.cpus[0].time
    assert set(CHAIN_STEPS) >= {"rx", "bridge_forward", "tx"}
    assert 0.8 < times["compiled"] / times["stages"] < 1.25
