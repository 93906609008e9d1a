"""The address table against a dict, and its edges: full, fixed, age codes, moving neighbours (paper §3.2.2)."""

import pytest
from frames import station
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from netstack._fast.mactable import RESULTS, MacTable

LOCAL, STATIC = 254, 255
PERIOD = 252
OLD_AFTER_S = 120


def code(second: int) -> int:
    """Age code of a second, as the module's head says."""
    return 1 + second % PERIOD


def test_results_are_what_the_kernels_count() -> None:
    assert RESULTS == ("known", "refreshed", "moved", "new", "full", "fixed")


@pytest.mark.parametrize("maxaddr", [0, -1, (1 << 24) + 1])
def test_limits_out_of_range_are_refused(maxaddr: int) -> None:
    with pytest.raises(ValueError, match="maxaddr must be"):
        MacTable(maxaddr, 1)


@pytest.mark.parametrize("mac", [b"", b"12345", b"1234567"])
def test_an_address_has_six_bytes(mac: bytes) -> None:
    table = MacTable(10, 1)
    for call in (table.lookup, table.remove, lambda m: table.learn(m, 0, 0)):
        with pytest.raises(ValueError, match="6 bytes"):
            call(mac)


@pytest.mark.parametrize("mac", [bytes(6), b"\x01\0\0\0\0\1", b"\xff" * 6])
def test_only_stations_get_in(mac: bytes) -> None:
    table = MacTable(10, 1)
    with pytest.raises(ValueError, match="unicast"):
        table.learn(mac, 0, 0)
    for call in (table.add_static, table.add_local):
        with pytest.raises(ValueError, match="unicast"):
            call(mac, 0)
    assert table.lookup(mac) is None
    assert not table.remove(mac)


def test_ports_are_below_253() -> None:
    table = MacTable(10, 1)
    assert table.learn(station(1), 252, 0) == "new"
    for port in (253, 255, -1):
        with pytest.raises(ValueError, match="port below 253"):
            table.learn(station(2), port, 0)
        with pytest.raises(ValueError, match="port below 253"):
            table.add_static(station(2), port)


def test_a_source_is_new_known_refreshed_moved() -> None:
    table = MacTable(10, 1)
    assert table.lookup(station(1)) is None
    assert table.learn(station(1), 3, 10) == "new"
    assert table.lookup(station(1)) == (3, code(10))
    assert table.learn(station(1), 3, 10) == "known"
    assert table.learn(station(1), 3, 11) == "refreshed"
    assert table.learn(station(1), 4, 11) == "moved"
    assert table.lookup(station(1)) == (4, code(11))
    assert table.count == 1
    assert table.entries() == [(station(1), 4, code(11), 11)]


def test_static_and_local_entries_are_never_changed_by_learning() -> None:
    table = MacTable(10, 1)
    assert table.add_static(station(1), 1)
    assert table.add_local(station(2), 2)
    for mac in (station(1), station(2)):
        assert table.learn(mac, 5, 99) == "fixed"
    assert table.lookup(station(1)) == (1, STATIC)
    assert table.lookup(station(2)) == (2, LOCAL)
    assert (table.count, table.statics, table.locals) == (0, 1, 1)


def test_a_learned_entry_can_be_fixed_and_counts_move_along() -> None:
    table = MacTable(10, 1)
    table.learn(station(1), 1, 0)
    assert table.add_static(station(1), 2)
    assert (table.count, table.statics, table.locals) == (0, 1, 0)
    assert table.add_local(station(1), 3)
    assert (table.count, table.statics, table.locals) == (0, 0, 1)
    assert table.lookup(station(1)) == (3, LOCAL)
    assert table.remove(station(1)) and not table.remove(station(1))
    assert (table.count, table.statics, table.locals) == (0, 0, 0)


def test_a_full_table_refuses_new_ones_and_serves_the_old() -> None:
    table = MacTable(4, 1)
    table.add_static(station(100), 0)
    assert [table.learn(station(i), 0, 0) for i in range(1, 5)] == ["new"] * 3 + ["full"]
    assert table.learn(station(1), 2, 5) == "moved"
    assert not table.add_static(station(101), 0)
    assert table.add_static(station(1), 0)  # it is in already
    assert table.add_local(station(102), 0)  # own addresses count against nothing
    table.remove(station(2))
    assert table.learn(station(4), 0, 0) == "new"


