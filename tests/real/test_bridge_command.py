"""``netstack bridge`` between hosts in namespaces: they ping, move a file, lose an interface."""

import json
import os
import pty
import signal
import struct
import sys
import time

import pytest
from real.programs import PING, RECEIVE, SEND

from netstack.ports.pcap import PcapReader

FILE_BYTES = 24_000_000


class Bridge:
    """``netstack bridge --json`` as a process in a namespace."""

    def __init__(self, world, namespace, *arguments):
        command = [sys.executable, "-P", "-m", "netstack", "bridge", "--json", *arguments]
        self.process = namespace.start(*command)
        world.processes.append(self.process)

    def end(self, number=signal.SIGINT):
        """Stop it as Ctrl-C does; its report and what it said."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self, code=0):
        out, err = self.process.communicate(timeout=30)
        assert self.process.returncode == code, err
        report = json.loads(out)
        assert report["audit"]["exact"], report["audit"]
        return report, err


def run(process, timeout=90):
    """The output of a program, which must end well."""
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out


def ping(host, address, count=5, seconds=15.0):
    """Wait until ``count`` echo requests were answered; least and most ms."""
    low, high = run(host.python(PING, address, str(count), str(seconds))).split()
    return float(low), float(high)


def move_file(world, sender, receiver, address, nbytes=FILE_BYTES):
    """Send random bytes over TCP; both ends must have the same digest.  Seconds it took."""
    taking = receiver.python(RECEIVE, address)
    world.processes.append(taking)
    assert taking.stdout.readline() == "listening\n"
    start = time.monotonic()
    sent = run(sender.python(SEND, address, str(nbytes)))
    received, err = taking.communicate(timeout=90)
    assert received == sent and sent.startswith(f"{nbytes} "), err
    return time.monotonic() - start


def with_ipv6(host, interface, address):
    host.sysctl(f"net.ipv6.conf.{interface}.disable_ipv6", "0")
    host.ip("-6", "addr", "add", f"{address}/64", "dev", interface, "nodad")


def hosts_on_cables(world, count):
    """A namespace for the bridge with ends b0, b1, ... of cables to hosts 10.0.0.1, ..."""
    middle = world.namespace("m")
    hosts = []
    for number in range(count):
        host = world.namespace(f"h{number}")
        world.cable(middle, f"b{number}", host, "e0")
        host.address("e0", f"10.0.0.{number + 1}/24")
        hosts.append(host)
    return middle, hosts


def give_tap(middle, host, name, address):
    """Move a TAP that the bridge has made to a host."""
    end = time.monotonic() + 10
    while f" {name}: <" not in (links := middle.ip("-o", "link", "show", "up")):
        assert time.monotonic() < end, f"no {name} among {links}"
        time.sleep(0.05)
    middle.ip("link", "set", name, "netns", host.name)
    host.address(name, address)


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_hosts_on_cables(world, cpus):
    middle, (a, b) = hosts_on_cables(world, 2)
    with_ipv6(a, "e0", "fd00::1")
    with_ipv6(b, "e0", "fd00::2")
    bridge = Bridge(world, middle, "--cpus", cpus, "--seed", "5", "b0", "b1")
    low, _ = ping(a, "10.0.0.2")
    assert low < 100
    move_file(world, a, b, "10.0.0.2")
    move_file(world, b, a, "10.0.0.1")
    move_file(world, a, b, "fd00::2")
    report, _ = bridge.end()
    assert report["seed"] == 5 and report["clock"] == "wall"
    ports = report["ports"]
    assert ports["b0"]["ibytes"] > 2 * FILE_BYTES and ports["b1"]["ibytes"] > FILE_BYTES
    largest = ports["b0"]["ibytes"] / ports["b0"]["ipackets"]
    assert largest > 3000, "default offloads: long frames cross in one piece"
    learned = {entry["port"] for entry in report["addresses"]}
    assert learned == {"b0", "b1"}


@pytest.mark.parametrize("other", ["tap", "cable"])
def test_hosts_on_taps(world, other):
    middle, a, b = world.namespace("m"), world.namespace("h0"), world.namespace("h1")
    if other == "cable":
        world.cable(middle, "b1", b, "e0")
        b.address("e0", "10.0.0.2/24")
    bridge = Bridge(world, middle, "tap:t0", "tap:t1" if other == "tap" else "b1")
    give_tap(middle, a, "t0", "10.0.0.1/24")
    if other == "tap":
        give_tap(middle, b, "t1", "10.0.0.2/24")
    ping(a, "10.0.0.2")
    move_file(world, a, b, "10.0.0.2")
    move_file(world, b, a, "10.0.0.1")
    report, _ = bridge.end(signal.SIGTERM)
    assert report["ports"]["t0"]["ibytes"] > FILE_BYTES
    assert not report["ports"]["t0"]["drops"].get("tx_error")


@pytest.mark.parametrize("victim", ["cable", "tap"])
def test_lost_interface_is_named_and_the_rest_goes_on(world, victim):
    middle, (a, b) = hosts_on_cables(world, 2)
    c = world.namespace("h2")
    if victim == "cable":
        world.cable(middle, "b2", c, "e0")
        c.address("e0", "10.0.0.3/24")
        bridge = Bridge(world, middle, "b0", "b1", "b2")
    else:
        bridge = Bridge(world, middle, "b0", "b1", "tap:b2")
        give_tap(middle, c, "b2", "10.0.0.3/24")
    ping(a, "10.0.0.2")
    ping(a, "10.0.0.3")
    before = time.monotonic()
    (middle if victim == "cable" else c).ip("link", "del", "b2")
    line = bridge.process.stderr.readline()
    assert time.monotonic() - before < 3
    assert "b2: the interface is gone" in line and "other ports go on" in line
    ping(a, "10.0.0.2")
    move_file(world, a, b, "10.0.0.2")
    report, _ = bridge.end()
    assert report["ports"]["b2"]["state"] == "gone"
    assert report["ports"]["b0"]["state"] == report["ports"]["b1"]["state"] == "up"
    assert "b2" not in {entry["port"] for entry in report["addresses"]}
    assert any("b2" in event for event in report["events"])


def test_interface_that_goes_down_comes_back(world):
    middle, (a, _) = hosts_on_cables(world, 2)
    bridge = Bridge(world, middle, "b0", "b1")
    ping(a, "10.0.0.2")
    middle.ip("link", "set", "b1", "down")
    assert "b1: the link is down" in bridge.process.stderr.readline()
    middle.ip("link", "set", "b1", "up")
    assert "b1: the link is up" in bridge.process.stderr.readline()
    ping(a, "10.0.0.2")
    report, _ = bridge.end()
    assert report["ports"]["b1"]["state"] == "up"


def test_last_interfaces_lost(world):
    middle, _ = hosts_on_cables(world, 2)
    bridge = Bridge(world, middle, "b0", "b1")
    time.sleep(1.0)
    middle.ip("link", "del", "b0")
    middle.ip("link", "del", "b1")
    report, err = bridge.wait(code=1)
    assert "no interface is left" in err
    assert {port["state"] for port in report["ports"].values()} == {"gone"}


def test_capture_of_real_traffic_has_finished_frames(world, tmp_path):
    """With a file among the ports, checksums are filled in and no frame is longer than the MTU."""
    middle, (a, b) = hosts_on_cables(world, 2)
    out = tmp_path / "out.pcapng"
    bridge = Bridge(world, middle, "b0", "b1", f"pcap:,{out}")
    ping(a, "10.0.0.2")
    b.ip("neigh", "flush", "all")
    move_file(world, a, b, "10.0.0.2", 5_000_000)
    report, _ = bridge.end()
    assert report["ports"]["b0"]["ipackets"] > 5_000_000 / 1448
    with PcapReader(out) as reader:
        frames = [record.frame for record in reader]
    assert frames and max(map(len, frames)) <= 1514
    assert len(frames) == report["ports"][f"pcap:,{out}"]["opackets"]


def test_file_is_sent_out_of_a_real_interface(world, tmp_path):
    from netstack.ports.pcapng import PcapngWriter

    middle, (a,) = hosts_on_cables(world, 1)
    source = tmp_path / "in.pcapng"
    with PcapngWriter(source) as writer:
        index = writer.add_interface("x")
        for number in range(1000):
            frame = b"\xff" * 6 + b"\2\0\0\0\0\7" + b"\x88\xb5" + struct.pack("!I", number) * 12
            writer.write(index, frame, number)
    listen = """
import socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
s.bind(("e0", 0x88B5))
s.settimeout(20)
print("listening", flush=True)
print([struct.unpack("!I", s.recv(2000)[14:18])[0] for _ in range(1000)] == list(range(1000)))
"""
    hearing = a.python(listen)
    world.processes.append(hearing)
    assert hearing.stdout.readline() == "listening\n"
    bridge = Bridge(world, middle, "b0", f"pcap:{source}")
    assert run(hearing) == "True\n"
    report, _ = bridge.end()
    assert report["ports"]["b0"]["opackets"] >= 1000


def test_for_ends_it(world):
    middle, _ = hosts_on_cables(world, 2)
    report, _ = Bridge(world, middle, "--for", "1.5", "b0", "b1").wait()
    assert 1.4 < report["seconds"] < 2.5


def test_live_table_is_shown_on_a_terminal(world):
    middle, (a, _) = hosts_on_cables(world, 2)
    main, terminal = pty.openpty()
    command = [sys.executable, "-P", "-m", "netstack", "bridge", "--for", "4", "b0", "b1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = middle.start(*command, stderr=terminal, env=environment)
    world.processes.append(process)
    os.close(terminal)
    ping(a, "10.0.0.2", count=1)
    seen = b""
    try:
        while data := os.read(main, 65536):
            seen += data
    except OSError:  # the other end of the terminal is closed
        pass
    os.close(main)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    for word in (b"in/s", b"dropped", b"2 addresses", b"b1"):
        assert word in seen
    assert "bytes out" in out


# Everything is imported, and used once, before the process gives up its rights: the interpreter may live where nobody
# else can read.
UNPRIVILEGED = """
import os, sys
import netstack.dev.portif, netstack.ports.af_packet, netstack.ports.tap
from netstack import Machine
from netstack.cmd import bridge, bridge_view
from netstack.cmd.main import main
with Machine(clock="wall") as m:
    m.bridge("bridge0", [m.nic("wm0")])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.exit(main(["bridge", *sys.argv[1:]]))
"""


@pytest.mark.parametrize(
    ("ports", "names"),
    [(["b0", "b1"], ["b0", "CAP_NET_RAW"]), (["tap:t0", "b1"], ["CAP_NET_ADMIN"])],
)
def test_missing_privilege_ends_with_3(world, ports, names):
    middle, _ = hosts_on_cables(world, 2)
    process = middle.python(UNPRIVILEGED, *ports)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert all(name in err for name in names) and len(err.splitlines()) == 1


def test_missing_interface_ends_with_3(world):
    middle, _ = hosts_on_cables(world, 1)
    process = middle.start(sys.executable, "-P", "-m", "netstack", "bridge", "b0", "nosuch0")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "") and "nosuch0" in err
