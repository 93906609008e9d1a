"""``import netstack`` is cheap and touches nothing: no thread, no socket, nothing compiled."""

import json
import statistics
import subprocess
import sys

RUNS = 7
LIMIT_S = 0.100

# The audit hook sees every socket and thread that CPython opens; reading the clock inside the child
# leaves out the start of the interpreter.
CHILD = """
import sys, json
from time import perf_counter
events = []
sys.addaudithook(lambda name, args: events.append(name))
before = perf_counter()
import netstack
took = perf_counter() - before
touched = [name for name in events if name.startswith(("socket.", "_thread."))]
compiled = [name for name in sys.modules if name.startswith("netstack._fast")]
print(json.dumps({"took": took, "touched": touched, "compiled": compiled}))
"""


def import_once() -> dict:
    """Import netstack in a fresh interpreter and return what the child saw."""
    answer = subprocess.run(
        [sys.executable, "-P", "-c", CHILD], capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout)


def test_import_is_quick() -> None:
    import_once()
    took = statistics.median(import_once()["took"] for _ in range(RUNS))
    assert took < LIMIT_S, f"median of {RUNS}: {took * 1e3:.1f} ms"


def test_import_starts_and_opens_nothing() -> None:
    seen = import_once()
    assert seen["touched"] == []
    assert seen["compiled"] == []


def test_public_names_arrive_on_first_use() -> None:
    import netstack

    assert set(netstack.__all__) <= set(dir(netstack))
    for name in netstack.__all__:
        assert getattr(netstack, name)
    assert issubclass(netstack.NetstackError, OSError)
