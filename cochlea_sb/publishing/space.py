"""Make the folder of a Docker Space: a page on the Hugging Face Hub where everyone can search the sounds of a library.

    README.md               the card, whose first lines configure the Space
    Dockerfile              installs the wheel, indexes the sounds, and starts `cochlea serve --public`
    cochlea_sb-*.whl        this package
    model/                  the encoder of the library
    sounds/                 the sounds, and metadata.jsonl with their labels

`cochlea_sb.publishing.push` uploads the folder.
"""

import json
import os
import re
from pathlib import Path, PurePath

from cochlea_sb.data.sounds import METADATA_FILES, ROW
from cochlea_sb.errors import UserError
from cochlea_sb.files import as_named, link, write_text
from cochlea_sb.inference.load import load_encoder, split_kind
from cochlea_sb.inference.sound_encoder import SoundEncoder
from cochlea_sb.library.sound_library import SoundLibrary
from cochlea_sb.publishing.cards import filled, space_card
from cochlea_sb.publishing.export import Exported, check_license, new_folder, public_encoder
from cochlea_sb.publishing.upload import CARD, stamped
from cochlea_sb.publishing.wheel import write_wheel

DOCKERFILE, SOUNDS, MODEL, LABELS = "Dockerfile", "sounds", "model", "metadata.jsonl"
REPLACES = (f"{SOUNDS}/*", f"{MODEL}/*", "cochlea_sb-*.whl")
LARGEST_REPOSITORY = 10**9  # bytes; the disk of a free Space has 50 GB


def export_space(
    source: str | Path,
    folder: str | Path,
    name: str,
    *,
    license: str | None = None,
    data: str | None = None,
    model: str | None = None,
) -> Exported:
    """Make the folder of a Space from a library. It holds copies of the sounds, or hard links to them.

    Arguments
    ---------
    source : str or Path
        A library. Its sounds of datasets, and its files that no longer exist, are left out.
    folder : str or Path
        The folder to make.
    name : str
        ``user/name`` of the Space on the Hub.
    license : str, optional
        Identifier, such as ``cc-by-4.0``.
    data : None
        A Space has no training data to describe.
    model : str, optional
        Folder or Hub name of the library's encoder, if the encoder was moved.

    Returns
    -------
    Exported

    Raises
    ------
    UserError
        If ``source`` is no library, or none of its sounds is a file; if its encoder can't be loaded; if ``folder``
        exists; if the licence is no identifier; or if ``data`` is given.
    """
    if data is not None:
        raise UserError("--data describes the training data of a model: leave it out for a Space.")
    check_license(license)
    folder, options = Path(folder), {"device": "cpu"}
    given = None if model is None else load_encoder(model, run_opts=options)
    library = SoundLibrary.open(source, given, run_opts=options)
    made_with, catalogue = library.identity["source"], library.sounds
    encoder = None if split_kind(made_with or "")[0] else library.encoder
    if not isinstance(encoder, SoundEncoder):
        raise UserError(
            f"'{source}' was made with '{made_with}', and a Space can only hold an encoder of cochlea_sb: publish "
            "the library instead, without --space."
        )
    known = [row for row in catalogue.to_pylist() if not row["path"].startswith(ROW)]
    rows = [row for row in known if os.path.isfile(as_named(row["path"]))]
    if not rows:
        raise UserError(f"'{source}' holds no sounds that are files on this computer: index files, not a dataset.")
    with new_folder(folder):
        names = public_names([row["path"] for row in rows])
        labels = []
        for row, public in zip(rows, names, strict=True):
            target = folder / SOUNDS / public
            target.parent.mkdir(parents=True, exist_ok=True)
            link(Path(as_named(row["path"])), target)
            if row["label"] is not None:
                labels.append(json.dumps({"file_name": public, "label": row["label"]}))
        if labels:
            write_text(folder / SOUNDS / LABELS, "\n".join(labels) + "\n")
        encoder.save(folder / MODEL)
        docker = filled(DOCKERFILE, wheel=write_wheel(folder), hop_seconds=library.hop_seconds)
        write_text(folder / DOCKERFILE, docker)
        hours = sum(row["seconds"] for row in rows) / 3600
        public_one = public_encoder(encoder.identity(), None)
        card = space_card(name, encoder=public_one, license=license, sounds=len(rows), hours=hours)
        write_text(folder / CARD, stamped(card))
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    notes = [f"Everyone who can open the Space can hear and download its {len(rows):,} sounds, such as '{names[0]}'."]
    if others := len(catalogue) - len(known):
        notes.append(f"{others:,} sounds of datasets were left out, because they are not files.")
    if gone := len(known) - len(rows):
        notes.append(f"{gone:,} sounds were left out, because their files no longer exist.")
    notes.append(size_in_words(size))
    if license is None:
        notes.append("The card names no licence: add one with --license, for example --license cc-by-4.0.")
    return Exported("space", REPLACES, notes)


def is_space(folder: Path) -> bool:
    """Tell whether `export_space` has made a folder."""
    return all((folder / name).exists() for name in (CARD, DOCKERFILE, SOUNDS, MODEL))


def size_in_words(size: int) -> str:
    """Tell the size of the folder.

    Example
    -------
    >>> size_in_words(20_500_000)
    'The folder has 20.5 MB.'
    """
    if size <= LARGEST_REPOSITORY:
        return f"The folder has {size / 1e6:,.1f} MB."
    return (
        f"The folder has {size / 1e9:,.1f} GB. The disk of a free Space has 50 GB, but the Hub may refuse more than "
        "1 GB in the repository of a Space: publish fewer sounds."
    )


def public_names(paths: list[str]) -> list[str]:
    """Make different names, which do not show the folders of the publisher's machine, for the files of a library.

    A library skips hidden files in a folder, so a name does not start with a dot.

    Example
    -------
    >>> public_names(["/home/ada/sounds/dog.wav", "/home/ada/sounds/.old/owl.wav"])
    ['dog.wav', '_old/owl.wav']
    """
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    home = os.path.realpath(os.path.expanduser("~"))
    above_home = PurePath(home).is_relative_to(root)  # for sounds in the home folder and on another disk
    names, taken = [], set(METADATA_FILES)
    for path in paths:
        below = PurePath(path)
        below = below.relative_to(home if above_home and below.is_relative_to(home) else root)
        first = name = "/".join(re.sub(r"^\.|[\\\x00-\x1f\x7f]", "_", part) for part in below.parts)
        number = 2
        while name in taken:
            stem, suffix = os.path.splitext(first)
            name, number = f"{stem}-{number}{suffix}", number + 1
        taken.add(name)
        names.append(name)
    return names
