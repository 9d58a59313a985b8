"""The command line: finds the commands (`interp.commands`), runs one, and says errors in one message.

Nothing heavy is imported before a command runs: ``interp --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import interp
from interp import plugins
from interp.commands import _session, _values

GOES_ON = "\ninterrupted. The same command goes on from what is finished."
USAGE_ERROR, INTERRUPTED, UNEXPECTED = 2, 130, 1
HINTS = {
    "OutOfMemoryError": "the GPU's memory is full; try a smaller --batch, --dtype bfloat16 or --device-map auto",
    "RecursionError": "a file of the input is nested deeper than can be read; expected a plain one",
    "SafetensorError": "a file of weights is cut off or damaged ({message}); fetch or save it again",
}
"""Errors of others that are the user's to mend, by the names of their classes: nothing is imported for them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 bad input (one clear message, no traceback), 130 interrupted, 1 an error of ours."""
    before = _quietly_interrupted()
    options = argparse.Namespace(debug=False)
    try:
        options = parser().parse_args(arguments)
        _values.check(options)
        plugins.get(plugins.COMMANDS, options.command).run(options)
    except KeyboardInterrupt:
        _session.withdraw()
        print(GOES_ON, file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        _session.withdraw()
        if options.debug:
            raise
        return _explain(error, vars(options))
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    return 0


def _quietly_interrupted() -> Any:
    """The handler that was there before one that ends the process at once while libraries are being imported: an
    interrupt in the middle of that comes out as any error. None where handlers cannot be set."""

    def handler(number: int, frame: Any) -> None:
        heavy = sys.modules.get("interp.models._load")
        if heavy is not None and not getattr(heavy.__spec__, "_initializing", False):
            raise KeyboardInterrupt
        print(GOES_ON, file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGINT, handler)


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


def _explain(error: Exception, options: Mapping[str, Any]) -> int:
    """Prints one message; an error that says what came and what was expected is the user's to mend."""
    message = _values.in_options(_values.explained(error), options)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    hint = next((hint for kind, hint in HINTS.items() if kind in kinds), "")
    expected = kinds & {"ValueError", "LookupError", "OSError", "ImportError", "NotForThisModel"}
    if hint or (message and expected and not kinds & {"KeyError", "IndexError"}):
        print(f"interp: {hint.format(message=message) or message}", file=sys.stderr)
        return USAGE_ERROR
    print(
        f"interp: unexpected {type(error).__name__}: {message}\nRun the command with --debug for the whole traceback.",
        file=sys.stderr,
    )
    return UNEXPECTED


if __name__ == "__main__":
    sys.exit(main())
