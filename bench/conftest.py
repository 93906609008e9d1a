"""What all benchmarks share: the quick mode, and rounds that suit it."""

import os

import pytest

QUICK = os.environ.get("NETSTACK_BENCH_QUICK", "") not in ("", "0")


@pytest.fixture(scope="session")
def is_quick() -> bool:
    """Say whether only a moment may be spent on each benchmark."""
    return QUICK


@pytest.fixture
def per_frame(benchmark, is_quick):
    """Return a function that times ``call`` and reports nanoseconds a frame beside the raw time.

    ``per_frame(call, frames)``: each call handles ``frames`` frames; called again and again.
    ``per_frame(call, frames, setup)``: ``setup() -> args`` runs before each call, untimed.
    """

    def run(call, frames, setup=None):
        rounds = 5 if is_quick else 200
        if setup is None:
            # enough calls in a round that the clock's own cost does not show
            inner = 20 if is_quick else 200
            benchmark.pedantic(call, rounds=rounds, iterations=inner, warmup_rounds=2)
        else:
            prepare = lambda: ((*setup(),), {})  # noqa: E731 -- the shape pedantic wants
            benchmark.pedantic(call, setup=prepare, rounds=rounds, iterations=1, warmup_rounds=2)
        if benchmark.stats is None:
            return
        stats = benchmark.stats.stats
        benchmark.extra_info["ns_per_frame"] = round(stats.median * 1e9 / frames, 3)
        benchmark.extra_info["frames_per_call"] = frames
        benchmark.extra_info["n"] = stats.rounds

    return run
