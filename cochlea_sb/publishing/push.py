"""Export and upload in one step, for recipes/push_to_hub.py and `AudioEncoder.push_to_hub`."""

import os
import tempfile
from pathlib import Path

from cochlea_sb.publishing.export import export
from cochlea_sb.publishing.upload import upload


def push(
    source: str | Path,
    name: str,
    *,
    license: str | None = None,
    data: str | None = None,
    model: str | None = None,
    private: bool = False,
    revision: str | None = None,
    card: str | None = None,
) -> tuple[str, list[str]]:
    """Publish a results folder, a library or embedding shards on the Hub.

    Arguments
    ---------
    source, name, license, data, model :
        As in `cochlea_sb.publishing.export.export`.
    private, revision, card :
        As in `cochlea_sb.publishing.upload.upload`.

    Returns
    -------
    address : str
        Web address of the commit.
    notes : list of str
        Messages for the publisher, such as a missing licence.
    """
    source = Path(source).expanduser().resolve()
    # In the same folder as the source if possible, because links can replace copies only on the same disk.
    beside = source.parent if os.access(source.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=beside) as temporary:
        folder = Path(temporary, "folder")
        exported = export(source, folder, name, license=license, data=data, model=model)
        address = upload(
            folder,
            name,
            repo_type=exported.repo_type,
            private=private,
            revision=revision,
            card=card,
            replaces=exported.replaces,
        )
    return address, exported.notes
