"""Options that stand on the command line and mean nothing for what was asked."""

from __future__ import annotations

from collections.abc import Collection

import click
from click.core import ParameterSource

from edgeexit.errors import ArgumentError


def refuse_given(names: Collection[str], problem: str, wanted: str) -> None:
    """Complains of an option that was given and would be ignored.

    Defaults and environment variables are passed over: nobody meant them for this one command.

    Args:
        names: Parameters of the running command, by their names in Python.
        problem: What the error says.
        wanted: What would have been accepted.

    Raises:
        ArgumentError: One of them was given.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise ArgumentError(problem, wanted=wanted, given=parameter.opts[0])
