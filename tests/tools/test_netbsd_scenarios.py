"""NetBSD's own twelve bridge scenarios (tests/net/if_bridge), by commands and counters.

Where NetBSD pings, hosts at the far ends of the wires exchange the frames of a ping; the member's
own address is served by protocol handlers of this machine.  The ageing check, which NetBSD's suite
leaves out because the sweeper runs every five minutes, runs here in virtual time.
"""

import re
from collections.abc import Iterator
from errno import EEXIST, ENOENT, ENXIO

import pytest
from tools.hosts import ARP, IPV6, Host, answer_arp, answer_echo, echo_request, is_reply

from netstack import Machine, NetstackError
from netstack.net.ifnet import Ifnet


@pytest.fixture(params=["compiled", "stages"])
def m(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine with three interfaces."""
    with Machine(ncpu=2, seed=11, path=request.param) as machine:
        for name in ("wm0", "wm1", "wm2"):
            machine.nic(name)
        yield machine
        machine.run()
        machine.audit()


def cache(m: Machine) -> dict[str, str]:
    """Return the address table as brconfig prints it: address -> interface."""
    lines = m.command("brconfig bridge0 addr").splitlines()
    return {line.split()[0]: line.split()[1] for line in lines}


def ping(m: Machine, a: Host, b: Host) -> bool:
    """Resolve and ping from one far end to another; True when the answer comes back."""
    for question in (a.resolve(b.ip), echo_request(a, b)):
        a.ifp.wire.send(question)
        m.run()
        b.answer()
        m.run()
        if not any(is_reply(frame, question) for frame in a.ifp.wire.recv()):
            return False
    return True


def hosts(m: Machine, version: int) -> tuple[Host, Host, Host]:
    """Return a host at the far end of each wire."""
    one, two, three = (Host(m.interfaces[f"wm{i}"], i + 1, version) for i in range(3))
    return one, two, three


def test_create_destroy(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    assert m.command("ifconfig bridge0") == "bridge0: flags=41<UP,RUNNING> mtu 1500\n"
    with pytest.raises(NetstackError) as again:
        m.command("ifconfig bridge0 create")
    assert again.value.errno == EEXIST
    m.command("brconfig bridge0 add wm0 add wm1")
    m.command("ifconfig bridge0 destroy")
    with pytest.raises(NetstackError) as gone:
        m.command("ifconfig bridge0")
    assert gone.value.errno == ENXIO
    assert all(ifp.bridge is None for ifp in m.interfaces.values())
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1")


@pytest.mark.parametrize("version", [4, 6])
def test_hosts_ping_across_the_bridge_only_while_it_is_there(m: Machine, version: int) -> None:
    a, b, _ = hosts(m, version)
    assert not ping(m, a, b)
    m.command("ifconfig bridge0 create up")
    m.command("brconfig bridge0 add wm0 add wm1 up")
    status = m.command("brconfig bridge0")
    assert re.search(r"^\t\twm0 flags=3<LEARNING,DISCOVER>$", status, re.MULTILINE)
    assert ping(m, a, b)
    assert ping(m, b, a)
    assert cache(m) == {a.mac.hex(":"): "wm0", b.mac.hex(":"): "wm1"}
    m.command("brconfig bridge0 delete wm0 delete wm1")
    assert "wm0" not in m.command("brconfig bridge0")
    assert not ping(m, a, b)


@pytest.mark.parametrize("version", [4, 6])
def test_member_with_an_address_of_its_own(m: Machine, version: int) -> None:
    """The machine's own address on wm1 answers, whichever member the ping comes in by."""
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 up")
    a, b, _ = hosts(m, version)
    mine = Host(m.interfaces["wm1"], 200, version, mac=m.interfaces["wm1"].block.mac)

    def serve(ifp: Ifnet, frames: list[bytes]) -> None:
        for frame in frames:
            for answer in (answer_arp(mine, frame), answer_echo(mine, frame)):
                if answer is not None:
                    m.interfaces["wm1"].send(answer)

    for ethertype in (ARP, 0x0800, IPV6):
        m.netisr.register(ethertype, serve)
    for host in (a, b):
        for question in (host.resolve(mine.ip), echo_request(host, mine)):
            host.ifp.wire.send(question)
            m.run()
            assert any(is_reply(frame, question) for frame in host.ifp.wire.recv())
    assert mine.mac.hex(":") not in cache(m), "own addresses are not listed"
    assert m.interfaces["wm1"].counters["delivered"] >= 2


def test_protection(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 add wm2 up")
    a, b, c = hosts(m, 4)
    assert ping(m, a, b) and ping(m, b, a)
    m.command("brconfig bridge0 protect wm0")
    assert ping(m, a, b) and ping(m, b, a), "protected and unprotected talk"
    m.command("brconfig bridge0 protect wm1")
    assert "wm1 flags=b<LEARNING,DISCOVER,PROTECTED>" in m.command("brconfig bridge0")
    assert not ping(m, a, b)
    assert not ping(m, b, a)
    assert ping(m, a, c) and ping(m, c, b)
    m.command("brconfig bridge0 -protect wm0")
    assert ping(m, a, b)
    m.command("brconfig bridge0 private wm0 -private wm0 -protect wm1")
    assert ping(m, b, a)


def learn(m: Machine, count: int, interface: str = "wm0", first: int = 1) -> list[str]:
    """Have an interface receive one frame from each of ``count`` stations."""
    stations = [b"\x0a\x00\x00\x00" + n.to_bytes(2, "big") for n in range(first, first + count)]
    nobody = bytes.fromhex("0affffffffff")
    for start in range(0, count, 256):
        batch = stations[start : start + 256]
        m.interfaces[interface].wire.send([nobody + mac + b"\x08\x00" for mac in batch])
        m.run()
    return [mac.hex(":") for mac in stations]


def test_rtable_basic(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 up")
    assert cache(m) == {}
    (mac,) = learn(m, 1)
    assert cache(m) == {mac: "wm0"}
    learn(m, 1, "wm1")
    assert cache(m) == {mac: "wm1"}, "the station has moved"
    m.command(f"brconfig bridge0 deladdr {mac}")
    assert cache(m) == {}
    with pytest.raises(NetstackError) as absent:
        m.command(f"brconfig bridge0 deladdr {mac}")
    assert absent.value.errno == ENOENT
    m.command(f"brconfig bridge0 static wm1 {mac}")
    assert m.command("brconfig bridge0 addr") == f"{mac} wm1 0 flags=1<STATIC>\n"
    learn(m, 1, "wm0")
    assert cache(m) == {mac: "wm1"}, "learning does not change a static entry"


def test_rtable_flush(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 up static wm1 0a:00:00:00:ff:01")
    learn(m, 20)
    assert len(cache(m)) == 21
    m.command("brconfig bridge0 flush")
    assert cache(m) == {"0a:00:00:00:ff:01": "wm1"}
    learn(m, 20)
    m.command("brconfig bridge0 flushall")
    assert cache(m) == {}
    learn(m, 5)
    m.command("brconfig bridge0 down")
    assert cache(m) == {}, "down forgets what was learned"


def test_rtable_timeout(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 up")
    assert "timeout: 1200):" in m.command("brconfig bridge0")
    m.command("brconfig bridge0 timeout 10")
    assert "timeout: 10):" in m.command("brconfig bridge0")
    (mac,) = learn(m, 1)
    m.run(seconds=4)
    assert m.command("brconfig bridge0 addr") == f"{mac} wm0 6 flags=0<>\n"
    m.run(seconds=9)
    assert cache(m) == {}
    frames_on_wm1 = len(m.interfaces["wm1"].wire.recv())
    m.interfaces["wm0"].wire.send(bytes.fromhex(mac.replace(":", "")) + b"\x0a" * 6 + b"\x08\x00")
    m.run()
    assert len(m.interfaces["wm1"].wire.recv()) == frames_on_wm1 == 1, "expired: flooded"


def test_rtable_maxaddr(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 up")
    assert "max cache: 100, " in m.command("brconfig bridge0")
    m.command("brconfig bridge0 maxaddr 10")
    macs = learn(m, 30)
    assert list(cache(m)) == macs[:10]
    assert m.bridges["bridge0"].counters["table_full"] == 20
    assert m.interfaces["wm1"].counters["opackets"] == 30, "not learned, still forwarded"
    m.command("brconfig bridge0 maxaddr 4")
    assert len(cache(m)) == 4
    m.command("brconfig bridge0 maxaddr 20")
    learn(m, 30)
    assert len(cache(m)) == 20


def test_rtable_delete_member(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 add wm2 up")
    learn(m, 10, "wm0")
    kept = learn(m, 10, "wm1", first=100)
    m.command("brconfig bridge0 static wm0 0a:00:00:00:ff:01 delete wm0")
    assert cache(m) == dict.fromkeys(kept, "wm1")
    for ifp in m.interfaces.values():
        ifp.wire.recv()
    m.interfaces["wm1"].wire.send(bytes.fromhex("0a0000000001") + b"\x0a" * 6 + b"\x08\x00")
    m.run()
    assert len(m.interfaces["wm2"].wire.recv()) == 1, "its stations are unknown again"
    assert m.interfaces["wm0"].wire.recv() == []


def test_rtable_1024_addresses(m: Machine) -> None:
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 up maxaddr 1024")
    macs = learn(m, 1024)
    assert cache(m) == dict.fromkeys(macs, "wm0")
    learn(m, 1, first=5000)
    assert len(cache(m)) == 1024
    m.interfaces["wm0"].wire.recv()
    m.interfaces["wm1"].wire.recv()
    wanted = [bytes.fromhex(mac.replace(":", "")) for mac in macs]
    for start in range(0, 1024, 256):
        batch = [mac + b"\x0a" * 6 + b"\x08\x00" for mac in wanted[start : start + 256]]
        m.interfaces["wm1"].wire.send(batch)
        m.run()
    assert [frame[:6] for frame in m.interfaces["wm0"].wire.recv()] == wanted
    m.command("brconfig bridge0 flush")
    assert cache(m) == {}


def test_ageing_spares_who_speaks(m: Machine) -> None:
    """What NetBSD's suite could not wait for: expiry by the sweeper, refreshed by traffic."""
    m.command("ifconfig bridge0 create")
    m.command("brconfig bridge0 add wm0 add wm1 up timeout 1200")
    silent, speaker = learn(m, 2)
    for _ in range(14):
        m.run(seconds=100)
        learn(m, 1, first=2)
    assert cache(m) == {speaker: "wm0"}
    assert silent not in cache(m)
    assert m.bridges["bridge0"].rtable.table.count == 1
