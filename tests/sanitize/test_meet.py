"""Threads that meet without the GIL in locks, pools, queues, tables and read sections: nothing to report.

``test_planted.py`` shows with the same workers that a mistake would be reported.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from netstack._fast.ifqueue import IfQueue
from netstack._fast.lock import SpinLock
from netstack._fast.mactable import MacTable
from netstack._fast.mbuf import MbufPool
from netstack._fast.pserialize import STRATEGIES, PSerialize

ROUNDS = 2000


@pytest.fixture(scope="module")
def meet(meet_folder: Path) -> Any:
    sys.path.insert(0, str(meet_folder))
    return import_module("meet")


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Make each call in a thread of its own; return their results."""
    results: dict[int, Any] = {}

    def work(index: int) -> None:
        results[index] = calls[index]()

    threads = [Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[index] for index in range(len(calls))]


def test_a_lock_guards_a_plain_counter(meet: Any) -> None:
    gate, lock = meet.Gate(2), SpinLock()
    together(*[lambda: meet.count(gate, ROUNDS, lock)] * 2)
    assert gate.count == 2 * ROUNDS == lock.acquired


def test_magazines_share_a_depot(meet: Any) -> None:
    pool = MbufPool(200, 2)
    gate = meet.Gate(2)
    together(*[lambda cpu=cpu: meet.allocate(gate, pool, cpu, ROUNDS) for cpu in range(2)])
    assert pool.free_count == 200


@pytest.mark.parametrize("maxlen", [1, 256])
def test_frames_change_hands_in_a_send_queue(meet: Any, maxlen: int) -> None:
    pool = MbufPool(100, 3)
    queue, gate = IfQueue(pool, maxlen), meet.Gate(3)
    *sent, whole = together(
        lambda: meet.produce(gate, pool, queue, 0, ROUNDS),
        lambda: meet.produce(gate, pool, queue, 1, ROUNDS),
        lambda: meet.consume(gate, pool, queue, 2, 2),
    )
    assert whole == sum(sent) > 0
    assert pool.free_count == 100


def test_stations_are_learned_moved_and_flushed_at_once(meet: Any) -> None:
    table, gate = MacTable(100, 1), meet.Gate(2)

    def control() -> None:
        for turn in range(60):
            table.flush_ports(turn % 3, True, False)
            table.age(turn, 3)
            table.set_max(50 + turn)
            table.add_static((4 + 2 * turn).to_bytes(6, "little"), 2)
            table.entries()

    together(
        lambda: meet.learn(gate, table, 0, 10 * ROUNDS),
        lambda: meet.learn(gate, table, 1, 10 * ROUNDS),
        control,
    )
    kinds = [row[2] for row in table.entries()]
    assert table.count + table.statics == len(kinds)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_node_is_reused_after_a_grace_period(meet: Any, strategy: str) -> None:
    psz, gate = PSerialize(2, strategy), meet.Gate(3)
    *_, turns = together(
        lambda: meet.read(gate, psz, 0, 10 * ROUNDS),
        lambda: meet.read(gate, psz, 1, 10 * ROUNDS),
        lambda: meet.publish(gate, psz, 2, True),
    )
    assert turns > 0
