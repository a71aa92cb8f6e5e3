"""Models of this package for the audio tasks of the benchmark MTEB. Needs the extra ``mteb``, and Python 3.11 or later.

    import mteb
    from cochlea_sb.integrations.mteb import QueryByExample, load_model

    mteb.evaluate(load_model(), mteb.get_benchmark("MAEB(v1, audio-only)"))
    mteb.evaluate(load_model(), QueryByExample("~/labelled"))  # other models of MTEB work as well

Axes: C channels, S samples, D embedding dimensions.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from datasets import Audio, Dataset
from mteb import TaskMetadata
from mteb.abstasks import AbsTaskRetrieval
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from mteb.types import PromptType

from cochlea_sb.audio import read_audio
from cochlea_sb.data.corpus import column
from cochlea_sb.data.sounds import load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.inference.audio_encoder import AudioEncoder
from cochlea_sb.inference.read_ahead import read_ahead
from cochlea_sb.inference.sound_encoder import SHIPPED
from cochlea_sb.machine import progress_bar

# MTEB's tasks on ESC-50. The part ESC-10 of ESC-50 is training data of the model in the package.
HEARD = {"ESC50", "ESC50AudioReranking", "ESC50Clustering", "ESC50PairClassification", "ESC50_Zeroshot"}


class MtebModel(AbsEncoder):
    """An `AudioEncoder` with the API of MTEB, which compares embeddings by cosine.

    Example
    -------
    >>> model = load_model()
    >>> model.mteb_model_meta.name, model.mteb_model_meta.embed_dim
    ('cochlea_sb/pretrained', 128)
    """

    mteb_model_meta: ModelMeta

    def __init__(self, encoder: AudioEncoder) -> None:
        self.encoder = encoder
        self.mteb_model_meta = describe(encoder)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Embed the sounds of a task: np.ndarray [sounds, D], float32, unit norm. MTEB calls this method.

        ``inputs`` is a ``DataLoader``. A batch has a list of sounds under the key ``audio``; see `waveform`. Raises
        `UserError` if the task needs more than audio, or if a sound can't be read.
        """
        asked = task_metadata.get_modalities(prompt_type)
        if asked != ["audio"]:
            raise UserError(f"{task_metadata.name} asks for embeddings of {' and '.join(asked)}: expected audio.")
        sounds = progress_bar(stored_sounds(inputs), show=kwargs.get("show_progress_bar", True), unit="sound")
        wavs = read_ahead(partial(waveform, sample_rate=self.encoder.sample_rate), sounds)
        vectors: np.ndarray = self.encoder.encode_waveforms(wavs).numpy()
        return vectors


def load_model(source: str | Path = SHIPPED, device: str | None = None) -> MtebModel:
    """Load a model for ``mteb.evaluate``, on a device such as ``cuda``.

    ``source`` is a folder or ``user/name``, as in `AudioEncoder.from_hparams`; by default the model in the package.
    """
    return MtebModel(AudioEncoder.from_hparams(source, run_opts={"device": device} if device else None))


