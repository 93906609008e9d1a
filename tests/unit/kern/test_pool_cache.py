"""Pools with magazines per CPU (NetBSD pool_cache(9))."""

import threading
from collections.abc import Callable
from errno import EBUSY, EDEADLK, EINVAL, ENOMEM, ETIMEDOUT
from random import Random
from typing import Any

import pytest
from sim.rig import make

from netstack import NetstackError
from netstack.kern.pool_cache import PCG_OBJECTS, PoolCache


class Thing:
    """An object that knows what was done to it."""

    def __init__(self) -> None:
        self.state = "raw"


class Ledger:
    """Where things come from; checks that each step is made once, in order."""

    def __init__(self) -> None:
        self.made = self.ready = 0

    def make(self) -> Thing:
        self.made += 1
        return Thing()

    def unmake(self, thing: Thing) -> None:
        self.made -= 1
        assert thing.state == "raw"
        thing.state = "gone"

    def ctor(self, thing: Thing) -> None:
        self.ready += 1
        assert thing.state == "raw"
        thing.state = "ready"

    def dtor(self, thing: Thing) -> None:
        self.ready -= 1
        assert thing.state == "ready"
        thing.state = "raw"

    def cache(self, engine: Any, **options: Any) -> PoolCache[Thing]:
        return PoolCache(
            engine, "things", self.make, self.unmake, ctor=self.ctor, dtor=self.dtor, **options
        )


def on_cpu(engine: Any, index: int, fn: Callable[[], object]) -> None:
    engine.spawn(fn, cpu=index)
    engine.run()


def test_objects_stay_constructed_in_the_cache() -> None:
    engine, ledger = make(2), Ledger()
    cache = ledger.cache(engine)
    things = [cache.get() for _ in range(5)]
    assert all(thing is not None and thing.state == "ready" for thing in things)
    assert len(set(map(id, things))) == 5 and ledger.made == ledger.ready == 5
    for thing in things:
        assert thing is not None
        cache.put(thing)
    assert {id(cache.get()) for _ in range(5)} == set(map(id, things)) and ledger.made == 5
    stats = cache.stats()
    assert (stats["total"], stats["out"], stats["cached"], stats["idle"]) == (5, 5, 0, 0)
    assert (stats["gets"], stats["puts"], stats["hits"], stats["misses"]) == (10, 5, 10, 5)


def test_a_cpu_that_gets_and_puts_in_turn_does_not_go_to_the_depot() -> None:
    """Hysteresis of two groups: wherever their fill stands, a pair costs no depot access."""
    engine, ledger = make(1), Ledger()
    cache = ledger.cache(engine, group_objects=4)

    def work() -> None:
        held = [cache.get() for _ in range(8)]
        for _ in range(8):
            thing = held.pop()
            assert thing is not None
            cache.put(thing)
            before = cache.stats()["misses"]
            for _ in range(3):
                taken = cache.get()
                assert taken is not None
                cache.put(taken)
            assert cache.stats()["misses"] == before

    on_cpu(engine, 0, work)


def test_full_groups_go_through_the_depot_to_another_cpu() -> None:
    engine, ledger = make(2), Ledger()
    cache = ledger.cache(engine)
    held: list[Thing] = []

    def take(count: int) -> None:
        for _ in range(count):
            thing = cache.get()
            assert thing is not None
            held.append(thing)

    def give() -> None:
        while held:
            cache.put(held.pop())

    on_cpu(engine, 0, lambda: take(4 * PCG_OBJECTS))
    on_cpu(engine, 1, give)  # remote frees
    assert ledger.made == 4 * PCG_OBJECTS
    stats = cache.stats()
    assert stats["cached"] == 4 * PCG_OBJECTS and stats["depot_groups"] == 2
    on_cpu(engine, 0, lambda: take(2 * PCG_OBJECTS))  # what the depot has, CPU 0 can have
    assert ledger.made == 4 * PCG_OBJECTS and cache.stats()["depot_groups"] == 0
    on_cpu(engine, 0, lambda: take(1))  # the rest is in the groups of CPU 1
    assert ledger.made == 4 * PCG_OBJECTS + 1
    on_cpu(engine, 0, give)
    cache.destroy()
    assert ledger.made == ledger.ready == 0


