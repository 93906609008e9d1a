"""Atomic accesses as an explorer sees them: a hook at each one, stores that can be kept back.

Release kernels have no hooks at all; the ``explore`` builds call them at every access, which is what
a schedule explorer switches virtual CPUs at.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from frames import frame, serial_of, station
from greenlet import getcurrent, greenlet
from unit.fast.rig import Nic, Rig

from netstack._fast import chain_explore, kernels, kernels_explore
from netstack._fast.mbuf import MbufVec

LOAD, STORE, RMW, FENCE, PAUSE = range(5)
A, B = station(1), station(2)

HOOK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)
STORE_HOOK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_int)
LOAD_HOOK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint64), ctypes.c_int
)


def address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


@contextmanager
def hooked(
    module: object,
    hook: Callable[[int, int], None] | None = None,
    store: Callable[[int, int, int], int] | None = None,
    load: Callable[[int, object, int], int] | None = None,
) -> Iterator[None]:
    """Install hooks in an explore build, and take them away again."""
    functions = [
        kind(function) if function is not None else None
        for kind, function in ((HOOK, hook), (STORE_HOOK, store), (LOAD_HOOK, load))
    ]
    addresses = [address(function) if function is not None else 0 for function in functions]
    module.explore_hooks(*addresses)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.explore_hooks(0, 0, 0)  # type: ignore[attr-defined]


class StoreBuffer:
    """A processor's store buffer: keeps every store back until it is drained."""

    def __init__(self) -> None:
        self.kept: list[tuple[int, int, int]] = []

    def store(self, where: int, value: int, nbytes: int) -> int:
        self.kept.append((where, value, nbytes))
        return 1

    def load(self, where: int, value: "ctypes._Pointer[ctypes.c_uint64]", nbytes: int) -> int:
        for kept, word, _ in reversed(self.kept):
            if kept == where:
                value[0] = word
                return 1
        return 0

    def drain(self) -> None:
        """Let the stores become visible, oldest first."""
        for where, value, nbytes in self.kept:
            kind = {4: ctypes.c_uint32, 8: ctypes.c_uint64}[nbytes]
            kind.from_address(where).value = value
        self.kept.clear()


def forward(module: object, rig: Rig, count: int = 3) -> None:
    """Receive and transmit frames with the kernels of a build."""
    first, second = rig.nics
    first.arrive([frame(B, A, serial) for serial in range(count)])
    mv = MbufVec(rig.pool, 0)
    module.rx_drain(rig.cpu, first.rxq, mv, 256)  # type: ignore[attr-defined]
    module.ether_parse(rig.cpu, first.ifp, mv)  # type: ignore[attr-defined]
    rig.psz.read_enter(0)
    module.bridge_decide(rig.cpu, rig.br, first.ifp, mv)  # type: ignore[attr-defined]
    parts = module.bridge_split(rig.cpu, rig.br, first.ifp, mv)  # type: ignore[attr-defined]
    rig.psz.read_exit(0)
    for _, part in parts:
        module.if_transmit(rig.cpu, second.ifp, part)  # type: ignore[attr-defined]


def sent(nic: Nic) -> list[int]:
    return [serial_of(each) for each in nic.cable_out.take()]


def test_release_kernels_never_call_a_hook() -> None:
    assert not kernels.IS_EXPLORE
    calls: list[int] = []
    rig = Rig(2)
    with hooked(kernels, lambda op, where: calls.append(op), lambda *_: 1, lambda *_: 1):
        forward(kernels, rig)
    assert calls == []
    assert sent(rig.nics[1]) == [0, 1, 2]


def test_every_kind_of_access_is_seen() -> None:
    seen: list[tuple[int, int]] = []
    rig = Rig(2)
    with hooked(kernels_explore, lambda op, where: seen.append((op, where))):
        forward(kernels_explore, rig)
    assert {op for op, _ in seen} == {LOAD, STORE, RMW, FENCE}
    assert all((where is None) == (op in (FENCE, PAUSE)) for op, where in seen)
    assert sent(rig.nics[1]) == [0, 1, 2]
    count = len(seen)
    forward(kernels_explore, rig)
    assert len(seen) == count, "hooks are gone when they are taken away"