class QueryByExample(AbsTaskRetrieval):
    """A folder of labelled sounds as an MTEB task. Each sound is a query for sounds of its label from other sources.

    If no label has more than 1,000 sounds, ``map_at_1000`` is the mAP of recipes/evaluate.py. Time and memory grow with
    the square of the number of sounds, so use it for at most some thousands of sounds.

    Arguments
    ---------
    data_folder : str or Path
        Has the column ``label``, and optionally ``source``: see `cochlea_sb.data.sounds.load_sounds`.
    folder_labels : bool
        True: the label of a file is the name of its folder.

    Raises
    ------
    UserError
        If the folder is missing, or no label has sounds of two sources.
    """

    def __init__(self, data_folder: str | Path, folder_labels: bool = False) -> None:
        name = f"QueryByExample-{Path(data_folder).expanduser().resolve().name}"
        self.metadata = TaskMetadata(
            name=name,
            description="Each sound is a query for sounds of its label from other sources.",
            type="AudioReranking",
            category="a2a",
            modalities=["audio"],
            eval_splits=["test"],
            eval_langs=["zxx-Zxxx"],
            main_score="map_at_1000",
            dataset={"path": name, "revision": "local"},
        )
        self.data_folder, self.folder_labels = data_folder, folder_labels
        super().__init__()

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Fill ``self.dataset``. MTEB calls this method, and later `unload_data`."""
        sounds = load_sounds(self.data_folder, folder_labels=self.folder_labels)
        labels, sources = column(sounds, "label") or [], column(sounds, "source")
        known = [row for row, label in enumerate(labels) if label is not None]
        ids = {row: str(row) for row in known}
        others = {
            row: [other for other in known if other != row and (not sources or sources[other] != sources[row])]
            for row in known
        }
        alike = {row: [other for other in others[row] if labels[other] == labels[row]] for row in known}
        asking = [row for row in known if alike[row]]
        if not asking:
            raise UserError(
                f"'{self.data_folder}' has no label with sounds of two sources: add a column 'label', or set "
                "folder_labels=True to use the names of folders."
            )
        audio = sounds.select(known).select_columns("audio").add_column("id", list(ids.values()))
        audio = audio.cast_column("audio", Audio())
        self.dataset = {
            "default": {
                "test": {
                    "corpus": audio,
                    "queries": audio.select([known.index(row) for row in asking]),
                    "relevant_docs": {ids[row]: {ids[other]: 1 for other in alike[row]} for row in asking},
                    "top_ranked": {ids[row]: [ids[other] for other in others[row]] for row in asking},
                }
            }
        }
        self.data_loaded = True

    def unload_data(self) -> None:
        self.dataset, self.data_loaded = {}, False


def describe(encoder: AudioEncoder) -> ModelMeta:
    """Metadata of a model for MTEB. The name of a model in a folder is the last two parts of the path."""
    source = encoder.source or ""
    shipped, path = source == SHIPPED, Path(source)
    name = f"cochlea_sb/{'-'.join(path.parts[-2:])}" if path.is_absolute() else source
    n_parameters = sum(parameter.numel() for parameter in encoder.mods.embedding_model.parameters())
    return ModelMeta(
        loader=None,
        name="cochlea_sb/pretrained" if shipped else name,
        revision=encoder.identity()["fingerprint"],  # MTEB reuses stored results of the same revision
        release_date=None,
        languages=None,
        n_parameters=n_parameters,
        memory_usage_mb=n_parameters * 4 / 2**20,
        max_tokens=None,
        embed_dim=encoder.embedding_size,
        license="apache-2.0" if shipped else None,
        open_weights=True if shipped else None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=False,
        training_datasets=HEARD if shipped else None,
        modalities=["audio"],
    )


def stored_sounds(inputs: Any) -> Iterator[Any]:
    """Sounds of a data loader. Sounds of a `datasets.Dataset` are not decoded yet, so that threads can decode them."""
    dataset = inputs.dataset
    if isinstance(dataset, Dataset) and isinstance(dataset.features.get("audio"), Audio):
        for row in dataset.select_columns("audio").cast_column("audio", Audio(decode=False)):
            yield row["audio"]
    else:
        for batch in inputs:
            yield from batch["audio"]


def waveform(sound: Any, sample_rate: int) -> np.ndarray:
    """Decode a sound to mono at a sample rate in Hz: np.ndarray [S], float32.

    ``sound`` is ``{"array": [S] or [C, S], "sampling_rate": int}``, a torchcodec ``AudioDecoder``, or any argument of
    `read_audio`.
    """
    if hasattr(sound, "get_all_samples"):
        samples = sound.get_all_samples()
        sound = {"array": samples.data, "sampling_rate": samples.sample_rate}
    if not isinstance(sound, dict) or "array" not in sound:
        return read_audio(sound, sample_rate)
    mono = np.nan_to_num(np.atleast_2d(np.asarray(sound["array"], np.float32)).mean(axis=0), posinf=0, neginf=0)
    return np.asarray(soxr.resample(mono, sound["sampling_rate"], sample_rate))
