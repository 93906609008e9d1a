"""LOCKDEBUG: each rule has a violation that is found and a clean twin that is not."""

import gc
import json
import warnings
from collections.abc import Callable
from errno import EBUSY, EDEADLK, EINVAL, EPERM

import pytest
from unit.kern.lockrig import Reporter, checked, refused, run_in

from netstack import Machine
from netstack._fast.lock import IS_CHECKED
from netstack.kern import lockdebug
from netstack.kern.context import assert_callable_from
from netstack.kern.lockdebug import RULES, LockDebug, LockError
from netstack.kern.lockgraph import Edge, LockGraph
from netstack.kern.lockrecord import PINNED, class_of
from netstack.kern.spl import IPL
from netstack.machine.api import caller_of
from netstack.machine.virtual import VirtualEngine

Case = Callable[[VirtualEngine, LockDebug], None]
CASES: dict[str, tuple[str, int, Case, Case]] = {}  # rule -> context, errno, violation, clean twin


def case(rule: str, context: str, errno: int, clean: Case) -> Callable[[Case], Case]:
    def note(violation: Case) -> Case:
        CASES[f"{rule}|{violation.__name__}"] = (context, errno, violation, clean)
        return violation

    return note


# --- life of a lock


def made_used_destroyed(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    lock.enter()
    lock.exit()
    debug.free(lock)
    debug.alloc(lock, "a", None, "adaptive")  # the same memory, made again
    lock.enter()
    lock.exit()


@case("uninitialised", "thread", EINVAL, made_used_destroyed)
def never_made(_: VirtualEngine, debug: LockDebug) -> None:
    debug.wantlock(object())


@case("uninitialised", "thread", EINVAL, made_used_destroyed)
def used_after_it_was_destroyed(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    debug.free(lock)
    lock.enter()


@case("uninitialised", "thread", EINVAL, made_used_destroyed)
def destroyed_twice(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "rwlock")
    debug.free(lock)
    debug.free(lock)


@case("double init", "control", EINVAL, made_used_destroyed)
def made_twice(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a")
    debug.alloc(lock, "a", None, "spin")


@case("destroy while held", "thread", EBUSY, made_used_destroyed)
def destroyed_by_its_holder(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    lock.enter()
    debug.free(lock)


@case("destroy while held", "thread", EBUSY, made_used_destroyed)
def destroyed_with_a_reader(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "rwlock")
    lock.enter(shared=True)
    debug.free(lock)


# --- owners


def one_after_the_other(_: VirtualEngine, debug: LockDebug) -> None:
    a, b = Reporter(debug, "a", "adaptive"), Reporter(debug, "b", "adaptive")
    for _ in range(2):
        a.enter()
        b.enter()
        a.exit()  # out of order is allowed
        b.exit()


@case("self-lock", "thread", EDEADLK, one_after_the_other)
def taken_twice(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    lock.enter()
    lock.enter()


@case("self-lock", "thread", EDEADLK, one_after_the_other)
def read_twice(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "rwlock")
    lock.enter(shared=True)
    lock.enter(shared=True)


@case("self-lock", "thread", EDEADLK, one_after_the_other)
def taken_by_the_interrupt_of_its_holder(engine: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "spin", IPL.NONE)  # the wrong level: it lets the interrupt in
    lock.enter()
    run = engine.intrs.find("dev0")
    run.source.raise_()
    engine.charge("work", 10)


def a_try_is_no_wait(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    lock.enter()
    debug.wantlock(lock, is_try=True)  # it fails, and that is all
    lock.exit()


@case("self-lock", "thread", EDEADLK, a_try_is_no_wait)
def waited_for_by_its_own_worker(_: VirtualEngine, debug: LockDebug) -> None:
    with debug.inside("workqueue age"):
        debug.wait_for("workqueue age")


@case("broken exclusion", "thread", EDEADLK, one_after_the_other)
def given_to_two(engine: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "spin", IPL.VM)
    debug.locked(lock)
    errors: list[LockError] = []

    def other() -> None:
        try:
            debug.locked(lock)
        except LockError as error:
            errors.append(error)

    engine.spawn(other, cpu=1)
    engine.charge("work", 1_000_000)
    debug.unlocked(lock)
    raise errors[0]


@case("unlock by non-owner", "thread", EPERM, one_after_the_other)
def released_unheld(_: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a").exit()


@case("unlock by non-owner", "thread", EPERM, one_after_the_other)
def released_as_a_reader(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "rwlock")
    lock.enter()
    lock.exit(shared=True)


@case("unlock by non-owner", "control", EPERM, one_after_the_other)
def released_by_another(engine: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    run_in(engine, "thread", lock.enter)
    lock.exit()


# --- contexts


def spin_in_spin(_: VirtualEngine, debug: LockDebug) -> None:
    a, b = Reporter(debug, "a", "spin", IPL.VM), Reporter(debug, "b", "spin", IPL.HIGH)
    a.enter()
    b.enter()
    b.exit()
    a.exit()


@case("sleeping lock in interrupt", "hard", EDEADLK, spin_in_spin)
def adaptive_in_a_hard_interrupt(_: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "adaptive").enter()


@case("sleeping lock in interrupt", "hard", EDEADLK, spin_in_spin)
def rwlock_tried_in_a_hard_interrupt(_: VirtualEngine, debug: LockDebug) -> None:
    debug.wantlock(Reporter(debug, "a", "rwlock"), is_try=True)


@case("sleeping lock in interrupt", "hard", EDEADLK, spin_in_spin)
def condvar_in_a_hard_interrupt(_: VirtualEngine, debug: LockDebug) -> None:
    debug.wantlock(Reporter(debug, "a", "condvar"))


@case("sleeping lock under spin lock", "thread", EDEADLK, spin_in_spin)
def adaptive_under_spin(_: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "spin", IPL.VM).enter()
    Reporter(debug, "b", "adaptive").enter()


@case("sleeping lock under spin lock", "soft", EDEADLK, spin_in_spin)
def kernel_lock_under_spin(_: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "spin", IPL.VM).enter()
    Reporter(debug, "KERNEL_LOCK", "kernel_lock").enter()


def spin_in_a_section(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.section_begins(cpu)
    lock = Reporter(debug, "a", "spin", IPL.VM)
    lock.enter()
    lock.exit()
    debug.section_ends(cpu)


@case("sleeping lock in read section", "soft", EDEADLK, spin_in_a_section)
def adaptive_in_a_section(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.section_begins(cpu)
    Reporter(debug, "a", "adaptive").enter()


@case("read section under spin lock", "soft", EDEADLK, spin_in_a_section)
def section_under_spin(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    Reporter(debug, "a", "spin", IPL.VM).enter()
    debug.section_begins(cpu)


def spin_with_a_reference(_: VirtualEngine, debug: LockDebug) -> None:
    with debug.inside(PINNED):
        spin_in_spin(_, debug)


@case("sleeping lock with percpu reference", "soft", EDEADLK, spin_with_a_reference)
def adaptive_with_a_reference(_: VirtualEngine, debug: LockDebug) -> None:
    with debug.inside(PINNED):
        Reporter(debug, "a", "adaptive").enter()


@case("sleep with percpu reference", "thread", EDEADLK, spin_with_a_reference)
def sleep_with_a_reference(_: VirtualEngine, debug: LockDebug) -> None:
    with debug.inside(PINNED):
        debug.sleepable("memory")


@case("sleep in interrupt", "hard", EDEADLK, spin_in_spin)
def sleep_in_a_hard_interrupt(_: VirtualEngine, debug: LockDebug) -> None:
    debug.sleepable("a while")


@case("sleep in interrupt", "soft", EDEADLK, spin_in_spin)
def sleep_in_a_softint(_: VirtualEngine, debug: LockDebug) -> None:
    debug.sleepable("a while")


@case("sleep in interrupt", "hard", EDEADLK, spin_in_spin)
def perform_in_a_hard_interrupt(_: VirtualEngine, debug: LockDebug) -> None:
    debug.wait_for("grace period")


def sleep_with_an_adaptive(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    lock.enter()
    debug.sleepable("memory")  # note 5: possible, not recommended
    debug.wait_for("grace period")
    lock.exit()


@case("sleep under spin lock", "thread", EDEADLK, sleep_with_an_adaptive)
def sleep_with_a_spin(_: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "spin", IPL.VM).enter()
    debug.sleepable("memory")


@case("sleep under spin lock", "thread", EDEADLK, sleep_with_an_adaptive)
def wait_through_the_machine_with_a_spin(engine: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "spin", IPL.VM).enter()
    engine.wait_until(lambda: True, "nothing")


@case("sleep under spin lock", "thread", EDEADLK, sleep_with_an_adaptive)
def a_facility_that_may_wait_with_a_spin(engine: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "spin", IPL.VM).enter()
    assert_callable_from(engine, "softint_establish")


@case("sleep in read section", "thread", EDEADLK, sleep_with_an_adaptive)
def perform_in_a_section(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.section_begins(cpu)
    debug.wait_for("grace period")


@case("sleep in read section", "thread", EDEADLK, sleep_with_an_adaptive)
def machine_sleep_in_a_section(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.section_begins(cpu)
    engine.sleep(0.001)


@case("nested read section", "soft", EDEADLK, spin_in_a_section)
def section_in_a_section(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.section_begins(cpu)
    debug.section_begins(cpu)


@case("unbalanced read section", "soft", EINVAL, spin_in_a_section)
def section_closed_twice(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.section_begins(cpu)
    debug.section_ends(cpu)
    debug.section_ends(cpu)


# --- what a handler leaves behind


@case("lock leaked", "soft", EDEADLK, spin_in_spin)
def a_softint_keeps_a_spin(_: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "spin", IPL.VM).enter()


@case("lock leaked", "hard", EDEADLK, spin_in_spin)
def a_hard_handler_keeps_a_spin(_: VirtualEngine, debug: LockDebug) -> None:
    Reporter(debug, "a", "spin", IPL.VM).enter()


@case("read section leaked", "soft", EDEADLK, spin_in_a_section)
def a_softint_keeps_a_section(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.section_begins(cpu)


def raise_and_restore(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    before, cpu.spl = cpu.spl, int(IPL.HIGH)
    debug.spl_lowered(cpu, before)
    cpu.spl = before


@case("SPL leaked", "soft", EDEADLK, raise_and_restore)
def a_softint_keeps_the_spl_up(engine: VirtualEngine, _: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    cpu.spl = int(IPL.HIGH)


@case("SPL lowered", "hard", EDEADLK, raise_and_restore)
def a_handler_lowers_its_own(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    debug.spl_lowered(cpu, IPL.SOFTNET)


@case("SPL lowered", "thread", EDEADLK, raise_and_restore)
def a_holder_lowers_that_of_its_lock(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    Reporter(debug, "a", "spin", IPL.VM).enter()
    debug.spl_lowered(cpu, IPL.SOFTNET)


# --- order


def one_order(_: VirtualEngine, debug: LockDebug) -> None:
    a, b, c = (Reporter(debug, name, "adaptive") for name in "abc")
    for first, second in ((a, b), (b, c), (a, c)):
        first.enter()
        second.enter()
        second.exit()
        first.exit()


@case("order", "thread", EDEADLK, one_order)
def a_b_then_b_a(engine: VirtualEngine, debug: LockDebug) -> None:
    one_order(engine, debug)
    for first, second in (("a", "b"), ("c", "a")):  # fresh locks: the class is what counts
        x, y = Reporter(debug, f"{first}7", "adaptive"), Reporter(debug, f"{second}8", "adaptive")
        x.enter()
        y.enter()
        y.exit()
        x.exit()


@case("order", "thread", EDEADLK, one_order)
def two_of_a_class_both_ways(_: VirtualEngine, debug: LockDebug) -> None:
    x, y = Reporter(debug, "port 1", "adaptive"), Reporter(debug, "port 2", "adaptive")
    for first, second in ((x, y), (y, x)):
        first.enter()
        second.enter()
        second.exit()
        first.exit()


@case("order", "thread", EDEADLK, sleep_with_an_adaptive)
def perform_with_a_lock_that_readers_take(engine: VirtualEngine, debug: LockDebug) -> None:
    cpu = engine.curcpu()
    assert cpu is not None
    lock = Reporter(debug, "a", "spin", IPL.VM)
    debug.section_begins(cpu)
    lock.enter()
    lock.exit()
    debug.section_ends(cpu)
    writer = Reporter(debug, "writer", "adaptive", klass="a")
    writer.enter()
    debug.wait_for("grace period")


@case("order", "thread", EDEADLK, sleep_with_an_adaptive)
def wait_for_a_worker_with_a_lock_it_takes(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "a", "adaptive")
    with debug.inside("workqueue age"):
        lock.enter()
        lock.exit()
    lock.enter()
    debug.wait_for("workqueue age")


@case("order", "control", EDEADLK, one_order)
def spin_for_a_lock_with_the_gil(_: VirtualEngine, debug: LockDebug) -> None:
    lock = Reporter(debug, "KERNEL_LOCK", "spin", IPL.NONE)
    lock.enter()
    debug.wait_for("GIL")  # a Python handler under the lock needs the GIL to go on
    lock.exit()
    with debug.inside("GIL"):
        lock.enter()


@pytest.mark.parametrize("kind", ["hard first", "thread first"])
def test_a_lock_of_an_interrupt_held_with_the_level_open(kind: str) -> None:
    engine, debug = checked()
    good, bad = Reporter(debug, "ring 1", "spin", IPL.VM), Reporter(debug, "ring 2", "spin", IPL.SOFTNET)

    def use(lock: Reporter) -> None:
        lock.enter()
        lock.exit()

    turns = [("hard", good), ("thread", bad)]
    first, second = turns if kind == "hard first" else turns[::-1]
    run_in(engine, first[0], lambda: use(first[1]))
    error = refused("interrupt-unsafe", lambda: run_in(engine, second[0], lambda: use(second[1])))
    assert error.errno == EDEADLK and "SPL 5" in str(error) and "SPL 3" in str(error)
    assert "dev0" in str(error) and "worker" in str(error)


def test_a_lock_of_an_interrupt_held_at_its_level() -> None:
    engine, debug = checked()
    lock = Reporter(debug, "ring", "spin", IPL.VM)

    def use() -> None:
        lock.enter()
        lock.exit()

    for context in ("hard", "soft", "thread", "control", "hard"):
        run_in(engine, context, use)
    assert debug.findings == 0


# --- the cases


def prepare(context: str, name: str) -> tuple[VirtualEngine, LockDebug]:
    engine, debug = checked(2)
    if "taken_by_the_interrupt" in name:
        from sim.rig import Device

        def take() -> None:
            caller = caller_of(engine)
            assert caller.parent is not None
            lock = caller.parent.held[0].record.lock()
            debug.wantlock(lock)

        Device(engine, "dev0", then=take)
    return engine, debug


@pytest.mark.parametrize("name", CASES)
def test_a_violation_is_found(name: str) -> None:
    context, errno, violation, _ = CASES[name]
    engine, debug = prepare(context, name)
    error = refused(name.partition("|")[0], lambda: run_in(engine, context, lambda: violation(engine, debug)))
    assert error.errno == errno and error in debug.reports and debug.findings == 1


@pytest.mark.parametrize("name", CASES)
def test_its_clean_twin_is_not(name: str) -> None:
    context, _, _, clean = CASES[name]
    engine, debug = prepare(context, name)
    for _ in range(2):
        run_in(engine, context, lambda: clean(engine, debug))
    assert debug.findings == 0 and debug.reports == [] and debug.held() == []


def test_every_rule_has_a_case() -> None:
    assert {name.partition("|")[0] for name in CASES} | {"interrupt-unsafe"} == set(RULES)


# --- the message


def test_the_message_lists_every_lock_held_and_where() -> None:
    engine, debug = checked()
    outer, inner = Reporter(debug, "outer", "adaptive"), Reporter(debug, "inner", "spin", IPL.VM)

    def work() -> None:
        outer.enter()
        inner.enter()
        outer.enter()

    text = str(refused("sleeping lock under spin lock", lambda: run_in(engine, "thread", work)))
    lines = [line for line in text.splitlines() if "held:" in line]
    assert len(lines) == 2 and "adaptive mutex outer taken at kern/lockrig.py:" in lines[0]
    assert "spin mutex inner taken at kern/lockrig.py:" in lines[1]
    assert "thread 'worker' on CPU 0" in text


def test_an_inversion_says_where_the_other_order_was_seen() -> None:
    engine, debug = checked(2)
    a, b = Reporter(debug, "a", "adaptive"), Reporter(debug, "b", "adaptive")

    def take(first: Reporter, second: Reporter) -> None:
        first.enter()
        second.enter()
        second.exit()
        first.exit()

    run_in(engine, "thread", lambda: take(a, b), cpu=0)  # two runs, one after the other:
    error = refused("order", lambda: run_in(engine, "thread", lambda: take(b, a), cpu=1))
    other = [line for line in str(error).splitlines() if "the other way round" in line]
    assert len(other) == 1 and "b wanted at" in other[0] and "with a, taken at" in other[0]
    assert "'worker' on CPU 0" in other[0] and "on CPU 1" in str(error).splitlines()[0]
    assert debug.graph().edges()[0][:2] == ("a", "b")
    c, d = Reporter(debug, "b", "adaptive"), Reporter(debug, "a", "adaptive")
    refused("order", lambda: run_in(engine, "thread", lambda: take(c, d), cpu=1))  # every time


def test_a_leak_names_the_handler_and_the_place() -> None:
    engine, debug = checked()
    lock = Reporter(debug, "tx", "spin", IPL.VM)
    error = refused("lock leaked", lambda: run_in(engine, "soft", lock.enter))
    assert "handler returned with spin mutex tx" in str(error) and "lockrig.py:" in str(error)


# --- callers


def test_a_thread_keeps_its_locks_over_sleep_and_others_do_not_have_them() -> None:
    engine, debug = checked()
    a, b = Reporter(debug, "a", "adaptive"), Reporter(debug, "b", "adaptive")
    seen: list[list[str]] = []

    def one() -> None:
        a.enter()
        engine.sleep(0.001)
        seen.append(debug.held())
        a.exit()

    def two() -> None:
        b.enter()
        seen.append(debug.held())
        b.exit()

    engine.spawn(one)
    engine.spawn(two)
    engine.run()
    assert [[text.split()[2] for text in held] for held in seen] == [["b"], ["a"]]
    assert debug.findings == 0 and debug.graph().edges() == []


def test_a_handler_is_another_caller_than_what_it_interrupts() -> None:
    engine, debug = checked()
    lock = Reporter(debug, "a", "adaptive")
    other = Reporter(debug, "b", "spin", IPL.VM)
    callers: list[str] = []

    def hard() -> None:
        caller = caller_of(engine)
        callers.append(repr(caller))
        assert caller.parent is not None and caller.held == []
        other.enter()
        other.exit()

    from sim.rig import Device

    device = Device(engine, "wm0 RX1", then=hard)

    def work() -> None:
        lock.enter()
        device.fire()
        engine.charge("work", 10)
        assert caller_of(engine) is caller_of(engine)
        callers.append(repr(caller_of(engine)))
        lock.exit()

    run_in(engine, "thread", work)
    assert callers == ["hard interrupt 'wm0 RX1' on CPU 0", "thread 'worker' on CPU 0"]
    # The interrupted holder does not go on before the handler does: that is an order.
    assert [edge[:2] for edge in debug.graph().edges()] == [("a", "b")]


def test_a_thread_may_hold_locks_of_two_machines() -> None:
    (_, debug), (_, debug2) = checked(), checked()
    a, b = Reporter(debug, "a", "adaptive"), Reporter(debug2, "b", "adaptive")
    a.enter()
    b.enter()
    assert len(debug.held()) == len(debug2.held()) == 1
    assert debug2.graph().edges() == []
    a.exit()
    b.exit()


def test_a_big_lock_nests_and_belongs_to_the_cpu() -> None:
    engine, debug = checked()
    big = Reporter(debug, "KERNEL_LOCK", "kernel_lock")
    spin = Reporter(debug, "tx", "spin", IPL.VM)

    def work() -> None:
        big.enter()
        big.enter()
        spin.enter()
        spin.exit()
        big.exit()
        debug.sleepable("it is given up meanwhile")
        debug.wait_for("grace period")
        big.exit()

    run_in(engine, "thread", work)
    assert [edge[:2] for edge in debug.graph().edges()] == [("KERNEL_LOCK", "tx")]


def test_on_the_wall_nobody_spins_for_a_lock_with_the_gil(machine: Callable[..., Machine]) -> None:
    """docs/decisions/0002: KERNEL_LOCK comes before the GIL."""
    m = machine(ncpu=1, clock="wall", kernel="GENERIC", lockdebug=True, mbufs=1024)
    big, debug = m.engine.kernel_lock, m.engine.lockdebug
    assert isinstance(debug, LockDebug)
    big.enter()
    big.exit()
    assert debug.graph().knows("KERNEL_LOCK", "GIL")
    with debug.inside("GIL"):
        refused("order", big.enter)
    assert not big.is_mine


# --- tables


def test_classes_are_names_without_numbers() -> None:
    assert class_of("wm0 tx 3") == class_of("wm11 tx 0") == "wm tx"
    assert class_of("7") == "lock"


def edge(before: str, after: str) -> Edge:
    return Edge(before, after, "here:1", "there:2", "me")


def test_a_full_graph_says_so_aloud_and_once() -> None:
    graph = LockGraph(classes_max=3, edges_max=100)
    assert graph.add(edge("a", "b")) == [] and graph.add(edge("b", "c")) == []
    with pytest.warns(RuntimeWarning, match="lock order table is full"):
        assert graph.add(edge("c", "d")) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graph.add(edge("d", "e"))
    assert graph.is_full and [each.after for each in graph.add(edge("c", "a"))] == ["b", "c"]
    graph = LockGraph(classes_max=3, edges_max=1)
    graph.add(edge("a", "b"))
    with pytest.warns(RuntimeWarning, match="1 edges"):
        graph.add(edge("a", "c"))


def test_a_full_lock_table_says_so_and_checks_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    _, debug = checked()
    monkeypatch.setattr(lockdebug, "LOCKDEBUG_LOCKS_MAX", debug.stats()["locks"] + 1)
    known = Reporter(debug, "known")
    with pytest.warns(RuntimeWarning, match="locks exist"):
        unknown = Reporter(debug, "unknown")
    unknown.enter()
    unknown.exit()
    assert debug.stats()["is_full"] == 1
    known.enter()
    refused("self-lock", known.enter)
    known.exit()


def test_locks_that_are_forgotten_leave_the_table() -> None:
    _, debug = checked()
    before = debug.stats()["locks"]
    locks = [Reporter(debug, "a") for _ in range(10)]
    assert debug.stats()["locks"] == before + 10
    del locks
    gc.collect()
    assert debug.stats()["locks"] == before


def test_the_graph_is_exported_in_three_ways() -> None:
    graph = LockGraph()
    for pair in (("b", "c"), ("a", "b"), ("a", "c")):
        graph.add(edge(*pair))
    assert graph.nodes() == ["a", "b", "c"] and graph.ranks() == {"a": 0, "b": 1, "c": 2}
    assert graph.text() == "a -> b\na -> c\nb -> c"
    assert graph.dot().splitlines()[1] == '  "a" -> "b";'
    table = json.loads(graph.json())
    assert table["edges"][0] == {
        "before": "a", "after": "b", "held_at": "here:1", "wanted_at": "there:2", "by": "me"
    }  # fmt: skip


def test_a_long_circle_is_found() -> None:
    graph = LockGraph()
    for i in range(50):
        graph.add(edge(f"l{i}", f"l{i + 1}"))
    assert len(graph.add(edge("l50", "l0"))) == 50
    assert len(graph.edges()) == 50


# --- on and off


def test_it_is_on_in_the_checked_build_and_by_argument() -> None:
    for asked, expected in ((None, IS_CHECKED), (True, True), (False, False)):
        with Machine(lockdebug=asked) as m:
            assert (m.engine.lockdebug is not None) is expected
            assert ("lockdebug" in m.stats()) is expected
