"""The ``netstack`` command: finds the subcommand, turns errors into one line and an exit code.

Exit codes: 0 ok, 1 a check failed or a request was refused, 2 usage, 3 the environment lacks
something, 4 too noisy to judge, 130 interrupted.  A subcommand returns its code, or None for 0.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from netstack.errors import EnvironmentLacksError, NetstackError

__all__ = ["EXIT_CHECK_FAILED", "EXIT_LACKS", "EXIT_NOISY", "cli", "main"]

EXIT_CHECK_FAILED = 1
EXIT_LACKS = 3
EXIT_NOISY = 4
EXIT_INTERRUPTED = 130

COMMANDS = ("rfc2544", "bridge", "brconfig", "ifconfig", "intrctl", "torture", "explore", "doctor")


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are named, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"netstack.cmd.{cmd_name}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="netstack", message="%(prog)s %(version)s")
def cli() -> None:
    """A layer-2 network stack in one process: NICs, bridges, interrupts, real ports."""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; ``None`` means ``sys.argv``."""
    try:
        code = cli.main(args, prog_name="netstack", standalone_mode=False)
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except EnvironmentLacksError as problem:
        return complain(problem, EXIT_LACKS)
    except NetstackError as problem:
        return complain(problem, EXIT_CHECK_FAILED)
    except ImportError as problem:
        if problem.name != "netstack._fast":
            raise
        return complain(problem, EXIT_LACKS)
    return code if isinstance(code, int) else 0


def complain(problem: Exception, code: int) -> int:
    """Print the error as one line on stderr and hand the code back."""
    print(f"netstack: {problem}", file=sys.stderr)
    return code
