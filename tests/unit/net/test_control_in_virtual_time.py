"""Control operations in kernel threads of a virtual machine, pre-empted and interleaved by seed.

Every seed is another schedule.  Frames arrive all the while; each must be somewhere at the end, and
what a call promises must hold at the instant it returns.
"""

import pytest

from netstack import Machine

SEEDS = range(1, 25)
STATIONS = [b"\x0a\0\0\0\0" + bytes([n]) for n in range(12)]
GAP_NS = 60_000  # two CPUs are nearly busy with that
BURSTS = 40


@pytest.mark.parametrize("kernel", ["NET_MPSAFE", "GENERIC"])
@pytest.mark.parametrize("path", ["compiled", "stages"])
def test_members_and_addresses_come_and_go(path: str, kernel: str) -> None:
    deleted_in_traffic = 0
    for seed in SEEDS:
        with Machine(ncpu=3, seed=seed, path=path, kernel=kernel, mbufs=8192) as m:
            deleted_in_traffic += scenario(m, seed)
    assert deleted_in_traffic > len(SEEDS) // 2, "deletes must meet readers to tell anything"


def scenario(m: Machine, seed: int) -> int:
    """Run traffic on two CPUs and two operators on the third and the first; audit at the end."""
    wm0, wm1, wm2 = (m.nic(name) for name in ("wm0", "wm1", "wm2"))
    m.intrctl.affinity("wm1 RX0", 1)
    br = m.bridge("bridge0", [wm0, wm1, wm2])
    engine = m.engine
    sent = 0
    met = 0

    def burst(number: int) -> None:
        nonlocal sent
        for ifp in (wm0, wm1):
            pairs = [(STATIONS[(number + k) % 12], STATIONS[(number * 5 + k) % 12]) for k in range(9)]
            frames = [dst + src + b"\x08\x00" for dst, src in pairs]
            frames.append(b"\xff" * 6 + STATIONS[number % 12] + b"\x08\x00")
            frames.append(b"\x0a" * 6 + STATIONS[number % 12] + b"\x08\x00")
            ifp.wire.send(frames)
            sent += len(frames)

    def member_operator() -> None:
        nonlocal met
        for _ in range(4):
            before_ns = engine.now_ns()
            br.delete(wm2)
            met += engine.now_ns() > before_ns  # it had to wait for a reader
            gone = taken(wm2)
            assert not [row for row in br.addresses() if row[2] == "wm2"]
            engine.sleep(3 * GAP_NS / 1e9)
            assert taken(wm2) == gone, f"seed {seed}: a frame left by a deleted member"
            br.add(wm2)
            engine.sleep(3 * GAP_NS / 1e9)

    def address_operator() -> None:
        for number in range(6):
            br.static(wm0, STATIONS[number])
            br.flush()
            br.maxaddr = 2000 if br.maxaddr == 100 else 100
            assert f"0a:00:00:00:00:{number:02x}" in [row[0] for row in br.addresses()]
            br.flushall()
            (wm1.down if number % 2 else wm1.up)()
            engine.sleep(GAP_NS / 1e9)
        wm1.up()

    start_ns = engine.now_ns()
    for number in range(BURSTS):
        engine.at(start_ns + number * GAP_NS, lambda number=number: burst(number))
    engine.spawn(member_operator, cpu=2, name="member operator")
    engine.spawn(address_operator, cpu=0, name="address operator")
    m.run()
    m.audit()
    assert wm0.counters["ipackets"] + wm1.counters["ipackets"] == sent, f"seed {seed}"
    assert m.pool.failures == 0
    return met


def taken(ifp) -> int:  # type: ignore[no-untyped-def]
    """Frames that an interface was given to send: gone, or still queued."""
    return ifp.counters["opackets"] + sum(q.in_ring + q.snd_len for q in ifp.tx_queues)
