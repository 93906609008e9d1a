"""Random programs on random machines: what must hold whatever the schedule."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from sim.rig import Device, current, make

from netstack.kern.spl import IPL, SOFTINT_IPL
from netstack.machine.virtual import VirtualEngine

STEP = st.one_of(
    st.tuples(st.just("charge"), st.integers(1, 900)),
    st.tuples(st.just("schedule"), st.integers(0, 7)),
    st.tuples(st.just("remote"), st.integers(0, 31)),
    st.tuples(st.just("raise"), st.integers(0, 7)),
    st.tuples(st.just("spl"), st.integers(1, 7)),
    st.tuples(st.just("lock"), st.integers(1, 400)),
)
PROGRAM = st.lists(STEP, max_size=6)


class Checker:
    """Softints and interrupts that watch how they are run."""

    def __init__(self, engine: VirtualEngine, programs: list[list[tuple[str, int]]]) -> None:
        self.engine = engine
        self.programs = programs
        self.budget = 300  # handlers schedule handlers: end some time
        self.inside: list[tuple[int, int]] = []  # (CPU, level) of softints that run
        self.times = [0] * len(engine.cpus)
        self.asked = 0
        self.softints = [
            engine.softints.establish(index % 4, self.soft, index, name=f"s{index}")
            for index in range(8)
        ]
        self.devices = [
            Device(
                engine,
                f"d{index}",
                cpu=index % len(engine.cpus),
                ipl=(IPL.VM, IPL.SCHED, IPL.HIGH)[index % 3],
                then=self.hard(index),
            )
            for index in range(8)
        ]

    def hard(self, index: int) -> Callable[[], None]:
        def handler() -> None:
            cpu = current(self.engine)
            assert cpu.context == "hard"
            assert cpu.spl >= (IPL.VM, IPL.SCHED, IPL.HIGH)[index % 3]
            self.play(index)

        return handler

    def soft(self, index: int) -> None:
        cpu = current(self.engine)
        key = (cpu.index, index % 4)
        assert cpu.context == "soft" and cpu.spl == SOFTINT_IPL[index % 4]
        assert key not in self.inside, "a level inside itself"
        below = [level for c, level in self.inside if c == cpu.index]
        assert all(level < index % 4 for level in below), "a lower level over a higher one"
        self.inside.append(key)
        self.play(index)
        self.inside.remove(key)

    def play(self, index: int) -> None:
        engine = self.engine
        for verb, number in self.programs[index % len(self.programs)]:
            cpu = current(engine)
            assert engine.now_ns() >= self.times[cpu.index], "a clock went back"
            self.times[cpu.index] = engine.now_ns()
            if verb == "charge":
                engine.charge("work", number)
            elif verb == "lock":
                engine.kernel_lock.enter()
                engine.charge("work", number)
                engine.kernel_lock.exit()
            elif verb == "spl":
                s = cpu.spl
                cpu.spl = max(s, number)
                engine.charge("work", 50)
                cpu.spl = s
                engine.unmask(cpu)
            elif self.budget > 0:
                self.budget -= 1
                if verb == "schedule":
                    engine.softints.schedule(self.softints[number])
                elif verb == "remote":
                    index_of = number % len(engine.cpus)
                    engine.softints.schedule_cpu(self.softints[number // 4], index_of)
                else:
                    self.devices[number].fire()
            assert current(engine) is cpu, "it moved to another CPU"


@settings(max_examples=150, deadline=None)
@given(
    ncpu=st.integers(1, 6),
    seed=st.integers(0, 1000),
    kernel=st.sampled_from(["GENERIC", "NET_MPSAFE"]),
    programs=st.lists(PROGRAM, min_size=1, max_size=8),
    starts=st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 7)), min_size=1, max_size=20),
)
def test_any_program(
    ncpu: int,
    seed: int,
    kernel: str,
    programs: list[list[tuple[str, int]]],
    starts: list[tuple[int, int]],
) -> None:
    def run() -> VirtualEngine:
        engine = make(ncpu, kernel, seed)
        checker = Checker(engine, programs)
        for when_ns, index in starts:
            checker.devices[index].fire_at(when_ns)
        engine.run()
        assert not checker.inside
        for cpu in engine.cpus:
            assert (cpu.spl, cpu.context, cpu.handler) == (0, None, "")
            assert not cpu.block.intr_pending
            assert not any(cpu.block.softint_is_pending(level) for level in range(4))
        for device in checker.devices:
            assert device.source.raised == len(device.log), "an interrupt was lost"
            assert not device.source.cause
        assert engine.kernel_lock.release_all() == (0, 0)
        return engine

    assert run().digest() == run().digest()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    times=st.lists(st.integers(0, 40_000), min_size=1, max_size=60),
    moves=st.lists(st.tuples(st.integers(0, 45_000), st.integers(0, 3)), max_size=12),
    work=st.integers(1, 3000),
)
def test_a_moving_interrupt_is_never_lost(
    seed: int, times: list[int], moves: list[tuple[int, int]], work: int
) -> None:
    engine = make(4, seed=seed)
    device = Device(engine, "dev", work=work)
    fired: list[int] = []

    def fire() -> None:
        fired.append(engine.now_ns())
        device.fire()

    for when_ns in times:
        engine.at(when_ns, fire)
    for when_ns, cpu in sorted(moves):
        if when_ns > engine.now_ns():
            engine.run(seconds=(when_ns - engine.now_ns()) * 1e-9)
        engine.intrs.distribute(device.ih, cpu)
    engine.run()
    (row,) = engine.intrs.list()
    assert sum(row.counts) == len(device.log) == device.source.raised
    for cpu in range(4):
        assert row.counts[cpu] == sum(on == cpu for _, on in device.log)
    # Causes that met a handler at work merge; none that came after the last one began is lost.
    assert device.log[-1][0] >= max(fired)
