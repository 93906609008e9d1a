"""Ageing: a callout, a thread, and addresses that go at their second (§3.2.2; NetBSD bridge_rtage)."""

from typing import Any

import pytest
from unit.net.stages import StageMachine, frame, mac

from netstack.net.bridge_ctl import Bridge

A, B, C = mac(1), mac(2), mac(3)
WAYS = [("hash", "generation"), ("hash", "direct"), ("hash", "paper"), ("chained", "paper")]
NS = 1_000_000_000


def bridge(m: StageMachine, way: tuple[str, str], **settings: Any) -> Bridge:
    return Bridge(m, "bridge0", 0, list(m.interfaces), table=way[0], flush=way[1], **settings)


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("timeout", [2, 7, 100, 119, 500, 1200])
def test_an_address_goes_at_its_second(way: tuple[str, str], timeout: int) -> None:
    """Not only from the list: from the table, so that nothing is forwarded by it any more."""
    m = StageMachine("if0", "if1", "if2")
    br = bridge(m, way, timeout=timeout)
    table = br.rtable.table
    m.engine.run(seconds=3.5)
    start_s = m.engine.now_ns() // NS
    m.receive(m.interfaces["if0"], frame(C, A))
    m.engine.run(seconds=0.75)
    m.receive(m.interfaces["if0"], frame(C, B))
    for address, seen_s in ((A, start_s), (B, m.engine.now_ns() // NS)):
        until_ns = (seen_s + timeout) * NS - m.engine.now_ns()
        m.engine.run(seconds=until_ns / NS - 0.001)
        assert table.lookup(address) is not None
        m.engine.run(seconds=0.01)
        assert table.lookup(address) is None, "its second has begun"
    m.receive(m.interfaces["if1"], frame(A, C))
    assert m.sent["if2"][-1] == frame(A, C), "unknown again: flooded"


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_a_station_that_speaks_stays(way: tuple[str, str]) -> None:
    m = StageMachine("if0", "if1")
    br = bridge(m, way, timeout=10)
    br.static("if1", C)
    m.receive(m.interfaces["if0"], [frame(C, A), frame(C, B)])
    for _ in range(50):
        m.engine.run(seconds=4)
        m.receive(m.interfaces["if0"], frame(C, A))
        assert br.rtable.table.lookup(A) is not None
    assert br.rtable.table.lookup(B) is None
    assert [row[0][-2:] for row in br.addresses()] == ["01", "03"]
    assert 10 < br.rtable.counters["sweeps"] < 60, "only when something may be due"


def test_nothing_keeps_the_machine_up_and_nothing_is_swept_while_down() -> None:
    m = StageMachine("if0", "if1")
    br = bridge(m, WAYS[0], timeout=10)
    m.receive(m.interfaces["if0"], frame(C, A))
    before_ns = m.engine.now_ns()
    m.engine.run()
    assert m.engine.now_ns() == before_ns, "run() waits for no sweep"
    br.down()
    m.engine.run(seconds=100)
    assert br.rtable.counters["sweeps"] == 0
    br.up()
    m.receive(m.interfaces["if0"], frame(C, A))
    m.engine.run(seconds=11)
    assert br.rtable.table.count == 0
    br.destroy()
    swept = br.rtable.counters["sweeps"]
    m.engine.run(seconds=1000)
    assert br.rtable.counters["sweeps"] == swept


def test_the_sweep_is_in_a_thread_and_waits_for_readers_once() -> None:
    m = StageMachine("if0", "if1")
    br = bridge(m, ("chained", "paper"), timeout=10)
    m.receive(m.interfaces["if0"], [frame(C, mac(n)) for n in range(10, 60)])
    contexts = []
    honest = br.rtable.removal.perform

    def perform() -> None:
        cpu = m.engine.curcpu()
        contexts.append(cpu.context if cpu is not None else "none")
        honest()

    br.rtable.removal.perform = perform  # type: ignore[method-assign]
    m.engine.run(seconds=30)
    assert contexts == ["thread"], "fifty entries, one grace period, where waiting is allowed"


def test_a_shorter_timeout_counts_at_once() -> None:
    m = StageMachine("if0", "if1")
    br = bridge(m, WAYS[0], timeout=1200)
    m.receive(m.interfaces["if0"], frame(C, A))
    m.engine.run(seconds=50)
    br.timeout = 20
    assert br.addresses() == []
    m.engine.run(seconds=0.1)
    assert br.rtable.table.count == 0


def test_large_tables_are_swept_less_often() -> None:
    """A million addresses: no sweep a second, however short the timeout."""
    m = StageMachine("if0", "if1")
    br = bridge(m, WAYS[0], timeout=1, maxaddr=2**20)
    for _ in range(40):
        m.receive(m.interfaces["if0"], frame(C, A))
        m.engine.run(seconds=2)
        assert br.addresses() == [], "not listed, swept or not"
    assert br.rtable.counters["sweeps"] <= 6
