"""brconfig: NetBSD's text, its order of execution, its errors."""

import json
import re
from collections.abc import Iterator
from errno import EEXIST, EINVAL, ENOENT, ENXIO, EOPNOTSUPP

import pytest

from netstack import Machine, NetstackError


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(seed=2) as machine:
        for name in ("wm0", "wm1"):
            machine.nic(name)
        machine.bridge("bridge0")
        yield machine
        machine.audit()


STATUS = """\
bridge0: flags=41<UP,RUNNING>
	Configuration:
		priority 32768 hellotime 2 fwddelay 15 maxage 20
	Interfaces:
		wm1 flags=d<LEARNING,STP,PROTECTED>
			port 2 priority 128 path cost 55 blocking
		wm0 flags=3<LEARNING,DISCOVER>
			port 1 priority 128
	Address cache (max cache: 50, timeout: 60):
		02:00:00:00:00:05 wm1 0 flags=1<STATIC>
		0a:00:00:00:00:01 wm0 58 flags=0<>
"""


def test_status_text(m: Machine) -> None:
    m.command(
        "brconfig bridge0 add wm0 add wm1 maxaddr 50 timeout 60 stp wm1 protect wm1 -discover wm1"
        " static wm1 2:0:0:0:0:5"
    )
    m.bridges["bridge0"].set_state("wm1", "blocking")
    m.interfaces["wm0"].wire.send(b"\xff" * 6 + b"\x0a\0\0\0\0\x01" + b"\x08\x00")
    m.run()
    m.run(seconds=2)
    assert m.command("brconfig bridge0") == STATUS
    assert m.command("brconfig bridge0 addr") == "".join(line.strip() + "\n" for line in STATUS.splitlines()[-2:])


def test_all_bridges(m: Machine) -> None:
    m.bridge("bridge7").down()
    text = m.command("brconfig -a")
    assert [line for line in text.splitlines() if not line.startswith("\t")] == [
        "bridge0: flags=41<UP,RUNNING>",
        "bridge7: flags=0<>",
    ]
    assert [row["bridge"] for row in json.loads(m.command("brconfig -a --json"))] == [
        "bridge0",
        "bridge7",
    ]


def test_json_says_the_same(m: Machine) -> None:
    m.command("brconfig bridge0 add wm0 static wm0 02:00:00:00:00:05")
    shown = json.loads(m.command("brconfig bridge0 --json"))
    assert shown["members"][0]["interface"] == "wm0"
    assert shown["members"][0]["flags"] == ["LEARNING", "DISCOVER"]
    assert shown["members"][0]["state"] == "forwarding"
    assert shown["addresses"] == [
        {
            "mac": "02:00:00:00:00:05",
            "vlan": 0,
            "interface": "wm0",
            "remaining_s": 0,
            "flags": "STATIC",
        }
    ]
    assert (shown["maxaddr"], shown["timeout_s"], shown["running"]) == (100, 1200, True)


def test_verbs_run_in_order_and_stop_at_the_first_error(m: Machine) -> None:
    with pytest.raises(NetstackError) as refused:
        m.command("brconfig bridge0 down add wm0 add wm0 add wm1")
    assert refused.value.errno == EEXIST
    assert [ifp.name for ifp in m.bridges["bridge0"].members] == ["wm0"]
    assert m.bridges["bridge0"].is_running, "up and down come last, so not after an error"
    m.command("brconfig bridge0 down del wm0 add wm1")
    assert not m.bridges["bridge0"].is_running
    m.command("brconfig bridge0 up")
    assert m.bridges["bridge0"].is_running


@pytest.mark.parametrize(
    ("line", "errno", "text"),
    [
        ("brconfig", EINVAL, "usage: brconfig"),
        ("brconfig -x", EINVAL, "usage: brconfig"),
        ("brconfig wm0", EINVAL, "wm0 is not a bridge"),
        ("brconfig bridge", EINVAL, "bridge is not a bridge"),
        ("brconfig bridge1", ENXIO, "bridge1: no such bridge"),
        ("brconfig bridge0 frobnicate", EINVAL, "unknown command: frobnicate"),
        ("brconfig bridge0 add", EINVAL, "command add requires 1 argument$"),
        ("brconfig bridge0 static wm0", EINVAL, "command static requires 2 arguments"),
        ("brconfig bridge0 maxaddr many", EINVAL, "maxaddr: invalid value: many"),
        ("brconfig bridge0 maxaddr 4294967296", EINVAL, "maxaddr: invalid value: 4294967296"),
        ("brconfig bridge0 timeout -1", EINVAL, "timeout: invalid value: -1"),
        ("brconfig bridge0 maxaddr 0", EINVAL, "maxaddr 0 is not 1"),
        ("brconfig bridge0 add wm9", ENOENT, "wm9 is no interface of this machine"),
        ("brconfig bridge0 delete wm0", ENOENT, "wm0 is no member of bridge0"),
        ("brconfig bridge0 learn wm0", ENOENT, "wm0 is no member"),
        ("brconfig bridge0 static wm0 02:00:00:00:00:05", ENOENT, "wm0 is no member"),
        ("brconfig bridge0 add wm0 static wm0 02:00", EINVAL, "no Ethernet address"),
        ("brconfig bridge0 deladdr 02:00:00:00:00:05", ENOENT, "not in the table"),
        ("brconfig bridge0 priority 1", EOPNOTSUPP, "spanning tree"),
        ("brconfig bridge0 ifpathcost wm0 7", EOPNOTSUPP, "spanning tree"),
        ("brconfig 'bridge0", EINVAL, "No closing quotation"),
        ("netstat", EINVAL, "brconfig, ifconfig, intrctl"),
        ("", EINVAL, "brconfig, ifconfig, intrctl"),
    ],
)
def test_errors(m: Machine, line: str, errno: int, text: str) -> None:
    with pytest.raises(NetstackError) as refused:
        m.command(line)
    assert refused.value.errno == errno
    assert re.search(text, refused.value.strerror or ""), refused.value.strerror


def test_numbers_may_be_octal_or_hexadecimal(m: Machine) -> None:
    m.command("brconfig bridge0 maxaddr 0x20 timeout 010")
    assert (m.bridges["bridge0"].maxaddr, m.bridges["bridge0"].timeout) == (32, 8)
