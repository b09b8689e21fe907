"""The command group, and what every command has in common: exit codes and how errors look.

Exit codes: 0 done; 1 an error of `edgeexit.errors`; 2 wrong usage; 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from edgeexit._version import __version__
from edgeexit.errors import EdgeExitError

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# Command -> the line that --help shows. Each lives in the module of its name, as `command`; the
# lines are written here so that --help need not load the modules. In the order of the work.
_COMMANDS = {
    "data": "Fetch and describe data sets.",
    "train": "Train a network and its exits.",
    "diagnose": "Show what the exits of a trained network do to each other.",
    "compile": "Turn a trained network into a bundle.",
    "inspect": "Show what a bundle holds.",
    "run": "Run a bundle on a data set or on images.",
    "profile": "Measure a bundle against the network without exits.",
    "export": "Write a bundle's C as a project for a build system.",
    "targets": "List the devices that can be compiled for.",
    "completion": "Print a script that completes commands in a shell.",
}


# Third-party module -> the extra that brings it. Engines report themselves.
_EXTRAS = {
    "PIL": "images",
    "matplotlib": "report",
    **dict.fromkeys(
        (
            *("accelerate", "ai_edge_litert", "executorch", "flatbuffers", "nncf"),
            *("safetensors", "torch", "torchao"),
        ),
        "compile",
    ),
}


class _LazyGroup(click.Group):
    """A group that knows its commands' names without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"edgeexit.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(_COMMANDS)}."
            ctx.fail(f"There is no command {args[0]!r}. {hint}")
        return super().resolve_command(ctx, args)


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  edgeexit compile resnet8 --weights cifar10 --data cifar10 -o r8.eexit",
)
@click.version_option(__version__, prog_name="edgeexit")
def group() -> None:
    """Turn a PyTorch classifier into an early-exit program for a device."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and ends the process with one of the exit codes above.

    Args:
        args: The words after ``edgeexit``; those of the process if None.
    """
    words = list(sys.argv[1:] if args is None else args)
    as_json = "--json" in words
    try:
        status = group.main(words, prog_name="edgeexit", standalone_mode=False)
    except EdgeExitError as error:
        _show_error(error, as_json)
        sys.exit(EXIT_ERROR)
    except ModuleNotFoundError as error:
        _show_error(_not_installed(error), as_json)
        sys.exit(EXIT_ERROR)
    except click.UsageError as error:
        if as_json:
            print(json.dumps({"error": "UsageError", "problem": error.format_message()}))
        else:
            error.show()
        sys.exit(EXIT_USAGE)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    # click hands back the code of ctx.exit(), or what the command returned: nothing, here.
    sys.exit(status if isinstance(status, int) else 0)


def _not_installed(error: ModuleNotFoundError) -> EdgeExitError:
    """Names the extra to install; a module that no extra brings is a bug and is raised again."""
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRAS:
        raise error
    return EdgeExitError(
        "this command needs a package that is not installed",
        wanted=module,
        hint=f"pip install 'edgeexit[{_EXTRAS[module]}]'",
    )


def _show_error(error: EdgeExitError, as_json: bool) -> None:
    if as_json:
        print(json.dumps(error.facts()))
        return
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(str(error), err=True)
