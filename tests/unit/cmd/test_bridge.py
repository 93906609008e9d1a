"""``netstack bridge`` on capture files alone: in virtual time, the same each time, nothing lost."""

import json
import os
import struct

import pytest

from netstack.cmd.main import main
from netstack.ports.pcap import PcapReader
from netstack.ports.pcapng import PcapngWriter

A, B, C = (bytes([2, 0, 0, 0, 0, n]) for n in (10, 11, 12))
ALL = b"\xff" * 6
START_NS = 1_700_000_000 * 10**9


def frame(target, source, number=0, nbytes=60):
    return (target + source + b"\x88\xb5" + struct.pack("!I", number)).ljust(nbytes, b"\x5a")


def write(path, *frames):
    """A capture: (seconds after the start, frame)."""
    with PcapngWriter(path) as writer:
        index = writer.add_interface("x")
        for seconds, data in frames:
            writer.write(index, data, START_NS + round(seconds * 1e9))
    return str(path)


def read(path):
    with PcapReader(path) as reader:
        return [record.frame for record in reader]


@pytest.fixture
def bridge(tmp_path, monkeypatch, capsys):
    """Run the command in an empty folder: code, report, what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(["bridge", "--json", "--seed", "3", *arguments])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def test_files_are_forwarded_in_the_order_of_their_times(bridge):
    write("a", (0, frame(ALL, A, 1)), (2, frame(B, A, 3)), (2.5, frame(ALL, A, 4)))
    write("b", (1, frame(A, B, 2)), (3, frame(A, B, 5)))
    code, report, err = bridge("pcap:a,a.out", "pcap:b,b.out", "pcap:c.out")
    assert (code, err) == (0, "")
    assert read("a.out") == [frame(A, B, 2), frame(A, B, 5)]
    assert read("b.out") == [frame(ALL, A, 1), frame(B, A, 3), frame(ALL, A, 4)]
    assert read("c.out") == [frame(ALL, A, 1), frame(ALL, A, 4)]
    assert report["clock"] == "virtual" and report["seconds"] == 3.0
    assert report["audit"]["exact"]
    learned = {(entry["mac"], entry["port"]) for entry in report["addresses"]}
    assert learned == {("02:00:00:00:00:0a", "pcap:a,a.out"), ("02:00:00:00:00:0b", "pcap:b,b.out")}
    assert report["bridge"]["learned"] == 2 and report["bridge"]["flooded"] == 2


def test_output_carries_the_times_of_the_capture(bridge):
    write("a", (0, frame(ALL, A, 1)), (100.25, frame(ALL, A, 2)))
    bridge("pcap:a", "pcap:o")
    with PcapReader("o") as reader:
        times = [record.time_ns - START_NS for record in reader]
    assert times == [0, 100_250_000_000]


def test_addresses_age_by_the_capture_s_clock(bridge):
    write("a", (0, frame(ALL, A, 1)))
    write("b", (1, frame(A, B, 2)), (90, frame(A, B, 3)), (99_999_990, frame(A, B, 4)))
    _, report, _ = bridge("--timeout", "30", "pcap:a", "pcap:b", "pcap:c.out")
    assert read("c.out") == [frame(ALL, A, 1), frame(A, B, 3), frame(A, B, 4)], "A was forgotten"
    assert [entry["mac"] for entry in report["addresses"]] == ["02:00:00:00:00:0b"]


def test_same_files_and_seed_give_the_same_output(bridge):
    many = [(i / 1000, frame((A, B, C, ALL)[i % 4], (A, B)[i % 2], i)) for i in range(2000)]
    write("a", *many[::2])
    write("b", *many[1::2])
    images = []
    for lap in range(2):
        code, report, _ = bridge("--cpus", "2", "pcap:a", "pcap:b", f"pcap:o{lap}")
        assert code == 0 and report["audit"]["exact"]
        images.append(open(f"o{lap}", "rb").read())
    assert images[0] == images[1] and len(images[0]) > 10_000


def test_what_does_not_fit_is_dropped_by_name(bridge):
    bad = [b"", b"short", frame(ALL, A, 1, 1600), frame(ALL, A, 2, 5000)]
    write("a", *((0, data) for data in bad), (1, frame(ALL, A, 3)))
    code, report, _ = bridge("pcap:a", "pcap:o")
    assert code == 0 and read("o") == [frame(ALL, A, 3)]
    assert report["ports"]["pcap:a"]["drops"] == {"runt": 2, "giant": 2}


def test_bad_record_ends_its_file_and_the_run_fails(bridge):
    write("a", (0, frame(ALL, A, 1)), (2, frame(ALL, A, 2)))
    write("b", (1, frame(ALL, B, 3)))
    os.truncate("a", os.path.getsize("a") - 3)
    code, report, err = bridge("pcap:a", "pcap:b", "pcap:o")
    assert code == 1 and report["audit"]["exact"]
    assert "a: record 2" in err and len(err.splitlines()) == 1
    assert read("o") == [frame(ALL, A, 1), frame(ALL, B, 3)]
    assert report["ports"]["pcap:a"]["ipackets"] == 1


def test_for_counts_the_capture_s_seconds(bridge):
    write("a", *((i, frame(ALL, A, i)) for i in range(10)))
    code, _, _ = bridge("--for", "4.5", "pcap:a", "pcap:o")
    assert code == 0 and read("o") == [frame(ALL, A, i) for i in range(5)]


def test_an_empty_capture_is_forwarded(bridge):
    write("a")
    code, report, _ = bridge("pcap:a", "pcap:o")
    assert code == 0 and report["seconds"] == 0 and read("o") == []


def test_output_for_people(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write("a", (0, frame(ALL, A)))
    assert main(["bridge", "pcap:a", "pcap:o"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "bytes in" in out and "02:00:00:00:00:0a" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Missing argument"),
        (["lo"], 2, "two ports at least"),
        (["--cpus", "0", "a", "b"], 2, "--cpus"),
        (["--for", "-1", "a", "b"], 2, "--for"),
        (["a b", "c"], 1, "no blank"),
        (["pcap:a", "pcap:,a"], 1, "read and written"),
        (["pcap:a", "pcap:a"], 1, "named twice"),
        (["pcap:a", "pcap:no/such/folder"], 1, "no/such/folder"),
        (["pcap:none,o", "pcap:a"], 1, "none"),
        (["pcap:bad", "pcap:a"], 1, "bad: not a capture file"),
    ],
)
def test_refusals(bridge, capsys, arguments, code, said):
    write("a", (0, frame(ALL, A)))
    open("bad", "w").write("no capture")
    before = open("a", "rb").read()
    try:
        result, report, err = bridge(*arguments)
    finally:
        assert open("a", "rb").read() == before
    assert (result, report) == (code, None) and said in err
