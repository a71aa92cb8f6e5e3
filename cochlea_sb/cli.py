"""The command line `cochlea`. The function `main` defines the commands and their options."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cochlea_sb import __version__
from cochlea_sb.errors import UserError
from cochlea_sb.machine import silence_decoders
from cochlea_sb.program import first_line, run

if TYPE_CHECKING:
    from cochlea_sb.inference.encoder import Encoder
    from cochlea_sb.library.results import Match

TRUST = "let loading --model run code of its author, as models of SpeechBrain can"
SHOWN = 20  # maximum number of unreadable files that are listed without --problems


def index(arguments: Namespace) -> None:
    """Add sounds to a library; create the library if it does not exist."""
    from cochlea_sb.inference.load import load_encoder
    from cochlea_sb.library.sound_library import SoundLibrary
    from cochlea_sb.library.store import Store
    from cochlea_sb.machine import check_device

    check_device(arguments.device)
    options: dict[str, Any] = {"run_opts": {"device": arguments.device}} if arguments.device else {}
    created = not Store(arguments.library).exists()
    if not created:
        library = SoundLibrary.open(arguments.library, given_encoder(arguments), **options)
        hop = library.hop_seconds
        if arguments.hop_seconds is not None and abs(arguments.hop_seconds - hop) > 0.005:
            raise UserError(f"'{arguments.library}' has a window every {hop} s: omit --hop_seconds.")
    else:
        encoder = given_encoder(arguments) or load_encoder(**options)
        library = SoundLibrary.create(arguments.library, encoder, hop_seconds=arguments.hop_seconds)
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
        if added.problems and not (added.added or added.unchanged or added.relabelled):
            first = next(iter(added.problems.values()))
            raise UserError(f"None of {len(added.problems):,} files could be added; the first: {first}")
    except BaseException:
        if created and not len(library):  # after an error, no empty library stays behind
            shutil.rmtree(library.store.folder)
        raise
    if arguments.json:
        return show_json({**added._asdict(), "sounds": len(library), "windows": library.n_windows})
    relabelled = f"{added.relabelled:,} sounds have a new label, " if added.relabelled else ""
    print(f"Added {added.added:,} sounds, {relabelled}{added.unchanged:,} files were unchanged: ", end="")
    print(f"'{arguments.library}' holds {len(library):,} sounds, {library.n_windows:,} windows.")
    show_problems(added.problems, arguments.library)
    if (earlier := len(library.problems) - len(added.problems)) > 0:
        print(f"{earlier:,} files could not be read earlier: they are read again only if they change, or with --retry.")


def search(arguments: Namespace) -> None:
    """Print the sounds that are most similar to a sound."""
    from cochlea_sb.library.sound_library import SoundLibrary

    query = query_of(arguments)
    copy = {"milvus": arguments.milvus, "collection": arguments.collection}
    library = SoundLibrary.open(arguments.library, given_encoder(arguments), once=True, **copy)
    matches = library.search(
        query,
        arguments.k,
        every_window=arguments.every_window,
        with_query=arguments.with_query,
        effort=arguments.effort,
        **which(arguments),
    )
    show_matches(matches, arguments)
    if not matches and not arguments.json:
        filters = [
            f"--{name} {getattr(arguments, name)}"
            for name in ("path", "label", "words", "min_seconds", "max_seconds", "skip")
            if getattr(arguments, name)
        ]
        left_out = f"no sound is left after {', '.join(filters)}" if filters else "the library holds no other sound"
        if arguments.label is not None and library.sounds["label"].null_count == len(library):
            left_out = "the sounds of this library have no labels: index them again with --folder_labels"
        reason = left_out if len(library) else "the library is empty"
        print(f"Nothing found: {reason}.", file=sys.stderr)


def query_of(arguments: Namespace) -> Any:
    """The query of `search`: a file or a part of it, a text, and the sounds of --mix."""
    from cochlea_sb.library.query import Text

    file, parts = arguments.query, []
    if file is None and (arguments.start is not None or arguments.end is not None):
        raise UserError("--start and --end name a part of FILE: give the file, too.")
    if file is not None:
        whole = arguments.start is None and arguments.end is None
        parts.append((file if whole else (file, arguments.start or 0.0, arguments.end), 1.0))
    if arguments.text is not None:
        parts.append((Text(arguments.text), 1.0))
    parts += [weighted(text) for text in arguments.mix or ()]
    if not parts:
        raise UserError("There is nothing to search for: give a FILE, or --text WORDS.")
    return parts[0][0] if len(parts) == 1 and parts[0][1] == 1 else parts


def rank(arguments: Namespace) -> None:
    """Print the sounds that are most probably wanted, from a list of wanted and a list of unwanted sounds."""
    from cochlea_sb.library.sound_library import SoundLibrary

    yes, no = (read_lines(file) if file else [] for file in (arguments.yes, arguments.no))
    library = SoundLibrary.open(arguments.library)
    show_matches(library.rank(yes, no, arguments.k, doubtful=arguments.doubtful, **which(arguments)), arguments)


def which(arguments: Namespace) -> dict[str, Any]:
    """The options of `search` and `rank` that choose which matches are shown."""
    names = ("skip", "path", "label", "words", "min_seconds", "max_seconds", "per_folder", "fold_copies")
    return {name: getattr(arguments, name) for name in names}


def show_matches(matches: list[Match], arguments: Namespace) -> None:
    """Print matches, as JSON if asked for, and copy their files into the folder of --copy_to."""
    if arguments.copy_to:
        from cochlea_sb.library.take_away import copy_to

        left_out = copy_to(arguments.copy_to, list(dict.fromkeys(match.path for match in matches)))
        for path in left_out:
            print(f"Not copied, because it is not a file: {path}", file=sys.stderr)
    if arguments.json:
        return show_json([match._asdict() for match in matches])
    for place, match in enumerate(matches, arguments.skip + 1):
        part = f"{match.start_seconds:8.2f} -{match.end_seconds:8.2f} s"
        copies = f"(and {len(match.copies)} like it)" if match.copies else ""
        print(f"{place:4d}  {match.score:6.3f}  {part}  {match.path}  {match.label or ''}  {copies}".rstrip())


def read_lines(file: str) -> list[str]:
    """The lines of a text file that are not empty."""
    if not os.path.isfile(os.path.expanduser(file)):
        raise UserError(f"'{file}' is no file: expected a text file with a path in each line.")
    with open(os.path.expanduser(file), encoding="utf-8", errors="surrogateescape") as lines:
        return [line.rstrip("\r\n") for line in lines if line.strip()]


def duplicates(arguments: Namespace) -> None:
    """Print groups of files that hold the same sound in another format, level, lead-in or length."""
    from cochlea_sb.library.sound_library import SoundLibrary

    groups = SoundLibrary.open(arguments.library).duplicates(progress=not arguments.quiet)
    if arguments.json:
        return show_json([[sound._asdict() for sound in group] for group in groups])
    for group in groups:
        for sound in group:
            rate = f"{sound.sample_rate:,} Hz" if sound.sample_rate else ""
            print(
                f"{sound.seconds:10.3f} s  {sound.size:12,} bytes  {rate:>10}  {sound.encoding or '':9}  {sound.path}"
            )
        print()
    print(f"{sum(map(len, groups)):,} files in {len(groups):,} groups of the same sound.")


def export(arguments: Namespace) -> None:
    """Write the windows of a library and their embeddings to a Parquet or npy file, or to Milvus."""
    from cochlea_sb.library.sound_library import SoundLibrary

    copy = {"milvus": arguments.milvus, "collection": arguments.collection}
    windows = SoundLibrary.open(arguments.library).export(arguments.file, progress=not arguments.quiet, **copy)
    if arguments.json:
        return show_json({"windows": windows})
    for target in filter(None, (arguments.file, arguments.milvus)):
        print(f"'{target}' holds {windows:,} windows.")


def info(arguments: Namespace) -> None:
    """Print what a library holds."""
    from cochlea_sb.files import file_stamp
    from cochlea_sb.library.sound_library import SoundLibrary

    library = SoundLibrary.open(arguments.library, once=True)
    sounds, problems = library.sounds, library.problems
    seconds = sum(sounds["seconds"].to_pylist())
    labels = {label for label in sounds["label"].unique().to_pylist() if label is not None}
    files = Path(library.store.folder).rglob("*")  # another process may delete some of the files meanwhile
    facts: dict[str, Any] = {
        "sounds": len(library),
        "windows": library.n_windows,
        "seconds": round(seconds, 3),
        "hop_seconds": library.hop_seconds,
        "window_seconds": library.window_seconds,
        "labels": len(labels),
        "unreadable": len(problems),
        "bytes": sum((file_stamp(file) or (0,))[0] for file in files if file.is_file()),
        "encoder": library.identity,
    }
    if arguments.json:
        return show_json(facts | ({"problems": problems} if arguments.problems else {}))
    hours = f"{seconds / 3600:,.2f} hours"
    print(f"'{arguments.library}': {len(library):,} sounds, {hours}, {len(labels):,} labels")
    windows = f"{library.n_windows:,} windows of {library.window_seconds:g} s, one every {library.hop_seconds:g} s"
    print(f"{windows}, {facts['bytes'] / 1e6:,.1f} MB on disk")
    text = ", takes text" if library.identity.get("text") else ""
    print(f"encoder {library.identity['source']}, fingerprint {library.identity['fingerprint'][:12]}{text}")
    show_problems(problems, arguments.library, every=arguments.problems)


def serve(arguments: Namespace) -> None:
    """Open a library as a page in the browser: hear its sounds, and walk from one to the next."""
    from cochlea_sb.library.sound_library import SoundLibrary
    from cochlea_sb.serve.run import serve as run_server

    run_server(
        SoundLibrary.open(arguments.library, given_encoder(arguments)), arguments.host, arguments.port, arguments.public
    )


def remove(arguments: Namespace) -> None:
    """Remove sounds from a library without deleting their files."""
    from cochlea_sb.library.sound_library import SoundLibrary

    library, removed = SoundLibrary.open(arguments.library), 0
    unreadable = len(library.problems)
    if not arguments.paths and not arguments.missing:
        raise UserError("There is nothing to remove: give paths, or --missing for files that no longer exist.")
    if arguments.paths:
        removed += library.remove(arguments.paths)
    if arguments.missing:
        removed += len(library.prune(arguments.yes))
    unreadable -= len(library.problems)
    if arguments.json:
        return show_json({"removed": removed, "unreadable": unreadable, "sounds": len(library)})
    others = f" and {unreadable:,} files that could not be read" if unreadable else ""
    print(f"Removed {removed:,} sounds{others}: '{arguments.library}' holds {len(library):,} sounds.")


def given_encoder(arguments: Namespace) -> Encoder | None:
    """Load the encoder that --model names, if it names one."""
    if arguments.model is None:
        if arguments.trust_remote_code:
            raise UserError("--trust_remote_code goes with --model, which names the model that you trust.")
        return None
    from cochlea_sb.inference.load import load_encoder

    device = getattr(arguments, "device", None)
    options = {"device": device} if device else None
    return load_encoder(arguments.model, run_opts=options, trust_remote_code=arguments.trust_remote_code)


def weighted(text: str) -> tuple[str, float]:
    """Split ``file=weight`` of --mix into the file and its weight. The weight of ``file`` alone is 1."""
    name, equals, weight = text.rpartition("=")
    if not equals or os.path.exists(os.path.expanduser(text)):
        return text, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise UserError(f"--mix is '{text}': expected a file, or file=weight such as hat.wav=0.5.") from error


def show_problems(problems: dict[str, str], library: str, every: bool = False) -> None:
    """Print which files could not be read, and why."""
    if problems:
        print(f"{len(problems):,} files could not be read:")
        for reason in list(problems.values())[: None if every else SHOWN]:
            print(f"  {reason}")
        if len(problems) > SHOWN and not every:
            print(f"  ... `cochlea info {library} --problems` lists all of them.")


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog="cochlea", description="Search sounds by example: find more sounds like this one.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(function: Callable[[Namespace], None]) -> ArgumentParser:
        text = first_line(function.__doc__)
        added = commands.add_parser(function.__name__, help=text, description=text)
        added.set_defaults(function=function)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    add = command(index).add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a file, a folder, a table of files, shards of recipes/embed.py, or a dataset",
    )
    add("--library", required=True, metavar="FOLDER", help="folder of the library; created if missing")
    add(
        "--model",
        help="folder or Hub name of the encoder, or transformers:NAME, speechbrain:NAME, python:MODULE:NAME; default: "
        "the encoder of the library, or the encoder of cochlea_sb",
    )
    add("--trust_remote_code", action="store_true", help=TRUST)
    add("--hop_seconds", type=float, help="time from one window to the next in a new library; default 0.48")
    add("--folder_labels", action="store_true", help="use the name of a file's folder as its label")
    add("--config", help="configuration of a dataset on the Hub")
    add("--split", default="train", help="split of a dataset; default train")
    add("--retry", action="store_true", help="try again to read files that could not be read")
    add("--device", help="device that runs the encoder: cpu, cuda, ...")
    add("--threads", type=int, help="number of threads that decode files; default: half the number of cores")
    add("--quiet", action="store_true", help="show no progress bar")

    def with_matches(function: Callable[[Namespace], None]) -> ArgumentParser:
        """A command that prints matches; its options are those of both `search` and `rank`."""
        added = command(function)
        add = added.add_argument
        add("library", metavar="LIBRARY")
        add("-k", type=int, default=10, help="number of matches; default 10")
        add("--skip", type=int, default=0, help="number of best matches to leave out: 10 shows matches 11 to 20")
        add("--path", help="show only sounds whose path contains this text or matches this pattern")
        add("--label", help="show only sounds with this label")
        add("--words", help="words that paths must hold, or after a minus must not: --words='kick -808', --words=-dog")
        add("--min_seconds", type=float, help="show only sounds of at least this duration")
        add("--max_seconds", type=float, help="show only sounds of at most this duration")
        add("--per_folder", type=int, metavar="N", help="show at most N sounds of a folder")
        add("--fold_copies", action="store_true", help="leave out sounds that are almost equal to a better match")
        add(
            "--copy_to", metavar="FOLDER", help="copy the files of the matches into a folder; no file there is replaced"
        )
        return added

    add = with_matches(search).add_argument
    add("query", nargs="?", metavar="FILE", help="the sound to start from")
    add("--text", metavar="WORDS", help="words that describe the sound, if the encoder takes text, as CLAP does")
    add("--start", type=float, help="start of the part of the file to search with, in seconds")
    add("--end", type=float, help="end of the part of the file to search with, in seconds")
    add("--mix", action="append", metavar="FILE[=WEIGHT]", help="add a sound to the query, or subtract it (weight < 0)")
    add("--every_window", action="store_true", help="show all matching windows, not only the best of each sound")
    add("--with_query", action="store_true", help="also show the query itself")
    add(
        "--effort",
        type=float,
        help="recall of the nearest windows to aim for; default 0.98; 1 searches exactly",
    )
    add("--model", help="the library's encoder, if it has moved, or if loading it can run code")
    add("--trust_remote_code", action="store_true", help=TRUST)
    add("--milvus", metavar="URI", help="search this copy in Milvus, which `cochlea export` made")
    add("--collection", metavar="NAME", help="collection of the copy; default: the name of the library's folder")

    add = with_matches(rank).add_argument
    add("yes", metavar="YES", help="text file with the paths of wanted sounds of the library, one in each line")
    add("no", nargs="?", metavar="NO", help="text file with the paths of unwanted sounds")
    add("--doubtful", action="store_true", help="show the sounds whose answer would teach most, to mark them next")

    add = command(duplicates).add_argument
    add("library", metavar="LIBRARY")
    add("--quiet", action="store_true", help="show no progress bar")

    add = command(export).add_argument
    add("library", metavar="LIBRARY")
    add("file", nargs="?", metavar="FILE", help="NAME.parquet; or NAME.npy, with NAME.csv for the paths and times")
    add("--milvus", metavar="URI", help="make or renew a copy in Milvus: http://host:19530, or a file NAME.db")
    add("--collection", metavar="NAME", help="collection of the copy; default: the name of the library's folder")
    add("--quiet", action="store_true", help="show no progress bar")

    add = command(info).add_argument
    add("library", metavar="LIBRARY")
    add("--problems", action="store_true", help="list all files that could not be read")

    add = command(serve).add_argument
    add("library", metavar="LIBRARY")
    add("--host", default="127.0.0.1", help="address to listen at; default 127.0.0.1, this computer only")
    add("--port", type=int, default=8000, help="default 8000; 0 takes a free one")
    add("--public", action="store_true", help="let everyone who reaches the address open the page, without a token")
    add("--model", help="the library's encoder, if it has moved, or if loading it can run code")
    add("--trust_remote_code", action="store_true", help=TRUST)

    add = command(remove).add_argument
    add("library", metavar="LIBRARY")
    add("paths", nargs="*", metavar="PATH", help="files, folders, or patterns")
    add(
        "--missing",
        action="store_true",
        help="remove files that no longer exist (first check that all disks are mounted)",
    )
    add("--yes", action="store_true", help="with --missing: also remove files whose folder or drive is missing")

    arguments = parser.parse_args(argv)
    logging.getLogger("speechbrain").setLevel(logging.WARNING)  # it logs messages while it loads a model
    arguments.function(arguments)


def cochlea() -> None:
    """Run the console command `cochlea`."""
    silence_decoders()
    run(main)
