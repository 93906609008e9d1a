"""Ports on real interfaces: what they deliver, what they do when the host takes something away."""

import contextlib
import errno
import os
import select
import socket
import subprocess
import sys
import time

import pytest
from unit.ports.rig import Rig

from netstack.errors import NetstackError, NoSuchInterfaceError
from netstack.ports.af_packet import PacketPort
from netstack.ports.tap import TapPort

FRAME = bytes.fromhex("020000000002020000000001") + b"\x88\xb5" + bytes(range(46))
TAGGED = FRAME[:12] + b"\x81\x00\x60\x0a" + FRAME[12:]


class Peer:
    """A plain packet socket: the other end of a cable."""

    def __init__(self, name):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0003)
        self.socket.bind((name, 3))
        self.socket.settimeout(2)

    def send(self, frame):
        self.socket.send(frame)

    def recv(self):
        while True:
            frame, address = self.socket.recvfrom(1 << 17)
            if address[2] != socket.PACKET_OUTGOING:
                return frame

    def close(self):
        self.socket.close()


@pytest.fixture
def cabled(world):
    """A port on one end of a cable, a plain socket on the other."""
    inside, outside = world.namespace("in"), world.namespace("out")
    world.cable(inside, "p0", outside, "e0")
    with contextlib.ExitStack() as stack:
        with outside.entered():
            peer = stack.enter_context(contextlib.closing(Peer("e0")))
        with inside.entered():
            port = stack.enter_context(PacketPort("p0"))
        yield port, peer, inside, outside


def wait_for(condition, what, seconds=3.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.01)


def await_frames(rig, ifp, port, count):
    """Frames received, once there are ``count``."""
    out = []
    poll = select.poll()
    poll.register(port.receivers[0].fd, select.POLLIN)
    while len(out) < count:
        assert poll.poll(3000), f"{len(out)} of {count} frames came"
        out += rig.frames(ifp)
    return out


def test_frames_cross_in_both_directions(cabled):
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    assert (port.host_mtu, len(port.mac), port.state(), port.missed) == (1500, 6, "up", 0)
    sizes = [14, 60, 61, 1514]
    for size in sizes:
        peer.send(FRAME[:14].ljust(size, b"\x5a"))
    assert [len(frame) for frame in await_frames(rig, ifp, port, 4)] == sizes
    rig.tx(ifp, FRAME, TAGGED)
    assert [peer.recv(), peer.recv()][0] == FRAME
    assert ifp.counters()["opackets"] == 2
    assert rig.is_whole


def test_tag_that_the_kernel_takes_out_is_put_back(cabled):
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0])
    for tag in (b"\x81\x00\x60\x0a", b"\x88\xa8\x0f\xff", b"\x81\x00\x00\x00"):
        peer.send(FRAME[:12] + tag + FRAME[12:])
        assert await_frames(rig, ifp, port, 1) == [FRAME[:12] + tag + FRAME[12:]]


def test_own_frames_and_those_of_the_host_do_not_come_back(cabled):
    port, peer, inside, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    with inside.entered(), contextlib.closing(Peer("p0")) as host:
        host.send(FRAME)
    rig.tx(ifp, FRAME)
    assert peer.recv() == peer.recv() == FRAME
    peer.send(TAGGED)
    assert await_frames(rig, ifp, port, 1) == [TAGGED]


def test_frame_over_the_mtu_is_refused_alone(cabled):
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(tx=port.transmitters[0])
    rig.tx(ifp, FRAME, FRAME.ljust(1600, b"\0"), FRAME)
    assert peer.recv() == peer.recv() == FRAME
    assert ifp.drops() == {"tx_error": 1} and port.transmitters[0].error == 0


def test_full_ring_is_told(cabled):
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0])
    frame = FRAME.ljust(1514, b"\0")
    for _ in range(8000):  # the ring holds 8 MiB
        peer.send(frame)
    assert port.missed > 0
    received = 0
    while batch := rig.frames(ifp):
        received += len(batch)
    assert received + port.missed == 8000
    assert port.missed == port.missed, "reading does not forget"


def test_link_down_and_up(cabled):
    port, peer, inside, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    for lap in range(2):
        inside.ip("link", "set", "p0", "down")
        assert port.state() == "down" and port.alive()
        rig.tx(ifp, FRAME)
        assert port.transmitters[0].error in (errno.ENETDOWN, errno.ENXIO)
        poll = select.poll()
        poll.register(port.receivers[0].fd, select.POLLIN)
        assert poll.poll(1000) and rig.frames(ifp) == []
        assert port.receivers[0].error == errno.ENETDOWN
        assert not poll.poll(0), "an error that was read is no longer signalled"
        inside.ip("link", "set", "p0", "up")
        wait_for(lambda: port.state() == "up", "link up")
        port.clear_errors()
        rig.tx(ifp, FRAME)
        assert peer.recv() == FRAME
        peer.send(FRAME)
        assert await_frames(rig, ifp, port, 1) == [FRAME]
        assert ifp.drops() == {"if_down": lap + 1}
    assert rig.is_whole


