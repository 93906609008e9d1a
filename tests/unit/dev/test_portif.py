"""The driver of real-world ports, on ports made of socket pairs: no privilege needed."""

import contextlib
import errno
import time

import pytest
from unit.ports.rig import NO_OFFLOAD, pair

from netstack import Machine, NetstackError
from netstack._fast.hostport import TapRx, TapTx

A, B = b"\2\0\0\0\0\x0a", b"\2\0\0\0\0\x0b"
ALL = b"\xff" * 6


def frame(target, source, number=0):
    return target + source + b"\x88\xb5" + bytes([number] * 46)


class FakePort:
    """A port whose far end the test holds."""

    kind = "fake"
    mtu = 1500
    missed = 0

    def __init__(self, name, unit=1, queues=1):
        self.name = name
        self.mac = bytes([2, 0, 0, 0, 9, unit])
        self.pairs = [pair() for _ in range(queues)]
        self.receivers = [TapRx(near.fileno()) for near, _ in self.pairs]
        self.transmitters = [TapTx(near.fileno()) for near, _ in self.pairs]
        self.now = "up"
        self.cleared = 0
        self.closed = 0

    def state(self):
        return self.now

    def clear_errors(self):
        self.cleared += 1
        for engine in (*self.receivers, *self.transmitters):
            engine.clear_error()

    def close(self):
        self.closed += 1
        for engine in (*self.receivers, *self.transmitters):
            engine.close()
        for near, _ in self.pairs:
            near.close()

    def send(self, *frames, queue=0):
        for data in frames:
            self.pairs[queue][1].send(NO_OFFLOAD + data)

    def recv(self):
        out = []
        for _, far in self.pairs:
            with contextlib.suppress(BlockingIOError):
                while True:
                    out.append(far.recv(1 << 17)[len(NO_OFFLOAD) :])
        return out


@pytest.fixture
def machine():
    with Machine(ncpu=2, clock="wall") as m:
        yield m


def bridged(machine, count=2):
    ports = [FakePort(f"p{i}", i) for i in range(count)]
    members = [machine.port(port) for port in ports]
    return ports, members, machine.bridge("bridge0", members)


