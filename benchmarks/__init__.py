"""Measures chatenv beside its floor, its ceiling and a peer, in one run: `python -m benchmarks`.

Nothing here is installed with chatenv. Ratios within a run are what counts; machines and
their load differ. What was found is in docs/performance.md.
"""
