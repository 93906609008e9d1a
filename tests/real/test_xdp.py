"""AF_XDP ports on real interfaces: frames both ways, ends of rings, offloads, what goes away."""

import contextlib
import errno
import select
import shutil
import subprocess

import pytest
from real.test_bridge_command import Bridge, hosts_on_cables, move_file, ping
from real.test_ports import FRAME, TAGGED, Peer, await_frames, wait_for
from unit.ports.rig import Rig

from netstack.errors import EnvironmentLacksError, NetstackError, NoSuchInterfaceError
from netstack.ports.af_xdp import RING_ENTRIES, XdpPort


def opened(stack, name, **options):
    """Open a port, or skip with the reason where the kernel has none."""
    try:
        return stack.enter_context(XdpPort(name, **options))
    except EnvironmentLacksError as lack:
        pytest.skip(f"no AF_XDP here: {lack}")


@pytest.fixture(params=[None, False], ids=["as it can", "generic"])
def cabled(world, request):
    inside, outside = world.namespace("in"), world.namespace("out")
    world.cable(inside, "p0", outside, "e0")
    with contextlib.ExitStack() as stack:
        with outside.entered():
            peer = stack.enter_context(contextlib.closing(Peer("e0")))
        with inside.entered():
            port = opened(stack, "p0", native=request.param)
        yield port, peer, inside, outside


def test_frames_cross_in_both_directions(cabled):
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    assert (port.host_mtu, len(port.mac), port.state(), port.missed) == (1500, 6, "up", 0)
    sizes = [60, 61, 1514]
    for size in sizes:
        peer.send(FRAME[:14].ljust(size, b"\x5a"))
    got = await_frames(rig, ifp, port, 3)
    assert [len(frame) for frame in got] == sizes and all(frame.startswith(FRAME[:14]) for frame in got)
    rig.tx(ifp, FRAME, TAGGED)
    assert peer.recv() == FRAME
    assert ifp.counters()["opackets"] == 2
    assert rig.is_whole


def test_more_frames_than_a_ring_has(cabled):
    """Chunks go round: three rings of frames each way, none lost, none mixed up."""
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    count = 3 * RING_ENTRIES
    numbered = [FRAME[:14] + number.to_bytes(4, "big") + bytes(42) for number in range(count)]
    received = []
    for first in range(0, count, 64):
        for frame in numbered[first : first + 64]:
            peer.send(frame)
        received += await_frames(rig, ifp, port, min(64, count - first))
    assert received == numbered
    for first in range(0, count, 64):
        rig.tx(ifp, *numbered[first : first + 64])
        assert [peer.recv() for _ in numbered[first : first + 64]] == numbered[first : first + 64]
    assert port.transmitters[0].error == 0 and ifp.drops() == {}
    assert rig.is_whole


def test_full_ring_is_told(cabled):
    port, peer, _, _ = cabled
    rig = Rig(4 * RING_ENTRIES)
    ifp = rig.interface(port.receivers[0])
    count = RING_ENTRIES + 500
    for _ in range(count):
        peer.send(FRAME)
    wait_for(lambda: port.missed > 0, "a full ring")
    received = 0
    while batch := rig.frames(ifp):
        received += len(batch)
    assert received + port.missed == count
    peer.send(FRAME)
    assert await_frames(rig, ifp, port, 1) == [FRAME], "and it goes on"


def test_frame_longer_than_a_chunk_is_refused_alone(cabled):
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(tx=port.transmitters[0])
    rig.tx(ifp, FRAME, FRAME.ljust(2049, b"\0"), FRAME)
    assert peer.recv() == peer.recv() == FRAME
    assert ifp.drops() == {"tx_error": 1} and port.transmitters[0].error == 0


def test_link_down_and_up(cabled):
    port, peer, inside, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    inside.ip("link", "set", "p0", "down")
    assert port.state() == "down" and port.alive()
    rig.tx(ifp, FRAME)
    assert ifp.drops() == {"if_down": 1} or port.transmitters[0].error in (errno.ENETDOWN, errno.ENXIO)
    inside.ip("link", "set", "p0", "up")
    wait_for(lambda: port.state() == "up", "link up")
    port.clear_errors()
    rig.tx(ifp, TAGGED)
    frame = peer.recv()
    assert frame in (FRAME, TAGGED[:12] + TAGGED[16:], TAGGED)
    peer.send(FRAME)
    assert await_frames(rig, ifp, port, 1) == [FRAME]
    assert rig.is_whole


def test_deleted_interface_is_gone(cabled):
    port, _, inside, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0], port.transmitters[0])
    inside.ip("link", "del", "p0")
    assert port.state() == "gone" and not port.alive()
    rig.tx(ifp, FRAME)
    assert port.transmitters[0].error in (errno.ENXIO, errno.ENETDOWN)
    assert rig.frames(ifp) == [] and rig.is_whole


def test_the_program_goes_with_the_port(world):
    inside, outside = world.namespace("in"), world.namespace("out")
    world.cable(inside, "p0", outside, "e0")
    for _ in range(3):
        with inside.entered(), contextlib.ExitStack() as stack:
            port = opened(stack, "p0")
            assert "xdp" in inside.ip("link", "show", "p0")
            with pytest.raises(NetstackError) as caught:
                XdpPort("p0")
            assert caught.value.errno == errno.EBUSY and "p0" in str(caught.value)
            port.close()
            port.close()
        wait_for(lambda: "xdp" not in inside.ip("link", "show", "p0"), "the program gone")


def test_open_refuses_by_name(world):
    with world.namespace("in").entered():
        with pytest.raises(NoSuchInterfaceError):
            XdpPort("nosuch0")
        with pytest.raises(NetstackError, match="not an Ethernet interface"):
            XdpPort("lo")
        with pytest.raises(NetstackError, match="queues"):
            XdpPort("lo", queues=0)


def test_descriptor_is_ready_when_frames_are(cabled):
    port, peer, _, _ = cabled
    rig = Rig()
    ifp = rig.interface(port.receivers[0])
    poll = select.poll()
    poll.register(port.receivers[0].fd, select.POLLIN)
    assert poll.poll(0) == []
    peer.send(FRAME)
    assert poll.poll(2000)
    assert rig.frames(ifp) == [FRAME] and poll.poll(0) == []


@pytest.mark.slow
def test_hosts_talk_across_the_bridge(world):
    """Two hosts without offloads behind AF_XDP ports, one with offloads behind a packet port."""
    if shutil.which("ethtool") is None:
        pytest.skip("no 'ethtool' command (package ethtool) to switch the hosts' offloads off")
    middle, hosts = hosts_on_cables(world, 3)
    for host in hosts[:2]:
        subprocess.run(
            ["ip", "netns", "exec", host.name, "ethtool", "-K", "e0", "tx", "off", "gso", "off", "tso", "off"],
            check=True,
            capture_output=True,
        )
    with middle.entered(), contextlib.ExitStack() as stack:
        opened(stack, "b0")
    bridge = Bridge(world, middle, "xdp:b0", "xdp:b1", "b2")
    ping(hosts[0], "10.0.0.2")
    ping(hosts[2], "10.0.0.1")
    move_file(world, hosts[0], hosts[1], "10.0.0.2", 6_000_000)
    move_file(world, hosts[0], hosts[2], "10.0.0.3", 6_000_000)
    move_file(world, hosts[2], hosts[1], "10.0.0.2", 6_000_000)  # long frames are cut, checksums filled in
    report, _ = bridge.end()
    assert set(report["ports"]) == {"b0", "b1", "b2"}
