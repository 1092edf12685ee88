"""The contract: seven laws that make a cell a cell, for anyone's cells."""

from rnnjax.testing.contract import check_cell

__all__ = ["check_cell"]
