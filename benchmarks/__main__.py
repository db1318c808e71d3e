"""`python -m benchmarks`: every benchmark, one after another."""

from benchmarks import makespan, memory_error, planning, speed_error, startup, step

for benchmark in (startup, planning, memory_error, speed_error, step, makespan):
    benchmark.main()
    print()
