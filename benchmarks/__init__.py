"""How fast rnnjax is, next to the libraries that you might use instead.

Start it with ``python -m benchmarks.compare``; ``docs/performance.md`` has the method.
"""
