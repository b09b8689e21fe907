"""How a command line names data: as `edgeexit.data.load` does, with progress while it is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgeexit.cli.output import Report
    from edgeexit.data import Splits


def load_data(source: str, report: Report) -> Splits:
    """Loads a data set by name, fetching it first where it is not in the cache, or from a path."""
    from edgeexit import data

    if source in data.list_recipes():
        data.fetch(source, progress=report)
    return data.load(source)
