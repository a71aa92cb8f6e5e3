"""Run a program of this package: its errors become sentences and exit statuses."""

import os
import sys
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from typing import NoReturn

from cochlea_sb.errors import EncoderError, UserError, one_line
from cochlea_sb.machine import is_open

STATUS_DEFECT = 1  # of this package, or of an encoder of the user
STATUS_MISTAKE = 2  # as argparse does
STATUS_INTERRUPTED = 130  # as shells do after Ctrl-C


def run(main: Callable[[list[str]], None]) -> None:
    """Run ``main`` with the list of command-line arguments. After an error, exit with a status.

    The user can correct a `UserError` or an ``OSError``: its message is printed on stderr in one line, and the status
    is 2. For an `EncoderError`, the traceback of the encoder's code comes first, and the status is 1. If the
    environment variable ``COCHLEA_TRACEBACK`` is set, the exception is raised instead. Any other exception is a defect
    of this package: the traceback and a request for a report are printed, and the status is 1.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not is_open(stream):  # libraries write there too, such as the progress bars of SpeechBrain
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        elif isinstance(stream, TextIOWrapper):  # the terminal's encoding may lack characters of a file name
            stream.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        end_interrupted()
    except BrokenPipeError:  # the program that reads the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:
        if os.environ.get("COCHLEA_TRACEBACK"):
            raise
        told, status = (error.traceback, STATUS_DEFECT) if isinstance(error, EncoderError) else ("", STATUS_MISTAKE)
        print(f"{told}Error: {one_line(error)}", file=sys.stderr)
        sys.exit(status)
    except Exception as error:
        if was_interrupted(error):
            end_interrupted()
        traceback.print_exc()
        print("This is a defect of cochlea_sb. Please report it, with the lines above.", file=sys.stderr)
        sys.exit(STATUS_DEFECT)


def end_interrupted() -> NoReturn:
    print("\nInterrupted. Run the same command again to continue.", file=sys.stderr)
    sys.exit(STATUS_INTERRUPTED)


def was_interrupted(error: BaseException | None) -> bool:
    """Whether an error came up while a KeyboardInterrupt was handled, as in the process pools of `datasets`."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def first_line(docstring: str | None) -> str:
    """Return the first line of a docstring; an empty text under ``python -OO``, which removes docstrings."""
    return (docstring or "").partition("\n")[0]
