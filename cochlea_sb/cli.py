"""The command `cochlea`, and what every command shares: a user's mistake is one sentence, never a traceback.

Scroll to the bottom for the list of commands. Each prints for people, or with ``--json`` for programs.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import traceback
from pathlib import Path

from cochlea_sb import __version__
from cochlea_sb.errors import UserError

STATUS_DEFECT = 1
STATUS_MISTAKE = 2  # as argparse ends
STATUS_INTERRUPTED = 130  # as shells report Ctrl-C
SHOWN = 20  # unreadable files that are listed without being asked for


def run(main):
    """Run a script's ``main(argv)`` and end the process with its status.

    `UserError` and ``OSError`` are the user's to mend: they become one sentence on stderr and status 2 (with the
    environment variable ``COCHLEA_TRACEBACK=1``, a traceback). Any other exception is a defect of this package: it
    shows its traceback, asks for a report, and ends with status 1.

    Arguments
    ---------
    main : callable
        Takes the list of command-line arguments.
    """
    try:
        main(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again to go on.", file=sys.stderr)
        sys.exit(STATUS_INTERRUPTED)
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (UserError, OSError) as error:
        if os.environ.get("COCHLEA_TRACEBACK"):
            raise
        print(f"Error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(STATUS_MISTAKE)
    except Exception:
        traceback.print_exc()
        print("This is a defect of cochlea_sb. Please report it, with the lines above.", file=sys.stderr)
        sys.exit(STATUS_DEFECT)


def index(arguments):
    """Add sounds to a library, which is made where it is not there."""
    from cochlea_sb.library.sound_library import SoundLibrary
    from cochlea_sb.library.store import Store
    from cochlea_sb.machine import check_device

    check_device(arguments.device)
    options = {"run_opts": {"device": arguments.device}} if arguments.device else {}
    made = not Store(arguments.library).exists()
    if not made:
        encoder = load_encoder(arguments.model, **options) if arguments.model else None
        library = SoundLibrary.open(arguments.library, encoder, **options)
        hop = library.hop_seconds
        if arguments.hop_seconds is not None and abs(arguments.hop_seconds - hop) > 0.005:
            raise UserError(f"'{arguments.library}' has a window every {hop} s: leave out --hop_seconds.")
    else:
        encoder = load_encoder(arguments.model, **options)
        hop = 0.48 if arguments.hop_seconds is None else arguments.hop_seconds
        library = SoundLibrary.create(arguments.library, encoder, hop_seconds=hop)
    try:
        added = library.add(
            arguments.sources,
            folder_labels=arguments.folder_labels,
            config=arguments.config,
            split=arguments.split,
            retry=arguments.retry,
            threads=arguments.threads,
            progress=not arguments.quiet,
        )
        if added.problems and not added.added and not added.unchanged:
            first = next(iter(added.problems.values()))
            raise UserError(f"None of {len(added.problems):,} files could be read as audio; the first: {first}")
    except UserError:
        if made and not len(library):  # of a mistake nothing stays
            shutil.rmtree(library.store.folder)
        raise
    if arguments.json:
        return show_json({**added._asdict(), "sounds": len(library), "windows": library.n_windows})
    print(f"Added {added.added:,} sounds, {added.unchanged:,} files were known already: '{arguments.library}'", end=" ")
    print(f"holds {len(library):,} sounds, {library.n_windows:,} windows.")
    show_problems(added.problems, arguments.library)


def search(arguments):
    """Print what is most like an example."""
    from cochlea_sb.library.sound_library import SoundLibrary

    encoder = load_encoder(arguments.model) if arguments.model else None
    library = SoundLibrary.open(arguments.library, encoder)
    query = arguments.query
    if arguments.start is not None or arguments.end is not None:
        query = (query, arguments.start or 0.0, arguments.end)
    if arguments.mix:
        query = [(query, 1.0), *(weighted(text) for text in arguments.mix)]
    matches = library.search(
        query,
        arguments.k,
        skip=arguments.skip,
        every_window=arguments.every_window,
        with_query=arguments.with_query,
        path=arguments.path,
        label=arguments.label,
        effort=arguments.effort,
    )
    if arguments.json:
        return show_json([match._asdict() for match in matches])
    for rank, match in enumerate(matches, arguments.skip + 1):
        stretch = f"{match.start_seconds:8.2f} -{match.end_seconds:8.2f} s"
        print(f"{rank:4d}  {match.score:6.3f}  {stretch}  {match.path}  {match.label or ''}".rstrip())
    if not matches:
        reason = "the library is empty" if not len(library) else "no sound passes, or --skip is beyond the last"
        print(f"Nothing found: {reason}.", file=sys.stderr)


def info(arguments):
    """Print what a library holds."""
    from cochlea_sb.data.sounds import file_stamp
    from cochlea_sb.library.sound_library import SoundLibrary

    library = SoundLibrary.open(arguments.library)
    sounds, problems = library.sounds, library.problems
    seconds = sum(sounds["seconds"].to_pylist())
    labels = {label for label in sounds["label"].unique().to_pylist() if label is not None}
    files = Path(library.store.folder).rglob("*")  # a writer may delete some meanwhile
    facts = {
        "sounds": len(library),
        "windows": library.n_windows,
        "seconds": round(seconds, 3),
        "hop_seconds": library.hop_seconds,
        "labels": len(labels),
        "unreadable": len(problems),
        "bytes": sum((file_stamp(file) or (0,))[0] for file in files if file.is_file()),
        "encoder": library.identity,
    }
    if arguments.json:
        return show_json(facts | ({"problems": problems} if arguments.problems else {}))
    hours = f"{seconds / 3600:,.2f} hours"
    print(f"'{arguments.library}': {len(library):,} sounds, {hours}, {len(labels):,} labels")
    print(f"{library.n_windows:,} windows, one every {library.hop_seconds} s, {facts['bytes'] / 1e6:,.1f} MB on disk")
    print(f"encoder {library.identity['source']}, fingerprint {library.identity['fingerprint'][:12]}")
    show_problems(problems, arguments.library, every=arguments.problems)


def remove(arguments):
    """Forget sounds of a library; the files stay."""
    from cochlea_sb.library.sound_library import SoundLibrary

    library, forgotten = SoundLibrary.open(arguments.library), 0
    if not arguments.paths and not arguments.missing:
        raise UserError("There is nothing to remove: give paths, or --missing for files that are gone from the disk.")
    if arguments.paths:
        forgotten += library.remove(arguments.paths)
    if arguments.missing:
        forgotten += len(library.prune())
    if arguments.json:
        return show_json({"removed": forgotten, "sounds": len(library)})
    print(f"Forgot {forgotten:,} sounds: '{arguments.library}' holds {len(library):,}.")


def load_encoder(source=None, **options):
    """An `AudioEncoder`: by default the one that comes with the package."""
    from cochlea_sb.inference.audio_encoder import SHIPPED, AudioEncoder

    return AudioEncoder.from_hparams(source or SHIPPED, **options)


def weighted(text):
    """An example of a mixture and its weight from ``file`` or ``file=weight``."""
    name, equals, weight = text.rpartition("=")
    if not equals or os.path.exists(os.path.expanduser(text)):
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise UserError(f"--mix is '{text}': expected a file, or file=weight such as hat.wav=0.5.") from error


def show_problems(problems, library, every=False):
    """Print which sounds could not be read, and why."""
    if problems:
        print(f"{len(problems):,} files could not be read:")
        for reason in list(problems.values())[: None if every else SHOWN]:
            print(f"  {reason}")
        if len(problems) > SHOWN and not every:
            print(f"  ... `cochlea info {library} --problems` lists all of them.")


def show_json(value):
    """Print JSON."""
    print(json.dumps(value, indent=1))


def main(argv=None):
    """Parse a command line and do what it asks."""
    parser = argparse.ArgumentParser(prog="cochlea", description="Search sounds by example.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function, **kwargs):
        text = function.__doc__.splitlines()[0]
        added = commands.add_parser(function.__name__, help=text, description=text, **kwargs)
        added.set_defaults(function=function)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    add = command(index).add_argument
    add(
        "sources", nargs="+", metavar="SOURCE", help="a file, a folder, a table of files, embedded shards, or a dataset"
    )
    add("--library", required=True, metavar="FOLDER", help="the library; made if it is not there")
    add(
        "--model",
        help="folder or Hub name of the encoder; default: the library's, or the one that comes with cochlea_sb",
    )
    add("--hop_seconds", type=float, help="distance between windows, when the library is made; default 0.48")
    add("--folder_labels", action="store_true", help="a file's folder is its label")
    add("--config", help="configuration of a dataset on the Hub")
    add("--split", default="train", help="split of a dataset; default train")
    add("--retry", action="store_true", help="try again what could not be read before")
    add("--device", help="where the encoder runs: cpu, cuda, ...")
    add("--threads", type=int, help="that decode; default: half the cores")
    add("--quiet", action="store_true", help="no progress bar")

    add = command(search).add_argument
    add("library", metavar="LIBRARY")
    add("query", metavar="FILE", help="the sound to search with")
    add("-k", type=int, default=10, help="how many matches; default 10")
    add("--skip", type=int, default=0, help="leave out so many first: the next page")
    add("--start", type=float, help="search with the stretch of the file from here, in seconds ...")
    add("--end", type=float, help="... to here")
    add("--mix", action="append", metavar="FILE[=WEIGHT]", help="add another example; a negative weight takes away")
    add("--every_window", action="store_true", help="every window that matches, not only each sound's best")
    add("--with_query", action="store_true", help="find the query itself, too")
    add("--path", help="only paths that hold this text or match this pattern")
    add("--label", help="only sounds of this label")
    add("--effort", type=float, help="share of the best matches to find, 1 for all; default 0.98")
    add("--model", help="the library's encoder, if it is not where it was")

    add = command(info).add_argument
    add("library", metavar="LIBRARY")
    add("--problems", action="store_true", help="list all that could not be read")

    add = command(remove).add_argument
    add("library", metavar="LIBRARY")
    add("paths", nargs="*", metavar="PATH", help="files, folders, or patterns")
    add("--missing", action="store_true", help="what is gone from the disk (is every disk mounted?)")

    arguments = parser.parse_args(argv)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)  # its log of loading belongs to training
    arguments.function(arguments)


def cochlea():
    """The console command."""
    run(main)
