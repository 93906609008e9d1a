"""The bridge's control plane on two real threads at full rate: each table, each way to remove (§3.2.2).

A bounded number of operations, not of seconds.  What a call promises is looked at after it has
returned, with traffic still flowing; frames and mbufs are counted to the last one at the end.
"""

import threading
from collections.abc import Callable
from random import Random
from time import monotonic
from typing import Any

import pytest
from frames import frame, station
from torture.flood import Flood

from netstack.net.ifnet import Ifnet

WAYS = [
    *(("hash", flush) for flush in ("generation", "direct", "paper", "each")),
    *(("chained", flush) for flush in ("paper", "each")),
]
DROPS = {"snd_full", "no_mbuf", "same_member", "not_for_us", "no_egress", "protected", "no_member"}
PATIENCE_S = 30.0

Record = Callable[[str, object], None]


def taken(ifp: Ifnet) -> int:
    """Frames that an interface was given to send: gone, or still queued."""
    return ifp.counters["opackets"] + sum(q.in_ring + q.snd_len for q in ifp.tx_queues)


def settled(ifp: Ifnet) -> int:
    """``taken`` at a moment when no frame was between queue and ring."""
    while (count := taken(ifp)) != taken(ifp):
        pass
    return count


class Operator:
    """Deletes, adds, flushes and changes limits; each operation checks its own promise."""

    def __init__(self, flood: Flood, seed: int) -> None:
        self.flood = flood
        self.br = flood.br
        self.random = Random(seed)
        self.done: dict[str, int] = {}

    def step(self, verb: str) -> None:
        self.done[verb] = self.done.get(verb, 0) + 1
        getattr(self, verb)()

    def leave(self) -> None:
        """Nothing by the member that left: no frame out, none in, no entry now or later."""
        br, nic = self.br, self.random.choice(self.flood.nics)
        member = br.member(nic)
        br.delete(nic)
        gone = settled(nic)
        for _ in range(3):
            br.flush()  # time passes: at least a grace period, if there was anything to flush
            self.flood.m.run(seconds=0.002)
            assert not [row for row in br.addresses() if row[2] == nic.name]
            numbers = [number for _, number, _, _ in br.rtable.table.entries()]
            assert not [n for n in numbers if br.rtable.member_of(n) is member]
            assert all(br.rtable.member_of(n) is not None for n in numbers)
        assert settled(nic) == gone, f"{settled(nic) - gone} frames left by {nic.name}"
        br.add(nic)

    def flush(self) -> None:
        """What was learned goes; what the operator entered stays."""
        br = self.br
        fixed = [row for row in br.addresses() if row[4]]
        learned = br.counters["learned"] + br.counters["moved"]
        br.flush()
        left = [row for row in br.addresses() if not row[4]]
        later = br.counters["learned"] + br.counters["moved"] - learned
        assert len(left) <= later, "entries are left that nobody has learned since"
        assert [row for row in br.addresses() if row[4]] == fixed

    def flushall(self) -> None:
        br = self.br
        br.maxaddr = 1000
        br.static(self.flood.nics[0], station(7777))
        br.flushall()
        assert station(7777).hex(":") not in [row[0] for row in br.addresses()]
        for i, nic in enumerate(self.flood.nics):
            for k in range(3):
                br.static(nic, station(100 * i + k))

    def limit(self) -> None:
        br = self.br
        br.maxaddr = self.random.choice((35, 1000, 5000))
        assert br.rtable.table.count + br.rtable.table.statics <= br.maxaddr

    def port_limit(self) -> None:
        """Lowering drops nothing; after a flush the member keeps to it."""
        br, nic = self.br, self.random.choice(self.flood.nics)
        br.ifmaxaddr(nic, 3)
        br.flush()
        for _ in range(5):
            assert br.rtable.table.held(br.member(nic).tag) <= 3
        br.ifmaxaddr(nic, 0)

    def timeout(self) -> None:
        self.br.timeout = self.random.choice((0, 1, 1200))

    def fix(self) -> None:
        """A static entry stays where it was put, whoever claims the address."""
        br, nic = self.br, self.random.choice(self.flood.nics)
        br.maxaddr = 1000
        address = station(9000 + self.random.randrange(4))  # one that roams
        br.static(nic, address)
        found = [row for row in br.addresses() if row[0] == address.hex(":")]
        assert found == [(address.hex(":"), 0, nic.name, 0, "STATIC")]
        br.deladdr(address)

    def protect(self) -> None:
        self.br.private(self.random.choice(self.br.members), self.random.random() < 0.5)


