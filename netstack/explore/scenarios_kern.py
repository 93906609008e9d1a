"""Scenarios of interrupts, softints, callouts, grace periods and references.

Each is complete: it builds its machine, lets it work, and says what must hold.
"""

from __future__ import annotations

from netstack.explore.library import scenario
from netstack.kern.callout import Callout
from netstack.kern.psref import PsrefClass, PsrefTarget
from netstack.kern.workqueue import Workqueue
from netstack.machine.api import Cpu, Engine
from netstack.topology import Machine

__all__: list[str] = []


def here(engine: Engine) -> Cpu:
    """Return the CPU that runs the caller."""
    cpu = engine.curcpu()
    assert cpu is not None
    return cpu


@scenario("softint-run")
def softint_run() -> object:
    """A softint runs after each schedule, once per CPU at a time, whoever schedules it from where."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        wanted, served, inside = [0, 0], [0, 0], [0, 0]

        def handler(_arg: object) -> None:
            cpu = here(engine).index
            inside[cpu] += 1
            assert inside[cpu] == 1, "a level runs inside itself"
            seen = wanted[cpu]
            engine.charge("rx")
            served[cpu] = max(served[cpu], seen)
            inside[cpu] -= 1

        si = engine.softints.establish("net", handler, name="counted")

        def schedule(cpu: int, count: int) -> None:
            for _ in range(count):
                wanted[cpu] += 1
                engine.softints.schedule_cpu(si, cpu)

        m.spawn(lambda: schedule(0, 2), cpu=0, name="local")
        m.spawn(lambda: schedule(0, 2), cpu=1, name="remote")
        schedule(1, 1)
        m.run()
        assert served == wanted, f"scheduled {wanted}, served {served}"
        return si.runs


@scenario("softint-disestablish")
def softint_disestablish() -> object:
    """When softint_disestablish returns, the handler neither runs nor will."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        is_gone = False
        runs = 0

        def handler(_arg: object) -> None:
            nonlocal runs
            for _ in range(2):
                assert not is_gone, "the handler runs after softint_disestablish returned"
                engine.charge("rx")
            runs += 1

        si = engine.softints.establish("net", handler, name="leaving")

        def leave() -> None:
            nonlocal is_gone
            engine.softints.disestablish(si)
            is_gone = True

        m.spawn(lambda: engine.softints.schedule(si), cpu=0, name="user")
        m.spawn(leave, cpu=1, name="leaver")
        m.run()
        return runs


@scenario("callout-halt")
def callout_halt() -> object:
    """When callout_halt returns, the function does not run, and does not run later."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        is_halted = False
        calls = 0

        def called(_arg: object) -> None:
            nonlocal calls
            calls += 1
            for _ in range(2):
                assert not is_halted, "the callout runs after callout_halt returned"
                engine.charge("rx")

        callout = Callout(engine, called, name="late", cpu=0)

        def halt() -> None:
            nonlocal is_halted
            callout.halt()
            is_halted = True

        callout.schedule(0.001)
        m.spawn(halt, cpu=1, name="halter")
        m.run()
        return calls


@scenario("pserialize-free")
def pserialize_free() -> object:
    """What was unlinked before pserialize_perform is in no reader's hands after it."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        linked: list[dict[str, bool]] = [{"is_freed": False}]
        reads = 0

        def reader(_arg: object) -> None:
            nonlocal reads
            cpu = here(engine)
            s = engine.pserialize.read_enter(cpu)
            if linked:
                found = linked[0]
                for _ in range(2):
                    engine.softints.schedule(other)  # a primitive: others may go on here
                    assert not found["is_freed"], "a reader holds what was freed"
                reads += 1
            engine.pserialize.read_exit(cpu, s)

        si = engine.softints.establish("net", reader, name="reader")
        other = engine.softints.establish("clock", lambda _arg: None, name="other")

        def free() -> None:
            found = linked.pop()
            engine.pserialize.perform()
            found["is_freed"] = True

        m.spawn(lambda: engine.softints.schedule(si), cpu=0, name="user")
        m.spawn(free, cpu=1, name="writer")
        m.run()
        return reads


@scenario("psref-drain")
def psref_drain() -> object:
    """psref_target_destroy waits for who took a reference before the object was unlinked, and sleeps."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        klass = PsrefClass(engine, "drained")
        linked = [PsrefTarget(klass, "target")]
        is_gone = is_told = False
        used = 0

        def user() -> None:
            nonlocal used
            cpu = here(engine)
            s = engine.pserialize.read_enter(cpu)
            psref = linked[0].acquire() if linked else None
            engine.pserialize.read_exit(cpu, s)
            if psref is None:
                return
            engine.wait_until(lambda: is_told, "the other thread to tell")
            assert not is_gone, "used after psref_target_destroy returned"
            psref.release()
            used += 1

        def tell() -> None:
            nonlocal is_told
            engine.charge("switch")
            is_told = True

        def destroy() -> None:
            nonlocal is_gone
            target = linked.pop()
            engine.pserialize.perform()
            target.destroy()
            is_gone = True

        m.spawn(user, cpu=0)
        m.spawn(tell, cpu=0)
        m.spawn(destroy, cpu=1)
        m.run()
        klass.destroy()
        return used


@scenario("workqueue")
def workqueue() -> object:
    """Work is done once for each enqueue that was accepted, one at a time; wait means done."""
    with Machine(ncpu=2) as m:
        engine = m.engine
        done: list[int] = []
        inside = 0

        def work(number: int) -> None:
            nonlocal inside
            inside += 1
            assert inside == 1, "two calls of one queue at once"
            engine.charge("rx")
            done.append(number)
            inside -= 1

        queue = Workqueue(engine, "later", work)
        si = engine.softints.establish("net", lambda _arg: queue.enqueue(3), name="enqueuer")

        def producer() -> None:
            queue.enqueue(1)
            queue.enqueue(2)
            queue.wait()
            assert {1, 2} <= set(done), f"wait returned, done is {done}"

        m.spawn(producer, cpu=1, name="producer")
        engine.softints.schedule_cpu(si, 0)
        m.run()
        assert sorted(done) == [1, 2, 3], f"done: {done}"
        return tuple(done)