@pytest.mark.parametrize("maxaddr", [1, 100, 385, 1000, 40_000])
def test_filled_to_its_limit_the_table_is_at_most_half_full_and_finds_all(maxaddr: int) -> None:
    table = MacTable(maxaddr, maxaddr)
    assert 2 * maxaddr <= 8 * table.nbuckets
    for i in range(maxaddr):
        assert table.learn(station(i), i % 250, 7) == "new"
    for i in range(252):
        assert table.add_local(b"\x02" + station(i)[1:], i)
    assert table.learn(station(maxaddr), 0, 7) == "full"
    assert all(table.lookup(station(i)) == (i % 250, code(7)) for i in range(maxaddr))
    assert len(table.entries()) == maxaddr + 252


def test_the_seed_is_the_key_of_the_hash() -> None:
    orders = []
    for seed in (1, 1, 2):
        table = MacTable(200, seed)
        for i in range(200):
            table.learn(station(i), 0, 0)
        orders.append([entry[0] for entry in table.entries()])
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


def test_a_new_limit_within_the_table_or_beyond_it() -> None:
    table = MacTable(10, 1)
    room = 8 * table.nbuckets // 2
    table.set_max(100)
    assert table.maxaddr == 100
    for bad in (0, room + 1):
        with pytest.raises(ValueError, match="cannot hold"):
            table.set_max(bad)


def test_flush_of_a_port_and_of_all() -> None:
    table = MacTable(100, 1)
    for i in range(30):
        table.learn(station(i), i % 3, 0)
    table.add_static(station(50), 1)
    table.add_local(station(60), 1)
    assert table.flush_ports(1, False, False) == 10
    assert table.lookup(station(50)) == (1, STATIC)
    assert {entry[1] for entry in table.entries() if entry[2] < LOCAL} == {0, 2}
    assert table.flush_ports(1, True, True) == 2
    assert table.flush_ports(None, True, False) == 20
    assert (table.entries(), table.count) == ([], 0)


def test_ageing_at_the_boundary() -> None:
    table = MacTable(10, 1)
    for i, second in enumerate((0, 10, 11)):
        table.learn(station(i), 0, second)
    table.add_static(station(9), 0)
    assert table.age(1000, 0) == 0  # never expires
    table.learn(station(2), 0, 20)
    assert table.age(39, 20) == 2
    assert table.lookup(station(2)) is not None
    assert table.age(40, 20) == 1
    assert (table.count, table.statics) == (0, 1)


def test_an_age_code_that_comes_round_is_not_taken_for_fresh() -> None:
    table = MacTable(10, 1)
    table.learn(station(1), 0, 5)
    assert table.age(5 + OLD_AFTER_S - 1, 1200) == 0
    assert table.lookup(station(1)) == (0, code(5))
    table.age(5 + OLD_AFTER_S, 1200)
    assert table.lookup(station(1)) == (0, 0)  # old: no second has this code
    assert table.learn(station(1), 0, 5 + PERIOD) == "refreshed"
    assert table.age(5 + 1200, 1200) == 0  # it was seen again
    assert table.age(5 + PERIOD + 1200, 1200) == 1


def test_trim_takes_the_last_seen_first_and_spares_static_ones() -> None:
    table = MacTable(100, 1)
    for i in range(10):
        table.learn(station(i), 0, 100 + i)
    table.add_static(station(50), 0)
    assert table.trim(4) == 7
    assert sorted(e[0] for e in table.entries()) == [*map(station, (0, 1, 2, 50))]
    assert table.trim(0) == 3
    assert table.statics == 1


def test_copy_into_a_larger_and_a_smaller_table() -> None:
    table = MacTable(50, 1)
    for i in range(40):
        table.learn(station(i), i, 60 + i)
    table.add_static(station(100), 1)
    table.add_local(station(200), 2)
    larger = MacTable(5000, 2)
    assert table.copy_into(larger) == 42
    assert sorted(larger.entries()) == sorted(table.entries())
    assert (larger.count, larger.statics, larger.locals) == (40, 1, 1)
    smaller = MacTable(7, 3)
    table.copy_into(smaller)
    assert smaller.count + smaller.statics == 7
    assert smaller.locals == 1


