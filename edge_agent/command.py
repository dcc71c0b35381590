"""What the three commands share: how an error becomes one line and an exit code."""

from __future__ import annotations

import sys

import click

from edge_agent.contract.errors import EdgeError


def run_command(name: str, group: click.Group) -> None:
    """Run a command and end the process with its exit code.

    Errors that we raise on purpose are one line on stderr; anything else keeps its traceback.

    Args:
        name: as typed, for the line.
        group: the command's click group; what it returns is the exit code.
    """
    try:
        sys.exit(group.main(prog_name=name, standalone_mode=False))
    except EdgeError as exc:
        click.echo(f"{name}: {exc}", err=True)
        sys.exit(exc.exit_code)
    except click.ClickException as exc:
        exc.show()
        sys.exit(exc.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
