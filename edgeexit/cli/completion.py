"""``edgeexit completion``: completion of commands, options and names in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(
    name="completion",
    epilog='\b\nExample, in ~/.bashrc:\n  eval "$(edgeexit completion bash)"',
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that makes SHELL complete the words of edgeexit."""
    from edgeexit.cli.app import group

    made_by = get_completion_class(shell)
    assert made_by is not None
    click.echo(made_by(group, {}, "edgeexit", "_EDGEEXIT_COMPLETE").source())