def test_invalidate_and_drain_and_the_marks() -> None:
    engine, ledger = make(3), Ledger()
    cache = ledger.cache(engine, lowat=4, hiwat=10)
    assert ledger.made == 4 and ledger.ready == 0  # primed, not constructed

    def churn() -> None:
        held = [cache.get() for _ in range(6)]
        for thing in held:
            assert thing is not None
            cache.put(thing)

    for cpu in range(3):
        on_cpu(engine, cpu, churn)
    mine = cache.get()
    assert mine is not None
    assert ledger.made == 19 and ledger.ready == 19
    cache.invalidate()
    assert ledger.ready == 1 and mine.state == "ready"
    assert cache.stats()["idle"] == 10 and cache.stats()["cached"] == 0 and ledger.made == 11
    assert cache.drain() == 6 and cache.stats()["idle"] == 4
    cache.destruct(mine)
    assert ledger.ready == 0 and ledger.made == 5
    cache.destroy()
    assert ledger.made == 0


def test_the_hard_limit() -> None:
    engine, ledger = make(2), Ledger()
    cache = ledger.cache(engine, hardlimit=3)
    things = [cache.get() for _ in range(4)]
    assert things[3] is None and cache.stats()["fails"] == 1 and ledger.made == 3
    with pytest.raises(NetstackError) as caught:
        cache.setlimits(hardlimit=2)
    assert caught.value.errno == EINVAL
    with pytest.raises(NetstackError, match="more than 3") as caught:
        cache.prime(1)
    assert caught.value.errno == ENOMEM
    cache.setlimits(hardlimit=4)
    assert cache.get() is not None


def test_waiting_for_an_object_takes_it_from_wherever_it_is_cached() -> None:
    engine, ledger = make(2), Ledger()
    cache = ledger.cache(engine, hardlimit=2)
    held = [cache.get(), cache.get()]
    got: list[object] = []
    engine.spawn(lambda: got.append(cache.get(wait=True)), cpu=1)
    engine.run(seconds=1e-3)
    assert not got
    cache.put(held[0])  # type: ignore[arg-type]
    engine.run()
    assert got == [held[0]]  # it was in the group of control threads
    with pytest.raises(NetstackError, match="all 2 are out") as caught:
        engine.spawn(lambda: engine.sleep(5.0))
        cache.get(wait=True, timeout_s=1.0)
    assert caught.value.errno == ETIMEDOUT
    si = engine.softints.establish("net", lambda _: cache.get(wait=True))
    engine.softints.schedule_cpu(si, 0)
    with pytest.raises(NetstackError) as caught:
        engine.run()
    assert caught.value.errno == EDEADLK


def test_what_is_not_out_is_not_put() -> None:
    engine, ledger = make(), Ledger()
    cache = ledger.cache(engine)
    thing = cache.get()
    assert thing is not None
    cache.put(thing)
    for wrong in (thing, Thing()):
        for fn in (cache.put, cache.destruct):
            with pytest.raises(NetstackError, match="is not out") as caught:
                fn(wrong)
            assert caught.value.errno == EINVAL
    assert cache.stats()["cached"] == 1


def test_destroy_needs_everything_back() -> None:
    engine, ledger = make(), Ledger()
    cache = ledger.cache(engine)
    thing = cache.get()
    assert thing is not None
    with pytest.raises(NetstackError, match="1 objects are out") as caught:
        cache.destroy()
    assert caught.value.errno == EBUSY
    cache.put(thing)
    cache.destroy()
    for fn in (cache.get, cache.destroy):
        with pytest.raises(NetstackError, match="destroyed") as caught:
            fn()
        assert caught.value.errno == EINVAL


def test_a_constructor_that_fails_costs_nothing() -> None:
    engine = make()
    fails = [True]

    def ctor(_: Thing) -> None:
        if fails[0]:
            raise OSError("no")

    cache = PoolCache(engine, "things", Thing, ctor=ctor, hardlimit=1)
    with pytest.raises(OSError, match="no"):
        cache.get()
    assert cache.stats()["idle"] == 1 and cache.stats()["out"] == 0
    fails[0] = False
    assert cache.get() is not None


