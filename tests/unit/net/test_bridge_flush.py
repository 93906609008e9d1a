"""Ways to remove many addresses: the paper's method step by step, and that all ways agree (§3.2.2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from random import Random

import pytest
from unit.net.stages import StageMachine, frame, mac

from netstack import NetstackError
from netstack._fast.mactable import RtList
from netstack.net.bridge_ctl import Bridge
from netstack.net.bridge_flush import GenerationRemoval

WAYS = [
    *(("hash", flush) for flush in ("generation", "direct", "paper", "each")),
    *(("chained", flush) for flush in ("paper", "each")),
]
PAPER = [way for way in WAYS if way[1] == "paper"]

B = mac(0x77)


def bridge(m: StageMachine, way: tuple[str, str], **settings: int) -> Bridge:
    """Make bridge0 of if0 and if1 with a table and a way to remove."""
    names = list(m.interfaces)
    br = Bridge(m, "bridge0", 0, names, table=way[0], flush=way[1], **settings)
    m.bridges["bridge0"] = br
    return br


def learn(m: StageMachine, name: str, numbers: range) -> None:
    """Let stations speak on an interface."""
    m.receive(m.interfaces[name], [frame(B, mac(n)) for n in numbers])


@contextmanager
def performs(m: StageMachine, br: Bridge, wanted: int) -> Iterator[None]:
    """Check how many grace periods a block takes, by the bridge's count and by the machine's."""
    before = m.engine.psz.performs, br.rtable.counters["performs"]
    yield
    counted = m.engine.psz.performs - before[0], br.rtable.counters["performs"] - before[1]
    assert counted == (wanted, wanted)


def known(br: Bridge) -> list[int]:
    """Numbers of the stations in the table."""
    return [int(row[0].replace(":", "")[-4:], 16) for row in br.addresses()]


def test_the_quickest_way_is_the_default() -> None:
    m = StageMachine("if0")
    assert isinstance(Bridge(m, "bridge0", 0).rtable.removal, GenerationRemoval)
    assert Bridge(m, "bridge1", 1, table="chained").rtable.removal.name == "paper"


@pytest.mark.parametrize(
    ("table", "flush", "text"),
    [
        ("tree", None, "'hash', 'chained'"),
        ("hash", "slow", "'paper', 'each', 'direct', 'generation'"),
        ("chained", "generation", "a table='chained' has 'paper', 'each'"),
        ("chained", "direct", "a table='chained' has 'paper', 'each'"),
    ],
)
def test_names_that_are_none(table: str, flush: str | None, text: str) -> None:
    with pytest.raises(NetstackError, match=text) as refusal:
        Bridge(StageMachine(), "bridge0", 0, table=table, flush=flush)
    assert refusal.value.errno == EINVAL


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_one_grace_period_for_a_flush_and_none_for_nothing(way: tuple[str, str]) -> None:
    m = StageMachine("if0", "if1")
    br = bridge(m, way)
    with performs(m, br, 0):
        br.flush()
        br.flushall()
    learn(m, "if0", range(1, 21))
    learn(m, "if1", range(31, 41))
    br.static("if1", mac(50))
    with performs(m, br, 30 if way[1] == "each" else 1):
        br.flush()
    assert known(br) == [50]
    with performs(m, br, 0):
        br.flush()
    learn(m, "if0", range(1, 4))
    with performs(m, br, 4 if way[1] == "each" else 1):
        br.flushall()
    assert known(br) == []
    learn(m, "if1", range(1, 4))
    assert known(br) == [1, 2, 3], "a flushed station is learned again, elsewhere"
    assert br.counters["moved"] == 0, "and is new there: it had been forgotten"
    assert br.counters["learned"] == 36


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_one_grace_period_to_age_and_to_trim(way: tuple[str, str]) -> None:
    m = StageMachine("if0", "if1")
    br = bridge(m, way, timeout=100)
    learn(m, "if0", range(1, 11))
    m.engine.run(seconds=50)
    learn(m, "if0", range(11, 21))
    before = m.engine.psz.performs
    m.engine.run(seconds=51)
    assert known(br) == [*range(11, 21)]
    assert br.rtable.table.count == 10, "removed, not only not listed"
    assert m.engine.psz.performs - before == (10 if way[1] == "each" else 1)
    with performs(m, br, 6 if way[1] == "each" else 1):
        br.maxaddr = 4
    assert known(br) == [11, 12, 13, 14], "of those seen last, the highest addresses went"
    with performs(m, br, 1):
        br.deladdr(mac(11))


@pytest.mark.parametrize("way", PAPER, ids="-".join)
def test_paper_retries_when_the_table_grows_before_the_lock(way: tuple[str, str]) -> None:
    """Learning between counting and locking: the buffer is too short, twice, and then it is not."""
    m = StageMachine("if0", "if1")
    br = bridge(m, way)
    removal, table, counters = br.rtable.removal, br.rtable.table, br.rtable.counters
    learn(m, "if0", range(1, 11))
    made: list[int] = []
    honest = removal.allocate

    def allocate(count: int) -> RtList:
        """While memory is being found, others learn: three addresses, one, none."""
        made.append(count)
        entries = honest(count)
        for n in range({1: 3, 2: 1}.get(len(made), 0)):
            table.learn(mac(100 + 10 * len(made) + n), 0, 0)
        return entries

    removal.allocate = allocate  # type: ignore[method-assign]
    with performs(m, br, 1):
        br.flush()
    assert made == [12, 15, 16], "the members' own addresses count: they are in the table"
    assert counters["retries"] == 2
    assert counters["allocations"] == 3
    assert counters["allocations_under_lock"] == 0
    assert known(br) == []


@pytest.mark.parametrize("way", PAPER, ids="-".join)
def test_allocation_under_the_lock_would_be_counted(way: tuple[str, str]) -> None:
    m = StageMachine("if0")
    rtable = bridge(m, way).rtable
    with rtable.mutex:
        rtable.removal.allocate(5)  # type: ignore[attr-defined]
    assert rtable.counters["allocations_under_lock"] == 1


def test_nodes_are_free_only_after_the_grace_period() -> None:
    """Between unlinking and the end of the grace period no node is given to anybody."""
    m = StageMachine("if0", "if1")
    br = bridge(m, ("chained", "paper"))
    learn(m, "if0", range(1, 11))
    table = br.rtable.table
    assert table.free_nodes == table.nodes - 12
    seen = []
    honest = br.rtable.removal.perform

    def perform() -> None:
        seen.append((table.count, table.free_nodes))
        honest()
        seen.append((table.count, table.free_nodes))

    br.rtable.removal.perform = perform  # type: ignore[method-assign]
    br.flush()
    assert seen == [(0, table.nodes - 12)] * 2, "still not free while the lock is held"
    assert table.free_nodes == table.nodes - 2


def test_generations_go_through_all_numbers() -> None:
    """Three hundred flushes of two members: numbers run out, are swept up, and serve again."""
    m = StageMachine("if0", "if1", "if2")
    br = bridge(m, ("hash", "generation"))
    br.static("if2", mac(50))
    counters, tags = br.rtable.counters, set()
    for round_ in range(300):
        learn(m, "if0", range(1, 4))
        learn(m, "if1", range(11, 14))
        tags |= {br.member("if0").tag, br.member("if1").tag}
        with performs(m, br, 1):
            br.flush()
        assert known(br) == [50], round_
    assert counters["reclaims"] == 2
    assert len(tags) == 248 and not tags & {0, 1, 2}
    assert br.counters["learned"] == 1800


def test_flush_with_members_that_share_the_numbers() -> None:
    """So many members that tags run short: flush falls back, learning and forwarding go on."""
    names = [f"if{n}" for n in range(252)]
    m = StageMachine(*names, nmbufs=4096)
    br = bridge(m, ("hash", "generation"), maxaddr=1000)
    tagged = [member for member in br.iflist if member.tag != member.port]
    assert not tagged, "the last members needed every number"
    for n in (0, 100, 251):
        m.receive(m.interfaces[f"if{n}"], frame(mac(1 + (n == 0)), mac(2 + n)))
    assert known(br) == [2, 102, 253]
    before = len(m.sent["if100"])
    m.receive(m.interfaces["if0"], frame(mac(102), mac(2)))
    assert len(m.sent["if100"]) == before + 1 and m.sent["if100"][-1] == frame(mac(102), mac(2))
    with performs(m, br, 1):
        br.flush()
    assert known(br) == []


def test_two_numbers_of_a_member_are_one_output() -> None:
    """Frames to a static and to a learned address of a member leave in the order they came."""
    m = StageMachine("if0", "if1")
    br = bridge(m, ("hash", "generation"))
    br.static("if1", mac(50))
    learn(m, "if1", range(60, 61))
    learn(m, "if0", range(1, 2))
    m.sent["if1"].clear()
    frames = [frame(mac(50 if n % 2 else 60), mac(1), size=60 + n) for n in range(20)]
    m.receive(m.interfaces["if0"], frames)
    assert m.sent["if1"] == frames
    m.receive(m.interfaces["if1"], [frame(mac(60), mac(61)), frame(mac(50), mac(61))])
    assert m.drops() == {"same_member": 2}


@pytest.mark.parametrize("seed", range(6))
def test_all_ways_agree(seed: int) -> None:
    """The same random frames and operations: the same address list, frames and counters."""
    machines = [StageMachine("if0", "if1", "if2") for _ in WAYS]
    bridges = [bridge(m, way, timeout=60, maxaddr=30) for m, way in zip(machines, WAYS, strict=True)]
    random = Random(seed)
    for step in range(60):
        draw = random.random()
        name = f"if{random.randrange(3)}"
        pairs = [(mac(random.randrange(40)), mac(1 + random.randrange(40))) for _ in range(20)]
        number, most = random.randrange(1, 40), random.choice((3, 10, 30, 2000))
        seconds = random.choice((1, 20, 61, 130))
        for m, br in zip(machines, bridges, strict=True):
            if draw < 0.5:
                m.receive(m.interfaces[name], [frame(dst, src) for dst, src in pairs])
            elif draw < 0.6:
                (br.flush if step % 3 else br.flushall)()
            elif draw < 0.7:
                br.maxaddr = most
            elif draw < 0.8:
                m.engine.run(seconds=seconds)
            elif draw < 0.85:
                br.ifmaxaddr(name, number % 6) if m.interfaces[name].bridge else br.add(name)
            elif draw < 0.9 and m.interfaces[name].bridge:
                br.delete(name)
            elif m.interfaces[name].bridge and len(br.addresses()) < br.maxaddr:
                br.static(name, mac(number))
            else:
                m.receive(m.interfaces[name], [frame(dst, src) for dst, src in pairs[:3]])
        rows = [br.addresses() for br in bridges]
        assert all(row == rows[0] for row in rows), f"seed {seed} step {step}"
    assert all(m.sent == machines[0].sent for m in machines), f"seed {seed}"
    assert all(m.drops() == machines[0].drops() for m in machines)
    assert all(br.counters == bridges[0].counters for br in bridges)
    assert bridges[0].counters["learned"] > 20
    for br in bridges:
        assert br.rtable.counters["allocations_under_lock"] == 0
