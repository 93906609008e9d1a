"""The same bridge under pserialize, a mutex, an rwlock: what differs is who waits (§3.1, §3.2.2)."""

from errno import EINVAL
from typing import Any

import pytest
from frames import frame, station

from netstack import NetstackError

PROTECTIONS = ["pserialize", "mutex", "rwlock"]
NICS = 3


@pytest.mark.parametrize(
    ("settings", "protect", "text"),
    [
        ({}, "hope", "'pserialize', 'mutex', 'rwlock'"),
        ({"path": "compiled"}, "mutex", "path='stages'"),
        ({"path": "compiled"}, "rwlock", "path='stages'"),
    ],
)
def test_names_and_paths_that_do_not_fit(machine: Any, settings: dict[str, str], protect: str, text: str) -> None:
    with pytest.raises(NetstackError, match=text) as refusal:
        machine(**settings).bridge("bridge0", protect=protect)
    assert refusal.value.errno == EINVAL


def loaded(machine: Any, protect: str, clock: str) -> tuple[Any, Any]:
    """Three CPUs forward as fast as they can, and one member comes and goes meanwhile."""
    m = machine(ncpu=NICS, clock=clock, path="stages", mbufs=8192)
    nics = [m.nic(f"wm{i}") for i in range(NICS)]
    for i in range(NICS):
        m.intrctl.affinity(f"wm{i} RX0", i)
    br = m.bridge("bridge0", nics, protect=protect)
    for i, nic in enumerate(nics):
        br.static(nic, station(i))

    def operator() -> None:
        for _ in range(4):
            br.delete("wm2")
            br.flush()
            m.engine.sleep(50e-6)
            br.add("wm2")
            br.static("wm2", station(2))

    for _ in range(3):
        for i, nic in enumerate(nics):
            targets = [(i + 1) % NICS, (i + 2) % NICS, 77]
            nic.wire.send([frame(station(targets[n % 3]), station(100 + n % 20 + 20 * i), n) for n in range(60)])
        lwp = m.spawn(operator, cpu=0, name="operator")
        m.engine.wait_until(lambda lwp=lwp: lwp.is_done, "the operator")
        m.run()
    m.audit()
    assert sum(nic.counters["ipackets"] for nic in nics) == 3 * NICS * 60
    return m, br


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("protect", PROTECTIONS)
def test_every_frame_is_accounted_for(machine: Any, protect: str, clock: str) -> None:
    m, br = loaded(machine, protect, clock)
    before = m.engine.psz.performs
    br.private("wm0", True)
    assert (m.engine.psz.performs > before) == (protect == "pserialize")


def test_who_waits(machine: Any) -> None:
    """In virtual time, where it is exact: readers wait for readers under the mutex only."""
    contended = {}
    for protect in ("mutex", "rwlock"):
        _, br = loaded(machine, protect, "virtual")
        contended[protect] = br.protection.lock.contended
    assert contended["mutex"] > contended["rwlock"]
