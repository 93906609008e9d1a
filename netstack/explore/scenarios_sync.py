"""Scenarios of locks and of sleeping: mutexes, condition variables, KERNEL_LOCK."""

from __future__ import annotations

from netstack.explore.library import scenario
from netstack.kern.condvar import CondVar
from netstack.kern.mutex import Mutex
from netstack.kern.rwlock import RwLock
from netstack.kern.spl import IPL
from netstack.topology import Machine

__all__: list[str] = []


@scenario("mutex-handoff")
def mutex_handoff() -> object:
    """An adaptive mutex lets one in at a time, threads on two CPUs and a softint; nobody is forgotten."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        mutex = Mutex(engine, "shared", ipl=IPL.SOFTNET)
        inside: list[str] = []
        order: list[str] = []

        def critical(name: str) -> None:
            with mutex:
                inside.append(name)
                engine.charge("rx")
                assert inside == [name], f"{inside} hold the mutex at once"
                inside.remove(name)
                order.append(name)

        si = engine.softints.establish("net", lambda _arg: critical("softint"), name="critical")
        m.spawn(lambda: critical("first"), cpu=0, name="first")
        m.spawn(lambda: critical("second"), cpu=1, name="second")
        engine.at(engine.now_ns(), lambda: engine.softints.schedule_cpu(si, 0))
        m.run()
        assert len(order) == 3
        return tuple(order)


@scenario("condvar-handoff")
def condvar_handoff() -> object:
    """What a producer puts under the mutex and signals, a consumer that waits gets."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        mutex, cv = Mutex(engine, "box", ipl=IPL.SOFTNET), CondVar(engine, "full")
        box: list[int] = []
        taken: list[int] = []

        def consume() -> None:
            with mutex:
                while not box:
                    cv.wait(mutex)
                taken.append(box.pop(0))

        def produce(number: int) -> None:
            with mutex:
                box.append(number)
                cv.signal()

        si = engine.softints.establish("net", lambda _arg: produce(2), name="producer")
        m.spawn(consume, cpu=0, name="consumer 1")
        m.spawn(consume, cpu=1, name="consumer 2")
        m.spawn(lambda: produce(1), cpu=1, name="producer")
        engine.at(engine.now_ns(), lambda: engine.softints.schedule_cpu(si, 0))
        m.run()
        assert sorted(taken) == [1, 2], f"taken: {taken}, left in the box: {box}"
        return tuple(taken)


@scenario("rwlock")
def rwlock() -> object:
    """Readers share, a writer is alone, and each of them gets its turn."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        lock = RwLock(engine, "shared")
        readers: list[str] = []
        is_writing = False
        shared = 0

        def read(name: str) -> None:
            nonlocal shared
            lock.enter("reader")
            readers.append(name)
            engine.charge("rx")
            assert not is_writing, f"{name} reads while a writer writes"
            shared = max(shared, len(readers))
            readers.remove(name)
            lock.exit()

        def write() -> None:
            nonlocal is_writing
            lock.enter("writer")
            assert not readers and not is_writing, "a writer is not alone"
            is_writing = True
            engine.charge("rx")
            assert not readers, "a writer is not alone"
            is_writing = False
            lock.exit()

        m.spawn(lambda: read("reader 1"), cpu=0, name="reader 1")
        m.spawn(write, cpu=1, name="writer")
        m.spawn(lambda: read("reader 2"), cpu=1, name="reader 2")
        m.run()
        return shared


@scenario("kernel-lock-sleep")
def kernel_lock_sleep() -> object:
    """A thread gives KERNEL_LOCK up over sleep and has it back to its depth: a softint needs it."""
    with Machine(ncpu=2, kernel="GENERIC") as m:
        engine = m.engine
        is_told = False
        runs = 0

        def handler(_arg: object) -> None:
            nonlocal is_told, runs
            assert engine.kernel_lock.is_mine, "a softint of GENERIC runs without KERNEL_LOCK"
            engine.charge("rx")
            is_told = True
            runs += 1

        si = engine.softints.establish("net", handler, mpsafe=False, name="teller")

        def wait() -> None:
            engine.kernel_lock.enter()
            engine.kernel_lock.enter()
            engine.softints.schedule_cpu(si, 1)
            engine.wait_until(lambda: is_told, "the softint to tell")
            assert engine.kernel_lock.is_mine, "KERNEL_LOCK is not back after the sleep"
            engine.kernel_lock.exit()
            assert engine.kernel_lock.is_mine, "KERNEL_LOCK is not back to its depth"
            engine.kernel_lock.exit()
            assert not engine.kernel_lock.is_mine

        m.spawn(wait, cpu=0, name="waiter")
        m.run()
        return runs


@scenario("generic-contention")
def generic_contention() -> object:
    """On GENERIC two CPUs' handlers and a thread exclude each other by KERNEL_LOCK, and all get it."""
    with Machine(ncpu=2, kernel="GENERIC") as m:
        engine = m.engine
        inside: list[str] = []
        done: list[str] = []

        def body(name: str) -> None:
            inside.append(name)
            engine.charge("rx")
            assert inside == [name], f"{inside} are under KERNEL_LOCK at once"
            inside.remove(name)
            done.append(name)

        def thread() -> None:
            with engine.kernel_lock.held():
                body("thread")

        si = engine.softints.establish("net", lambda name: body(f"softint {engine.curcpu()}"), name="giant")
        m.spawn(thread, cpu=0)
        engine.at(engine.now_ns(), lambda: engine.softints.schedule_cpu(si, 0))
        engine.softints.schedule_cpu(si, 1)
        m.run()
        assert len(done) == 3, f"done: {done}"
        return tuple(name[:7] for name in done)
