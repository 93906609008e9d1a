"""What the checked build asks of a spin lock word: taken once, released by its holder."""

from collections.abc import Callable
from errno import EDEADLK, EPERM
from threading import Thread

import pytest

from netstack._fast.lock import IS_CHECKED, SpinLock

checked = pytest.mark.skipif(not IS_CHECKED, reason="asserts are compiled out of this build")


def in_a_thread(fn: Callable[[], object]) -> None:
    thread = Thread(target=fn)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


@checked
def test_a_lock_taken_twice_is_an_error_and_no_hang() -> None:
    lock = SpinLock()
    lock.enter()
    with pytest.raises(OSError) as caught:
        lock.enter()
    assert caught.value.errno == EDEADLK and lock.held
    lock.exit()


@checked
def test_a_lock_released_by_another_is_an_error() -> None:
    lock = SpinLock()
    in_a_thread(lock.enter)
    with pytest.raises(OSError) as caught:
        lock.exit()
    assert caught.value.errno == EPERM and lock.held


@checked
def test_a_lock_released_unheld_is_an_error() -> None:
    with pytest.raises(OSError) as caught:
        SpinLock().exit()
    assert caught.value.errno == EPERM


def test_one_after_the_other_is_none() -> None:
    lock = SpinLock()

    def use() -> None:
        for _ in range(100):
            lock.enter()
            lock.exit()

    threads = [Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not lock.held and lock.acquired == 300
