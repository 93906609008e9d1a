"""The whole machine in virtual time: one seed, one run, whatever the kernel and the driver frame."""

import pytest

from netstack import Machine

LEFT, RIGHT = bytes.fromhex("02000000aa01"), bytes.fromhex("02000000bb01")


def udp(source: bytes, destination: bytes, flow: int, tag: int) -> bytes:
    """Return a 60-byte frame; the flow is in its IPv4 addresses, which the NIC hashes."""
    head = destination + source + b"\x08\x00" + bytes.fromhex("4500002e000000004011") + b"\0\0"
    addresses = bytes((10, 0, 0, flow, 10, 0, 1, flow))
    return (head + addresses + bytes((tag >> 8, tag & 0xFF))).ljust(60, b"\0")


def traffic(seed: int, kernel: str, frame: str) -> tuple[str, list[bytes], list[bytes]]:
    """Send 200 frames each way through a bridge on eight CPUs, an interrupt moving meanwhile."""
    with Machine(ncpu=8, seed=seed, kernel=kernel, frame=frame, drain="one", path="stages") as m:
        queues = {"rx_queues": 4, "tx_queues": 4, "rate": 1e9}
        wm0, wm1 = m.nic("wm0", **queues), m.nic("wm1", **queues)
        m.bridge("bridge0", members=[wm0, wm1])
        for name, first in (("wm0", 4), ("wm1", 0)):
            for queue in range(4):
                m.intrctl.affinity(f"{name} RX{queue}", cpu=first + queue)
        for tag in range(0, 200, 10):
            wm0.wire.send([udp(LEFT, RIGHT, tag % 16 + k, tag + k) for k in range(10)])
            wm1.wire.send([udp(RIGHT, LEFT, tag % 16 + k, tag + k) for k in range(10)])
            m.run(seconds=2e-5)
            if tag == 100:
                m.intrctl.affinity("wm0 RX1", cpu=2)
        m.run()
        m.audit()
        digest = m.engine.digest()  # type: ignore[attr-defined]
        return digest, [bytes(f) for f in wm0.wire.recv()], [bytes(f) for f in wm1.wire.recv()]


@pytest.mark.parametrize("frame", ["softint", "classic"])
@pytest.mark.parametrize("kernel", ["GENERIC", "NET_MPSAFE"])
def test_a_seed_repeats_a_run_to_the_byte(kernel: str, frame: str) -> None:
    first = traffic(7, kernel, frame)
    assert first == traffic(7, kernel, frame)
    assert len(first[1]) == len(first[2]) == 200


def test_seeds_differ_in_schedule_and_not_in_outcome() -> None:
    digests = set()
    outcomes = set()
    for seed in range(4):
        digest, left, right = traffic(seed, "NET_MPSAFE", "softint")
        digests.add(digest)
        outcomes.add((tuple(sorted(left)), tuple(sorted(right))))
    assert len(digests) == 4 and len(outcomes) == 1


def test_kernels_and_frames_differ_in_schedule_and_not_in_outcome() -> None:
    runs = [traffic(3, k, f) for k in ("GENERIC", "NET_MPSAFE") for f in ("softint", "classic")]
    assert len({digest for digest, _, _ in runs}) == 4
    assert len({(tuple(sorted(left)), tuple(sorted(right))) for _, left, right in runs}) == 1
