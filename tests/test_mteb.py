"""Our models by MTEB's own program: on a collection of one's own, on other tasks, with other kinds of input."""

import mteb
import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, DatasetDict
from mteb.abstasks import AbsTaskClassification
from torch.utils.data import DataLoader

from cochlea_sb import AudioEncoder
from cochlea_sb.data.corpus import column
from cochlea_sb.data.sounds import load_sounds
from cochlea_sb.errors import UserError
from cochlea_sb.evaluation.retrieval import query_by_example
from cochlea_sb.integrations.mteb import MtebModel, QueryByExample, load_model
from cochlea_sb.synthetic.library import write_library


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    write_library(folder, 4)
    return folder


@pytest.fixture(scope="module")
def model():
    return load_model(device="cpu")


def scores_of(model, task):
    result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    return result.task_results[0].scores["test"][0]


def test_mteb_measures_what_our_own_evaluation_does(collection, model):
    scores = scores_of(model, QueryByExample(collection))
    sounds = load_sounds(collection)
    paths = [sound["path"] for sound in sounds["audio"]]
    embeddings, _ = model.encoder.encode_files(paths, progress=False)
    own = query_by_example(embeddings, column(sounds, "label"), column(sounds, "source"))
    assert scores["map_at_1000"] == pytest.approx(own["mAP"], abs=1e-4)
    assert scores["precision_at_1"] == pytest.approx(own["P@1"], abs=1e-4)


def test_a_classification_of_mteb_runs_too(collection, model):
    class Kinds(AbsTaskClassification):
        metadata = QueryByExample(collection).metadata.model_copy(
            update={"name": "Kinds", "type": "AudioClassification", "category": "a2c", "main_score": "accuracy"}
        )
        input_column_name = "audio"
        samples_per_label = 2

        def load_data(self, num_proc=None, **kwargs):
            sounds = load_sounds(collection).select_columns(["audio", "label"]).cast_column("audio", Audio())
            even, odd = (list(range(first, len(sounds), 2)) for first in (0, 1))
            self.dataset = DatasetDict(train=sounds.select(even), test=sounds.select(odd))
            self.data_loaded = True

    assert scores_of(model, Kinds())["accuracy"] > 0.2  # of 25 kinds


class Decoder:
    """What torchcodec gives, where its libraries are there."""

    def __init__(self, samples, sample_rate):
        self.data, self.sample_rate = samples, sample_rate

    def get_all_samples(self):
        return self


def test_sounds_may_come_as_arrays_and_decoders(model):
    stereo = np.sin(np.arange(44100) / 20) * np.ones((2, 1))
    sounds = [{"array": stereo, "sampling_rate": 44100}, Decoder(torch.from_numpy(stereo), 44100)]
    sounds.append({"array": stereo[0], "sampling_rate": 44100})
    loader = DataLoader([{"audio": sound} for sound in sounds], batch_size=2, collate_fn=merged)
    task = QueryByExample("any").metadata
    vectors = model.encode(loader, task_metadata=task, hf_split="test", hf_subset="default", show_progress_bar=False)
    assert vectors.shape == (3, 128) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, vectors[:1].repeat(3, 0), atol=1e-5)


def merged(rows):
    return {"audio": [row["audio"] for row in rows]}


def test_text_and_collections_without_labels_are_refused_in_one_sentence(model, tmp_path, sound_folder):
    text = QueryByExample("any").metadata.model_copy(update={"modalities": ["text"], "category": "t2t", "name": "Text"})
    with pytest.raises(UserError, match="^Text asks for embeddings of text: expected audio.$"):
        model.encode(DataLoader(Dataset.from_list([{"text": "a"}])), task_metadata=text, hf_split="", hf_subset="")
    with pytest.raises(UserError, match="has no label with sounds of two sources"):
        QueryByExample(sound_folder).load_data()


def test_what_mteb_is_told_of_a_model(model, model_folder):
    told, other = model.mteb_model_meta, MtebModel(AudioEncoder.from_hparams(model_folder)).mteb_model_meta
    assert told.embed_dim == 128 and told.modalities == ["audio"] and told.name == "cochlea_sb/pretrained"
    assert other.name.startswith("cochlea_sb/") and other.revision != told.revision
