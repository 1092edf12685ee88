"""Cells in Flax: any cell as a linen or nnx module, any linen cell as a cell.

It needs Flax, which ``import rnnjax`` alone does not: write ``import rnnjax.flax``.
"""

from rnnjax.flax.linen import LinenCell, from_linen_cell
from rnnjax.flax.nnx import NnxCell

__all__ = ["LinenCell", "NnxCell", "from_linen_cell"]
