"""What a published folder says of itself: the texts of its README.md, from facts that training and measuring left."""

from collections.abc import Sequence
from typing import Any

from huggingface_hub import DatasetCardData, EvalResult, ModelCardData

from cochlea_sb import __version__
from cochlea_sb.evaluation.tables import markdown
from cochlea_sb.inference.audio_encoder import SHIPPED

TAGS = ["audio", "cochlea_sb", "embeddings", "audio-retrieval"]
# Pictures that a results folder may hold, and what they show.
PICTURES = {
    "loss.png": "The loss, epoch by epoch",
    "embedding_map.png": "Held-out sounds on a plane",
    "reconstruction.png": "Held-out windows, and what was written for them from their codes",
    "few_labels.png": "Accuracy with few labelled sounds of each class",
    "robustness.png": "How often a deformed copy finds its original",
}
LEARNT_BY_DEFORMATIONS = {"ConvEncoder", "ResNet50"}  # as Jansen et al. do

MODEL = """\
---
{metadata}
---

# {title}

An embedding of sounds: {embedding_size} numbers for each {window_seconds:.2f} s, by whose cosine sounds are compared.
{encoder} on {features} frames of sounds at {sample_rate:,} Hz, {parameters:,} parameters.

## Use

After `pip install cochlea_sb`:

```python
from cochlea_sb import AudioEncoder

encoder = AudioEncoder.from_hparams("{name}")
embedding = encoder.encode_file("dog.wav")  # [{embedding_size}], unit norm
```

Search a folder of sounds for what is like one of them:

```bash
cochlea index ~/samples --library sounds.library --model {name}
cochlea search sounds.library dog.wav
```

With plain SpeechBrain, where cochlea_sb need only be installed:

```python
import torch
from speechbrain.inference.classifiers import EncoderClassifier

encoder = EncoderClassifier.from_hparams("{name}")
embeddings = encoder.encode_batch(torch.randn(2, {sample_rate}))  # [2, 1, {embedding_size}]
```

## Training data

{data}
"""
TRAINING = """
## Training

By `recipes/train.py hparams/{recipe}` of cochlea_sb, {epochs}with these settings:

```yaml
{settings}
```
"""
FIGURES = """
## Figures

{description}

{tables}
"""
MODEL_END = """
## Licence

{license}

## Limits

It knows {window_seconds:.2f} s at a time and nothing above {highest_hz:,} Hz, and has learnt from what is named above
alone. It tells how alike sounds are, not what they are, and must not decide about people.

## Citation

```bibtex
{citation}```
"""
JANSEN = """\
@inproceedings{jansen2018unsupervised,
  title = {Unsupervised Learning of Semantic Audio Representations},
  author = {Jansen, Aren and Plakal, Manoj and Pandya, Ratheet and Ellis, Daniel P. W. and Hershey, Shawn and
            Liu, Jiayang and Moore, R. Channing and Saurous, Rif A.},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing (ICASSP)},
  year = {2018}
}

"""
SOFTWARE = f"""\
@software{{cochlea_sb,
  title = {{cochlea_sb: search unlabelled sound by example}},
  version = {{{__version__}}}
}}
"""
LIBRARY = """\
---
{metadata}
---

# {title}

A library of {sounds:,} sounds that can be searched by example: {hours:,.2f} hours, {windows:,} windows, one every
{hop_seconds:g} s. It holds the index and the catalogue of the sounds' paths, not the sounds.

After `pip install cochlea_sb`:

```bash
hf download {name} --repo-type dataset --local-dir sounds.library
cochlea search sounds.library dog.wav
```

The encoder is {encoder}.
"""
EMBEDDINGS = """\
---
{metadata}
---

# {title}

Embeddings of {sounds:,} sounds: a row for each of {windows:,} windows, one every {hop_seconds:g} s, by {encoder}.

```python
import datasets

rows = datasets.load_dataset("{name}", split="train")
```

| column | what |
|---|---|
| `path` | which sound |
| `start_seconds` | where its window begins |
| `embedding` | {dimensions} numbers of unit norm, compared by cosine |
| `label` | what the collection calls it, if anything |
| `seconds` | length of the sound |
| `size`, `changed_ns`, `content` | of its file: bytes, time of change, hash of what it holds |

To search them, after `pip install cochlea_sb`:

```bash
hf download {name} --repo-type dataset --local-dir embeddings
cochlea index embeddings --library sounds.library{model}
cochlea search sounds.library dog.wav
```
"""


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
    """The card of a model.

    Arguments
    ---------
    name : str
        ``user/name``.
    config : dict
        From `cochlea_sb.publishing.export.model_config`.
    training : dict, optional
        What recipes/train.py left in ``training.json``.
    settings : str, optional
        The recipe's settings, a piece of yaml.
    report : dict, optional
        What recipes/evaluate.py left in ``evaluation.json``.
    pictures : list of str
        Those of `PICTURES` that are there.
    license : str, optional
        Identifier, such as ``apache-2.0``.
    data : str, optional
        What it was trained on, in words; by default as much as ``training`` tells.

    Returns
    -------
    str
        Markdown, with the Hub's metadata at its top.
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
    facts = config | {"name": name, "title": title(name), "metadata": metadata.to_yaml()}
    facts |= {"data": data or corpus_in_words(training), "highest_hz": config["sample_rate"] // 2}
    facts["license"] = license or "Not chosen yet: ask the author before you use it for more than a look."
    facts["citation"] = (JANSEN if config["encoder"] in LEARNT_BY_DEFORMATIONS else "") + SOFTWARE
    text = MODEL.format(**facts)
    if settings and training:
        epochs = f"stopped after {training['epochs']} epochs, " if "epochs" in training else ""
        text += TRAINING.format(recipe=training["recipe"], epochs=epochs, settings=settings)
    if report:
        text += FIGURES.format(description=report["description"], tables=markdown(report))
    text += "".join(f"\n![{PICTURES[picture]}]({picture})\n" for picture in pictures)
    return text + MODEL_END.format(**facts)


def corpus_in_words(training: dict[str, Any]) -> str:
    """What ``training.json`` tells of the corpus, in a sentence or two; no paths.

    Example
    -------
    >>> corpus_in_words({"corpus": "folder", "sounds": 1200, "hours": 1.5, "skipped": 2, "labels": False})
    'A folder of 1,200 sounds (1.5 hours), some of which may have been held out, learnt without labels. 2 more could not
    be read.'
    """
    if not training:
        return "Not told."
    named = {"dataset": f"The dataset `{training.get('dataset')}`:", "folder": "A folder of"}
    named["synthetic"] = "The synthetic library of cochlea_sb:"
    how = "with their labels" if training["labels"] else "without labels"
    text = f"{named[training['corpus']]} {training['sounds']:,} sounds ({training['hours']:g} hours), "
    text += f"some of which may have been held out, learnt {how}."
    return text + (f" {training['skipped']:,} more could not be read." if training["skipped"] else "")


def library_card(name: str, *, encoder: dict[str, Any], license: str | None = None, **facts: float) -> str:
    """The card of a sound library.

    Arguments
    ---------
    name : str
        ``user/name``.
    encoder : dict
        Its identity: ``source``, ``fingerprint``.
    license : str, optional
    **facts
        ``sounds``, ``windows``, ``hours``, ``hop_seconds``.

    Returns
    -------
    str
    """
    metadata = DatasetCardData(license=license, tags=[*TAGS, "similarity-search"], viewer=False)
    return LIBRARY.format(**texts_of(name, metadata, encoder), **facts)


def embeddings_card(name: str, *, encoder: dict[str, Any], license: str | None = None, **facts: float) -> str:
    """The card of embedded sounds, as recipes/embed.py leaves them.

    Arguments
    ---------
    name : str
        ``user/name``.
    encoder : dict
        Its identity: ``source``, ``fingerprint``.
    license : str, optional
    **facts
        ``sounds``, ``windows``, ``dimensions``, ``hop_seconds``.

    Returns
    -------
    str
    """
    metadata = DatasetCardData(license=license, tags=TAGS)
    model = "" if encoder["source"] in (SHIPPED, None) else f" --model {encoder['source']}"
    return EMBEDDINGS.format(model=model, **texts_of(name, metadata, encoder), **facts)


def texts_of(name: str, metadata: DatasetCardData, encoder: dict[str, Any]) -> dict[str, str]:
    """What the cards of datasets begin with, and their encoder."""
    facts = {"name": name, "title": title(name), "metadata": metadata.to_yaml()}
    return facts | {"encoder": encoder_in_words(encoder)}


def title(name: str) -> str:
    """What comes after ``user/``."""
    return name.split("/")[-1]


def encoder_in_words(encoder: dict[str, Any]) -> str:
    """Which encoder made the embeddings, without a path of the machine that it was on."""
    fingerprint = f"(fingerprint `{encoder['fingerprint'][:12]}`)"
    if encoder["source"] == SHIPPED:
        return f"the one that comes with cochlea_sb {fingerprint}"
    return f"`{encoder['source']}` {fingerprint}" if encoder["source"] else f"one that was not published {fingerprint}"
