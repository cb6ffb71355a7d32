"""Benchmarks: `python -m benchmarks` prints tables and writes `benchmarks/results/*.json`.

Machines are shared and noisy, so what counts are ratios within one run, between things
that are measured in turns, and medians over many turns.
"""
