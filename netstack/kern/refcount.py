"""Reference counts that a destroyer can wait for (paper §3.2.2; NetBSD if_bridge.c of 2014).

    with pserialize.section(cpu):
        member = lookup(...)
        member.refs.hold()          # inside the section: the member is still linked
    ...                             # outside it: may take long, may sleep
    member.refs.release()

    unlink(member)                  # the destroyer
    engine.pserialize.perform()     # nobody is between lookup and hold any more
    member.refs.drain()             # nobody holds it any more
    free(member)

Against ``kern/psref.py``: one counter for all CPUs, so holding costs a write that others see; but a
reference may move to another thread or CPU, and may live long.
"""

from errno import EDEADLK, EINVAL, ETIMEDOUT

from netstack._fast.lock import SpinLock
from netstack.errors import NetstackError
from netstack.kern.context import assert_callable_from
from netstack.machine.api import Engine

__all__ = ["Refcount"]


class Refcount:
    """How often an object is held.  It starts at nothing."""

    __slots__ = ("_count", "_engine", "_is_draining", "_lock", "name")

    def __init__(self, engine: Engine, name: str) -> None:
        self.name = name
        self._engine = engine
        self._lock = SpinLock()  # guards the two below; held for a line or two
        self._count = 0
        self._is_draining = False

    def hold(self) -> None:
        """Take a reference.

        Context: any; in the read section in which the object was found, or with another reference.
        Raises:  NetstackError -- EINVAL, the object is being destroyed and nobody holds it.
        """
        self._lock.enter()
        try:
            if self._is_draining and not self._count:
                raise NetstackError(
                    EINVAL, f"{self.name} is destroyed; it was unlinked before: who found it?"
                )
            self._count += 1
        finally:
            self._lock.exit()

    def release(self) -> None:
        """Give a reference back; the last one lets ``drain`` go on.

        Context: any, not only who took it.
        Raises:  NetstackError -- EINVAL, nobody holds it.
        """
        self._lock.enter()
        try:
            if not self._count:
                raise NetstackError(EINVAL, f"{self.name}: released more often than held")
            self._count -= 1
        finally:
            self._lock.exit()

    def drain(self, timeout_s: float = 10.0) -> None:
        """Wait until nobody holds the object; nobody can hold it afterwards.

        Context: thread or control thread, without a reference of its own; the object is unlinked
                 and a grace period has passed.  May be called again after an error.
        Raises:  NetstackError -- EDEADLK, from an interrupt or softint, or a holder cannot go on;
                 ETIMEDOUT.
        """
        assert_callable_from(self._engine, "psref_target_destroy")
        debug = self._engine.lockdebug
        if debug is not None:
            debug.wait_for(f"references of {self.name}")
        self._is_draining = True
        what = f"references of {self.name}"
        try:
            self._engine.wait_until(lambda: not self._count, what, timeout_s)
        except NetstackError as error:
            if error.errno in (ETIMEDOUT, EDEADLK) and self._count:
                text = f"{error.strerror} ({self._count} are out)"
                raise NetstackError(error.errno, text) from error
            raise

    @property
    def count(self) -> int:
        """References out; exact only when nobody is at work."""
        return self._count

    def __enter__(self) -> "Refcount":
        self.hold()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
