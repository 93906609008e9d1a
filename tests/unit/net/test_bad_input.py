"""What is wrong is refused with an errno and a cure, or lost under a name; the accounts stay exact."""

from collections.abc import Iterator
from errno import EBUSY, EEXIST, EINVAL, EMSGSIZE, ENETDOWN, ENOBUFS, ENOENT, ENXIO

import numpy as np
import pytest

from netstack import Machine, NetstackError
from netstack._fast.mbuf import MbufVec

EVERYBODY = b"\xff" * 6
STATION = b"\x0a\0\0\0\0\x01"
CONFIGURATIONS = [("compiled", "softint"), ("stages", "softint"), ("stages", "classic")]


@pytest.fixture(params=CONFIGURATIONS, ids="-".join)
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with wm0 and wm1 in bridge0, and wm2 in none; audited at the end."""
    path, frame = request.param
    with Machine(seed=4, path=path, frame=frame, mbufs=8192) as machine:
        for name in ("wm0", "wm1", "wm2"):
            machine.nic(name)
        machine.bridge("bridge0", ["wm0", "wm1"])
        yield machine
        machine.run()
        machine.audit()


def frame(size: int = 60, ethertype: bytes = b"\x08\x00") -> bytes:
    return (EVERYBODY + STATION + ethertype).ljust(size, b"\0")[:size]


@pytest.mark.parametrize("size", range(15))
def test_short_frames(m: Machine, size: int) -> None:
    m.interfaces["wm0"].wire.send(frame(size))
    m.run()
    drops = m.stats()["interfaces"]["wm0"]["drops"]
    passed = m.interfaces["wm1"].wire.recv()
    if size < 14:
        assert (drops, passed) == ({"runt": 1}, [])
    else:
        assert (drops, passed) == ({}, [frame()]), "padded to 60 bytes by its sender"


@pytest.mark.parametrize(
    ("size", "ethertype", "passes"),
    [
        (1514, b"\x08\x00", True),
        (1515, b"\x08\x00", False),
        (1518, b"\x08\x00", False),
        (1518, b"\x81\x00", True),
        (1518, b"\x88\xa8", True),
        (1519, b"\x81\x00", False),
        (2062, b"\x08\x00", False),
        (2063, b"\x08\x00", False),
        (9018, b"\x08\x00", False),
        (65535, b"\x81\x00", False),
        (1 << 20, b"\x08\x00", False),
    ],
)
def test_long_frames(m: Machine, size: int, ethertype: bytes, passes: bool) -> None:
    m.interfaces["wm0"].wire.send(frame(size, ethertype))
    m.run()
    got = m.interfaces["wm1"].wire.recv()
    assert got == ([frame(size, ethertype)] if passes else [])
    drops = m.stats()["interfaces"]["wm0"]["drops"]
    assert drops == ({} if passes else {"giant": 1})


@pytest.mark.parametrize("wrong", [7, None, "text", [1], [b"ok" * 30, 5], object(), 1.5])
def test_what_is_no_buffer(m: Machine, wrong: object) -> None:
    with pytest.raises(NetstackError, match="buffer") as refused:
        m.interfaces["wm0"].wire.send(wrong)
    assert refused.value.errno == EINVAL
    with pytest.raises(NetstackError, match="buffer") as refused:
        m.interfaces["wm0"].send(wrong)  # type: ignore[arg-type]
    assert refused.value.errno == EINVAL


def test_every_buffer_is_taken(m: Machine) -> None:
    wire = m.interfaces["wm0"].wire
    wanted = frame()
    wire.send(bytearray(wanted))
    wire.send(memoryview(wanted))
    wire.send(np.frombuffer(wanted, np.uint8))
    wire.send(np.frombuffer(wanted * 3, np.uint8).reshape(3, 60))
    wire.send([wanted, bytearray(wanted)])
    wire.send([])
    m.run()
    assert m.interfaces["wm1"].wire.recv() == [wanted] * 8


def test_buffer_that_is_not_contiguous_is_copied(m: Machine) -> None:
    spread = bytes(byte for pair in zip(frame(), bytes(60), strict=True) for byte in pair)
    strided = np.frombuffer(spread, np.uint8)[::2]
    m.interfaces["wm0"].wire.send([strided, strided])
    m.interfaces["wm2"].send(strided)  # type: ignore[arg-type]
    m.run()
    assert m.interfaces["wm1"].wire.recv() == [frame()] * 2
    assert m.interfaces["wm2"].wire.recv() == [frame()]


def test_send_from_the_local_stack(m: Machine) -> None:
    wm2 = m.interfaces["wm2"]
    for size, errno in ((0, EINVAL), (13, EINVAL), (1515, EMSGSIZE)):
        with pytest.raises(NetstackError) as refused:
            wm2.send(frame(size))
        assert refused.value.errno == errno
    wm2.down()
    with pytest.raises(NetstackError, match=r"wm2\.up") as refused:
        wm2.send(frame())
    assert refused.value.errno == ENETDOWN


def test_queued_send_and_then_down_is_lost_by_name(m: Machine) -> None:
    wm2 = m.interfaces["wm2"]
    wm2.send(frame())
    wm2.down()
    m.run()
    assert wm2.wire.recv() == []
    assert m.stats()["interfaces"]["wm2"]["drops"] == {"if_down": 1}


def test_send_queue_is_bounded(m: Machine) -> None:
    wm2 = m.interfaces["wm2"]
    with pytest.raises(NetstackError, match="run the machine") as refused:
        for _ in range(100_000):
            wm2.send(frame())
    assert refused.value.errno == ENOBUFS


@pytest.mark.parametrize(
    ("name", "settings", "errno"),
    [
        ("wm0", {}, EEXIST),
        ("wm", {}, EINVAL),
        ("eth0", {}, EINVAL),
        ("", {}, EINVAL),
        ("wm9", {"rx_queues": 0}, EINVAL),
        ("wm9", {"tx_queues": 9}, EINVAL),
        ("wm9", {"mac": "01:00:00:00:00:01"}, EINVAL),
        ("wm9", {"mac": "02:00:00"}, EINVAL),
        ("wm9", {"mtu": 67}, EINVAL),
        ("wm9", {"mtu": 9000}, EINVAL),
    ],
)
def test_bad_interfaces(m: Machine, name: str, settings: dict[str, object], errno: int) -> None:
    with pytest.raises(NetstackError) as refused:
        m.nic(name, **settings)  # type: ignore[arg-type]
    assert refused.value.errno == errno
    assert list(m.interfaces) == ["wm0", "wm1", "wm2"]


def test_membership(m: Machine) -> None:
    br, wm0, wm2 = m.bridges["bridge0"], m.interfaces["wm0"], m.interfaces["wm2"]
    for call, errno in (
        (lambda: br.add(wm0), EEXIST),
        (lambda: br.add("wm7"), ENOENT),
        (lambda: br.delete(wm2), ENOENT),
        (lambda: br.delete("wm7"), ENOENT),
        (lambda: m.bridge("bridge0"), EEXIST),
        (lambda: m.bridge("switch0"), EINVAL),
        (lambda: m.bridge("bridge1", ["wm0"]), EBUSY),
        (lambda: m.bridge("bridge1", ["wm2"], mtu=1400), EINVAL),
        (lambda: m.bridge("bridge1", ["wm2", "wm2"]), EEXIST),
    ):
        with pytest.raises(NetstackError) as refused:
            call()
        assert refused.value.errno == errno
    assert "bridge1" not in m.bridges
    assert wm2.bridge is None
    wm0.wire.send(frame())
    m.run()
    assert m.interfaces["wm1"].wire.recv() == [frame()]


def test_member_that_is_destroyed(m: Machine) -> None:
    wm1 = m.interfaces["wm1"]
    m.interfaces["wm0"].wire.send([frame()] * 10)
    m.destroy(wm1)
    assert m.bridges["bridge0"].members == [m.interfaces["wm0"]]
    with pytest.raises(NetstackError) as gone:
        m.destroy("wm1")
    assert gone.value.errno == ENXIO
    with pytest.raises(NetstackError) as gone:
        m.bridges["bridge0"].add(wm1)
    assert gone.value.errno == ENOENT
    m.interfaces["wm0"].wire.send([frame()] * 10)
    m.run()


def test_closed_machine() -> None:
    m = Machine()
    wm0 = m.nic("wm0")
    m.close()
    m.close()
    for call in (m.run, lambda: m.nic("wm1"), lambda: m.bridge("bridge0"), lambda: m.command("x")):
        with pytest.raises(NetstackError, match="closed") as refused:
            call()
        assert refused.value.errno == ENXIO
    with pytest.raises(NetstackError, match="closed") as refused:
        wm0.wire.send(frame())
    assert refused.value.errno == ENETDOWN


@pytest.mark.parametrize(
    "settings",
    [
        {"ncpu": 0},
        {"ncpu": 65},
        {"ncpu": True},
        {"clock": "sundial"},
        {"kernel": "VANILLA"},
        {"frame": "napi"},
        {"path": "scenic"},
        {"drain": 0},
        {"drain": "some"},
        {"seed": "dice"},
        {"mbufs": 0},
    ],
    ids=str,
)
def test_bad_machines(settings: dict[str, object]) -> None:
    with pytest.raises(NetstackError) as refused:
        Machine(**settings)  # type: ignore[arg-type]
    assert refused.value.errno == EINVAL


def test_pool_too_small_for_the_rings() -> None:
    with Machine(mbufs=64) as m:
        with pytest.raises(NetstackError) as refused:
            m.nic("wm0", rx_queues=8)
        assert refused.value.errno == ENOBUFS
        m.audit()


def test_pool_runs_dry_and_recovers(m: Machine) -> None:
    """Without an mbuf frames are lost by name and the rings keep their size."""
    wm0, wm1, wm2 = m.interfaces.values()
    taken = []
    while not taken or len(taken[-1]) == 256:
        taken.append(MbufVec(m.pool, m.ncpu))
        while len(taken[-1]) < 256 and taken[-1].append(frame()):
            pass
    wm0.wire.send([frame()] * 600)
    wm2.send(frame())
    m.run()
    lost = m.stats()["interfaces"]
    assert lost["wm0"]["drops"]["no_mbuf"] > 300
    assert lost["wm2"]["drops"] == {"no_mbuf": 1}
    assert m.pool.failures > 0
    for mv in taken:
        mv.clear()
    m.audit()
    wm1.wire.recv()
    wm0.wire.send([frame()] * 200)  # fewer than the classic frame's forwarding queue holds
    m.run()
    assert len(wm1.wire.recv()) == 200
