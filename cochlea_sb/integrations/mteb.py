"""Our models for the audio tasks of the benchmark MTEB (needs the extra ``mteb`` and Python 3.11).

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
from tqdm import tqdm

from cochlea_sb.audio import read_audio
from cochlea_sb.data.corpus import column
from cochlea_sb.data.sounds import load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.inference.audio_encoder import SHIPPED, AudioEncoder
from cochlea_sb.inference.read_ahead import read_ahead

# MTEB's tasks on ESC-50. Its part ESC-10 is training data of the shipped model.
HEARD = {"ESC50", "ESC50AudioReranking", "ESC50Clustering", "ESC50PairClassification", "ESC50_Zeroshot"}


class MtebModel(AbsEncoder):
    """An encoder with the API of MTEB; sounds are compared by cosine.

    Arguments
    ---------
    encoder : AudioEncoder

    Attributes
    ----------
    mteb_model_meta : mteb.models.ModelMeta
        For MTEB's tables. The revision is the fingerprint of the model, because MTEB stores results by revision.

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
        """Embed the sounds of a task.

        Arguments
        ---------
        inputs : torch.utils.data.DataLoader
            Its batches have a list of sounds, as in `waveform`, under the key ``audio``.
        task_metadata : mteb.TaskMetadata
        hf_split, hf_subset : str
            Not used.
        prompt_type : mteb.types.PromptType, optional
            Query or document.
        **kwargs
            ``show_progress_bar``; other options of MTEB concern its data loader.

        Returns
        -------
        np.ndarray [sounds, D], float32, unit norm

        Raises
        ------
        UserError
            If the task is not about audio alone, or a sound can't be read.
        """
        asked = task_metadata.get_modalities(prompt_type)
        if asked != ["audio"]:
            raise UserError(f"{task_metadata.name} asks for embeddings of {' and '.join(asked)}: expected audio.")
        sounds = tqdm(stored_sounds(inputs), disable=not kwargs.get("show_progress_bar", True), unit="sound")
        wavs = read_ahead(partial(waveform, sample_rate=self.encoder.sample_rate), sounds)
        vectors: np.ndarray = self.encoder.encode_waveforms(wavs).numpy()
        return vectors


def load_model(source: str | Path = SHIPPED, device: str | None = None) -> MtebModel:
    """Load a model for ``mteb.evaluate``.

    Arguments
    ---------
    source : str or Path
        A folder or ``user/name``, as in `AudioEncoder.from_hparams`; by default the model of the package.
    device : str, optional
        For example ``cuda``.

    Returns
    -------
    MtebModel
    """
    return MtebModel(AudioEncoder.from_hparams(source, run_opts={"device": device} if device else None))


class QueryByExample(AbsTaskRetrieval):
    """A labelled collection as an MTEB task: each sound is a query for sounds of its label from other sources.

    It measures any model of MTEB like recipes/evaluate.py. Its ``map_at_1000`` is their mAP, if no label has more than
    1,000 sounds. Time and memory grow with the square of the collection: use it for some thousands of sounds.

    Arguments
    ---------
    data_folder : str or Path
        With the column ``label``, and optionally ``source``, as in `cochlea_sb.data.sounds.load_sounds`.
    folder_labels : bool
        Use the folder of a file as its label.

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
        """Fill ``dataset``; called by MTEB."""
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
        """Empty ``dataset``; called by MTEB."""
        self.dataset, self.data_loaded = {}, False


def describe(encoder: AudioEncoder) -> ModelMeta:
    """Metadata of a model; the last two parts of a folder's path are its name."""
    shipped, path = encoder.source == SHIPPED, Path(encoder.source)
    name = f"cochlea_sb/{'-'.join(path.parts[-2:])}" if path.is_absolute() else encoder.source
    n_parameters = sum(parameter.numel() for parameter in encoder.mods.embedding_model.parameters())
    return ModelMeta(
        loader=None,
        name="cochlea_sb/pretrained" if shipped else name,
        revision=encoder.identity()["fingerprint"],  # else MTEB would reuse results of other weights
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
    """The sounds of a data loader; those of a dataset undecoded, to decode them in threads."""
    dataset = inputs.dataset
    if isinstance(dataset, Dataset) and isinstance(dataset.features.get("audio"), Audio):
        for row in dataset.select_columns("audio").cast_column("audio", Audio(decode=False)):
            yield row["audio"]
    else:
        for batch in inputs:
            yield from batch["audio"]


def waveform(sound: Any, sample_rate: int) -> np.ndarray:
    """Decode a sound to mono, at a sample rate.

    Arguments
    ---------
    sound : dict or torchcodec.decoders.AudioDecoder
        ``{"array": [S] or [C, S], "sampling_rate": int}``, or anything that `read_audio` takes.
    sample_rate : int
        Hz.

    Returns
    -------
    np.ndarray [S], float32
    """
    if hasattr(sound, "get_all_samples"):
        samples = sound.get_all_samples()
        sound = {"array": samples.data, "sampling_rate": samples.sample_rate}
    if not isinstance(sound, dict) or "array" not in sound:
        return read_audio(sound, sample_rate)
    mono = np.nan_to_num(np.atleast_2d(np.asarray(sound["array"], np.float32)).mean(axis=0), posinf=0, neginf=0)
    return np.asarray(soxr.resample(mono, sound["sampling_rate"], sample_rate))
