"""Run tests on a build made with NETSTACK_SANITIZE, under the compiler's runtime.

    python tests/sanitize/run.py [pytest's arguments; default: the suite of the sanitizer]

An uninstrumented Python loads instrumented modules, so gcc's runtime is loaded before everything else
(LD_PRELOAD); ``PYTHONMALLOC=malloc`` shows it every object.  Reports go to files, so that no test's
capture hides them: ``plugin.py`` fails the test that caused one, and what is left over is printed here.

Exits with pytest's code; 1 when there was any report, 3 when the build, the runtime or the kernel does
not allow a judgement (and which), 124 when the time is up.
"""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
TIME_LIMIT_S = 900

# Threads meet in these: the machine on the wall clock, torture, control under traffic, and rings, pools
# and tables whose threads meet inside compiled code, where the GIL orders nothing.
CONCURRENT = (
    "tests/sanitize",
    "tests/torture",
    "tests/unit/net/test_control_under_traffic.py",
    "tests/unit/kern",
    "tests/unit/dev/test_portif.py",
    "tests/unit/fast/test_lock.py",
    "tests/unit/fast/test_intr.py",
    "tests/unit/fast/test_cpu.py",
)
# Every byte of the compiled modules is touched in these.
MEMORY = ("tests/sanitize", "tests/torture", "tests/unit/fast", "tests/unit/net", "tests/unit/ports")

LEFT_OUT = (
    # torture of kernels with an error in them: sanitizers see most of those errors too
    "tests/torture/test_real_threads.py::test_the_error_is_found",
    # switches greenlets inside compiled functions: AddressSanitizer takes the copied stack for an overrun
    "tests/unit/fast/test_atomics.py",
)

SUITES = {"thread": CONCURRENT, "address": MEMORY}
RUNTIMES = {"thread": ["libtsan.so"], "address": ["libasan.so", "libubsan.so"]}
OPTIONS = {
    "TSAN_OPTIONS": f"exitcode=66:second_deadlock_stack=1:history_size=4:suppressions={HERE / 'tsan-libc.txt'}",
    "ASAN_OPTIONS": "exitcode=67:detect_leaks=0:detect_stack_use_after_return=0",
    "UBSAN_OPTIONS": "exitcode=68:print_stacktrace=1",
}


def main(arguments: list[str]) -> int:
    """Find out what was built, run the tests, show every report."""
    folder = installed()
    kind = sanitizer_of(folder)
    if kind not in SUITES:
        return impossible(f"{folder} was not built with NETSTACK_SANITIZE=address or thread")
    preload = [runtime(name) for name in RUNTIMES[kind]]
    missing = [name for name, path in zip(RUNTIMES[kind], preload, strict=True) if path is None]
    if missing:
        return impossible(f"the compiler has no {', '.join(missing)} (Debian: gcc brings them)")
    with tempfile.TemporaryDirectory(prefix="netstack-reports-") as reports:
        environment = environment_for(kind, [str(path) for path in preload], Path(reports))
        prefix = fixed_addresses(environment)
        if prefix is None:
            return impossible("Python does not start under this runtime, with or without address randomisation")
        chosen = arguments or suite(kind)
        command = [*prefix, sys.executable, "-P", "-m", "pytest", "-p", "sanitize.plugin", "-p", "no:cacheprovider"]
        print("sanitize:", kind, *chosen, flush=True)
        code = run([*command, *chosen], environment)
        return verdict(code, Path(reports))


def suite(kind: str) -> list[str]:
    """Return pytest's arguments for the suite of a sanitizer."""
    root = HERE.parents[1]
    return [str(root / path) for path in SUITES[kind]] + [f"--deselect={test}" for test in LEFT_OUT]


def installed() -> Path:
    """Return the folder of the compiled modules that an import would find, without importing them."""
    spec = find_spec("netstack")
    if spec is None or spec.origin is None:
        raise SystemExit("netstack is not installed")
    return Path(spec.origin).parent / "_fast"


def sanitizer_of(folder: Path) -> str | None:
    """Return which sanitizer the modules in a folder were built with."""
    try:
        return json.loads((folder / "build.json").read_text(encoding="utf-8"))["sanitize"]
    except (OSError, ValueError, KeyError):
        return None


def runtime(name: str) -> Path | None:
    """Return the compiler's runtime library, or None."""
    compiler = os.environ.get("CC", "gcc").split()[0]
    try:
        answer = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    path = Path(answer.stdout.strip())
    return path if path.is_absolute() and path.exists() else None


def environment_for(kind: str, preload: list[str], reports: Path) -> dict[str, str]:
    """Return the environment of the instrumented run."""
    environment = {**os.environ, "PYTHONMALLOC": "malloc", "LD_PRELOAD": " ".join(preload)}
    environment["NETSTACK_SANITIZE_REPORTS"] = str(reports)
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    for name, options in OPTIONS.items():
        environment[name] = f"{options}:log_path={reports / 'report'}"
    return environment


def fixed_addresses(environment: dict[str, str]) -> list[str] | None:
    """Return what to put before a command so that Python starts: nothing, or ``setarch -R``.

    ThreadSanitizer knows where memory may be; kernels that randomise more than it knows end it at once.
    """
    setarch = shutil.which("setarch")
    ways: list[list[str]] = [[]] + ([[setarch, platform.machine(), "-R"]] if setarch else [])
    for prefix in ways:
        trial = [*prefix, sys.executable, "-c", "print('started')"]
        answer = subprocess.run(trial, env=environment, capture_output=True, text=True, timeout=120, check=False)
        if answer.returncode == 0 and answer.stdout.strip() == "started":
            return prefix
        print(f"sanitize: {' '.join(prefix) or 'as it is'}: exit {answer.returncode} {answer.stderr.strip()[:500]}")
    return None


def run(command: list[str], environment: dict[str, str]) -> int:
    """Run the tests in a session of their own, so that all of it can be ended when the time is up."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        return process.wait(TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"sanitize: not finished after {TIME_LIMIT_S} s", flush=True)
        return 124
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def verdict(code: int, reports: Path) -> int:
    """Print what was reported; a run with reports fails whatever the tests say."""
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(reports.glob("report*"))]
    texts = [text for text in texts if text.strip()]
    for text in texts:
        print(text)
    print(f"sanitize: {len(texts)} processes reported something, exit {code}")
    return code or (1 if texts else 0)


def impossible(why: str) -> int:
    """Say what is missing."""
    print(f"sanitize: cannot judge: {why}", file=sys.stderr)
    return 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
