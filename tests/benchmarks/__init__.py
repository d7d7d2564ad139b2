"""The benchmarks: `python -m tests.benchmarks`. See README.md beside this file."""
