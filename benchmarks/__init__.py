"""How fast rnnjax is, beside the libraries one would use instead.

Start it with ``python -m benchmarks.compare``; ``docs/performance.md`` has the method.
"""
