"""Which shards a list of sounds becomes, and how the missing shards are made: here, or by workers on other machines.

Each shard holds a fixed part of the list, so a part is done if its file exists. After an interruption, the missing
shards are made.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cochlea_sb.data.sounds import Source
from cochlea_sb.errors import UserError
from cochlea_sb.inference.batch import encode_groups
from cochlea_sb.inference.encoder import Encoder
from cochlea_sb.library.shards import read_facts, write_shard


class PlannedShard(NamedTuple):
    path: Path
    sources: Sequence[Source]

    def made_of(self) -> str:
        """A hash of the list of sounds."""
        facts = [(source.path, source.label, source.size, source.changed_ns) for source in self.sources]
        return hashlib.blake2b(json.dumps(facts).encode()).hexdigest()


class Embedding(NamedTuple):
    """How sounds are embedded, which each shard tells of itself."""

    identity: dict[str, Any]  # `Encoder.identity`, and the precision
    hop_seconds: float


def plan_shards(
    output: str | os.PathLike[str], sources: Sequence[Source], shard_sounds: int, embedding: Embedding
) -> list[PlannedShard]:
    """Divide a list of sounds into shards in the folder ``output``, which is created.

    Raises a UserError if the folder holds shards of other sounds, of another model or with another hop.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    parts = [sources[i : i + shard_sounds] for i in range(0, len(sources), shard_sounds)]
    shards = [PlannedShard(output / f"embeddings-{i:05d}-of-{len(parts):05d}.parquet", p) for i, p in enumerate(parts)]
    names = {shard.path.name for shard in shards}
    strangers = sorted(path.name for path in output.glob("embeddings-*.parquet") if path.name not in names)
    if strangers:
        raise UserError(
            f"'{output}' holds shards of another run, such as '{strangers[0]}': choose another --output, or delete "
            "these shards."
        )
    for shard in missing_from(shards, False):
        facts = read_facts(shard.path) or {}
        same = facts.get("identity", {}).get("fingerprint") == embedding.identity["fingerprint"]
        if not same or (facts["hop_seconds"], facts["made_of"]) != (embedding.hop_seconds, shard.made_of()):
            raise UserError(
                f"'{shard.path}' was made from other sounds, by another model or with another hop: choose another "
                "--output, or delete this file."
            )
    return shards


def missing_from(shards: Sequence[PlannedShard], missing: bool = True) -> list[PlannedShard]:
    """Return the shards whose files are missing, or those whose files exist."""
    return [shard for shard in shards if shard.path.exists() != missing]


def make_shards(
    encoder: Encoder,
    shards: Sequence[PlannedShard],
    embedding: Embedding,
    *,
    threads: int | None = None,
    progress: Callable[[int], Any] = lambda sounds: None,
) -> Iterator[PlannedShard]:
    """Embed the sounds of shards and write the files. Yields each shard when its file is complete.

    On a device of one kind, the file has the same bytes wherever and whenever it is made. ``progress`` is called with
    numbers of embedded sounds.
    """
    groups = [shard.sources for shard in shards]
    encoded = encode_groups(encoder, groups, embedding.hop_seconds, threads=threads, progress=progress)
    for shard, sounds in zip(shards, encoded, strict=True):
        write_shard(shard.path, sounds, *embedding, made_of=shard.made_of())
        yield shard


def unread_sounds(shards: Sequence[PlannedShard]) -> list[tuple[str, str]]:
    """Return the path and the problem of each sound of complete shards that could not be read."""
    return [(row["path"], row["problem"]) for shard in shards for row in (read_facts(shard.path) or {})["unread"]]
