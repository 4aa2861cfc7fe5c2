"""Benchmarks that can be believed: the star, the limit and the rivals, side by side in one run.

One question a file; `python -m benchmarks` asks all of them and prints one table. Wall times on a shared machine
drift by a factor of two within an hour, so what counts are ratios taken in one run, round by round, and CPU
seconds. Every answer is checked, outside the measured time, and its hash is printed.
"""
