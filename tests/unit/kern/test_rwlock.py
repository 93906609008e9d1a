"""Readers and one writer (paper §3.1.2, Table 1)."""

import random
from errno import EBUSY, EDEADLK, EINVAL, EPERM, ETIMEDOUT

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim.rig import Device, make
from unit.kern.kernrig import Actors

from netstack import NetstackError
from netstack.kern.mutex import Mutex
from netstack.kern.rwlock import RW_READER, RW_WRITER, RwLock
from netstack.machine.virtual import VirtualEngine


def errno_of(call: object, *args: object) -> int | None:
    with pytest.raises(NetstackError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value.errno


class Trace:
    """Threads that hold the lock at given times, and who held it when."""

    def __init__(self, ncpu: int = 6) -> None:
        self.engine: VirtualEngine = make(ncpu)
        self.lock = RwLock(self.engine, "table")
        self.order: list[str] = []

    def hold(self, name: str, op: str, at_ns: int, for_ns: int, cpu: int) -> None:
        def work() -> None:
            self.lock.enter(op)  # type: ignore[arg-type]
            self.order.append(name)
            self.engine.sleep(for_ns * 1e-9)
            self.lock.exit()

        self.engine.at(at_ns, lambda: self.engine.spawn(work, cpu=cpu, name=name))

    def run(self) -> list[str]:
        self.engine.run()
        assert self.lock.holder == "nobody" and self.lock.waiting == 0
        return self.order


def test_readers_share_and_a_writer_does_not() -> None:
    trace = Trace()
    engine, lock = trace.engine, trace.lock
    seen: list[tuple[int, bool]] = []

    def reader() -> None:
        with lock.reading():
            assert lock.read_held and lock.lock_held and not lock.write_held
            engine.sleep(10e-6)
            seen.append((engine.now_ns() // 1000, True))

    def writer() -> None:
        engine.sleep(1e-6)
        with lock.writing():
            assert lock.write_held and lock.lock_held and not lock.read_held
            seen.append((engine.now_ns() // 1000, False))

    for cpu in range(3):
        engine.spawn(reader, cpu=cpu)
    engine.spawn(writer, cpu=3)
    engine.run()
    assert [is_reader for _, is_reader in seen] == [True, True, True, False]
    assert seen[0][0] == seen[2][0] <= seen[3][0]


def test_a_waiting_writer_holds_off_new_readers() -> None:
    trace = Trace()
    trace.hold("r1", RW_READER, 0, 20_000, 0)
    trace.hold("w", RW_WRITER, 2_000, 5_000, 1)
    trace.hold("r2", RW_READER, 5_000, 1_000, 2)
    assert trace.run() == ["r1", "w", "r2"]


def test_readers_and_writers_take_turns_and_nobody_starves() -> None:
    trace = Trace(8)
    trace.hold("w0", RW_WRITER, 0, 20_000, 0)
    trace.hold("w1", RW_WRITER, 2_000, 5_000, 1)
    trace.hold("r1", RW_READER, 3_000, 5_000, 2)
    trace.hold("w2", RW_WRITER, 4_000, 5_000, 3)
    trace.hold("r2", RW_READER, 5_000, 5_000, 4)
    trace.hold("r3", RW_READER, 30_000, 5_000, 5)  # comes while w1 waits behind r1 and r2, or holds
    # A writer leaves: all readers that wait; the last of them: the writer that waits longest.
    order = trace.run()
    assert order[0] == "w0" and sorted(order[1:3]) == ["r1", "r2"]
    assert order[3:] == ["w1", "r3", "w2"]


def test_try_enter_never_waits_and_respects_waiting_writers() -> None:
    trace = Trace()
    engine, lock = trace.engine, trace.lock
    got: list[tuple[str, bool]] = []
    trace.hold("r", RW_READER, 0, 20_000, 0)
    trace.hold("w", RW_WRITER, 10_000, 1_000, 1)

    def tries(when: str) -> None:
        for op in (RW_READER, RW_WRITER):
            is_taken = lock.try_enter(op)
            got.append((f"{when} {op}", is_taken))
            if is_taken:
                lock.exit()

    engine.at(2_000, lambda: engine.spawn(lambda: tries("reader holds"), cpu=2))
    engine.at(15_000, lambda: engine.spawn(lambda: tries("writer waits"), cpu=3))
    trace.run()
    tries("free")
    assert got == [
        ("reader holds reader", True),
        ("reader holds writer", False),
        ("writer waits reader", False),
        ("writer waits writer", False),
        ("free reader", True),
        ("free writer", True),
    ]


def test_upgrade_is_for_the_sole_reader() -> None:
    trace = Trace()
    engine, lock = trace.engine, trace.lock
    got: list[object] = []

    def other() -> None:
        with lock.reading():
            engine.sleep(5e-6)

    def upgrades() -> None:
        engine.sleep(1e-6)
        lock.enter(RW_READER)
        got.append(lock.tryupgrade())
        engine.sleep(20e-6)
        got.append(lock.tryupgrade())
        got.append(lock.write_held)
        lock.exit()

    engine.spawn(other, cpu=0)
    engine.spawn(upgrades, cpu=1)
    engine.run()
    assert got == [False, True, True]
    assert errno_of(lock.tryupgrade) == EPERM


def test_an_upgrade_wins_against_a_writer_that_waits() -> None:
    trace = Trace()
    engine, lock = trace.engine, trace.lock
    order: list[str] = []

    def upgrades() -> None:
        lock.enter(RW_READER)
        engine.sleep(10e-6)
        assert lock.tryupgrade()
        order.append("upgraded")
        engine.sleep(10e-6)
        lock.exit()

    engine.spawn(upgrades, cpu=0)
    trace.hold("w", RW_WRITER, 2_000, 1_000, 1)
    assert trace.run() == ["w"] and order == ["upgraded"]


def test_downgrade_lets_waiting_readers_in_and_no_writer() -> None:
    trace = Trace()
    engine, lock = trace.engine, trace.lock

    def downgrades() -> None:
        lock.enter(RW_WRITER)
        trace.order.append("writer")
        engine.sleep(10e-6)
        lock.downgrade()
        assert lock.read_held and not lock.write_held
        trace.order.append("downgraded")
        engine.sleep(10e-6)
        lock.exit()

    engine.spawn(downgrades, cpu=0)
    trace.hold("w", RW_WRITER, 2_000, 1_000, 1)
    trace.hold("r", RW_READER, 3_000, 1_000, 2)
    assert trace.run() == ["writer", "downgraded", "r", "w"]
    assert errno_of(lock.downgrade) == EPERM


@pytest.mark.parametrize("held", [RW_READER, RW_WRITER])
@pytest.mark.parametrize("wanted", [RW_READER, RW_WRITER])
def test_it_does_not_nest(held: str, wanted: str) -> None:
    lock = RwLock(make(), "table")
    lock.enter(held)  # type: ignore[arg-type]
    assert not lock.try_enter(wanted)  # type: ignore[arg-type]
    assert errno_of(lock.enter, wanted) == EDEADLK
    lock.exit()
    assert errno_of(lock.exit) == EPERM


def test_misuse_is_an_error() -> None:
    engine = make()
    lock = RwLock(engine, "table")
    assert errno_of(lock.enter, "both") == EINVAL
    with lock.reading():
        assert errno_of(lock.destroy) == EBUSY
    lock.destroy()
    assert errno_of(lock.enter, RW_READER) == EINVAL
    assert errno_of(lock.destroy) == EINVAL
    other = RwLock(engine, "other")
    Device(engine, "dev", then=lambda: other.enter(RW_READER)).fire_at(0)
    with pytest.raises(NetstackError, match="rwlock: not from hard"):
        engine.run()


def test_a_circle_through_a_mutex_is_named() -> None:
    engine = make(2)
    lock, mutex = RwLock(engine, "table"), Mutex(engine, "m")
    errors: list[str] = []

    def takes(first: object, then: object) -> None:
        try:
            with first:  # type: ignore[attr-defined]
                engine.sleep(5e-6)
                with then:  # type: ignore[attr-defined]
                    pass
        except NetstackError as error:
            errors.append(str(error))

    engine.spawn(lambda: takes(lock.writing(), mutex), cpu=0, name="t0")
    engine.spawn(lambda: takes(mutex, lock.reading()), cpu=1, name="t1")
    engine.run()
    assert len(errors) == 1 and "t0" in errors[0] and "t1" in errors[0]
    assert not lock.waiting and not mutex.is_held and lock.holder == "nobody"


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_a_writer_that_gives_up_lets_the_readers_behind_it_in(clock: str) -> None:
    with Actors(clock, ncpu=3) as actors:
        lock = RwLock(actors.engine, "table")
        lock.enter(RW_READER)
        order: list[str] = []

        def writer() -> None:
            assert errno_of(lock.enter, RW_WRITER, 0.01) == ETIMEDOUT
            order.append("writer gives up")

        def reader() -> None:
            actors.engine.wait_until(lambda: lock.waiting > 0, "the writer to wait")
            lock.enter(RW_READER)
            order.append("reader")
            lock.exit()

        actors.thread(writer, 1)
        actors.thread(reader, 2)
        actors.finish()
        lock.exit()
        assert sorted(order) == ["reader", "writer gives up"]


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_exclusion_with_threads_and_softints(clock: str, seed: int) -> None:
    with Actors(clock, ncpu=3, seed=seed) as actors:
        lock = RwLock(actors.engine, "table")
        inside: list[str] = []
        bad: list[list[str]] = []
        rounds = 25

        def section(op: str) -> None:
            lock.enter(op)  # type: ignore[arg-type]
            inside.append(op)
            if "writer" in inside and len(inside) > 1:
                bad.append(list(inside))
            actors.work(200)
            inside.remove(op)
            lock.exit()
            actors.work(50)

        for cpu in range(3):
            op = RW_WRITER if cpu == 0 else RW_READER
            actors.thread(lambda op=op: [section(op) for _ in range(rounds)], cpu)
            op = RW_WRITER if cpu == 2 else RW_READER
            actors.softint("net", lambda op=op: section(op), cpu, rounds)
        assert actors.finish() == 6 * rounds
        assert not bad and lock.holder == "nobody" and lock.waiting == 0


# --- against a model


class Model:
    """What the lock has to do, as a list of holders and a queue; times do not matter here."""

    def __init__(self) -> None:
        self.readers: set[int] = set()
        self.writer: int | None = None
        self.queue: list[tuple[int, str]] = []

    def enter(self, who: int, op: str) -> None:
        if self.is_open(op):
            self.admit(who, op)
        else:
            self.queue.append((who, op))

    def is_open(self, op: str) -> bool:
        if op == "writer":
            return self.writer is None and not self.readers
        return self.writer is None and not any(op == "writer" for _, op in self.queue)

    def admit(self, who: int, op: str) -> None:
        if op == "writer":
            self.writer = who
        else:
            self.readers.add(who)

    def exit(self, who: int) -> None:
        was_writer = self.writer == who
        if was_writer:
            self.writer = None
        else:
            self.readers.remove(who)
            if self.readers:
                return
        readers = [entry for entry in self.queue if entry[1] == "reader"]
        writers = [entry for entry in self.queue if entry[1] == "writer"][:1]
        for entry in (readers or writers) if was_writer else (writers or readers):
            self.queue.remove(entry)
            self.admit(*entry)

    def downgrade(self) -> None:
        assert self.writer is not None
        self.readers, self.writer = {self.writer}, None
        for entry in [entry for entry in self.queue if entry[1] == "reader"]:
            self.queue.remove(entry)
            self.admit(*entry)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.integers(0, 1 << 16), min_size=5, max_size=60))
def test_it_does_what_the_model_does(choices: list[int]) -> None:
    """A puppet per thread does one operation at a time; after each, holders and queue agree."""
    engine = make(2)
    lock = RwLock(engine, "table")
    model = Model()
    orders: list[str | None] = [None] * 5
    idle = [True] * 5

    def puppet(i: int) -> None:
        while True:
            engine.wait_until(lambda: orders[i] is not None, "an order", timeout_s=1e6)
            order, orders[i] = orders[i], None
            if order in ("reader", "writer"):
                lock.enter(order)  # type: ignore[arg-type]
            elif order == "exit":
                lock.exit()
            elif order == "downgrade":
                lock.downgrade()
            elif order == "upgrade":
                lock.tryupgrade()
            elif order == "end":
                return
            idle[i] = True

    lwps = [
        engine.spawn(lambda i=i: puppet(i), cpu=i % 2, name=f"p{i}") for i in range(len(orders))
    ]
    names = {lwp: i for i, lwp in enumerate(lwps)}
    engine.run()
    for choice in choices:
        able = [i for i in range(len(orders)) if idle[i]]
        if not able:
            break  # all wait: the model says by whom they are woken, nobody is left to do it
        i = able[choice % len(able)]
        draw = choice // len(able)
        if model.writer == i:
            order = ("exit", "downgrade")[draw % 2]
        elif i in model.readers:
            order = ("exit", "upgrade")[draw % 2]
        else:
            order = ("reader", "writer")[draw % 2]
        idle[i] = False
        orders[i] = order
        if order == "exit":
            model.exit(i)
        elif order == "downgrade":
            model.downgrade()
        elif order == "upgrade":
            if model.readers == {i}:
                model.readers, model.writer = set(), i
        else:
            model.enter(i, order)
        engine.run()
        held_by = {names[lwp] for lwp in lock._readers}  # type: ignore[index]
        writer = None if lock.owner is None else names[lock.owner]  # type: ignore[index]
        assert (held_by, writer, lock.waiting) == (model.readers, model.writer, len(model.queue))
        waiting = {who for who, _ in model.queue}
        assert {i for i in range(len(orders)) if not idle[i]} == waiting
    engine.close()


def test_no_wakeup_is_lost_under_random_schedules(seed: int) -> None:
    for round_seed in range(seed, seed + 30):
        draw = random.Random(round_seed)
        engine = make(4, seed=round_seed)
        lock = RwLock(engine, "table")
        done: list[int] = []

        def work(who: int, engine=engine, lock=lock, done=done, draw=draw) -> None:  # type: ignore[no-untyped-def]
            for _ in range(6):
                lock.enter(draw.choice([RW_READER, RW_READER, RW_WRITER]))
                if draw.randrange(2):
                    engine.sleep(draw.randrange(1, 3000) * 1e-9)
                else:
                    engine.charge("work", draw.randrange(1, 2000))
                if lock.write_held and draw.randrange(2):
                    lock.downgrade()
                elif lock.read_held and draw.randrange(2):
                    lock.tryupgrade()
                engine.charge("work", draw.randrange(1, 1000))
                lock.exit()
            done.append(who)

        for who in range(8):
            engine.spawn(lambda who=who, work=work: work(who), cpu=who % 4)
        engine.run()
        assert sorted(done) == list(range(8)), f"seed {round_seed}"
        assert lock.holder == "nobody" and not lock.waiting
