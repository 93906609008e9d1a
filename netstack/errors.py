"""The errors of the control plane: one root, an OSError that carries NetBSD's errno.

The data plane never raises: it frees the frame and counts a named disposition.  A message names the
object first and says the cure last: ``bridge0: wm9 is no interface here; m.nic("wm9") makes one``.
"""

from errno import errorcode

__all__ = ["EnvironmentLacksError", "NetstackError", "NoSuchInterfaceError", "PrivilegeError"]


class NetstackError(OSError):
    """A request that the stack refuses.

    Args: errno -- a value of the ``errno`` module, as NetBSD's call would set it.
          message -- one line: the object, what is wrong with it, what to do.
    """

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(errno, message)

    def __str__(self) -> str:
        return f"{self.strerror} ({errorcode.get(self.errno or 0, self.errno)})"


class NoSuchInterfaceError(NetstackError):
    """A name that no interface of this machine has (ENOENT or ENXIO)."""


class EnvironmentLacksError(NetstackError):
    """The host lacks a device, a kernel feature or an optional package; commands exit with 3."""


class PrivilegeError(EnvironmentLacksError):
    """The process lacks a capability, which the message names (EPERM or EACCES)."""
