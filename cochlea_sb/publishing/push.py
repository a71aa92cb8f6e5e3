"""Export and upload in one step, for recipes/push_to_hub.py and `AudioEncoder.push_to_hub`."""

import os
import tempfile
from pathlib import Path

from cochlea_sb.errors import UserError
from cochlea_sb.publishing.export import Exported, export
from cochlea_sb.publishing.space import REPLACES, export_space, is_space
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
    space: bool = False,
) -> tuple[str, list[str]]:
    """Publish a results folder, a library or embedding shards on the Hub, or a library as a Space.

    Arguments
    ---------
    source, name, license, data, model :
        As in `cochlea_sb.publishing.export.export`.
    private, revision, card :
        As in `cochlea_sb.publishing.upload.upload`.
    space : bool
        Publish a library, or a folder that `cochlea_sb.publishing.space.export_space` has made, as a Space.

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
        if space and is_space(source):
            if license or data or model:
                raise UserError(f"'{source}' is published as it is: leave --license, --data and --model out.")
            folder, exported = source, Exported("space", REPLACES, [])
        else:
            make = export_space if space else export
            exported = make(source, folder, name, license=license, data=data, model=model)
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
