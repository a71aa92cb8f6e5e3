"""Make the folder to publish, with its card, from a results folder, a sound library or embedding shards.

A model becomes a model on the Hub, which `AudioEncoder.from_hparams` and SpeechBrain's ``EncoderClassifier`` load by
name. Libraries and embeddings become datasets. `cochlea_sb.publishing.upload` uploads the folder.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ruamel.yaml

from cochlea_sb.data import LIBRARY_MANIFEST
from cochlea_sb.data.sounds import ROW
from cochlea_sb.errors import UserError, one_line
from cochlea_sb.files import write_text
from cochlea_sb.hub import names_on_hub
from cochlea_sb.inference.audio_encoder import AudioEncoder
from cochlea_sb.inference.load import load_encoder, split_kind
from cochlea_sb.inference.model_folder import CONFIG, model_config
from cochlea_sb.inference.sound_encoder import SHIPPED
from cochlea_sb.library.shards import COLUMNS, METADATA, embedding_shards, read_columns, read_facts, write_parquet
from cochlea_sb.library.sound_library import SoundLibrary
from cochlea_sb.library.store import LOCK, OWNER, Store
from cochlea_sb.publishing.cards import PICTURES, embeddings_card, library_card, model_card
from cochlea_sb.publishing.upload import CARD, stamped

# Settings that do not describe the model: paths, and options of the evaluation.
OF_THE_RUN = {"__set_seed", "output_folder", "save_folder", "train_log", "data_folder", "dataset", "config", "split"}
OF_THE_RUN |= {"num_proc", "ckpt_interval_minutes", "model", "evaluate_all", "few_labels", "robustness"}


class Exported(NamedTuple):
    """Result of `export`.

    repo_type : str, ``model``, ``dataset`` or ``space``
    replaces : tuple of str, patterns of file names. `upload` deletes such files of an earlier upload.
    notes : list of str, messages for the publisher, such as a missing licence
    """

    repo_type: str
    replaces: tuple[str, ...]
    notes: list[str]


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make a folder, which must not exist, and fill it in the block. After an exception, it is deleted."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise UserError(f"'{folder}' exists already: push that folder, or delete it first.") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def export(
    source: str | Path,
    folder: str | Path,
    name: str,
    *,
    license: str | None = None,
    data: str | None = None,
    model: str | None = None,
) -> Exported:
    """Make the folder to publish.

    Arguments
    ---------
    source : str or Path
        A results folder, a library, or a folder of embedding shards. If it holds a card (``README.md``), the card is
        copied.
    folder : str or Path
        The folder to make. Large files of a library become hard links, not copies, if possible.
    name : str
        ``user/name`` on the Hub, which the card shows.
    license : str, optional
        Identifier, such as ``apache-2.0``.
    data : str, optional
        A description of the training data of a model.
    model : str, optional
        ``user/name`` of the encoder of a library or of embeddings, if it was loaded from a local folder.

    Returns
    -------
    Exported

    Raises
    ------
    UserError
        If ``source`` is none of these, is damaged, or is incomplete; if ``folder`` exists; if an option does not
        fit ``source``; or if ``model`` can't be loaded or is not the encoder of the embeddings.
    """
    source, folder = Path(source).expanduser(), Path(folder)
    if model is not None and model != SHIPPED and not names_on_hub(split_kind(model)[1]):
        raise UserError(f"The model is '{model}': expected the encoder's user/name on the Hub.")
    check_license(license)
    own_card = source / CARD if (source / CARD).is_file() else None
    if own_card and (license or data):
        raise UserError(
            f"'{own_card}' is published as it is: write licence and training data into it, and leave the options out."
        )
    is_model, is_library, shards = (source / CONFIG).exists(), Store(source).exists(), embedding_shards(source)
    if not (is_model or is_library or shards):
        raise UserError(
            f"'{source}' is nothing to publish: give a results folder of recipes/train.py, a library of `cochlea "
            "index`, or the shards of recipes/embed.py."
        )
    if is_model and model is not None:
        raise UserError(f"'{source}' is a model, and --model names the encoder of a library or of embeddings.")
    if not is_model and data is not None:
        raise UserError(f"'{source}' is no model, and --data describes the training data of a model.")
    with new_folder(folder):
        if is_library:
            replaces: tuple[str, ...] = ("index-*", "sounds-*", "delta-*")
            card, notes = export_library(source, folder, name, license, model)
        elif shards:
            replaces = ("embeddings-*.parquet",)
            card, notes = export_embeddings(shards, folder, name, license, model)
        else:
            replaces = ("evaluation.json", *PICTURES)
            card, gaps = export_model(source, folder, name, license, data)
            notes = [] if own_card else gaps
        write_text(folder / CARD, own_card.read_text(encoding="utf-8") if own_card else stamped(card))
    if not own_card and license is None:
        notes.append("The card names no licence: add one with --license, for example --license apache-2.0.")
    return Exported("model" if is_model else "dataset", replaces, notes)


def check_license(license: str | None) -> None:
    """Raise a `UserError` if a licence does not look like an identifier of the Hub."""
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise UserError(
            f"The licence is '{license}': expected its identifier on the Hub, such as apache-2.0, cc-by-4.0."
        )


def export_model(source: Path, folder: Path, name: str, license: str | None, data: str | None) -> tuple[str, list[str]]:
    """Write a model, its figures and its pictures. Return the card, and messages about what the card lacks."""
    encoder = AudioEncoder.from_hparams(str(source), run_opts={"device": "cpu"})  # fails if the model can't be loaded
    encoder.save(folder)
    gaps, report = [], read_json(source / "evaluation.json")
    if not report:
        gaps.append("The card has no figures: measure them with recipes/evaluate.py on labelled sounds.")
    elif report.get("fingerprint") != encoder.identity()["fingerprint"]:
        report = None
        gaps.append("The card has no figures, because evaluation.json is of another model: run recipes/evaluate.py.")
    measured = {"few_labels.png", "robustness.png"}
    pictures = [picture for picture in PICTURES if (source / picture).is_file() and (report or picture not in measured)]
    for picture in pictures:
        shutil.copyfile(source / picture, folder / picture)
    if report:
        write_text(folder / "evaluation.json", json.dumps(report, indent=1) + "\n")
    training, settings = read_json(source / "training.json"), None
    if training and (epochs := epochs_in(source / "history.json")):
        training["epochs"] = epochs
    if (source / "train.yaml").is_file():
        settings = settings_of((source / "train.yaml").read_text(encoding="utf-8"))
    if not training and not data:
        gaps.append("The card does not describe the training data: describe it with --data.")
    card = model_card(
        name,
        model_config(encoder.mods.compute_features, encoder.mods.embedding_model),
        training=training,
        settings=settings,
        report=report,
        pictures=pictures,
        license=license,
        data=data,
    )
    return card, gaps


def epochs_in(path: Path) -> int | None:
    """Read the number of epochs from ``history.json``."""
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))[-1]["epoch"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def settings_of(text: str) -> str:
    """Select numbers, texts and lists of a training yaml, without paths and the keys in `OF_THE_RUN`. Return yaml."""
    tree = ruamel.yaml.YAML(typ="rt").load(text)
    plain = {
        key: value
        for key, value in tree.items()
        if key not in OF_THE_RUN and isinstance(value, (int, float, str, list)) and not re.search(r"[/\\~]", str(value))
    }
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in plain.items())


def export_library(
    source: Path, folder: Path, name: str, license: str | None, model: str | None
) -> tuple[str, list[str]]:
    """Write a library with a merged index, without removed and unreadable sounds. Return the card and the notes."""
    store = Store(folder)
    manifest = Store(source).link_to(folder)
    manifest["encoder"] = public_encoder(manifest["encoder"], model)
    write_text(folder / LIBRARY_MANIFEST, json.dumps(manifest, indent=1))
    SoundLibrary.open(folder).merge()
    manifest, catalogue, _, _ = store.read()
    catalogue = catalogue.filter(pc.greater(catalogue["n_windows"], 0))
    paths = without_root(catalogue["path"].to_pylist())
    catalogue = catalogue.set_column(catalogue.column_names.index("path"), "path", pa.array(paths, pa.string()))
    with store.lock():
        store.commit(manifest | {"catalogue": store.write_catalogue(catalogue)})
    for name in (LOCK, OWNER):
        (folder / name).unlink(missing_ok=True)
    library = SoundLibrary.open(folder)
    hours = (pc.sum(catalogue["seconds"]).as_py() or 0) / 3600
    facts = {"sounds": len(library), "windows": library.n_windows, "hours": hours, "hop_seconds": library.hop_seconds}
    card = library_card(name, encoder=manifest["encoder"], license=license, **facts)
    return card, notes_on(paths, len(library), manifest["encoder"]["source"])


def export_embeddings(
    shards: list[str], folder: Path, name: str, license: str | None, model: str | None
) -> tuple[str, list[str]]:
    """Write shards without unreadable sounds. Return the card and the notes."""
    files = [Path(file) for file in shards]
    expected = re.fullmatch(r"embeddings-\d+-of-(\d+).parquet", files[0].name)
    if expected and len(files) != int(expected[1]):
        raise UserError(
            f"'{files[0].parent}' holds {len(files)} of {int(expected[1])} shards: finish recipes/embed.py first, each "
            "--worker."
        )
    facts = [read_facts(file) or {} for file in files]
    encoder = public_encoder(facts[0]["identity"], model)
    tables = pa.concat_tables(columns_of(file, ["path"]) for file in files)
    known = tables["path"].unique().to_pylist()
    shown = dict(zip(known, without_root(known), strict=True))
    for file, own in zip(files, facts, strict=True):
        table = columns_of(file, COLUMNS)
        paths = pa.array([shown[path] for path in table["path"].to_pylist()], pa.string())
        own = own | {"identity": own["identity"] | encoder, "unread": [], "made_of": None}
        table = table.set_column(table.column_names.index("path"), "path", paths)
        write_parquet(folder / file.name, table.replace_schema_metadata({METADATA: json.dumps(own).encode()}))
    sizes = {"sounds": len(known), "windows": len(tables), "hop_seconds": facts[0]["hop_seconds"]}
    sizes["dimensions"] = pq.read_schema(files[0]).field("embedding").type.list_size
    card = embeddings_card(name, encoder=encoder, license=license, **sizes)
    return card, notes_on(list(shown.values()), sizes["sounds"], encoder["source"])


def columns_of(file: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a shard; raises a UserError if the shard is damaged."""
    try:
        return read_columns(file, columns)
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"'{file}' is damaged ({one_line(error)}): embed its sounds again.") from error


