"""Digit cards: a made vision-language world, written in the public formats of four data sets.

It takes seconds to make and no download, and the answer to "which modality decides this example?" is known.
"""

from msd_framework.worlds.layout import Layout
from msd_framework.worlds.make import LAYOUTS, WorldPlan, WorldSummary, make_world
from msd_framework.worlds.oracle import OracleRow, find_oracle, read_oracle

__all__ = ["LAYOUTS", "Layout", "OracleRow", "WorldPlan", "WorldSummary", "find_oracle", "make_world", "read_oracle"]