def run_until(machine, condition, what, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        machine.run(seconds=0.02)


@pytest.mark.parametrize("options", [{}, {"frame": "classic"}, {"path": "stages"}, {"kernel": "GENERIC"}])
def test_frames_cross_and_the_books_are_exact(options):
    with Machine(ncpu=2, clock="wall", **options) as machine:
        (left, right), _, bridge = bridged(machine)
        left.send(frame(ALL, A, 1))
        machine.run()
        assert right.recv() == [frame(ALL, A, 1)]
        many = [frame(A, B, i % 256) for i in range(600)]
        got = []
        for at in range(0, 600, 100):
            right.send(*many[at : at + 100])
            machine.run()
            got += left.recv()
        assert got == many
        machine.audit()
        stats = machine.stats()["interfaces"]
        assert stats["p0"]["opackets"] == stats["p1"]["ipackets"] == 600
        assert {entry[2] for entry in bridge.addresses()} == {"p0", "p1"}


def test_virtual_clock_is_refused():
    port = FakePort("p0")
    with Machine() as machine, pytest.raises(NetstackError) as caught:
        machine.port(port)
    assert caught.value.errno == errno.EINVAL and "wall" in str(caught.value)


def test_queues_and_interrupts_are_spread(machine):
    port = FakePort("p0", queues=3)
    ifp = machine.port(port)
    rows = machine.intrctl.list()
    assert [row.name for row in rows] == ["p0 RX0", "p0 RX1", "p0 RX2"]
    assert [row.affinity for row in rows] == [(0,), (1,), (0,)]
    other = FakePort("p1", 2)
    machine.bridge("bridge0", [ifp, machine.port(other)])
    for queue in range(3):
        port.send(frame(ALL, A, queue), queue=queue)
        machine.run()
    assert other.recv() == [frame(ALL, A, i) for i in range(3)]


def test_link_down_and_up_is_followed(machine):
    (left, right), (ifp, _), _ = bridged(machine)
    left.now = "down"
    run_until(machine, lambda: not ifp.is_live, "p0 down")
    assert ifp.driver.state == "down"
    right.send(frame(ALL, B))
    machine.run()
    assert left.recv() == []
    left.now = "up"
    run_until(machine, lambda: ifp.is_live, "p0 up")
    right.send(frame(ALL, B))
    machine.run()
    assert left.recv() == [frame(ALL, B)]
    machine.audit()


def test_gone_port_stays_down_and_the_others_go_on(machine):
    (left, middle, right), (ifp, *_), _ = bridged(machine, 3)
    left.now = "gone"
    run_until(machine, lambda: ifp.driver.state == "gone", "p0 gone")
    left.now = "up"
    assert ifp.driver.check() == "gone" and not ifp.is_live
    middle.send(frame(ALL, A))
    machine.run()
    assert right.recv() == [frame(ALL, A)] and left.recv() == []
    machine.audit()


def test_peer_that_vanishes_in_mid_run(machine):
    (left, right), (ifp, _), _ = bridged(machine)
    left.pairs[0][1].close()
    right.send(*[frame(ALL, B, i) for i in range(20)])
    machine.run(seconds=0.1)
    assert ifp.driver.tx[0].engine.error == errno.EPIPE
    assert machine.stats()["interfaces"]["p0"]["drops"] == {"if_down": 20}
    machine.audit()


def test_moved_interrupt_takes_its_descriptor_along(machine):
    (left, right), _, _ = bridged(machine)
    machine.intrctl.affinity("p0 RX0", cpu=1)
    run_until(machine, lambda: machine.interfaces["p0"].driver.watching() == {0: 1}, "the move")
    left.send(frame(ALL, A))
    machine.run()
    assert right.recv() == [frame(ALL, A)]
    assert machine.intrctl.list()[0].counts[1] == 1


def test_destroy_stops_drops_and_closes(machine):
    (left, right), (ifp, _), bridge = bridged(machine)
    machine.destroy(ifp)
    assert left.closed and ifp not in bridge.members
    assert [row.name for row in machine.intrctl.list()] == ["p1 RX0"]
    right.send(frame(ALL, B))
    machine.run()
    machine.audit()
    again = FakePort("p0", 7)
    machine.bridge("bridge1", [machine.port(again)])


def test_what_is_under_way_goes_out_when_receiving_stops(machine):
    (left, right), (ifp, _), _ = bridged(machine)
    right.send(frame(ALL, B, 1))
    machine.run()
    ifp.driver.stop_receiving()
    left.send(frame(ALL, A, 2))
    right.send(frame(ALL, B, 3))
    machine.run()
    assert left.recv() == [frame(ALL, B, 1), frame(ALL, B, 3)] and right.recv() == []
    assert ifp.is_live and ifp.driver.state == "up"
    machine.audit()
    machine.destroy(ifp)
    machine.audit()


def test_failed_attach_closes_the_port(machine, monkeypatch):
    monkeypatch.setattr(machine.engine.intrs, "establish", lambda *_, **__: 1 / 0)
    port = FakePort("p0")
    with pytest.raises(ZeroDivisionError):
        machine.port(port)
    assert port.closed


def test_machine_closes_its_ports():
    port = FakePort("p0")
    with Machine(clock="wall") as machine:
        machine.port(port)
    assert port.closed


def test_errors_of_a_short_time_down_are_forgotten(machine):
    (left, _), (ifp, _), _ = bridged(machine)
    ifp.driver.tx[0].engine.set_down(errno.ENETDOWN)
    before = left.cleared
    run_until(machine, lambda: left.cleared > before, "a look of the watchdog")
    assert ifp.driver.tx[0].engine.error == 0
