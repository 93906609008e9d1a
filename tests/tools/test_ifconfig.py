"""ifconfig: text, verbs, the ways to lose a frame in words."""

import json
from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENXIO

import pytest

from netstack import Machine, NetstackError
from netstack._fast.dispositions import HELP


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(seed=2) as machine:
        machine.nic("wm0", mac="02:00:00:00:00:01")
        machine.nic("wm1", mac="02:00:00:00:00:02")
        yield machine
        machine.audit()


def test_one_interface(m: Machine) -> None:
    assert m.command("ifconfig wm0") == (
        "wm0: flags=8843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST> mtu 1500\n"
        "\taddress: 02:00:00:00:00:01\n"
        "\tstatus: active\n"
    )
    m.bridge("bridge0", ["wm0"])
    assert "flags=8943<UP,BROADCAST,RUNNING,PROMISC,SIMPLEX,MULTICAST>" in m.command("ifconfig wm0")
    m.command("ifconfig wm0 down")
    assert "flags=8942<BROADCAST,RUNNING,PROMISC,SIMPLEX,MULTICAST>" in m.command("ifconfig wm0")


def test_names_and_all(m: Machine) -> None:
    m.command("ifconfig bridge3 create")
    assert m.command("ifconfig -l") == "wm0 wm1 bridge3\n"
    assert m.command("ifconfig") == m.command("ifconfig -a")
    heads = [line for line in m.command("ifconfig").splitlines() if not line.startswith("\t")]
    assert [head.split(":")[0] for head in heads] == ["wm0", "wm1", "bridge3"]


def test_verbs_in_one_line(m: Machine) -> None:
    m.command("ifconfig wm0 down mtu 1400 up")
    assert m.interfaces["wm0"].mtu == 1400
    assert m.interfaces["wm0"].is_live
    m.command("ifconfig bridge0 create down")
    assert m.command("ifconfig bridge0") == "bridge0: flags=0<> mtu 1500\n"


def test_verbose_names_every_loss(m: Machine) -> None:
    m.interfaces["wm0"].wire.send([b"\x00" * 13, b"\xff" * 6 + b"\x02" * 6 + b"\x08\x00"] * 2)
    m.run()
    text = m.command("ifconfig -v wm0")
    help_of = dict(HELP.values())
    assert f"\tdropped: 2 runt ({help_of['runt']})\n" in text
    assert f"\tdropped: 2 no_proto ({help_of['no_proto']})\n" in text
    assert "\tinput: 4 packets, 146 bytes, 2 multicasts\n" in text
    assert "\toutput: 0 packets, 0 bytes, 0 multicasts\n" in text
    assert "\tlocal: 0 delivered, 0 originated\n" in text


def test_json_says_the_same(m: Machine) -> None:
    m.bridge("bridge0", ["wm1"])
    shown = json.loads(m.command("ifconfig --json wm1"))
    assert shown["address"] == "02:00:00:00:00:02"
    assert shown["bridge"] == "bridge0"
    assert shown["flags"] == ["UP", "BROADCAST", "RUNNING", "PROMISC", "SIMPLEX", "MULTICAST"]
    assert shown["counters"]["ipackets"] == 0
    assert [row["interface"] for row in json.loads(m.command("ifconfig --json"))] == [
        "wm0",
        "wm1",
        "bridge0",
    ]


@pytest.mark.parametrize(
    ("line", "errno", "text"),
    [
        ("ifconfig wm9", ENXIO, "wm9: no such interface"),
        ("ifconfig wm9 up", ENXIO, "wm9: no such interface"),
        ("ifconfig -q", EINVAL, "usage: ifconfig"),
        ("ifconfig -a wm0", EINVAL, "usage: ifconfig"),
        ("ifconfig wm0 sideways", EINVAL, "sideways: bad value"),
        ("ifconfig wm0 mtu", EINVAL, "mtu requires 1 argument"),
        ("ifconfig wm0 mtu 67", EINVAL, "68..1500"),
        ("ifconfig wm0 mtu 1501", EINVAL, "68..1500"),
        ("ifconfig wm0 mtu big", EINVAL, "mtu: invalid value: big"),
        ("ifconfig wm0 destroy", EINVAL, "only bridges"),
        ("ifconfig tap0 create", EINVAL, "only bridges"),
        ("ifconfig bridge0 create create", EEXIST, "exists"),
        ("ifconfig bridge0 create mtu 1400", EINVAL, "when it is made"),
    ],
)
def test_errors(m: Machine, line: str, errno: int, text: str) -> None:
    with pytest.raises(NetstackError, match=text) as refused:
        m.command(line)
    assert refused.value.errno == errno


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_cable_pulled_and_plugged(clock: str) -> None:
    """The link interrupt clears RUNNING, and a bridge of which it is a member sends elsewhere."""
    frame = b"\xff" * 6 + b"\x0a\0\0\0\0\x01" + b"\x08\x00" + bytes(46)
    with Machine(clock=clock, seed=2) as m:
        wm0, wm1, wm2 = (m.nic(name) for name in ("wm0", "wm1", "wm2"))
        m.bridge("bridge0", [wm0, wm1, wm2])
        wm1.hw.set_link(False)
        m.run()
        assert "flags=8903<UP,BROADCAST,PROMISC," in m.command("ifconfig wm1")
        assert "\tstatus: no carrier\n" in m.command("ifconfig wm1")
        wm0.wire.send(frame)
        m.run()
        assert (wm1.wire.recv(), wm2.wire.recv()) == ([], [frame])
        if clock == "virtual":  # on the wall the map follows in its own time
            assert wm1.block.drops() == {}
        wm1.hw.set_link(True)
        m.run()
        assert "\tstatus: active\n" in m.command("ifconfig wm1")
        wm0.wire.send(frame)
        m.run()
        assert (wm1.wire.recv(), wm2.wire.recv()) == ([frame], [frame])
        m.audit()