def test_the_same_work_makes_the_same_accesses() -> None:
    runs = []
    for _ in range(2):
        seen: list[int] = []
        rig = Rig(2)
        with hooked(kernels_explore, lambda op, where, seen=seen: seen.append(op)):
            forward(kernels_explore, rig)
        runs.append(seen)
    assert runs[0] == runs[1]


def test_more_frames_make_more_accesses() -> None:
    counts = []
    for frames in (1, 2, 8):
        seen: list[int] = []
        rig = Rig(2)
        with hooked(kernels_explore, lambda op, where, seen=seen: seen.append(op)):
            forward(kernels_explore, rig, frames)
        counts.append(len(seen))
    assert counts[0] < counts[1] < counts[2]


def test_explore_and_release_kernels_do_the_same() -> None:
    results = []
    for module in (kernels, kernels_explore):
        rig = Rig(2)
        forward(module, rig, 20)
        results.append((sent(rig.nics[1]), rig.br.counters(), rig.table.entries()))
    assert results[0] == results[1]


def test_a_store_can_be_kept_back_and_seen_by_its_own_cpu_only() -> None:
    rig = Rig(2)
    nic = rig.nics[0]
    nic.arrive([frame(B, A, serial) for serial in range(3)])
    buffer = StoreBuffer()
    mv = MbufVec(rig.pool, 0)
    held = nic.rxq.held
    with hooked(kernels_explore, None, buffer.store, buffer.load):
        assert kernels_explore.rx_drain(rig.cpu, nic.rxq, mv, 2) == 2
    # The RX mutex, both ends of the ring and the doorbell were written, and nobody else has seen it.
    assert len(buffer.kept) >= 3
    assert nic.rxq.held == held
    assert nic.hwrx.run(0) == 0
    buffer.drain()
    assert nic.rxq.held == held
    assert kernels_explore.rx_drain(rig.cpu, nic.rxq, MbufVec(rig.pool, 0), 2) == 1


def test_a_lock_that_is_not_seen_to_be_free_is_spun_for() -> None:
    rig = Rig(2)
    nic = rig.nics[0]
    nic.arrive([frame(B, A)])
    buffer = StoreBuffer()
    with hooked(kernels_explore, None, buffer.store, buffer.load):
        kernels_explore.rx_drain(rig.cpu, nic.rxq, MbufVec(rig.pool, 0), 1)
    pauses = 0

    def hook(op: int, where: int) -> None:
        nonlocal pauses
        pauses += op == PAUSE
        if pauses == 5:
            buffer.drain()  # only now the release reaches the other processor

    with hooked(kernels_explore, hook):
        kernels_explore.rx_drain(rig.cpu, nic.rxq, MbufVec(rig.pool, 0), 1)
    assert pauses >= 5


def test_the_chain_has_hooks_of_its_own() -> None:
    rig = Rig(2)
    handle = rig.softints.add(2, True, "rx", rig.nics[0].rxq)
    rig.nics[0].arrive([frame(B, A, 5)])
    seen: list[int] = []
    with hooked(kernels_explore, lambda op, where: seen.append(op)):
        chain_explore.softint_run(rig.cpu, handle)
    assert seen == [], "modules have a hook each"
    rig.nics[0].arrive([frame(B, A, 6)])
    with hooked(chain_explore, lambda op, where: seen.append(op)):
        chain_explore.softint_run(rig.cpu, handle)
    assert {LOAD, STORE, RMW} <= set(seen)
    assert sent(rig.nics[1]) == [5, 6]