def test_deleted_interface_is_gone_even_when_a_namesake_comes(cabled):
    port, _, inside, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    inside.ip("link", "del", "p0")
    assert port.state() == "gone" and not port.alive()
    rig.tx(ifp, FRAME)
    assert port.transmitters[0].error in (errno.ENXIO, errno.ENETDOWN)
    assert rig.frames(ifp) == []
    inside.ip("link", "add", "p0", "type", "veth", "peer", "name", "p1")
    assert port.state() == "gone"


def test_renamed_interface_stays_and_moved_one_is_gone(cabled):
    port, peer, inside, outside = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    inside.ip("link", "set", "p0", "down")
    inside.ip("link", "set", "p0", "name", "renamed")
    inside.ip("link", "set", "renamed", "up")
    wait_for(lambda: port.state() == "up", "link up")
    assert rig.frames(ifp) == []
    port.clear_errors()
    rig.tx(ifp, FRAME)
    assert peer.recv() == FRAME
    inside.ip("link", "set", "renamed", "netns", outside.name)
    assert port.state() == "gone"


def test_open_refuses_by_name(world):
    with world.namespace("in").entered():
        with pytest.raises(NoSuchInterfaceError) as caught:
            PacketPort("nosuch0")
        assert caught.value.errno == errno.ENXIO and "nosuch0" in str(caught.value)
        with pytest.raises(NetstackError, match="not an Ethernet interface") as caught:
            PacketPort("lo")
        assert caught.value.errno == errno.EINVAL
        for kind in (PacketPort, TapPort):
            for name in ("", "a" * 16, "a/b", "tap%d"):
                with pytest.raises(NetstackError) as caught:
                    kind(name)
                assert caught.value.errno == errno.EINVAL


def test_failed_and_closed_ports_leave_no_descriptor(world):
    inside = world.namespace("in")
    inside.ip("link", "add", "p0", "type", "veth", "peer", "name", "p1")
    before = sorted(os.listdir("/proc/self/fd"))
    with inside.entered():
        inside_before = sorted(os.listdir("/proc/self/fd"))
        for name in ("nosuch0", "lo"):
            with pytest.raises(NetstackError):
                PacketPort(name, tx_queues=4)
        for name in ("p0", "lo"):  # no TAPs
            with pytest.raises(NetstackError) as caught:
                TapPort(name)
            assert caught.value.errno == errno.EINVAL
        ports = [PacketPort("p0", tx_queues=4), TapPort("tap0"), TapPort("tap1", queues=3)]
        for fd in set(os.listdir("/proc/self/fd")) - set(inside_before):
            with contextlib.suppress(OSError):  # the folder's own descriptor
                assert not os.get_inheritable(int(fd))
        for port in ports:
            port.close()
            port.close()
            assert port.state() == "gone" and not port.alive()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert " tap" not in inside.ip("-o", "link"), "a TAP we made vanishes with us"


UNPRIVILEGED = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from netstack.ports.af_packet import PacketPort
from netstack.ports.tap import TapPort
from netstack.errors import PrivilegeError
before = len(os.listdir("/proc/self/fd"))
for kind, name in ((PacketPort, "lo"), (TapPort, "tap0")):
    try:
        kind(name)
    except PrivilegeError as problem:
        print(problem)
