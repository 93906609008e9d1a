"""A wm NIC on MSI and on a line: the same frames, one queue, fallback, and what the loop of §6.2 costs."""

from errno import EINVAL, ENOMEM
from typing import Any

import pytest
from frames import frame, serial_of, station

from netstack import Machine, NetstackError
from netstack.dev import wm
from netstack.hw.wm_regs import ICR_LSC, ICR_RXT0

A, B = station(1), station(2)


def forward(m: Machine, intr: str, count: int = 300) -> list[int]:
    """Send frames both ways across a bridge; return what came out, in order."""
    left, right = m.nic("wm0", intr=intr), m.nic("wm1", intr=intr)  # type: ignore[arg-type]
    m.bridge("bridge0", members=[left, right])
    left.wire.send(frame(B, A, 0))
    right.wire.send(frame(A, B, 1))
    m.run()
    for first in range(2, count, 40):
        left.wire.send([frame(B, A, serial) for serial in range(first, min(first + 40, count))])
        m.run()
    assert [serial_of(each) for each in left.wire.recv()] == [1]
    return [serial_of(each) for each in right.wire.recv()]


@pytest.mark.parametrize("kernel", ["GENERIC", "NET_MPSAFE"])
@pytest.mark.parametrize("drain", ["one", 7, "ring"])
@pytest.mark.parametrize("driver_frame", ["softint", "classic"])
@pytest.mark.parametrize("intr", ["msi", "intx"])
@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_the_same_frames_come_out(clock: str, intr: str, driver_frame: str, drain: Any, kernel: str) -> None:
    with Machine(ncpu=2, clock=clock, kernel=kernel, frame=driver_frame, drain=drain) as m:
        assert forward(m, intr) == [0, *range(2, 300)]
        m.audit()
        m.destroy("wm0")
        m.destroy("wm1")
        assert m.intrctl.list() == [] and m.audit()


@pytest.mark.parametrize(("intr", "ids"), [("msi", ["msi0 vec 0"]), ("intx", ["ioapic0 pin 17"])])
def test_one_queue_and_one_interrupt(intr: Any, ids: list[str]) -> None:
    with Machine(ncpu=4) as m:
        ifp = m.nic("wm0", rx_queues=4, tx_queues=4, intr=intr)
        assert (len(ifp.rx_queues), len(ifp.tx_queues)) == (1, 1)
        assert [(row.name, row.intrid) for row in m.intrctl.list()] == [("wm0", ids[0])]
        assert ifp.driver.intr_type == intr


@pytest.mark.parametrize(("shortage", "left"), [("msix", "msi"), ("msi", "intx")])
def test_an_establish_that_fails_falls_back(monkeypatch: Any, shortage: str, left: str) -> None:
    with Machine(ncpu=2) as m:
        establish = m.engine.intrs.establish
        before = m.chipset.vectors_free

        def refuse(source: Any, *args: Any, **options: Any) -> Any:
            intrid = options["intrid"]
            if (intrid.startswith("msix") and "vec 2" in intrid) or (shortage == "msi" and intrid.startswith("msi")):
                raise NetstackError(ENOMEM, f"{intrid}: refused by the test")
            return establish(source, *args, **options)

        monkeypatch.setattr(m.engine.intrs, "establish", refuse)
        ifp = m.nic("wm0", rx_queues=2, tx_queues=2)
        assert ifp.driver.intr_type == left
        assert len(m.intrctl.list()) == 1, "what was established before the failure is gone"
        assert before - m.chipset.vectors_free == (1 if left == "msi" else 0), "and was released"
        monkeypatch.undo()
        other = m.nic("wm1", intr="msi")
        m.bridge("bridge0", members=[ifp, other])
        ifp.wire.send(frame(B, A, 5))
        m.run()
        assert [serial_of(each) for each in other.wire.recv()] == [5]


def test_nothing_can_be_had() -> None:
    with Machine(ncpu=2) as m:
        m.chipset.use_msi = m.chipset.use_msix = False
        assert m.nic("wm0").driver.intr_type == "intx"
        with pytest.raises(NetstackError) as refusal:
            m.nic("wm1", intr="apic")  # type: ignore[arg-type]
        assert refusal.value.errno == EINVAL


@pytest.mark.parametrize("intr", ["msi", "intx"])
@pytest.mark.parametrize("driver_frame", ["softint", "classic"])
def test_a_link_that_goes_and_comes(driver_frame: str, intr: Any) -> None:
    with Machine(ncpu=2, frame=driver_frame) as m:
        ifp = m.nic("wm0", intr=intr)
        for is_up in (False, True):
            ifp.hw.set_link(is_up)
            m.run()
            assert bool(ifp.flags & wm.IFF.RUNNING) == is_up


def test_two_nics_on_one_line_and_one_of_them_busy() -> None:
    with Machine(ncpu=2, frame="classic") as m:
        nics = [m.nic(f"wm{i}", intr="intx") for i in range(5)]
        m.bridge("bridge0", members=[nics[0], nics[4]])
        nics[0].wire.send([frame(B, A, serial) for serial in range(30)])
        m.run()
        assert [serial_of(each) for each in nics[4].wire.recv()] == list(range(30))
        assert m.intrctl.list()[0].devices == "wm0, wm4"
        assert m.engine.intrs.masked_lines == []


def test_the_cause_register_is_read_once_and_masks() -> None:
    with Machine(ncpu=1, frame="classic") as m:
        ifp = m.nic("wm0", intr="intx")
        regs = ifp.driver.regs

        def read() -> int:
            value: int = regs.read(regs.offset("ICR"))
            return value

        regs.write(regs.offset("IMC"), 0xFFFFFFFF)
        regs.write(regs.offset("ICS"), ICR_LSC | ICR_RXT0)
        m.run()
        assert read() == ICR_LSC | ICR_RXT0 and read() == 0, "latched while masked; reading clears"
        assert m.intrctl.list()[0].counts == (0,)
        regs.write(regs.offset("ICS"), ICR_LSC)
        regs.write(regs.offset("IMS"), ICR_LSC)
        m.run()
        assert m.intrctl.list()[0].counts == (1,), "unmasking delivers what waits"
