"""Cross-calls: have every CPU, or one, run a function, and wait for it (NetBSD xcall(9)).

At high priority the function runs in a softint of a level of choice: it may not wait, and it comes
before everything below that level.  At low priority it runs in a thread bound to the CPU and may
wait.  Either way a handler that was under way on the CPU when the call was made is over when the
function runs (one that sleeps for a lock excepted), which is what makes ``xc_barrier`` a barrier.

Wall machine: a thread is on no CPU there.  At low priority the thread first waits until the CPU is
between two handlers, then runs the function beside it.

Limits: a function that raises fails its own call only; ``xc_wait`` brings the error out.
"""

from collections import deque
from collections.abc import Callable
from errno import EDEADLK, EINVAL, ETIMEDOUT

from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.kern.softint import LEVELS
from netstack.kern.spl import IPL
from netstack.kern.workqueue import Workqueue
from netstack.machine.api import Engine, Softint

__all__ = [
    "XC_HIGHPRI",
    "XC_LOWPRI",
    "Xcall",
    "Xcalls",
    "xc_barrier",
    "xc_broadcast",
    "xc_unicast",
    "xc_wait",
]

XC_LOWPRI = ""
XC_HIGHPRI = "serial"  # the highest; every other softint level is a priority too


class Xcall:
    """One call under way: what ``xc_wait`` wants."""

    __slots__ = ("args", "error", "fn", "left", "level")

    def __init__(self, fn: Callable[..., object], args: tuple[object, ...], level: str) -> None:
        self.fn = fn
        self.args = args
        self.level = level
        self.left: set[int] = set()  # CPUs that have not run it; each takes its own out
        self.error: BaseException | None = None  # the first

    def run(self, cpu_index: int) -> None:
        """Make the call on one CPU; an error is kept for ``xc_wait``."""
        try:
            self.fn(*self.args)
        except Exception as error:
            if self.error is None:
                error.add_note(f"in a cross-call on CPU {cpu_index}")
                self.error = error
        finally:
            self.left.discard(cpu_index)

    @property
    def is_done(self) -> bool:
        """True when every CPU has run it."""
        return not self.left

    def __repr__(self) -> str:
        name = getattr(self.fn, "__qualname__", repr(self.fn))
        return f"<Xcall {name} {self.level or 'low'}, CPUs left: {sorted(self.left) or 'none'}>"


class Xcalls:
    """Cross-calls of a machine; made with the kernel, its softints when first wanted."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.unicasts = 0
        self.broadcasts = 0
        self._softints: dict[str, Softint] = {}
        self._calls: dict[str, list[deque[Xcall]]] = {}  # by level and CPU
        self._threads = Workqueue(engine, "xcall", self._run_low, ipl=IPL.NONE, percpu=True)

    def post(self, call: Xcall, cpus: list[int]) -> None:
        """Send a call to some CPUs."""
        call.left.update(cpus)
        if call.level == XC_LOWPRI:
            for index in cpus:
                self._threads.enqueue((call, index), cpu=index)
            return
        si = self._softint(call.level)
        for index in cpus:
            self._calls[call.level][index].append(call)
            self.engine.softints.schedule_cpu(si, index)

    def _softint(self, level: str) -> Softint:
        si = self._softints.get(level)
        if si is None:
            self._calls[level] = [deque() for _ in self.engine.cpus]
            si = self.engine.softints.establish(level, self._run_high, level, name=f"xcall {level}")
            self._softints[level] = si
        return si

    def _run_high(self, level: str) -> None:
        cpu = self.engine.curcpu()
        assert cpu is not None, "a softint runs on a CPU"
        calls = self._calls[level][cpu.index]
        while calls:
            calls.popleft().run(cpu.index)

    def _run_low(self, work: tuple[Xcall, int]) -> None:
        call, index = work
        if self.engine.curcpu() is None:
            self.engine.cross_call(index, _nothing)
        call.run(index)


def xc_broadcast(
    engine: Engine, fn: Callable[..., object], *args: object, level: str = XC_LOWPRI
) -> Xcall:
    """Have every CPU run ``fn(*args)``; returns at once.

    Context: thread or control thread.
    Args:    level -- ``XC_LOWPRI``: in a thread; ``XC_HIGHPRI`` or a softint level: in a softint.
    Returns: the call, for ``xc_wait``.
    Raises:  NetstackError -- EDEADLK, from an interrupt or softint; EINVAL, no such level.
    """
    call = _new_call(engine, fn, args, level)
    engine.xcalls.broadcasts += 1
    engine.xcalls.post(call, [cpu.index for cpu in engine.cpus])
    return call


def xc_unicast(
    engine: Engine, cpu_index: int, fn: Callable[..., object], *args: object, level: str = XC_LOWPRI
) -> Xcall:
    """Have one CPU run ``fn(*args)``; otherwise as ``xc_broadcast``.

    Raises: NetstackError -- EINVAL too for a CPU that is not there.
    """
    if not 0 <= cpu_index < len(engine.cpus):
        raise NetstackError(EINVAL, f"xcall: no CPU {cpu_index}; there are {len(engine.cpus)}")
    call = _new_call(engine, fn, args, level)
    engine.xcalls.unicasts += 1
    engine.xcalls.post(call, [cpu_index])
    return call


def xc_wait(engine: Engine, call: Xcall, timeout_s: float = 10.0) -> None:
    """Wait until a call has run on all its CPUs.

    Context: thread or control thread.
    Raises:  what the function raised; NetstackError -- EDEADLK, from an interrupt or softint, or a
             CPU cannot go on; ETIMEDOUT.
    """
    assert_callable_from(engine, "xc_wait")
    debug = engine.lockdebug
    if debug is not None:
        debug.wait_for("cross-call")
    try:
        engine.wait_until(lambda: not call.left, "a cross-call", timeout_s)
    except NetstackError as error:
        if error.errno in (ETIMEDOUT, EDEADLK) and call.left:
            raise NetstackError(error.errno, f"{error.strerror}: {call!r}") from error
        raise
    if call.error is not None:
        first, call.error = call.error, None
        raise first


def xc_barrier(engine: Engine, level: str = XC_LOWPRI) -> None:
    """Wait until each CPU has left the handlers below the level that it is in now.

    Context: thread or control thread; waits.
    """
    xc_wait(engine, xc_broadcast(engine, _nothing, level=level))


def _new_call(
    engine: Engine, fn: Callable[..., object], args: tuple[object, ...], level: str
) -> Xcall:
    assert_callable_from(engine, "xc_broadcast")
    if level != XC_LOWPRI and level not in LEVELS:
        raise NetstackError(EINVAL, f"xcall: no level {level!r}: '' or one of {', '.join(LEVELS)}")
    return Xcall(fn, args, level)


def _nothing() -> None:
    pass
