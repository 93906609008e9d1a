"""The spin lock's word: one owner, counters, waiting without the GIL (paper §3.1.1)."""

import sys
import threading
from collections.abc import Iterator

import pytest

from netstack._fast.lock import SpinLock

ROUNDS = 3000


@pytest.fixture
def often() -> Iterator[None]:
    """Let the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_one_owner_at_a_time() -> None:
    lock = SpinLock()
    assert not lock.held
    lock.enter()
    assert lock.held
    assert not lock.try_enter()
    lock.exit()
    assert not lock.held
    assert lock.try_enter()
    lock.exit()
    assert (lock.acquired, lock.contended) == (2, 0)


def test_a_spinner_lets_the_owner_run_and_gets_the_lock_after_it() -> None:
    lock = SpinLock()
    order: list[str] = []
    about_to = threading.Event()

    def spin() -> None:
        about_to.set()
        lock.enter()  # were the GIL kept here, nobody could release the lock
        order.append("spinner")
        lock.exit()

    lock.enter()
    thread = threading.Thread(target=spin)
    thread.start()
    about_to.wait()
    for _ in range(1000):
        order.append("owner")
    lock.exit()
    thread.join()
    assert order == ["owner"] * 1000 + ["spinner"]
    assert lock.acquired == 2


def test_no_update_is_lost_under_the_lock(often: None) -> None:
    lock = SpinLock()
    cell = [0]

    def work() -> None:
        for _ in range(ROUNDS):
            lock.enter()
            value = cell[0]
            sum(range(3))  # somewhere to be switched out
            cell[0] = value + 1
            lock.exit()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cell[0] == 3 * ROUNDS
    assert lock.acquired == 3 * ROUNDS
    assert 0 <= lock.contended <= lock.acquired
