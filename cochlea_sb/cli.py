"""What every command shares: a user's mistake is one sentence, never a traceback."""

import os
import sys

STATUS_MISTAKE = 2  # as argparse ends
STATUS_INTERRUPTED = 130  # as shells report Ctrl-C


def run(main):
    """Run a script's ``main(argv)`` and end the process with its status.

    ``ValueError`` (which `AudioError` is) and ``OSError`` are the user's to mend: they become one sentence on stderr
    and status 2. Anything else is a defect of ours and shows its traceback; the environment variable
    ``COCHLEA_TRACEBACK=1`` shows them all.

    Arguments
    ---------
    main : callable
        Takes the list of command-line arguments.
    """
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on.", file=sys.stderr)
        sys.exit(STATUS_INTERRUPTED)
    except (ValueError, OSError) as error:
        if os.environ.get("COCHLEA_TRACEBACK"):
            raise
        print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(STATUS_MISTAKE)