assert len(os.listdir("/proc/self/fd")) == before
"""


def test_missing_privilege_is_named_with_the_cure(world):
    """Modules are loaded as root and then the privilege is given up, in a process of its own."""
    early = "import netstack.ports.af_packet, netstack.ports.tap\n"
    process = world.namespace("in").python(early + UNPRIVILEGED)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    packet, tap = out.splitlines()
    assert packet.startswith("lo: ") and "CAP_NET_RAW" in packet and "setcap" in packet
    assert "EPERM" in packet
    assert tap.startswith(("tap0: ", "/dev/net/tun")) and "CAP_NET_ADMIN" in tap


# --- TAP -----------------------------------------------------------------------------------------


def test_tap_moves_frames_and_dies_with_its_interface(world):
    inside = world.namespace("in")
    with inside.entered(), TapPort("tap0") as port:
        with contextlib.closing(Peer("tap0")) as peer:
            rig = Rig()
            ifp = rig.interface(port.receivers[0], port.transmitters[0])
            assert port.state() == "up" and port.mac[0] & 3 == 2
            peer.send(FRAME)
            peer.send(TAGGED)
            assert await_frames(rig, ifp, port, 2) == [FRAME, TAGGED]
            rig.tx(ifp, FRAME, FRAME.ljust(1514, b"\1"))
            assert [len(peer.recv()), len(peer.recv())] == [60, 1514]
            with pytest.raises(NetstackError, match="another process holds") as caught:
                TapPort("tap0")
            assert caught.value.errno == errno.EBUSY
        inside.ip("link", "set", "tap0", "down")
        rig.tx(ifp, FRAME)
        assert port.transmitters[0].error == errno.EIO and port.state() == "down"
        inside.ip("link", "set", "tap0", "up")
        port.clear_errors()
        inside.ip("link", "del", "tap0")
        assert port.state() == "gone"
        rig.tx(ifp, FRAME)
        assert rig.frames(ifp) == []
        assert port.transmitters[0].error == port.receivers[0].error == errno.EBADFD
        assert rig.is_whole


def test_tap_that_moves_to_another_namespace_still_works(world):
    inside, elsewhere = world.namespace("in"), world.namespace("out")
    with inside.entered(), TapPort("tap0") as port:
        inside.ip("link", "set", "tap0", "netns", elsewhere.name)
        elsewhere.ip("link", "set", "tap0", "up")
        rig = Rig()
        ifp = rig.interface(port.receivers[0], port.transmitters[0])
        with elsewhere.entered(), contextlib.closing(Peer("tap0")) as peer:
            assert port.state() == "up" and port.alive()
            peer.send(FRAME)
            assert await_frames(rig, ifp, port, 1) == [FRAME]
            rig.tx(ifp, FRAME)
            assert peer.recv() == FRAME
        elsewhere.ip("link", "set", "tap0", "down")
        rig.tx(ifp, FRAME)
        assert port.state() == "down"
        elsewhere.ip("link", "del", "tap0")
        assert port.state() == "gone"


@pytest.mark.parametrize("has_vnet", [True, False])
def test_tap_with_many_queues(world, has_vnet):
    with world.namespace("in").entered(), TapPort("tap0", queues=3, vnet=has_vnet) as port:
        with contextlib.closing(Peer("tap0")) as peer:
            rig = Rig()
            members = [rig.interface(*both) for both in zip(port.receivers, port.transmitters, strict=True)]
            for ifp in members:
                rig.tx(ifp, FRAME)
                assert peer.recv() == FRAME


def test_killed_process_leaves_no_interface(world):
    inside = world.namespace("in")
    code = "import time\nfrom netstack.ports.tap import TapPort\n"
    code += "port = TapPort('tap0')\nprint('ready', flush=True)\ntime.sleep(60)"
    for _ in range(3):
        process = inside.python(code)
        world.processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert " tap0: " in inside.ip("-o", "link")
        process.kill()
        process.wait(10)
        wait_for(lambda: " tap0: " not in inside.ip("-o", "link"), "tap0 gone")


def test_what_the_host_drops_is_told(world):
    with world.namespace("in").entered(), TapPort("tap0") as port:
        with contextlib.closing(Peer("tap0")) as peer:
            assert port.missed == 0 and port.host_dropped == (0, 0)
            for _ in range(3000):  # nobody reads; a TAP's queue holds 1000 or 500
                peer.send(FRAME)
            missed = port.missed
            assert 1000 < missed < 3000 and port.host_dropped == (0, missed)
            rig = Rig(4096)
            ifp = rig.interface(port.receivers[0])
            received = 0
            while batch := rig.frames(ifp):
                received += len(batch)
            assert received + missed == 3000


def test_descriptors_do_not_reach_a_child(world):
    with world.namespace("in").entered(), TapPort("tap0") as port:
        listing = "import os; print(sorted(os.listdir('/proc/self/fd')))"
        options = {"capture_output": True, "text": True, "close_fds": False, "check": True}
        child = subprocess.run([sys.executable, "-P", "-c", listing], **options)
        assert f"'{port.receivers[0].fd}'" not in child.stdout


@pytest.mark.parametrize("offload", [True, False])
def test_offload_is_asked_of_the_host_or_refused(world, offload):
    """With offload the host leaves checksums open; without, it fills them in itself."""
    inside = world.namespace("in")
    with inside.entered(), TapPort("tap0", offload=offload) as port:
        inside.address("tap0", "10.0.0.1/24")
        neighbour = ("lladdr", "02:00:00:00:00:09", "dev", "tap0")
        inside.ip("neigh", "add", "10.0.0.2", *neighbour)
        with socket.socket() as caller:
            caller.setblocking(False)
            caller.connect_ex(("10.0.0.2", 9))
            packet = os.read(port.receivers[0].fd, 2000)
        assert packet[22:24] == b"\x08\x00" and packet[0] & 1 == offload
