"""Control operations from several threads while two CPUs forward: nothing lost, nothing left.

Threads of this process change the bridge as fast as they can; the frames that pass meanwhile may be
forwarded, flooded or dropped by name, but every one of them must be somewhere at the end, and after a
member is deleted no frame may leave by it.
"""

import threading
from collections.abc import Callable

import pytest

from netstack import Machine, NetstackError
from netstack.net.ifnet import Ifnet

SECONDS = 1.5
ROUND_FRAMES = 512
STATIONS = [b"\x0a\0\0\0\0" + bytes([n]) for n in range(32)]


def traffic() -> list[bytes]:
    """Return frames between all stations, group frames among them."""
    targets = [*STATIONS, b"\xff" * 6]
    pairs = [(dst, src) for src in STATIONS for dst in targets]
    return [dst + src + b"\x08\x00" + bytes(46) for dst, src in pairs][:ROUND_FRAMES]


def in_threads(stop: threading.Event, works: list[Callable[[], None]]) -> list[BaseException]:
    """Start a thread per function, which it calls until told to stop; return their errors."""
    errors: list[BaseException] = []

    def loop(work: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                work()
        except BaseException as problem:  # the test reports it
            errors.append(problem)
            stop.set()

    for work in works:
        threading.Thread(target=loop, args=(work,), daemon=True).start()
    return errors


@pytest.mark.parametrize("path", ["compiled", "stages"])
@pytest.mark.parametrize("kernel", ["NET_MPSAFE", "GENERIC"])
def test_accounts_are_exact_after_concurrent_control(path: str, kernel: str) -> None:
    with Machine(ncpu=2, clock="wall", seed=9, path=path, kernel=kernel) as m:
        names = ["wm0", "wm1", "wm2", "wm3"]
        for name in names:
            m.nic(name)
        m.intrctl.affinity("wm1 RX0", 1)
        m.intrctl.affinity("wm3 RX0", 1)
        br = m.bridge("bridge0", names)
        m.interfaces["wm3"].listen()
        stop = threading.Event()
        done = {"moves": 0, "tables": 0}

        def move_member() -> None:
            br.delete("wm2")
            assert m.interfaces["wm2"].block.port != br.member("wm1").port
            br.add("wm2")
            done["moves"] += 1

        def change_table() -> None:
            br.static("wm0", STATIONS[3])
            br.flush()
            br.maxaddr = 3000 if br.maxaddr == 100 else 100
            br.private("wm1", done["tables"] % 2 == 0)
            br.deladdr(STATIONS[3])
            br.flushall()
            done["tables"] += 1

        def toggle() -> None:
            m.interfaces["wm1"].down()
            m.interfaces["wm1"].up()
            m.command("brconfig bridge0 down up timeout 100")

        errors = in_threads(stop, [move_member, change_table, toggle])
        end_ns = m.engine.now_ns() + int(SECONDS * 1e9)
        frames = traffic()
        rounds = 0
        while m.engine.now_ns() < end_ns and not stop.is_set():
            for name in names:
                m.interfaces[name].wire.send(frames)
            m.run(seconds=0.005)
            for name in names:
                m.interfaces[name].wire.recv()
            m.interfaces["wm3"].recv()
            rounds += 1
        stop.set()
        wait_for_control(m)
        assert not errors, errors
        m.run()
        m.audit()
        assert rounds and done["moves"] and done["tables"]
        received = sum(m.interfaces[name].counters["ipackets"] for name in names)
        assert received == rounds * len(names) * len(frames)


def wait_for_control(m: Machine) -> None:
    """Let control threads end: they may wait for CPUs that only work while the machine runs."""
    while any(t.daemon and t.is_alive() and t.name.startswith("Thread-") for t in threading.enumerate()):
        m.run(seconds=0.005)


def taken(ifp: Ifnet) -> int:
    """Frames that an interface was given to send: gone, or still queued."""
    return ifp.counters["opackets"] + sum(q.in_ring + q.snd_len for q in ifp.tx_queues)


@pytest.mark.parametrize("path", ["compiled", "stages"])
def test_nothing_leaves_by_a_member_once_delete_has_returned(path: str) -> None:
    with Machine(ncpu=2, clock="wall", seed=9, path=path) as m:
        wm0, wm1, wm2 = (m.nic(name) for name in ("wm0", "wm1", "wm2"))
        br = m.bridge("bridge0", [wm0, wm1, wm2])
        frames = traffic()
        for _ in range(40):
            wm0.wire.send(frames)
            wm1.wire.send(frames)
            m.run(seconds=0.0005)
            br.delete(wm2)
            before = taken(wm2)
            m.run()
            assert taken(wm2) == before
            with pytest.raises(NetstackError):
                br.member(wm2)
            assert not [row for row in br.addresses() if row[2] == "wm2"]
            br.add(wm2)
            for ifp in (wm0, wm1, wm2):
                ifp.wire.recv()
        m.audit()