VERBS = ("leave", "flush", "leave", "flushall", "limit", "port_limit", "timeout", "fix", "protect")


@pytest.mark.parametrize("path", ["compiled", "stages"])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_operations_keep_their_promises_at_full_rate(
    machine: Any, record_property: Record, seed: int, way: tuple[str, str], path: str
) -> None:
    m = machine(ncpu=2, clock="wall", path=path)
    settings = {"table": way[0], "flush": way[1]}
    flood = Flood(m, 3, {0: [1, 2], 1: [0], 2: [0, 1]}, settings, roaming=8, guests=5)
    operator = Operator(flood, seed)
    with flood.running():
        for verb in VERBS:
            operator.step(verb)
        for _ in range(6):
            operator.step(operator.random.choice(VERBS))
    drops = flood.check()
    assert set(drops) <= DROPS
    counters = flood.br.rtable.counters
    record_property("frames", flood.sent)
    record_property("removal", counters)
    assert flood.sent > 1000 and flood.br.counters["moved"] > 0, "stations did not roam"
    assert counters["performs"] > 0 and counters["allocations_under_lock"] == 0
    table = flood.br.rtable.table
    if way[0] == "chained":
        assert table.free_nodes == table.nodes - table.entry_count, "nodes are missing"


@pytest.mark.parametrize("path", ["compiled", "stages"])
def test_delete_waits_for_a_reference_held_over_a_long_call(machine: Any, path: str) -> None:
    """A handler holds a member over a call that blocks: delete takes until it lets go, and no longer."""
    m = machine(ncpu=2, clock="wall", path=path)
    wm0, wm1, wm2 = (m.nic(f"wm{i}") for i in range(3))
    m.intrctl.affinity("wm2 RX0", 1)  # wm0's and its softints' CPU is going to be stuck
    br = m.bridge("bridge0", [wm0, wm1, wm2])
    br.static(wm1, station(1))
    inside, may_go, deleted = (threading.Event() for _ in range(3))
    own = wm1.if_transmit

    def slow(ifp: Ifnet, mv: Any, cpu: Any) -> None:
        inside.set()
        assert may_go.wait(PATIENCE_S)
        own(ifp, mv, cpu)

    def operator() -> None:
        br.delete(wm1)
        deleted.set()

    wm1.if_transmit = slow
    m.engine.start()
    try:
        wm0.wire.send(frame(station(1), station(2)))
        assert inside.wait(PATIENCE_S)
        lwp = m.spawn(operator, name="operator")
        wait_for(lambda: br.leaving)
        assert br.members == [wm2, wm0]
        assert not [row for row in br.addresses() if row[2] == "wm1"]
        br.static(wm2, station(1))  # others may go on: the interfaces' lock is free
        assert not deleted.wait(0.05), "delete returned while the member was in use"
        may_go.set()
        assert deleted.wait(PATIENCE_S)
        wait_for(lambda: lwp.is_done)
    finally:
        may_go.set()
        m.engine.stop()
    m.run()
    assert len(wm1.wire.recv()) == 1, "what was under way went out"
    assert (br.leaving, wm1.bridge) == ([], None)


