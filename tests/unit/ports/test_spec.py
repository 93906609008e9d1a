"""How a command line names ports."""

import errno
import os
from pathlib import Path

import pytest

from netstack.errors import NetstackError
from netstack.ports.hostif import check_name
from netstack.ports.spec import PortSpec, parse, parse_all


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.pcap").write_bytes(b"")
    return tmp_path


def test_interfaces():
    assert parse("veth0") == PortSpec("packet", "veth0")
    assert parse("packet:veth0") == PortSpec("packet", "veth0")
    assert parse("tap:tap0") == PortSpec("tap", "tap0")


def test_files(folder):
    assert parse("pcap:in.pcap").source == Path("in.pcap")
    assert parse("pcap:in.pcap").sink is None
    assert parse("pcap:out.pcapng").sink == Path("out.pcapng")
    assert parse("pcap:out.pcapng").source is None
    both = parse("pcap:in.pcap,out.pcapng")
    assert (both.source, both.sink) == (Path("in.pcap"), Path("out.pcapng"))
    only_out = parse("pcap:,in.pcap")
    assert (only_out.source, only_out.sink) == (None, Path("in.pcap"))
    assert parse("pcap:in.pcap,").sink is None


@pytest.mark.parametrize(
    "text",
    ["", ":", "tap:", "pcap:", "pcap:,", "pcap:a,b,c", "pcap:a\0b", "vm:x", "dpdk:eth0", "a b"],
)
def test_not_understood(folder, text):
    with pytest.raises(NetstackError) as caught:
        parse(text)
    assert caught.value.errno == errno.EINVAL


def test_named_input_must_exist(folder):
    with pytest.raises(NetstackError) as caught:
        parse("pcap:nothing.pcap,out.pcapng")
    assert caught.value.errno == errno.ENOENT


def test_an_input_is_never_written(folder):
    os.link("in.pcap", "link.pcap")
    os.symlink("in.pcap", "symlink.pcap")
    for sink in ("in.pcap", "link.pcap", "symlink.pcap", str(folder / "in.pcap")):
        with pytest.raises(NetstackError, match="read and written") as caught:
            parse_all(["pcap:in.pcap", f"pcap:,{sink}"])
        assert caught.value.errno == errno.EINVAL


def test_named_twice(folder):
    for texts in (["veth0", "veth0"], ["veth0", "tap:veth0"], ["pcap:o", "pcap:,o"]):
        with pytest.raises(NetstackError) as caught:
            parse_all(texts)
        assert caught.value.errno == errno.EEXIST
    assert len(parse_all(["veth0", "veth1", "pcap:in.pcap", "pcap:o"])) == 4


BAD_NAMES = (
    "",
    "a" * 16,
    "é" * 8,
    "a/b",
    "a b",
    "a\tb",
    "a\n",
    "a:1",
    "tap%d",
    ".",
    "..",
    "\0",
    "\ud800",
)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_the_kernel_would_refuse_or_invent(name):
    with pytest.raises(NetstackError) as caught:
        check_name(name)
    assert caught.value.errno == errno.EINVAL


def test_names_the_kernel_takes():
    for name in ("a", "a" * 15, "é" * 7, "eth0.100", "wg-home", "..."):
        assert check_name(name) == name
    with pytest.raises(TypeError):
        check_name(b"eth0")
