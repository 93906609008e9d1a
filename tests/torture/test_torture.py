"""Two real threads at full rate while everything changes: not one frame or mbuf may go missing.

Each test runs for about a second whatever the host does in it, and then counts; nothing here asserts
a time or a speed.  What the threads met on the way (handovers, contention) is in the test's report.
"""

from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Any

import pytest
from torture.flood import Flood

SECONDS = 1.2

Record = Callable[[str, object], None]


def for_a_while(seconds: float = SECONDS) -> Callable[[], bool]:
    """Return a function that says whether to go on."""
    end = monotonic() + seconds
    return lambda: monotonic() < end


@pytest.mark.parametrize("kernel", ["NET_MPSAFE", "GENERIC"])
@pytest.mark.parametrize("mbufs", [1700, 16384])
def test_two_cpus_share_a_tx_queue(
    machine: Any, record_property: Record, kernel: str, mbufs: int
) -> None:
    """if_snd and the TX mutex change hands all the time; the small pool makes magazines move too."""
    m = machine(ncpu=2, clock="wall", kernel=kernel, mbufs=mbufs)
    flood = Flood(m, 3, {0: [2], 1: [2]})
    with flood.running():
        m.run(seconds=SECONDS)
    drops = flood.check()
    assert flood.sent > 1000
    assert set(drops) <= {"snd_full", "no_mbuf"}
    out = flood.nics[2].tx_queues[0]
    record_property("handovers", out.handovers)
    record_property("contended", out.lock_contended)
    assert (out.snd_len, out.in_ring) == (0, 0), "frames are left in the send queue"


def test_mbufs_freed_by_the_other_cpu_come_back(machine: Any, record_property: Record) -> None:
    """Both directions and floods, so that each CPU frees what the other has allocated."""
    m = machine(ncpu=2, clock="wall", mbufs=2200)
    flood = Flood(m, 3, {0: [1, 2, 7], 1: [0, 2, 7], 2: [0, 1]})  # 7 is nobody: flooded
    flood.nics[0].listen()
    with flood.running():
        go_on = for_a_while()
        while go_on():
            m.run(seconds=0.02)
            flood.nics[0].recv()
    flood.check()
    flood.is_alive()
    record_property("failures", m.pool.failures)


@pytest.mark.parametrize("path", ["compiled", "stages"])
def test_control_operations_at_full_rate(
    machine: Any, record_property: Record, seed: int, path: str
) -> None:
    m = machine(ncpu=2, clock="wall", path=path)
    flood = Flood(m, 4, {0: [1, 2, 3], 1: [0, 2], 2: [0, 1]})
    br, random = flood.br, Random(seed)
    performs = m.engine.psz.performs
    rounds = 0
    with flood.running():
        go_on = for_a_while(2 * SECONDS)
        while go_on():
            member = random.choice(flood.nics)
            br.delete(member)
            assert not [row for row in br.addresses() if row[2] == member.name]
            br.flush()
            br.private(random.choice(br.members), random.random() < 0.5)
            br.add(member)
            br.maxaddr = random.choice((10, 1000, 30_000))
            if random.random() < 0.2:
                br.flushall()
            rounds += 1
    record_property("rounds", rounds)
    flood.check()
    flood.is_alive()
    assert rounds > 0 and m.engine.psz.performs > performs


def test_interrupts_move_200_times_at_full_rate(
    machine: Any, record_property: Record, seed: int
) -> None:
    """200 moves, or as many as this host does in a few seconds."""
    m = machine(ncpu=2, clock="wall")
    flood = Flood(m, 2, {0: [1], 1: [0]}, rx_queues=2, tx_queues=2)
    names = [f"{nic} {kind}{queue}" for nic in ("wm0", "wm1") for kind in ("RX", "TX") for queue in (0, 1)]
    random = Random(seed)
    moves = 0
    with flood.running():
        go_on = for_a_while(4.0)
        while moves < 200 and (go_on() or moves < 10):
            m.intrctl.affinity(random.choice(names), cpu=random.randrange(2))
            moves += 1
    record_property("moves", moves)
    drops = flood.check()
    assert set(drops) <= {"snd_full", "no_mbuf"}
    flood.is_alive()
    assert m.engine.intrs.stray == 0


@pytest.mark.parametrize("driver", ["softint", "classic"])
def test_interfaces_stop_and_start_at_full_rate(machine: Any, driver: str) -> None:
    m = machine(ncpu=2, clock="wall", frame=driver)
    flood = Flood(m, 3, {0: [1, 2], 1: [0, 2]})
    with flood.running():
        go_on = for_a_while()
        while go_on():
            for nic in flood.nics:
                nic.driver.stop()
                assert all(queue.held == 0 for queue in nic.rx_queues)
                nic.driver.init()
    flood.check()
    flood.is_alive()
