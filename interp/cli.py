"""The command line: finds the commands (`interp.commands`), runs one, and says errors in one message.

Nothing heavy is imported before a command runs: ``interp --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import interp
from interp import plugins

USAGE_ERROR, INTERRUPTED, UNEXPECTED = 2, 130, 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 bad input (one clear message, no traceback), 130 interrupted, 1 an error of ours."""
    options = parser().parse_args(arguments)
    try:
        plugins.get(plugins.COMMANDS, options.command).run(options)
    except KeyboardInterrupt:
        print("\ninterrupted. The same command goes on from what is finished.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if options.debug:
            raise
        return _explain(error)
    return 0


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    top = argparse.ArgumentParser(
        prog="interp", description="Which attention heads of a multimodal model ground its words."
    )
    top.add_argument("--version", action="version", version=f"interp {interp.__version__}")
    top.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in plugins.names(plugins.COMMANDS):
        command = plugins.get(plugins.COMMANDS, name)
        command.options(commands.add_parser(name, help=command.HELP, description=command.__doc__))
    return top


def _explain(error: Exception) -> int:
    """Prints one message; an error that says what came and what was expected is the user's to mend."""
    message = str(error)
    if type(error).__name__ == "OutOfMemoryError":
        print(
            "interp: the GPU's memory is full; try a smaller --batch, --dtype bfloat16 or --device-map auto",
            file=sys.stderr,
        )
        return USAGE_ERROR
    expected = isinstance(error, ValueError | LookupError | OSError | ImportError) and not isinstance(
        error, KeyError | IndexError
    )
    if expected and message:
        print(f"interp: {message}", file=sys.stderr)
        return USAGE_ERROR
    print(
        f"interp: unexpected {type(error).__name__}: {message}\nRun the command with --debug for the whole traceback.",
        file=sys.stderr,
    )
    return UNEXPECTED


if __name__ == "__main__":
    sys.exit(main())