def test_hooked_member_gets_nothing_after_delete(machine: Any, record_property: Record) -> None:
    """Frames that the compiled loop left for a hook are dropped by name once the member is gone."""
    m = machine(ncpu=2, clock="wall", path="compiled", mbufs=4096)
    flood = Flood(m, 3, {0: [2], 1: [2]})
    br, nic = flood.br, flood.nics[2]
    calls = [0]
    own = nic.if_transmit

    def hook(ifp: Ifnet, mv: Any, cpu: Any) -> None:
        calls[0] += 1
        own(ifp, mv, cpu)

    nic.if_transmit = hook
    with flood.running():
        for _ in range(30):
            before = calls[0]
            wait_for(lambda before=before: calls[0] > before)
            br.delete(nic)
            after = calls[0]
            br.flush()
            assert calls[0] == after, "the hook was called after delete had returned"
            br.add(nic)
            for k in range(10):
                br.static(nic, station(200 + k))
    drops = flood.check()
    record_property("no_member", drops["no_member"])


@pytest.mark.parametrize("table", ["hash", "chained"])
def test_random_sources_do_not_stall_forwarding(machine: Any, seed: int, table: str) -> None:
    """One NIC sends a new source in every frame; what others send each other arrives, to the last frame."""
    m = machine(ncpu=2, clock="wall")
    wm0, wm1, wm2 = (m.nic(f"wm{i}") for i in range(3))
    m.intrctl.affinity("wm2 RX0", 1)
    br = m.bridge("bridge0", [wm0, wm1, wm2], maxaddr=200, table=table)
    br.discover(wm0, False)  # floods stay away from those who count
    br.discover(wm1, False)
    br.ifmaxaddr(wm2, 50)
    random = Random(seed)
    for _ in range(10):
        attack = [frame(station(5000), b"\x0a" + random.randbytes(5)) for _ in range(500)]
        talk = [frame(station(1 + n % 20), station(101 + n % 20), n) for n in range(200)]
        back = [frame(station(101 + n % 20), station(1 + n % 20), n) for n in range(200)]
        wm2.wire.send(attack)
        wm0.wire.send(talk)
        wm1.wire.send(back)
        m.run()
    assert br.rtable.table.held(br.member(wm2).tag) == 50
    assert len(br.addresses()) == 90, "there was room for all who were not flooding"
    assert br.counters["table_full"] == 5000 - 50
    for nic, frames in ((wm1, talk), (wm0, back)):
        assert nic.wire.recv()[-200:] == frames
    assert not wm0.block.drops().keys() - {"no_egress"}


@pytest.mark.parametrize("way", [("hash", "generation"), ("hash", "paper"), ("chained", "paper")], ids="-".join)
def test_ageing_in_a_thread_while_frames_flow(machine: Any, way: tuple[str, str]) -> None:
    """Who is silent goes, without anybody asking; who speaks and what is static stays."""
    m = machine(ncpu=2, clock="wall")
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    br = m.bridge("bridge0", [wm0, wm1], timeout=1, table=way[0], flush=way[1])
    br.static(wm1, station(9))
    wm0.wire.send([frame(station(9), station(n)) for n in range(1, 6)])
    m.run()
    assert br.rtable.table.count == 5
    end = monotonic() + PATIENCE_S
    while br.rtable.table.count > 1 and monotonic() < end:
        wm0.wire.send(frame(station(9), station(1)))
        m.run(seconds=0.05)
    wm0.wire.send(frame(station(9), station(1)))  # the host may have been away for a second
    m.run()
    kept = [row[0] for row in br.addresses()]
    assert kept == [station(1).hex(":"), station(9).hex(":")]
    assert br.rtable.counters["sweeps"] > 0
    wait_for(lambda: not br.rtable.mutex.is_held)


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until something holds; half a minute is for ever."""
    end = monotonic() + PATIENCE_S
    pause = threading.Event()
    while not condition():
        assert monotonic() < end, "waited in vain"
        pause.wait(0.0005)
