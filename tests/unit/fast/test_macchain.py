"""NetBSD's chained table: its hash, its order, and that it answers as the hash table does (§3.2.2)."""

from random import Random

import pytest
from frames import station

from netstack._fast.macchain import ChainTable, rthash
from netstack._fast.mactable import DYNAMIC, LOCAL, STATIC, MacTable, RtList


@pytest.mark.parametrize(
    ("mac", "by_key_0", "by_key_12345678"),
    [
        ("000000000001", 557, 560),
        ("00aaaaaaaaaa", 897, 38),
        ("b0a075000100", 589, 531),
        ("fffffffffffe", 158, 733),
    ],
)
def test_hash_is_netbsds(mac: str, by_key_0: int, by_key_12345678: int) -> None:
    """Vectors computed from the definition of bridge_rthash."""
    assert rthash(bytes.fromhex(mac), 0) == by_key_0
    assert rthash(bytes.fromhex(mac), 0x12345678) == by_key_12345678


@pytest.mark.parametrize("maxaddr", [0, -1, (1 << 24) + 1])
def test_limits_out_of_range_are_refused(maxaddr: int) -> None:
    with pytest.raises(ValueError, match="maxaddr must be"):
        ChainTable(maxaddr, 1)


def test_chains_descend_and_the_list_has_the_newest_first() -> None:
    table = ChainTable(5000, 1)
    numbers = list(range(5000))
    Random(1).shuffle(numbers)
    for n in numbers:
        assert table.learn(station(n), 1, 0) == "new"
    chains = [table.chain(head) for head in range(1024)]
    assert all(chain == sorted(chain, reverse=True) for chain in chains)
    assert sum(map(len, chains)) == 5000 and max(map(len, chains)) > 1
    assert [entry[0] for entry in table.entries()] == [station(n) for n in reversed(numbers)]
    assert table.lookup(station(5000)) is None
    with pytest.raises(IndexError):
        table.chain(1024)