class TableMachine(RuleBasedStateMachine):
    """Every verb against a dict; few addresses, so that they meet again."""

    macs = st.integers(0, 11).map(station)
    ports = st.integers(0, 4)

    @initialize(maxaddr=st.integers(1, 9), seed=st.integers(0, 2**64 - 1))
    def make(self, maxaddr: int, seed: int) -> None:
        self.table = MacTable(maxaddr, seed)
        self.model: dict[bytes, tuple[int, int, int]] = {}  # port, age code, seen
        self.now = 0

    def held(self) -> int:
        return sum(age != LOCAL for _, age, _ in self.model.values())

    @rule(mac=macs, port=ports)
    def learn(self, mac: bytes, port: int) -> None:
        old = self.model.get(mac)
        fresh = (port, code(self.now), self.now)
        if old is None:
            expected = "new" if self.held() < self.table.maxaddr else "full"
        elif old[1] >= LOCAL:
            expected = "fixed"
        elif old[:2] == fresh[:2]:
            expected = "known"
        else:
            expected = "refreshed" if old[0] == port else "moved"
        assert self.table.learn(mac, port, self.now) == expected
        if expected in ("new", "refreshed", "moved"):
            self.model[mac] = fresh

    @rule(seconds=st.sampled_from([0, 1, 5, 119, 120, 251, 252, 700]))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds

    @rule(mac=macs, port=ports)
    def fix(self, mac: bytes, port: int) -> None:
        may = mac in self.model or self.held() < self.table.maxaddr
        assert self.table.add_static(mac, port) == may
        if may:
            self.model[mac] = (port, STATIC, self.model.get(mac, (0, 0, 0))[2])

    @rule(mac=macs, port=ports)
    def own(self, mac: bytes, port: int) -> None:
        assert self.table.add_local(mac, port)
        self.model[mac] = (port, LOCAL, self.model.get(mac, (0, 0, 0))[2])

    @rule(mac=macs)
    def remove(self, mac: bytes) -> None:
        assert self.table.remove(mac) == (self.model.pop(mac, None) is not None)

    @rule(port=st.none() | ports, static=st.booleans(), local=st.booleans())
    def flush(self, port: int | None, static: bool, local: bool) -> None:
        gone = [
            mac
            for mac, (where, age, _) in self.model.items()
            if port in (None, where) and (age < LOCAL or (static if age == STATIC else local))
        ]
        assert self.table.flush_ports(port, static, local) == len(gone)
        for mac in gone:
            del self.model[mac]

    @rule(timeout_s=st.sampled_from([0, 1, 100, 300, 1200]))
    def age(self, timeout_s: int) -> None:
        gone = 0
        for mac, (port, age, seen) in list(self.model.items()):
            if age >= LOCAL:
                continue
            if timeout_s and self.now - seen >= timeout_s:
                del self.model[mac]
                gone += 1
            elif self.now - seen >= OLD_AFTER_S:
                self.model[mac] = (port, 0, seen)
        assert self.table.age(self.now, timeout_s) == gone

    @rule(maxaddr=st.integers(1, 12))
    def set_max(self, maxaddr: int) -> None:
        self.table.set_max(maxaddr)

    @invariant()
    def same_content(self) -> None:
        if not hasattr(self, "table"):
            return
        # when a fixed entry was last seen means nothing
        found = {m: (p, a, s if a < LOCAL else 0) for m, p, a, s in self.table.entries()}
        expected = {m: (p, a, s if a < LOCAL else 0) for m, (p, a, s) in self.model.items()}
        assert found == expected
        for mac, (port, age, _) in self.model.items():
            assert self.table.lookup(mac) == (port, age)
        ages = [age for _, age, _ in self.model.values()]
        assert self.table.locals == ages.count(LOCAL)
        assert self.table.statics == ages.count(STATIC)
        assert self.table.count == len(ages) - ages.count(LOCAL) - ages.count(STATIC)


TableMachine.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=80, stateful_step_count=40
)
TestTableMachine = TableMachine.TestCase