class Duel:
    """Two CPUs, each with one piece of work, switched at the accesses that a plan numbers.

    A CPU that spins gives way.  Number 0 is the first access of the two together.
    """

    def __init__(self, works: list[Callable[[], object]], plan: list[int]) -> None:
        self.plan = list(plan)
        self.accesses = 0
        self.cpus = [greenlet(work) for work in works]

    def hook(self, op: int, where: int) -> None:
        me = getcurrent()
        if me not in self.cpus:
            return
        other = self.cpus[1 - self.cpus.index(me)]
        number, self.accesses = self.accesses, self.accesses + 1
        if self.plan and number >= self.plan[0]:
            self.plan.pop(0)
        elif op != PAUSE:
            return
        if not other.dead:
            other.switch()

    def run(self, module: object) -> int:
        """Let both finish; return how many accesses they made."""
        with hooked(module, self.hook):
            while alive := [cpu for cpu in self.cpus if not cpu.dead]:
                alive[0].switch()
        return self.accesses


def transmit_duel(plan: list[int], frames: int, **settings: int) -> int:
    """Two CPUs transmit on one queue; all frames must leave, whatever the plan."""
    rig = Rig(1, ncpu=2, bridged=False, **settings)  # type: ignore[arg-type]
    nic = rig.nics[0]

    def work(cpu: int) -> Callable[[], object]:
        mv = rig.vector([frame(B, A, 100 * cpu + i) for i in range(frames)], cpu=cpu)
        return lambda: kernels_explore.if_transmit(rig.cpus[cpu], nic.ifp, mv)

    accesses = Duel([work(0), work(1)], plan).run(kernels_explore)
    out = sent(nic)
    assert sorted(out) == [*range(frames), *range(100, 100 + frames)], f"plan {plan}"
    for first in (0, 100):
        mine = [serial for serial in out if first <= serial < first + 100]
        assert mine == sorted(mine), f"plan {plan}: frames of one CPU overtook each other"
    assert (nic.txq.snd_len, rig.in_use) == (0, 0), f"plan {plan}: frames are left behind"
    return accesses


@pytest.mark.parametrize("frames", [1, 12])
def test_who_finds_the_tx_mutex_held_is_served_by_its_holder(frames: int) -> None:
    plain = transmit_duel([], frames, tx_slots=8)
    assert plain > 10
    for first in range(plain):
        for second in range(first + 1, plain + 10, 5):
            transmit_duel([first, second], frames, tx_slots=8)


def learn_duel(rig: Rig, plan: list[int], sources: list[bytes]) -> tuple[int, dict[str, int]]:
    """Two CPUs learn at once; return how many accesses they made, and what the bridge counted."""
    rig.table.flush_ports(None, True, False)
    before = rig.br.counters()
    vectors = [rig.parsed([frame(B, sources[cpu])], cpu, cpu) for cpu in range(2)]

    def work(cpu: int) -> Callable[[], object]:
        mv, ifp = vectors[cpu], rig.nics[cpu].ifp
        return lambda: kernels_explore.bridge_decide(rig.cpus[cpu], rig.br, ifp, mv)

    accesses = Duel([work(0), work(1)], plan).run(kernels_explore)
    counted = {name: n - before[name] for name, n in rig.br.counters().items()}
    return accesses, counted


def test_learners_that_race_for_the_last_place_do_not_overshoot() -> None:
    rig = Rig(2, ncpu=2, maxaddr=1)
    sources = [station(10), station(11)]
    plain, _ = learn_duel(rig, [], sources)
    for first in range(plain):
        for second in range(first + 1, plain + 4, 3):
            _, counted = learn_duel(rig, [first, second], sources)
            results = rig.table.count, counted["learned"], counted["table_full"]
            assert results == (1, 1, 1), f"plan {first}, {second}"


def test_one_station_seen_by_two_cpus_at_once_is_entered_once() -> None:
    rig = Rig(2, ncpu=2)
    plain, _ = learn_duel(rig, [], [A, A])
    for first in range(plain):
        for second in range(first + 1, plain + 4, 3):
            _, counted = learn_duel(rig, [first, second], [A, A])
            entries = [entry for entry in rig.table.entries() if entry[0] == A]
            assert len(entries) == rig.table.count == 1, f"plan {first}, {second}"
            assert counted["learned"] == 1, f"plan {first}, {second}"
            assert entries[0][1] in (0, 1)
