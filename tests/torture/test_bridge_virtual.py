"""The bridge's control plane in virtual time: threads pre-empted by seed, frames all the while (§3.2.2).

Every seed is another schedule; what a call promises must hold at the instant it returns.
"""

from errno import ENOENT, ENOSPC
from random import Random
from typing import Any

import pytest
from frames import frame, station

from netstack import Machine, NetstackError
from netstack.net.ifnet import Ifnet

WAYS = [
    *(("hash", flush) for flush in ("generation", "direct", "paper", "each")),
    *(("chained", flush) for flush in ("paper", "each")),
]
GAP_NS = 60_000  # two CPUs are nearly busy with that
BURSTS = 40
SEEDS = 5


def taken(ifp: Ifnet) -> int:
    """Frames that an interface was given to send: gone, or still queued."""
    return ifp.counters["opackets"] + sum(q.in_ring + q.snd_len for q in ifp.tx_queues)


class Scenario:
    """Three NICs on two CPUs; stations 1..8 speak on one NIC, 21..24 on all of them."""

    def __init__(self, m: Machine, seed: int, way: tuple[str, str]) -> None:
        self.m = m
        self.engine = m.engine
        self.random = Random(seed)
        self.nics = [m.nic(f"wm{i}") for i in range(3)]
        m.intrctl.affinity("wm1 RX0", 1)
        self.br = m.bridge("bridge0", self.nics, table=way[0], flush=way[1])
        self.sent = 0
        self.met = 0  # operations that had to wait for readers
        start_ns = self.engine.now_ns()
        for number in range(BURSTS):
            self.engine.at(start_ns + number * GAP_NS, lambda number=number: self.burst(number))

    def burst(self, number: int) -> None:
        """Known, unknown and group frames, and stations that move."""
        for i, nic in enumerate(self.nics):
            own = [10 * i + 1 + (number + k) % 8 for k in range(6)]
            roaming = [40 + (number + i) % 4]
            targets = [10 * ((i + k) % 3) + 1 + k for k in range(5)]
            frames = [frame(station(t), station(s)) for t, s in zip(targets, own + roaming, strict=False)]
            frames.append(frame(station(99), station(roaming[0])))
            frames.append(frame(b"\xff" * 6, station(own[0])))
            nic.wire.send(frames)
            self.sent += len(frames)

    def pause(self, gaps: float = 1.0) -> None:
        self.engine.sleep(gaps * GAP_NS / 1e9)

    def members(self) -> None:
        """Operator one: members leave and come back."""
        br = self.br
        for _ in range(4):
            nic = self.random.choice(self.nics)
            member, before_ns = br.member(nic), self.engine.now_ns()
            br.delete(nic)
            self.met += self.engine.now_ns() > before_ns
            gone = taken(nic)
            assert self.entries_of(member) == []
            self.pause(3)
            assert self.entries_of(member) == [], "an entry appeared after delete had returned"
            assert taken(nic) == gone, f"a frame left by {nic.name}"
            br.add(nic)
            self.pause()

    def entries_of(self, member: Any) -> list[Any]:
        rtable = self.br.rtable
        entries = rtable.table.entries()
        assert all(rtable.member_of(entry[1]) is not None for entry in entries)
        return [entry for entry in entries if rtable.member_of(entry[1]) is member]

    def addresses(self) -> None:
        """Operator two: the table is flushed, limited, enlarged, given static entries."""
        br = self.br
        for number in range(6):
            name = self.random.choice(["wm0", "wm1", "wm2"])
            if any(nic.name == name for nic in br.members):
                try:
                    br.static(name, station(60 + number))
                    br.ifmaxaddr(name, self.random.choice((0, 2)))
                except NetstackError as refusal:  # it left meanwhile, or others took the room
                    assert refusal.errno in (ENOENT, ENOSPC)
            learned = br.counters["learned"]
            br.flush()
            later = br.counters["learned"] - learned
            assert br.rtable.table.count <= later, "entries are left that nobody has learned since"
            br.maxaddr = self.random.choice((20, 100, 3000))
            self.pause()
            (br.flushall if number % 2 else br.flush)()
            br.timeout = self.random.choice((0, 1, 1200))
            self.pause()

    def run(self) -> None:
        self.m.spawn(self.members, cpu=1)
        self.m.spawn(self.addresses, cpu=2)
        self.m.run()
        self.m.audit()
        assert sum(nic.counters["ipackets"] for nic in self.nics) == self.sent
        counters = self.br.rtable.counters
        assert counters["allocations_under_lock"] == 0


@pytest.mark.parametrize("path", ["compiled", "stages"])
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_two_operators_and_traffic(machine: Any, seed: int, way: tuple[str, str], path: str) -> None:
    met = retries = 0
    for each in range(seed, seed + SEEDS):
        m = machine(ncpu=3, seed=each, path=path, mbufs=8192)
        scenario = Scenario(m, each, way)
        scenario.run()
        met += scenario.met
        retries += scenario.br.rtable.counters["retries"]
        table = scenario.br.rtable.table
        if way[0] == "chained":
            assert table.free_nodes == table.nodes - table.entry_count, f"seed {each}: nodes are missing"
        m.close()
    assert met > SEEDS, "deletes must meet readers to tell anything"


