"""Cards (``README.md``) of published models, libraries, embeddings and Spaces, from the texts in ``templates/``."""

from collections.abc import Sequence
from importlib import resources
from typing import Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData, SpaceCardData

from cochlea_sb import __version__
from cochlea_sb.evaluation.tables import markdown
from cochlea_sb.inference.sound_encoder import SHIPPED

TAGS = ["audio", "cochlea_sb", "embeddings", "audio-retrieval"]
PORT = 7860  # of the page in a Space, also in templates/Dockerfile
# The pictures that a results folder may hold, and their captions.
PICTURES = {
    "loss.png": "Training and validation loss by epoch",
    "embedding_map.png": "Held-out sounds, their embeddings projected to a plane",
    "reconstruction.png": "Held-out windows, and their reconstructions by the decoder",
    "few_labels.png": "Accuracy with few labelled sounds of each class",
    "robustness.png": "How often a deformed copy finds its original",
}
LEARNT_BY_DEFORMATIONS = {"ConvEncoder", "ResNet50"}  # their cards cite Jansen et al.


def model_card(
    name: str,
    config: dict[str, Any],
    *,
    training: dict[str, Any] | None = None,
    settings: str | None = None,
    report: dict[str, Any] | None = None,
    pictures: Sequence[str] = (),
    license: str | None = None,
    data: str | None = None,
) -> str:
    """Write the card of a model.

    Arguments
    ---------
    name : str
        ``user/name``.
    config : dict
        From `cochlea_sb.inference.model_folder.model_config`.
    training : dict, optional
        The content of ``training.json``, which recipes/train.py writes.
    settings : str, optional
        The settings of the recipe, as yaml.
    report : dict, optional
        The content of ``evaluation.json``, which recipes/evaluate.py writes.
    pictures : list of str
        Names of the published pictures, which are keys of `PICTURES`.
    license : str, optional
        Identifier, such as ``apache-2.0``.
    data : str, optional
        A description of the training data. By default, it is made from ``training``.

    Returns
    -------
    str
        Markdown that starts with the metadata for the Hub.
    """
    training, report = training or {}, report or {}
    results = [
        EvalResult(
            task_type="feature-extraction",
            task_name="Query by example",
            dataset_type="audio",
            dataset_name=report["description"],
            metric_type=metric,
            metric_name=metric,
            metric_value=round(value, 4),
        )
        for metric, value in report.get("retrieval", {}).get("model", {}).items()
        if metric != "queries"
    ]
    metadata = ModelCardData(
        license=license,
        library_name="speechbrain",
        pipeline_tag="feature-extraction",
        tags=TAGS if training.get("labels") else [*TAGS, "self-supervised"],
        datasets=[training["dataset"]] if training.get("dataset") else None,
        model_name=name if results else None,
        eval_results=results or None,
    )
    encoder, features = (config[part]["class"].rpartition(".")[2] for part in ("encoder", "features"))
    sections = {"training": "", "figures": ""}
    if settings and training:
        epochs = f", after {training['epochs']} epochs," if "epochs" in training else ""
        sections["training"] = filled("training.md", recipe=training["recipe"], epochs=epochs, settings=settings)
    if report:
        sections["figures"] = filled("figures.md", description=report["description"], tables=markdown(report))
    citation = template("cochlea_sb.bib").replace("VERSION", __version__)
    facts = config | sections | heading(name, metadata) | {"encoder": encoder, "features": features}
    return filled(
        "model.md",
        **facts,
        data=data or corpus_in_words(training),
        pictures="".join(f"\n![{PICTURES[picture]}]({picture})\n" for picture in pictures),
        license=license or "No licence is chosen yet: ask the author before you use the model.",
        highest_hz=config["sample_rate"] // 2,
        citation=(template("jansen.bib") if encoder in LEARNT_BY_DEFORMATIONS else "") + citation,
    )


