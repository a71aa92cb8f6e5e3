#!/usr/bin/env python3
"""Write the metadata.csv of a folder of the Free Music Archive (Defferrard et al. 2017), from its tracks.csv.

    python recipes/fma_prepare.py fma_small
    python recipes/evaluate.py hparams/cnn.yaml --data_folder fma_small --label_column artist --source_column album

The recipe looks for tracks.csv in the folder, in its subfolder fma_metadata, and in a folder fma_metadata beside it.
The label is the genre. The source is the artist, because tracks of one artist share voices and rooms: to find one of
them with another is too easy. The fold is training, validation or test.
"""

import argparse
import re
from pathlib import Path

import pandas

from cochlea_sb.errors import UserError
from cochlea_sb.files import whole_file
from cochlea_sb.program import first_line, run

TRACK = re.compile(r"[0-9]{3}/([0-9]{6})\.mp3$")
# For each column of metadata.csv, the two headings of its column in tracks.csv.
COLUMNS = {
    "label": ("track", "genre_top"),
    "source": ("artist", "name"),
    "fold": ("set", "split"),
    "artist": ("artist", "name"),
    "album": ("album", "title"),
    "title": ("track", "title"),
    "subset": ("set", "subset"),
}


def find_tracks(folder):
    places = folder, folder / "fma_metadata", folder.parent / "fma_metadata"
    for place in places:
        if (place / "tracks.csv").is_file():
            return place / "tracks.csv"
    raise UserError(
        f"There is no tracks.csv for '{folder}': unpack fma_metadata.zip beside it (https://github.com/mdeff/fma)."
    )


def read_tracks(file):
    """A DataFrame with the columns of metadata.csv. Its index is the track number, a str of six digits."""
    try:
        table = pandas.read_csv(file, header=[0, 1], index_col=0, dtype=str, keep_default_na=False, na_values=[""])
    except (ValueError, OSError) as error:
        raise UserError(f"'{file}' could not be read as a table: {' '.join(str(error).split())}") from error
    for first, second in COLUMNS.values():
        if (first, second) not in table.columns:
            raise UserError(f"'{file}' has no column {second} under {first}: expected the tracks.csv of FMA.")
    table.index = table.index.astype(str).str.zfill(6)
    return pandas.DataFrame({name: table[heading] for name, heading in COLUMNS.items()})


def main(argv):
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("folder", help="folder of FMA, such as fma_small")
    folder = Path(parser.parse_args(argv).folder).expanduser().resolve()

    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob("[0-9][0-9][0-9]/*.mp3"))
    numbers = {found[1]: name for name in names if (found := TRACK.search(name))}
    if not numbers:
        raise UserError(f"'{folder}' holds no tracks of FMA: expected files such as 000/000002.mp3.")
    tracks = read_tracks(find_tracks(folder))
    known = tracks[tracks.index.isin(list(numbers))]
    if known.empty:
        raise UserError(
            f"None of the {len(numbers):,} tracks in '{folder}' is in tracks.csv: expected the tracks.csv of FMA."
        )
    known.insert(0, "file_name", known.index.map(numbers))
    with whole_file(folder / "metadata.csv") as partial:
        known.to_csv(partial, index=False)
    print(f"'{folder / 'metadata.csv'}' describes {len(known):,} of {len(numbers):,} tracks.")


if __name__ == "__main__":
    run(main)