def public_encoder(identity: dict[str, Any], model: str | None) -> dict[str, Any]:
    """Remove local paths from the identity of an encoder, and name ``model`` as its source.

    Raises `UserError` if ``model`` has another fingerprint.
    """
    source, fingerprint = identity["source"], identity["fingerprint"]
    if model is None:
        kind, bare = split_kind(source or "")
        known = source == SHIPPED or (kind != "python" and names_on_hub(bare))
        return identity | {"source": source if known else None, "revision": identity["revision"] if known else None}
    found = load_encoder(model, run_opts={"device": "cpu"}).identity()
    if found["fingerprint"] != fingerprint:
        raise UserError(
            f"The model '{model}' has the fingerprint {found['fingerprint'][:12]}, but the embeddings were made with "
            f"{fingerprint[:12]}: publish that encoder, or name its commit ({model}@COMMIT)."
        )
    return identity | {"source": found["source"], "revision": found["revision"]}


def without_root(paths: list[str]) -> list[str]:
    """Make paths relative to their common folder, so that they do not show the folders of the publisher's machine.

    Example
    -------
    >>> without_root(["/home/ada/sounds/dog.wav", "/home/ada/sounds/birds/owl.wav"])
    ['dog.wav', 'birds/owl.wav']
    """
    bare = [path.removeprefix(ROW) for path in paths]
    folders = [os.path.dirname(path) for path in bare if os.path.isabs(path)]
    root = os.path.commonpath(folders) if folders else ""
    short = [os.path.relpath(path, root) if os.path.isabs(path) else path for path in bare]
    return [ROW + new if path.startswith(ROW) else new for path, new in zip(paths, short, strict=True)]


def notes_on(paths: list[str], count: int, source: str | None) -> list[str]:
    """Messages for the publisher of a list of paths."""
    notes = [f"It holds the paths of {count:,} sounds, such as '{path}'." for path in paths[:1]]
    if source is None:
        notes.append("Its encoder is not on the Hub: publish the encoder first, and name it with --model user/name.")
    return notes


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a dictionary from a JSON file. Return None if the file is missing or has another content."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
