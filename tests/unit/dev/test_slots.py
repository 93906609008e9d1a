"""Input slots of the user's own: what they leave behind, and what happens when they fail (paper §3.2.1)."""

from typing import Any

import pytest
from frames import frame, station

CONFIGURATIONS = [
    {"clock": "virtual"},
    {"clock": "virtual", "frame": "classic"},
    {"clock": "virtual", "path": "compiled"},
    {"clock": "wall"},
    {"clock": "wall", "path": "stages"},
    {"clock": "wall", "path": "stages", "frame": "classic"},
]
A, B = station(1), station(2)

pytestmark = pytest.mark.parametrize(
    "settings", CONFIGURATIONS, ids=lambda s: " ".join(map(str, s.values()))
)


def bridged(m: Any) -> list[Any]:
    nics = [m.nic(f"wm{i}") for i in range(3)]
    m.bridge("bridge0", nics)
    return nics


def test_a_slots_error_comes_out_of_run_and_the_machine_goes_on(
    machine: Any, settings: dict[str, Any]
) -> None:
    m = machine(ncpu=2, **settings)
    wm0, wm1, _ = bridged(m)

    def broken(ifp: Any, mv: Any, cpu: Any) -> None:
        raise RuntimeError("a slot of the test")

    slot, wm0.if_input = wm0.if_input, broken
    wm0.wire.send([frame(B, A)] * 3)
    with pytest.raises(RuntimeError, match="a slot of the test"):
        m.run()
    wm0.if_input = slot
    m.run()
    wm0.wire.send(frame(B, A))
    m.run()
    assert wm1.wire.recv() == [frame(B, A)]
    assert wm0.block.drops() == {"hook": 3}


def test_what_a_slot_leaves_is_dropped_by_name(machine: Any, settings: dict[str, Any]) -> None:
    m = machine(ncpu=2, **settings)
    wm0, wm1, _ = bridged(m)
    seen: list[bytes] = []
    slot, wm0.if_input = wm0.if_input, lambda ifp, mv, cpu: seen.extend(mv.frames())
    frames = [frame(B, A, i) for i in range(5)]
    wm0.wire.send(frames)
    m.run()
    assert (seen, wm0.block.drops(), wm1.wire.recv()) == (frames, {"hook": 5}, [])
    wm0.if_input = slot
    wm0.wire.send(frames)
    m.run()
    assert wm1.wire.recv() == frames


def test_one_interfaces_failing_slot_does_not_hold_up_the_others(
    machine: Any, settings: dict[str, Any]
) -> None:
    m = machine(ncpu=1, **settings)
    wm0, wm1, wm2 = bridged(m)
    got: list[bytes] = []

    def broken(ifp: Any, mv: Any, cpu: Any) -> None:
        raise RuntimeError("a slot of the test")

    wm0.if_input = broken
    wm1.if_input = lambda ifp, mv, cpu: got.extend(mv.frames())
    frames = [frame(B, A, i) for i in range(4)]
    wm0.wire.send(frames)
    wm1.wire.send(frames)
    for _ in range(2):
        try:
            m.run()
        except RuntimeError:
            continue
    assert got == frames
    assert wm2.wire.recv() == []