def test_unlinked_nodes_are_not_free_until_destroyed() -> None:
    table = ChainTable(4, 1)
    lists = []
    for round_ in range(table.nodes // 4):
        for n in range(4):
            assert table.learn(station(4 * round_ + n), 1, 0) == "new"
        lists.append(RtList(4))
        assert table.unlink(lists[-1], None, DYNAMIC) == 4
        assert table.count == 0
    assert table.free_nodes == 0
    assert table.learn(station(1), 1, 0) == "full", "every node waits for readers"
    assert not table.add_static(station(1), 1)
    table.destroy(lists[0])
    assert len(lists[0]) == 0
    assert table.learn(station(1), 1, 0) == "new"


@pytest.mark.parametrize("make", [MacTable, ChainTable])
def test_unlink_refuses_a_list_that_is_too_short(make: type[MacTable] | type[ChainTable]) -> None:
    table = make(10, 1)
    for n in range(5):
        table.learn(station(n), n, n)
    table.add_static(station(8), 1)
    table.add_local(station(9), 1)
    short = RtList(6)
    assert table.unlink(short, None, DYNAMIC) is None
    assert (len(short), table.entry_count) == (0, 7)
    entries = RtList(7)
    assert table.unlink(entries, None, DYNAMIC, seen_until=1) == 2
    table.destroy(entries)
    assert table.unlink(entries, 1, DYNAMIC | STATIC) == 1
    table.destroy(entries)
    assert table.unlink(entries, None, LOCAL) == 1
    table.destroy(entries)
    assert table.unlink(entries, None, DYNAMIC, seen_until=-1) == 0
    assert table.unlink_macs(entries, [station(4), station(77)]) == 1
    table.destroy(entries)
    assert sorted(entry[0] for entry in table.entries()) == [station(2), station(3)]
    with pytest.raises(ValueError, match="list of 0"):
        RtList(0)


def test_numbers_that_are_retired() -> None:
    """A dead number: its entries are nowhere, whatever asks; learning under it does nothing."""
    table = MacTable(6, 1)
    for n in range(3):
        table.learn(station(n), 7, 5)
    table.learn(station(3), 8, 5)
    table.add_static(station(4), 7)
    assert table.retire([7]) == 4
    assert [table.lookup(station(n)) is not None for n in range(5)] == [False] * 3 + [True, False]
    assert (table.count, table.statics, table.held(7), table.held(8)) == (1, 0, 0, 1)
    assert [entry[0] for entry in table.entries()] == [station(3)]
    assert table.learn(station(0), 7, 6) == "known" and table.count == 1, "a reader of an old map"
    assert table.learn(station(3), 7, 6) == "known" and table.lookup(station(3)) == (8, 6)
    assert table.learn(station(0), 8, 6) == "new"
    assert not table.remove(station(1))
    assert table.clear(None, DYNAMIC | STATIC | LOCAL) == 2
    assert [table.learn(station(n), 9, 6) for n in range(1, 8)] == ["new"] * 6 + ["full"]
    assert table.reclaim() == [7] and table.reclaim() == []
    assert table.count == 6
    table.remove(station(1))
    assert table.learn(station(1), 7, 6) == "new", "the number serves again"


@pytest.mark.parametrize("make", [MacTable, ChainTable])
def test_a_port_that_is_full(make: type[MacTable] | type[ChainTable]) -> None:
    """Neither new stations nor moved ones beyond the port's limit; those that are there stay."""
    table = make(10, 1)
    table.set_cap(1, 2)
    assert [table.learn(station(n), 1, 0) for n in range(3)] == ["new", "new", "full"]
    assert table.learn(station(2), 2, 0) == "new"
    assert table.learn(station(2), 1, 1) == "full", "it does not move to a full port"
    assert table.learn(station(0), 1, 1) == "refreshed"
    assert table.learn(station(0), 2, 1) == "moved"
    assert (table.held(1), table.held(2)) == (1, 2)
    assert table.learn(station(2), 1, 1) == "moved"
    assert (table.held(1), table.held(2), table.count) == (2, 1, 3)
    table.set_cap(1, 1)
    assert table.held(1) == 2, "what is there stays"
    table.set_cap(1, 0)
    assert table.learn(station(5), 1, 1) == "new"


@pytest.mark.parametrize("seed", range(4))
def test_both_tables_give_the_same_answers(seed: int) -> None:
    random = Random(seed)
    tables = MacTable(12, seed), ChainTable(12, seed)
    now = 0
    for _ in range(1500):
        draw, mac, port = random.random(), station(random.randrange(20)), random.randrange(4)
        now += random.choice((0, 0, 0, 1, 130))
        many = [station(random.randrange(20)) for _ in range(3)]
        cap = random.randrange(6)
        answers: list[object] = []
        for table in tables:
            if draw < 0.7:
                answers.append(table.learn(mac, port, now))
            elif draw < 0.75:
                answers.append(table.add_static(mac, port))
            elif draw < 0.77:
                answers.append(table.add_local(mac, port))
            elif draw < 0.9:
                entries = RtList(max(3, table.entry_count))
                if draw < 0.8:
                    answers.append(table.unlink_macs(entries, dict.fromkeys(many)))
                elif draw < 0.85:
                    answers.append(table.unlink(entries, port, DYNAMIC | STATIC | LOCAL))
                else:
                    answers.append(table.unlink(entries, None, DYNAMIC, seen_until=now - 200))
                table.destroy(entries)
            elif draw < 0.95:
                answers.append(table.mark_old(now))
            else:
                table.set_cap(port, cap)
                answers.append(None)
            answers.append(table.lookup(mac))
        half = len(answers) // 2
        assert answers[:half] == answers[half:]
        contents = [
            sorted((m, p, a, s if a < 254 else 0) for m, p, a, s in table.entries()) for table in tables
        ]
        assert contents[0] == contents[1]
        counts = [(t.count, t.statics, t.locals, *map(t.held, range(4))) for t in tables]
        assert counts[0] == counts[1]
    larger = MacTable(100, 1), ChainTable(100, 1)
    assert tables[0].copy_into(larger[1]) == tables[1].copy_into(larger[0]) == tables[0].entry_count
    assert {e[:2] for e in larger[0].entries()} == {e[:2] for e in larger[1].entries()}
