"""`python -m benchmarks`: every benchmark, one after another."""

from benchmarks import makespan, startup, step

for benchmark in (startup, step, makespan):
    benchmark.main()
    print()
