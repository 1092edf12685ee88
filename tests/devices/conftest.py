"""JAX stays on the CPU where the compilers of other platforms are installed.

Otherwise it would look for the chips, and warn that there are none.
"""

import jax

from benchmarks import topologies

if not topologies.missing():
    jax.config.update("jax_platforms", "cpu")
