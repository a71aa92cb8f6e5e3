"""Audio models of Hugging Face `transformers`. Only safetensors are read, and no code of a model runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from cochlea_sb.errors import MissingExtra, UserError, one_line
from cochlea_sb.hub import download
from cochlea_sb.inference.encoder import Encoder

CONFIG, WEIGHTS = "config.json", "model.safetensors"
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")  # a folder has one of them
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
LARGEST_FILE = 8 << 30  # bytes
OF_TRAINING = {"masked_spec_embed"}  # wav2vec2's embedding of masked frames: published weights may lack it
OF_THE_WRITER = {"transformers_version", "_name_or_path"}  # settings without a meaning for the embeddings


class TransformersEncoder(Encoder):
    """Base class of encoders from transformers. `load` returns one of a subclass, which implements `embed`.

    Arguments
    ---------
    model : transformers.PreTrainedModel, in float32
    extractor : transformers.FeatureExtractionMixin, whose settings `embed` follows
    folder : Path, from which the model was loaded
    device : str
    """

    _loadable = True

    def __init__(self, model: Any, extractor: Any, folder: Path, device: str) -> None:
        self.model, self.extractor = model.to(device).requires_grad_(False).eval(), extractor
        self.folder, self.device = folder, device
        self.sample_rate = int(extractor.sampling_rate)

    @classmethod
    def load(
        cls, path: str, revision: str | None = None, *, is_folder: bool = True, device: str = "cpu"
    ) -> TransformersEncoder:
        """Load a model.

        Arguments
        ---------
        path : str, a folder that ``save_pretrained`` wrote, or ``user/name`` on the Hub
        revision : str, optional, branch, tag or commit of a model on the Hub
        is_folder : bool, whether ``path`` is a folder
        device : str

        Returns
        -------
        TransformersEncoder

        Raises
        ------
        UserError
            If transformers is missing, the model is not of a supported kind or can't be loaded, or lacks weights.
        """
        try:
            import transformers
        except ImportError as error:
            raise MissingExtra("A model of transformers", "transformers", "transformers") from error
        folder = Path(path)
        if not is_folder:
            folder = download(
                path,
                [CONFIG, WEIGHTS],
                LARGEST_FILE,
                optional=[*EXTRACTORS, *TOKENIZER],
                expected="a model of transformers with its weights as model.safetensors",
                revision=revision,
            )
        for names in ((CONFIG,), (WEIGHTS,), EXTRACTORS):
            if not any((folder / name).is_file() for name in names):
                raise UserError(
                    f"'{folder}' holds no {' or '.join(names)}: expected a folder into which `save_pretrained` of "
                    "transformers wrote the model and its feature extractor, or user/name on the Hub."
                )
        own: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        with building(path), quiet(transformers):
            config = transformers.AutoConfig.from_pretrained(folder, **own)
            extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, **own)  # type: ignore[no-untyped-call]
            found, model_class = kind_of(config, extractor, transformers)
            # Named here, because a config could name attention code of the Hub instead.
            attention = "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                attn_implementation=attention,
                dtype=torch.float32,
                output_loading_info=True,
                **own,
            )
        missing = sorted(name for name in report["missing_keys"] if name.rpartition(".")[2] not in OF_TRAINING)
        if missing:
            raise UserError(
                f"'{path}' lacks {len(missing)} weights, such as '{missing[0]}': its model is not complete."
            )
        encoder = found(model, extractor, folder, device)
        encoder.revision = None if is_folder else folder.name
        return encoder

    def fingerprint(self) -> str:
        """Tell encoders apart.

        Returns
        -------
        str, the SHA-256 of the file of the weights, and of the settings in the other files
        """
        return self._digest

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.sha256()
        for name in (CONFIG, *EXTRACTORS):
            if (self.folder / name).is_file():
                settings = json.loads((self.folder / name).read_bytes())
                kept = {key: value for key, value in settings.items() if key not in OF_THE_WRITER}
                digest.update(json.dumps(kept, sort_keys=True).encode())
        with (self.folder / WEIGHTS).open("rb") as weights:
            while block := weights.read(1 << 22):
                digest.update(block)
        return digest.hexdigest()


def kind_of(config: Any, extractor: Any, transformers: Any) -> tuple[type[TransformersEncoder], Any]:
    """The subclass for a model, and the class of the model; raises a UserError for a model of another kind."""
    from cochlea_sb.inference.ast_encoder import ASTEncoder
    from cochlea_sb.inference.clap_encoder import ClapEncoder
    from cochlea_sb.inference.waveform_encoder import WaveformEncoder

    if config.model_type == "clap":
        return ClapEncoder, transformers.ClapModel
    if config.model_type == "audio-spectrogram-transformer":
        return ASTEncoder, transformers.ASTModel
    model_class = transformers.MODEL_MAPPING.get(type(config), None)
    reads_waveforms = isinstance(extractor, transformers.Wav2Vec2FeatureExtractor)
    if reads_waveforms and hasattr(model_class, "_get_feat_extract_output_lengths"):
        return WaveformEncoder, model_class
    raise UserError(
        f"a model of the kind '{config.model_type}': expected CLAP, AST, or a model of waveforms such as wav2vec2, "
        "HuBERT or WavLM; for others, write an Encoder in Python"
    )


@contextmanager
def building(path: str) -> Iterator[None]:
    """Turn every error in the block into a `UserError`: files of an untrusted author can cause any error."""
    try:
        yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise UserError(
                f"'{path}' needs code of its author, which is never run for a model of transformers: load the model in "
                "Python, and give it as an Encoder."
            ) from error
        raise UserError(f"'{path}' can't be loaded by transformers: {one_line(error)[:300].rstrip('.')}.") from error


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without the warnings and progress bars of transformers in the block."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
