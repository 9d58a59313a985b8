"""What a user is told."""

from interp import cli


def said(capsys, *words):
    """The one message of a command that a user got wrong."""
    try:
        code = cli.main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and "Traceback" not in error and "unexpected" not in error, error
    return error.strip().splitlines()[-1]
