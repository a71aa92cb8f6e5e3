"""Untrained models of other projects, small enough for a test, in the form in which their own code saves them."""

import numpy as np
import torch

from cochlea_sb import Encoder

TINY = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 16}
ECAPA = {"channels": [8, 8, 8, 8, 16], "kernel_sizes": [3, 3, 3, 3, 1], "dilations": [1, 2, 3, 4, 1]}
ECAPA |= {"attention_channels": 8, "lin_neurons": 12, "res2net_scale": 2, "se_channels": 8}
WORDS = "<s> <pad> </s> <unk> rain on a tin roof dog barks".split()


class LongWords(Encoder):
    """An encoder of sounds and texts."""

    sample_rate, window_seconds, embedding_size = 8000, 0.5, 2

    def embed(self, windows, lengths):
        return torch.from_numpy(loudness(windows))

    def embed_text(self, texts):
        return torch.tensor([[len(text.split()), 3.0] for text in texts])

    def fingerprint(self):
        return "long words"


def write_clap(folder, fusion=True):
    import tokenizers
    import transformers

    torch.manual_seed(0)
    audio = {"spec_size": 64, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4}
    audio |= {"patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2]}
    text = TINY | {"vocab_size": len(WORDS), "max_position_embeddings": 32}
    parts = {"audio_config": audio | {"enable_fusion": fusion, "projection_dim": 12}}
    parts["text_config"] = text | {"projection_dim": 12}
    save(transformers.ClapModel(transformers.ClapConfig(**parts, projection_dim=12)), folder)
    settings = {"feature_size": 16, "max_length_s": 2, "truncation": "fusion" if fusion else "rand_trunc"}
    extractor = transformers.ClapFeatureExtractor(**settings)
    tokens = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **special)
    transformers.ClapProcessor(extractor, tokenizer).save_pretrained(folder)


def write_wav2vec2(folder, masked=True):
    """A model for speech recognition; with ``masked``, of the newer kind, which takes an attention mask."""
    import transformers

    torch.manual_seed(0)
    settings = TINY | {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    settings |= {"feat_extract_norm": "layer" if masked else "group", "do_stable_layer_norm": masked, "vocab_size": 10}
    save(transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**settings)), folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked).save_pretrained(folder)


def write_ast(folder):
    import transformers

    torch.manual_seed(0)
    settings = {"max_length": 100, "num_mel_bins": 32}
    save(transformers.ASTForAudioClassification(transformers.ASTConfig(**TINY, **settings)), folder)
    transformers.ASTFeatureExtractor(**settings).save_pretrained(folder)


def save(model, folder):
    """Save a model without the progress bar of transformers."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)


def write_ecapa(folder, more=""):
    """A speaker model of SpeechBrain; ``more`` is added to its yaml."""
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(ECAPA_TDNN(16, **ECAPA).state_dict(), folder / "embedding_model.ckpt")
    settings = "\n".join(f"  {name}: {value}" for name, value in ECAPA.items())
    (folder / "hyperparams.yaml").write_text(f"""
compute_features: !new:speechbrain.lobes.features.Fbank
  n_mels: 16
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
  std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
  input_size: 16
{settings}
classifier: !new:torch.nn.Identity
modules:
  compute_features: !ref <compute_features>
  mean_var_norm: !ref <mean_var_norm>
  embedding_model: !ref <embedding_model>
  classifier: !ref <classifier>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    embedding_model: !ref <embedding_model>
{more}""")


def files_of(folder):
    """The contents of a folder, for `Hub.put`."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def loudness(windows):
    """A function that embeds windows."""
    return np.stack([windows.abs().amax(1).numpy(), windows.square().mean(1).numpy()], 1)
