"""Planted errors: each must be reported, or the silence of the rest of the suite says nothing."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PRELUDE = """
from threading import Thread
import meet
from netstack._fast.ifqueue import IfQueue
from netstack._fast.lock import SpinLock
from netstack._fast.mbuf import MbufPool
from netstack._fast.pserialize import PSerialize

def together(*calls):
    threads = [Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

pool = MbufPool(1000, 2)
"""

# What is done again and again until it is reported (a busy host lets threads meet late), and where.
RACES = {
    "counter without a lock": (
        "together(*[lambda: meet.count(gate, 30_000)] * 2)",
        "meet.pyx",
    ),
    "two threads with one magazine": (
        "together(*[lambda: meet.allocate(gate, pool, 0, 300)] * 2)",
        "mbuf.pxd",
    ),
    "a node reused without a grace period": (
        "psz = PSerialize(1); "
        "together(lambda: meet.read(gate, psz, 0, 300_000), lambda: meet.publish(gate, psz, 1, False))",
        "meet.pyx",
    ),
}
# Mutants of the kernels (netstack/_fast/mutants.h): what shows each.
LOCKED = "lock = SpinLock(); together(*[lambda: meet.count(gate, 30_000, lock)] * 2)"
READ = """gate = meet.Gate(3)
    psz = PSerialize(2)
    reads = [lambda cpu=cpu: meet.read(gate, psz, cpu, 100_000) for cpu in range(2)]
    together(*reads, lambda: meet.publish(gate, psz, 2, True))"""
SEND = """gate = meet.Gate(2)
    queue = IfQueue(pool, 64)
    together(lambda: meet.produce(gate, pool, queue, 0, 3000), lambda: meet.consume(gate, pool, queue, 1, 1))"""
MUTANTS = {
    "spin_exit_relaxed": LOCKED,
    "spin_not_atomic": LOCKED,
    "psz_no_wait": READ,
    "psz_first_cpu_only": READ,
    "ifq_put_unlocked": SEND,
}
AGAIN = """
for _ in range(200):
    gate = meet.Gate(2)
    {}
"""
MEMORY = {
    "a byte behind a block": ("meet.overflow(24)", 67, "heap-buffer-overflow"),
    "an mbuf that was given back": ("meet.stale(pool)", 67, "use-after-poison"),
    "a sum beyond int": ("meet.signed_overflow(2**30)", 68, "signed integer overflow"),
    "eight bytes at an odd address": ("meet.misaligned(3)", 68, "misaligned address"),
}


def run(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program that ends at its first report, on stderr."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name in ("TSAN_OPTIONS", "ASAN_OPTIONS", "UBSAN_OPTIONS"):
        parts = [part for part in os.environ.get(name, "").split(":") if not part.startswith("log_path")]
        environment[name] = ":".join([*parts, "halt_on_error=1"])
    text = PRELUDE + textwrap.dedent(program)
    return subprocess.run(
        [sys.executable, "-P", "-c", text], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", RACES)
def test_a_race_is_reported(meet_folder: Path, sanitizer: str, name: str) -> None:
    if sanitizer != "thread":
        pytest.skip("a matter of ThreadSanitizer")
    program, where = RACES[name]
    outcome = run(meet_folder, AGAIN.format(program))
    assert outcome.returncode == 66, outcome.stderr
    assert "data race" in outcome.stderr and where in outcome.stderr


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_reported(meet_folder: Path, sanitizer: str, name: str) -> None:
    if sanitizer != "thread":
        pytest.skip("a matter of ThreadSanitizer")
    outcome = run(meet_folder, f"meet.plant({name!r})" + AGAIN.format(MUTANTS[name]))
    assert outcome.returncode == 66, outcome.stderr
    assert "data race" in outcome.stderr


def test_two_orders_of_two_locks_are_reported(meet_folder: Path, knows_locks: bool) -> None:
    """No deadlock has to happen: one thread takes them in both orders, one after the other."""
    if not knows_locks:
        pytest.skip("only the build at -Og tells ThreadSanitizer of spin locks: tox -e tsan-og")
    program = """
    a, b = SpinLock(), SpinLock()
    for first, second in ((a, b), (b, a)):
        first.enter(); second.enter(); second.exit(); first.exit()
    """
    outcome = run(meet_folder, program)
    assert outcome.returncode == 66, outcome.stderr
    assert "lock-order-inversion" in outcome.stderr


@pytest.mark.parametrize("name", MEMORY)
def test_a_wrong_access_is_reported(meet_folder: Path, sanitizer: str, name: str) -> None:
    if sanitizer != "address":
        pytest.skip("a matter of AddressSanitizer")
    program, code, what = MEMORY[name]
    outcome = run(meet_folder, program)
    assert outcome.returncode == code, outcome.stderr
    assert what in outcome.stderr


def test_the_right_program_is_not_reported(meet_folder: Path) -> None:
    program = """
    gate, lock = meet.Gate(2), SpinLock()
    together(*[lambda: meet.count(gate, 3000, lock)] * 2)
    print(gate.count)
    """
    outcome = run(meet_folder, program)
    assert (outcome.returncode, outcome.stdout.strip()) == (0, "6000"), outcome.stderr
