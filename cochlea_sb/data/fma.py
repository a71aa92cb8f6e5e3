"""The Free Music Archive's datasets (Defferrard et al. 2017): ``tracks.csv`` beside folders of numbered MP3 files."""

import re
from pathlib import Path
from typing import Any

import pandas

from cochlea_sb.errors import UserError

TRACK = re.compile(r"[0-9]{3}/([0-9]{6})\.mp3$")
# The column of tracks.csv, under its two headings, by what it means here.
COLUMNS = {
    "label": ("track", "genre_top"),
    "source": ("artist", "name"),  # tracks of one artist share voices and rooms: found, they prove little
    "fold": ("set", "split"),
    "artist": ("artist", "name"),
    "album": ("album", "title"),
    "title": ("track", "title"),
    "subset": ("set", "subset"),
}


def find_tracks(folder: Path, paths: list[str]) -> Path | None:
    """The table of an FMA folder: in it, or in ``fma_metadata`` in it or beside it.

    Arguments
    ---------
    folder : Path
    paths : list of str
        Files below it.

    Returns
    -------
    Path or None
        None where this is no such folder.
    """
    if not any(TRACK.search(Path(path).as_posix()) for path in paths):
        return None
    places = folder, folder / "fma_metadata", folder.parent / "fma_metadata"
    return next((place / "tracks.csv" for place in places if (place / "tracks.csv").is_file()), None)


def read_tracks(file: Path, paths: list[str]) -> dict[str, dict[str, Any]]:
    """What the table says of files.

    Arguments
    ---------
    file : Path
        ``tracks.csv``: two lines of headings, one that names the index, then a line for each track.
    paths : list of str

    Returns
    -------
    dict of dict
        Columns of the corpus by path, as far as the table knows them: label (the genre), source and artist, album,
        title, subset, fold (training, validation or test). Files that are no numbered track are left out.

    Raises
    ------
    UserError
        If the table lacks those headings.
    """
    numbers = {path: found[1] for path in paths if (found := TRACK.search(Path(path).as_posix()))}
    try:
        table = pandas.read_csv(file, header=[0, 1], index_col=0, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:
        raise UserError(f"'{file}' could not be read as a table: {' '.join(str(error).split())}") from error
    if COLUMNS["label"] not in table.columns:
        raise UserError(f"'{file}' has no column genre_top under track: expected the tracks.csv of FMA.")
    table.index = table.index.astype(str).str.zfill(6)
    columns = {name: table[heading] for name, heading in COLUMNS.items() if heading in table.columns}
    known = {
        number: {name: values[number] for name, values in columns.items() if isinstance(values[number], str)}
        for number in set(numbers.values()).intersection(table.index)
    }
    return {path: known.get(number, {}) for path, number in numbers.items()}
