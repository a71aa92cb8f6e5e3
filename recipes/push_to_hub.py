#!/usr/bin/env python3
"""Publish a model, a sound library or embedded sounds on the Hugging Face Hub.

    python recipes/push_to_hub.py results/cnn/1986 user/name --license apache-2.0
    python recipes/push_to_hub.py results/cnn/1986 user/name --dry_run                  leaves the folder, to look at
    python recipes/push_to_hub.py sounds.library user/sounds --model user/name          a library, as a dataset
    python recipes/push_to_hub.py embeddings user/embeddings --private                  shards of recipes/embed.py

Log in before (`hf auth login`, or HF_TOKEN). All is one commit, so that nobody sees half of it; run it again after an
interruption, and what the Hub has already is not sent again. A card that you have edited in the folder of a dry run is
published as it is: push that folder.
"""

import argparse
import os
import tempfile
from pathlib import Path

from cochlea_sb.cli import run
from cochlea_sb.hub import upload
from cochlea_sb.publishing.export import export


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", metavar="FOLDER", help="results folder, library, or embedding shards")
    parser.add_argument("name", metavar="USER/NAME", help="what it is called on the Hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument("--revision", help="branch to commit to; default main")
    parser.add_argument("--license", help="identifier of the licence, such as apache-2.0")
    parser.add_argument("--data", help="what the model was trained on, in words")
    parser.add_argument("--model", metavar="USER/NAME", help="the encoder of a library or of embeddings, on the Hub")
    parser.add_argument("--card", choices=["replace", "keep"], help="what becomes of another card on the Hub")
    parser.add_argument("--dry_run", action="store_true", help="leave the folder beside FOLDER, and upload nothing")
    arguments = parser.parse_args(argv)

    source = Path(arguments.source).expanduser().resolve()
    options = {key: getattr(arguments, key) for key in ("license", "data", "model")}
    if arguments.dry_run:
        folder = source.with_name(f"{source.name}-to-publish")
        published = export(source, folder, arguments.name, **options)
        show(published.notes)
        print(f"Nothing was published. What would be is in {folder}; to publish that folder:")
        print(f"python recipes/push_to_hub.py {folder} {arguments.name}")
        return
    # Beside the source, where that can be, so that large files can be links.
    beside = source.parent if os.access(source.parent, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix=f".{source.name}-", dir=beside) as temporary:
        folder = Path(temporary, "folder")
        published = export(source, folder, arguments.name, **options)
        address = upload(
            folder,
            arguments.name,
            repo_type=published.repo_type,
            private=arguments.private,
            revision=arguments.revision,
            card=arguments.card,
            replaces=published.replaces,
        )
    show(published.notes)
    print(f"Published: {address}")


def show(notes):
    for note in notes:
        print(f"Note: {note}")


if __name__ == "__main__":
    run(main)