@pytest.mark.parametrize("path", ["compiled", "stages"])
def test_delete_waits_for_a_reference_held_over_sleep(machine: Any, path: str) -> None:
    """A thread sends by a member, and sleeps in the driver with the reference in its hands."""
    m = machine(ncpu=3, path=path)
    wm0, wm1, wm2 = (m.nic(f"wm{i}") for i in range(3))
    br = m.bridge("bridge0", [wm0, wm1, wm2])
    br.static(wm1, station(1))
    events: list[str] = []
    own = wm1.if_transmit

    def slow(ifp: Ifnet, mv: Any, cpu: Any) -> None:
        if cpu.context == "thread":
            events.append("holds")
            m.engine.sleep(0.010)
            events.append("lets go")
        own(ifp, mv, cpu)

    def sender() -> None:
        wm0.if_output(wm0, frame(station(1), wm0.block.mac))

    def operator() -> None:
        m.engine.wait_until(lambda: "holds" in events, "the sender")
        br.delete(wm1)
        events.append("deleted")

    def other() -> None:
        """While the member is held: it cannot be found, and the bridge works on."""
        m.engine.wait_until(lambda: br.leaving, "the member to leave")
        assert events == ["holds"] and br.members == [wm2, wm0]
        assert not [row for row in br.addresses() if row[2] == "wm1"]
        br.static(wm2, station(1))  # the interfaces' lock is free
        wm0.wire.send(frame(station(1), station(2), 7))
        m.engine.sleep(0.001)
        br.flush()
        br.deladdr(station(1))
        br.add(wm1)  # it may come back as another member before the old record is gone
        assert br.member(wm1) is not br.leaving[0]
        br.static(wm1, station(3))
        events.append("added again")

    wm1.if_transmit = slow
    m.spawn(sender, cpu=0)
    m.spawn(operator, cpu=1)
    m.spawn(other, cpu=2)
    m.run()
    assert events == ["holds", "added again", "lets go", "deleted"]
    assert (br.leaving, wm1.bridge) == ([], br)
    assert [row[2] for row in br.addresses() if row[4]] == ["wm1"]
    assert len(wm1.wire.recv()) == 1 and len(wm2.wire.recv()) == 1
    wm0.wire.send(frame(station(3), station(2)))
    m.run()
    assert wm1.wire.recv() == [frame(station(3), station(2))]


def test_holder_that_never_lets_go_is_named(machine: Any) -> None:
    m = machine(ncpu=2)
    wm0, wm1 = m.nic("wm0"), m.nic("wm1")
    br = m.bridge("bridge0", [wm0, wm1])
    psrefs = []

    def holder() -> None:
        cpu = m.engine.curcpu()
        with m.engine.pserialize.section(cpu):
            psrefs.append(br.member(wm1).target.acquire())
        m.engine.wait_until(lambda: len(psrefs) > 1, "somebody to end this", timeout_s=100)
        psrefs[0].release()

    m.spawn(holder, cpu=1, name="the holder")
    with pytest.raises(OSError, match="holders of member wm1"):
        m.run()
        br.delete(wm1)
    assert (br.members, len(br.leaving)) == ([wm0], 1)
    psrefs.append(None)
    m.run()


def test_hooked_member_gets_nothing_after_delete(machine: Any, seed: int) -> None:
    """Frames on their way from the compiled loop to a hook when the member goes: dropped by name."""
    dropped = 0
    for each in range(seed, seed + 20):
        m = machine(ncpu=2, seed=each, path="compiled")
        wm0, wm1 = m.nic("wm0"), m.nic("wm1")
        br = m.bridge("bridge0", [wm0, wm1])
        own, times, wait_s = wm1.if_transmit, [], 0.0002 + each % 20 * 4e-6

        def hook(ifp: Ifnet, mv: Any, cpu: Any, own: Any = own, times: list[int] = times) -> None:
            times.append(len(mv))
            own(ifp, mv, cpu)

        def operator(
            m: Any = m, br: Any = br, wm1: Any = wm1, times: list[int] = times, wait_s: float = wait_s
        ) -> None:
            m.engine.sleep(wait_s)
            br.delete(wm1)
            calls = len(times)
            m.engine.sleep(0.001)
            assert len(times) == calls, "the hook was called after delete had returned"

        wm1.if_transmit = hook
        start_ns = m.engine.now_ns()
        for n in range(60):
            four = [frame(station(1), station(2), n)] * 4
            m.engine.at(start_ns + 8_000 * n, lambda four=four, wm0=wm0: wm0.wire.send(four))
        m.spawn(operator, cpu=1)
        m.run()
        m.audit()
        assert times
        dropped += wm1.block.drops().get("no_member", 0)
        m.close()
    assert dropped, "no frame was on its way: the test tells nothing"