def corpus_in_words(training: dict[str, Any]) -> str:
    """Describe the corpus of a ``training.json``, without paths.

    Example
    -------
    >>> corpus_in_words({"corpus": "folder", "sounds": 1200, "hours": 1.5, "skipped": 2, "labels": False})
    'A folder of 1,200 sounds (1.5 hours), used without labels. Some of them may have been held out. 2 more sounds could
    not be read.'
    """
    if not training:
        return "Not described."
    named = {"dataset": f"The dataset `{training.get('dataset')}`:", "folder": "A folder of"}
    named["synthetic"] = "The synthetic library of cochlea_sb:"
    how = "with their labels" if training["labels"] else "without labels"
    text = f"{named[training['corpus']]} {training['sounds']:,} sounds ({training['hours']:g} hours), used {how}. "
    text += "Some of them may have been held out."
    if training.get("synthetic_sources"):
        text += f" Most pairs of training sounds came from {training['synthetic_sources']:,} random synthetic sources."
    return text + (f" {training['skipped']:,} more sounds could not be read." if training["skipped"] else "")


def library_card(name: str, *, encoder: dict[str, Any], license: str | None = None, **facts: float) -> str:
    """Write the card of a sound library.

    Arguments
    ---------
    name : str
        ``user/name``.
    encoder : dict
        ``source`` and ``fingerprint`` of the encoder, as in `AudioEncoder.identity`.
    license : str, optional
    **facts
        ``sounds``, ``windows``, ``hours``, ``hop_seconds``.

    Returns
    -------
    str
    """
    metadata = DatasetCardData(license=license, tags=[*TAGS, "similarity-search"], viewer=False)
    return filled("library.md", **heading(name, metadata), encoder=encoder_in_words(encoder), **facts)


def embeddings_card(name: str, *, encoder: dict[str, Any], license: str | None = None, **facts: float) -> str:
    """Write the card of the shards that recipes/embed.py writes.

    Arguments
    ---------
    name : str
        ``user/name``.
    encoder : dict
        ``source`` and ``fingerprint`` of the encoder, as in `AudioEncoder.identity`.
    license : str, optional
    **facts
        ``sounds``, ``windows``, ``dimensions``, ``hop_seconds``.

    Returns
    -------
    str
    """
    metadata = DatasetCardData(license=license, tags=TAGS)
    model = "" if encoder["source"] in (SHIPPED, None) else f" --model {encoder['source']}"
    words = encoder_in_words(encoder)
    return filled("embeddings.md", **heading(name, metadata), encoder=words, model=model, **facts)


def space_card(name: str, *, encoder: dict[str, Any], license: str | None = None, **facts: float) -> str:
    """Write the card of a Space, whose metadata tell the Hub how to run it.

    Arguments
    ---------
    name : str
        ``user/name``.
    encoder : dict
        ``source`` and ``fingerprint`` of the encoder, as in `AudioEncoder.identity`.
    license : str, optional
    **facts
        ``sounds``, ``hours``.

    Returns
    -------
    str
    """
    settings: dict[str, Any] = {"sdk": "docker", "app_port": PORT, "license": license, "tags": TAGS}
    metadata = SpaceCardData(title=name.split("/")[-1], short_description="Search sounds by example", **settings)
    return filled("space.md", **heading(name, metadata), encoder=encoder_in_words(encoder), **facts)


def heading(name: str, metadata: ModelCardData | DatasetCardData | SpaceCardData) -> dict[str, str]:
    """Return the name, title and metadata of a card, for its template."""
    return {"name": name, "title": name.split("/")[-1], "metadata": metadata.to_yaml()}


def encoder_in_words(encoder: dict[str, Any]) -> str:
    """Describe the encoder of embeddings. A path on the publisher's machine is not shown."""
    fingerprint = f"(fingerprint `{encoder['fingerprint'][:12]}`)"
    if encoder["source"] == SHIPPED:
        return f"the model shipped with cochlea_sb {fingerprint}"
    return f"`{encoder['source']}` {fingerprint}" if encoder["source"] else f"an unpublished encoder {fingerprint}"


def template(name: str) -> str:
    """Read a file in ``templates/``."""
    return resources.files("cochlea_sb.publishing").joinpath("templates", name).read_text(encoding="utf-8")


def filled(file: str, /, **facts: Any) -> str:
    """Read a template and insert ``facts``."""
    return template(file).format(**facts)
