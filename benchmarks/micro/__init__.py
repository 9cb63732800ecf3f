"""The parts of a solve under pytest-benchmark. Not collected by the tests: `python -m pytest benchmarks/micro`."""