def test_limits_that_contradict_each_other_are_refused() -> None:
    engine = make()
    for limits in ({"lowat": 5, "hiwat": 4}, {"lowat": -1}, {"hardlimit": -1}, {"group_objects": 0}):
        with pytest.raises(NetstackError) as caught:
            Ledger().cache(engine, **limits)
        assert caught.value.errno == EINVAL


def test_against_a_model(seed: int) -> None:
    """Random gets, puts, remote frees, destructions and drains: every object in one place."""
    rng = Random(seed)
    for _ in range(10):
        ncpu = rng.randint(1, 3)
        engine, ledger = make(ncpu, seed=rng.getrandbits(16)), Ledger()
        limit = rng.choice([None, rng.randint(1, 40)])
        hiwat = rng.choice([None, 5])
        cache = ledger.cache(
            engine, hardlimit=limit, hiwat=hiwat, group_objects=rng.choice([1, 2, 5])
        )
        if limit is not None and hiwat is not None and limit < hiwat:
            continue
        out: list[Thing] = []
        state = {"gets": 0, "puts": 0, "fails": 0}

        def step(rng: Random = rng, cache: Any = cache, out: Any = out, s: Any = state) -> None:
            for _ in range(rng.randint(1, 25)):
                action = rng.random()
                if action < 0.5:
                    thing = cache.get()
                    if thing is None:
                        s["fails"] += 1
                    else:
                        assert thing.state == "ready" and not any(thing is each for each in out)
                        out.append(thing)
                        s["gets"] += 1
                elif out:
                    thing = out.pop(rng.randrange(len(out)))
                    (cache.put if action < 0.95 else cache.destruct)(thing)
                    s["puts"] += 1

        for _ in range(40):
            if rng.random() < 0.1:
                (cache.drain if rng.random() < 0.5 else cache.invalidate)()
            on_cpu(engine, rng.randrange(ncpu), step)
            step()  # a control thread
            stats = cache.stats()
            assert {key: stats[key] for key in state} == state
            assert stats["out"] == len(out)
            assert stats["total"] == ledger.made == stats["out"] + stats["cached"] + stats["idle"]
            assert ledger.ready == stats["out"] + stats["cached"]
            assert limit is None or stats["total"] <= limit
            assert hiwat is None or stats["idle"] <= max(hiwat, 0)
        for thing in out:
            cache.put(thing)
        cache.destroy()
        assert ledger.made == ledger.ready == 0
        engine.close()


def test_threads_of_the_wall_share_it(machine: Any) -> None:
    """Softints on both CPUs and control threads; what one gets another may put."""
    m = machine(ncpu=2, clock="wall")
    cache = PoolCache(m.engine, "things", Thing, hardlimit=60, group_objects=4)
    shelf: list[Thing] = []
    rounds = [0, 0]

    def swap(times: int) -> None:
        for _ in range(times):
            thing = cache.get()
            if thing is not None:
                assert thing.state == "raw"
                thing.state = "mine"  # two holders would see each other
                thing.state = "raw"
                shelf.append(thing)
            if len(shelf) > 20:
                cache.put(shelf.pop())

    def soft(_: object) -> None:
        cpu = m.engine.curcpu()
        swap(20)
        rounds[cpu.index] += 1
        if rounds[cpu.index] < 30:
            m.engine.softints.schedule(si)

    si = m.engine.softints.establish("net", soft)
    for index in range(2):
        m.engine.softints.schedule_cpu(si, index)
    threads = [threading.Thread(target=swap, args=(300,)) for _ in range(2)]
    m.engine.start()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        m.engine.wait_until(lambda: rounds == [30, 30], "the softints")
    finally:
        m.engine.stop()
    while shelf:
        cache.put(shelf.pop())
    stats = cache.stats()
    assert stats["out"] == 0 and stats["gets"] == stats["puts"] and stats["total"] <= 60
    cache.destroy()
    assert cache.stats()["total"] == 0
