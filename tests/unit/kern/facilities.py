"""How to make each real call of ``kern/context.py``'s table, and how to be inside what has an inside."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

from sim.rig import Device, current
from unit.kern.lockrig import checked

from netstack import Machine
from netstack._fast.mbuf import MbufPool, MbufVec
from netstack.kern.callout import Callout
from netstack.kern.condvar import CondVar
from netstack.kern.mutex import Mutex
from netstack.kern.pcq import Pcq
from netstack.kern.percpu import Percpu
from netstack.kern.pktqueue import PktQueue
from netstack.kern.pool_cache import PoolCache
from netstack.kern.psref import PsrefClass, PsrefTarget
from netstack.kern.refcount import Refcount
from netstack.kern.rwlock import RW_WRITER, RwLock
from netstack.kern.sleepq import tsleep, wakeup
from netstack.kern.spl import IPL, splnet, splx
from netstack.kern.workqueue import Workqueue
from netstack.kern.xcall import xc_broadcast, xc_wait

Section = Callable[[Any], AbstractContextManager[object]]


class Recipe(NamedTuple):
    """One row: what to make beforehand, the call, and being inside."""

    make: Callable[[Any], Any]
    use: Callable[[Any], object]
    section: Section | None = None
    needs_cpu: bool = False  # nothing a control thread could do with it
    needs_nic: bool = False  # more than a kernel


RECIPES: dict[str, Recipe] = {}
FRAME = bytes(range(60))
MACHINES: dict[int, Machine] = {}  # by the identity of the engine: the last one made


def prepare(*names: str) -> tuple[Any, Any]:
    """Return a machine on which these rows can be tried, and its checker."""
    if not any(RECIPES[name].needs_nic for name in names):
        return checked(2)
    m = Machine(2, lockdebug=True, mbufs=2048)
    MACHINES.clear()
    MACHINES[id(m.engine)] = m
    return m.engine, m.engine.lockdebug


def call(name: str, make: Callable[[Any], Any], needs_cpu: bool = False) -> Callable[..., Any]:
    """Note a row that is a call on what ``make(engine)`` returns."""

    def note(use: Callable[[Any], object]) -> Callable[[Any], object]:
        RECIPES[name] = Recipe(make, use, None, needs_cpu)
        return use

    return note


def section(name: str, make: Callable[[Any], Any], needs_cpu: bool = False) -> Callable[..., Any]:
    """Note a row that has an inside."""

    def note(body: Callable[[Any], Iterator[None]]) -> Section:
        inside = contextmanager(body)

        def use(thing: Any) -> None:
            with inside(thing):
                pass

        RECIPES[name] = Recipe(make, use, inside, needs_cpu)
        return inside

    return note


def the_engine(engine: Any) -> Any:
    return engine


# --- Table 1


@section("KERNEL_LOCK", the_engine)
def kernel_lock(engine: Any) -> Iterator[None]:
    engine.kernel_lock.enter()
    try:
        yield
    finally:
        engine.kernel_lock.exit()


@section("spl", the_engine, needs_cpu=True)
def spl(engine: Any) -> Iterator[None]:
    cpu = current(engine)
    s = splnet(cpu)
    try:
        yield
    finally:
        splx(cpu, s)


def mutex_section(mutex: Mutex) -> Iterator[None]:
    with mutex:
        yield


section("mutex (spin)", lambda engine: Mutex(engine, "the spin mutex", IPL.HIGH))(mutex_section)
section("mutex (adaptive)", lambda engine: Mutex(engine, "the adaptive mutex"))(mutex_section)


@section("rwlock", lambda engine: RwLock(engine, "the rwlock"))
def rwlock(lock: RwLock) -> Iterator[None]:
    lock.enter(RW_WRITER)
    try:
        yield
    finally:
        lock.exit()


@section("pserialize (reader)", the_engine, needs_cpu=True)
def reader(engine: Any) -> Iterator[None]:
    cpu = current(engine)
    with engine.pserialize.section(cpu):
        yield


# --- the others that have an inside


def target(engine: Any) -> PsrefTarget:
    return PsrefTarget(PsrefClass(engine, "the class"), "the target")


@section("psref (held)", target)
def psref(thing: PsrefTarget) -> Iterator[None]:
    with thing.acquire():
        yield


@section("refcount (held)", lambda engine: Refcount(engine, "the object"))
def refcount(refs: Refcount) -> Iterator[None]:
    with refs:
        yield


@section("percpu reference", lambda engine: Percpu(engine, list, name="the values"))
def percpu(values: Percpu[list[int]]) -> Iterator[None]:
    with values.ref():
        yield


# --- calls


@call("pserialize_perform", the_engine)
def perform(engine: Any) -> None:
    engine.pserialize.perform()


@call("psref_target_destroy", target)
def destroy(thing: PsrefTarget) -> None:
    thing.destroy()


@call("psref_acquire", target)
def acquire(thing: PsrefTarget) -> None:
    thing.acquire().release()


@call("wait_until", the_engine)
def wait_until(engine: Any) -> None:
    engine.wait_until(lambda: True, "what is there")


def condition(engine: Any) -> tuple[CondVar, Mutex]:
    return CondVar(engine, "the condvar"), Mutex(engine, "its mutex")


@call("cv_wait", condition)
def cv_wait(pair: tuple[CondVar, Mutex]) -> None:
    cv, mutex = pair
    with mutex:
        cv.timedwait(mutex, 1e-6)


@call("cv_signal", condition)
def cv_signal(pair: tuple[CondVar, Mutex]) -> None:
    pair[0].signal()


@call("tsleep", the_engine)
def sleep(engine: Any) -> None:
    tsleep(engine, "the channel", "nothing", 1e-6)


@call("wakeup", the_engine)
def wake(engine: Any) -> None:
    wakeup(engine, "the channel")


@call("softint_establish", the_engine)
def establish(engine: Any) -> None:
    engine.softints.disestablish(engine.softints.establish("bio", print, name="the softint"))


def softint(engine: Any) -> tuple[Any, Any]:
    return engine, engine.softints.establish("bio", lambda _: None, name="the softint")


@call("softint_schedule", softint)
def schedule(pair: tuple[Any, Any]) -> None:
    engine, si = pair
    engine.softints.schedule_cpu(si, 0)


def interrupt(engine: Any) -> tuple[Any, Any]:
    return engine, Device(engine, "the device", cpu=1).ih


@call("interrupt_distribute", interrupt)
def distribute(pair: tuple[Any, Any]) -> None:
    engine, ih = pair
    engine.intrs.distribute(ih, 0)


def callout(engine: Any) -> Callout:
    return Callout(engine, lambda _: None, name="the callout")


@call("callout_schedule", callout)
def callout_schedule(thing: Callout) -> None:
    thing.schedule(1e-6)


@call("callout_halt", callout)
def callout_halt(thing: Callout) -> None:
    thing.halt()


def workqueue(engine: Any) -> Workqueue:
    return Workqueue(engine, "the workqueue", lambda _: None, ipl=IPL.HIGH)


@call("workqueue_enqueue", workqueue)
def enqueue(thing: Workqueue) -> None:
    thing.enqueue()


@call("workqueue_wait", workqueue)
def workqueue_wait(thing: Workqueue) -> None:
    thing.wait()


@call("xc_broadcast", the_engine)
def broadcast(engine: Any) -> None:
    xc_broadcast(engine, lambda: None)


def made_call(engine: Any) -> tuple[Any, Any]:
    return engine, xc_broadcast(engine, lambda: None)


@call("xc_wait", made_call)
def wait_for_cpus(pair: tuple[Any, Any]) -> None:
    xc_wait(*pair)


@call("percpu_alloc", the_engine)
def percpu_alloc(engine: Any) -> None:
    Percpu(engine, list, name="more values").free()


@call("pcq_put", lambda engine: Pcq(4))
def pcq_put(queue: Pcq[str]) -> None:
    assert queue.put("item")


@call("pcq_get", lambda engine: Pcq(4))
def pcq_get(queue: Pcq[str]) -> None:
    assert queue.get() is None


def packet_queue(engine: Any) -> tuple[Any, PktQueue, MbufPool]:
    pool = MbufPool(64, 2)
    return engine, PktQueue(engine, pool, lambda mv, _: mv.clear(), maxlen=8), pool


@call("pktq_enqueue", packet_queue)
def pktq_enqueue(things: tuple[Any, PktQueue, MbufPool]) -> None:
    engine, queue, pool = things
    cpu = engine.curcpu()
    mv = MbufVec(pool, 2 if cpu is None else cpu.index)
    assert mv.append(FRAME) and queue.enqueue(mv)


@call("pktq_barrier", packet_queue)
def pktq_barrier(things: tuple[Any, PktQueue, MbufPool]) -> None:
    things[1].barrier()


def pool_cache(engine: Any) -> PoolCache[list[int]]:
    return PoolCache(engine, "the objects", list, ipl=IPL.HIGH)


@call("pool_cache_get", pool_cache)
def pool_cache_get(cache: PoolCache[list[int]]) -> None:
    item = cache.get()
    assert item is not None
    cache.put(item)


@call("pool_cache_get (PR_WAITOK)", pool_cache)
def pool_cache_get_waiting(cache: PoolCache[list[int]]) -> None:
    item = cache.get(wait=True)
    assert item is not None
    cache.put(item)


@call("pool_cache_invalidate", pool_cache)
def invalidate(cache: PoolCache[list[int]]) -> None:
    cache.invalidate()


def nic(engine: Any) -> tuple[Any, Machine, Any]:
    m = MACHINES[id(engine)]
    return engine, m, m.nic("wm0")


def if_transmit(things: tuple[Any, Machine, Any]) -> None:
    engine, m, ifp = things
    cpu = current(engine)
    mv = MbufVec(m.pool, cpu.index)
    assert mv.append(FRAME)
    ifp.if_transmit(ifp, mv, cpu)
    assert len(mv) == 0


RECIPES["if_transmit"] = Recipe(nic, if_transmit, None, needs_cpu=True, needs_nic=True)
