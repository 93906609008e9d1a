"""Same seed, same run, to the byte; another seed, another order of ties."""

import hashlib

import pytest
from sim.rig import FLAT, Device, current, make

from netstack.machine.costs import C2758
from netstack.machine.virtual import VirtualEngine


def busy_machine(
    ncpu: int = 8, seed: int = 1, kernel: str = "NET_MPSAFE", **options: object
) -> VirtualEngine:
    """Run interrupts, softints, threads, locks, a moved interrupt and a grace period together."""
    engine = make(ncpu, kernel, seed, **options)  # type: ignore[arg-type]
    shared: list[int] = []

    def soft(_: object) -> None:
        engine.charge("lock", 3)
        engine.charge("bridge_forward")
        shared.append(current(engine).index)

    si = engine.softints.establish("net", soft, name="net")
    devices = [Device(engine, f"q{cpu}", cpu=cpu, softint=si) for cpu in range(ncpu)]
    for device in devices:
        for when_ns in range(0, 60_000, 3_000):
            device.fire_at(when_ns)

    def thread(name: str) -> None:
        for _ in range(5):
            engine.kernel_lock.enter()
            engine.charge("callout", 7)
            engine.kernel_lock.exit()
            engine.sleep(5e-6)
            engine.wait_until(lambda: len(shared) > 2, f"work for {name}")

    for cpu in range(0, ncpu, 2):
        engine.spawn(lambda cpu=cpu: thread(f"t{cpu}"), cpu=cpu, name=f"t{cpu}")
    engine.run(seconds=20e-6)
    engine.intrs.distribute(devices[0].ih, ncpu - 1)
    engine.pserialize.perform()
    engine.run()
    return engine


@pytest.mark.parametrize("kernel", ["GENERIC", "NET_MPSAFE"])
@pytest.mark.parametrize("ncpu", [1, 2, 8, 64])
def test_a_seed_gives_one_run(ncpu: int, kernel: str) -> None:
    runs = [busy_machine(ncpu, 7, kernel) for _ in range(2)]
    first, second = runs
    assert first.digest() == second.digest()
    assert list(first.activations) == list(second.activations)
    assert first.now_ns() == second.now_ns()
    assert len(first.activations) > 10 * ncpu


def test_the_cost_model_of_the_paper_is_deterministic_too() -> None:
    digests = [busy_machine(8, 7, costs=C2758).digest() for _ in range(2)]
    assert digests[0] == digests[1]


def test_another_seed_orders_ties_differently() -> None:
    digests = {busy_machine(8, seed).digest() for seed in range(6)}
    assert len(digests) == 6


def test_keeping_the_trace_changes_nothing() -> None:
    def run(keep: bool) -> str:
        engine = make(4, costs=FLAT)
        engine.trace(keep)
        Device(engine, "dev", cpu=3, work=10).fire_at(50)
        engine.run()
        return engine.digest()

    assert run(True) == run(False)


def test_the_digest_is_the_one_of_every_host_and_python() -> None:
    # A run of the tests' own costs: a change here is a change of who runs when, on purpose or not.
    engine = busy_machine(8, 2015, "GENERIC")
    assert engine.digest() == GOLDEN
    text = "".join(
        f"{a.time_ns} {a.cpu} {a.context} {a.handler} {a.work}\n" for a in engine.activations
    )
    assert hashlib.blake2b(text.encode(), digest_size=16).hexdigest() == GOLDEN


GOLDEN = "bcb8620279121b90a8fd21aab8e29c28"
