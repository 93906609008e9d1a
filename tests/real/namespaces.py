"""Private network namespaces with virtual cables between them, gone after the test.

Nothing here touches an interface of the host's own namespace: both ends of every cable are made
inside namespaces.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Namespace", "World", "missing"]

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)


def missing() -> str:
    """Return what keeps namespaces from being made here, or nothing."""
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("ip") is None:
        return "no 'ip' command (package iproute2)"
    name = f"ns{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun"
    return ""


class Namespace:
    """One network namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        ip("netns", "add", name)
        self.ip("link", "set", "lo", "up")
        # No address of its own accord: only the frames of the test are on the cables.
        self.sysctl("net.ipv6.conf.default.disable_ipv6", "1")

    def ip(self, *words: str) -> str:
        """Run an ``ip`` command inside."""
        return ip("-n", self.name, *words)

    def sysctl(self, name: str, value: str) -> None:
        path = Path("/proc/sys", *name.split("."))
        with self.entered(), contextlib.suppress(FileNotFoundError):
            path.write_text(value)

    def address(self, interface: str, address: str) -> None:
        """Give an interface an address and set it up."""
        self.ip("addr", "add", address, "dev", interface)
        self.ip("link", "set", interface, "up")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Be inside, this thread only: sockets opened now stay inside."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            set_namespace(there)
            yield
        finally:
            set_namespace(home)
            os.close(there)
            os.close(home)

    def start(self, *command: str, **options: object) -> "subprocess.Popen[str]":
        """Start a command inside, its output captured as text."""
        words = ["ip", "netns", "exec", self.name, *command]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
        return subprocess.Popen(words, **options)  # type: ignore[call-overload,no-any-return]

    def python(self, code: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start a Python program inside."""
        return self.start(sys.executable, "-P", "-c", code, *arguments)


class World:
    """The namespaces of one test."""

    def __init__(self) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.processes: list[subprocess.Popen[str]] = []

    def namespace(self, label: str) -> Namespace:
        made = self.namespaces[label] = Namespace(f"ns{os.getpid()}{label}")
        return made

    def cable(self, a: Namespace, a_name: str, b: Namespace, b_name: str) -> None:
        """Make a pair of interfaces, one in each namespace, both up."""
        ip(
            *("link", "add", a_name, "netns", a.name, "type", "veth"),
            *("peer", "name", b_name, "netns", b.name),
        )
        a.ip("link", "set", a_name, "up")
        b.ip("link", "set", b_name, "up")

    def close(self) -> None:
        """End the processes that were handed over, delete the namespaces."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for namespace in self.namespaces.values():
            subprocess.run(["ip", "netns", "del", namespace.name], capture_output=True)


def ip(*words: str) -> str:
    """Run an ``ip`` command; its output, or an error with what it said."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.stdout


def set_namespace(descriptor: int) -> None:
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
