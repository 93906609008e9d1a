"""Who runs and when: CPUs and clock, real or virtual.  Knows no networking."""
