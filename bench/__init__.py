"""Benchmarks: how long a kernel, a vector through the stages, a frame through the loop takes.

``pytest bench --benchmark-only`` measures; ``NETSTACK_BENCH_QUICK=1`` does so in seconds and checks
only that numbers come out.  ``python -m bench.report`` prints what must be reached beside what was
measured here.  No benchmark fails for being slow.
"""
