"""Linear probe, fine-tuning and prompt tuning: each learns, and leaves the model alone."""

import numpy as np
import pandas as pd
import pytest
import torch
from pictures import pictures
from torch.utils.data import default_collate

from medclip_helpers import training
from medclip_helpers.data import DATASETS, LABELS, LabelledImages
from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor
from medclip_helpers.training import TrainingConfig

CLASSES = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
LONG = {"max_steps": 150, "learning_rate": 0.05}  # what a layer on random features needs


@pytest.fixture
def processor(standin_processor) -> MedCLIPProcessor:
    return MedCLIPProcessor(MedCLIPImageProcessor(64), standin_processor.tokenizer)


@pytest.fixture
def table() -> pd.DataFrame:
    """A manifest of 50 train and 25 test pictures."""
    rows = pd.DataFrame({"imgpath": [*pictures(50), *pictures(25, seed=1)]})
    rows[LABELS] = np.float32(0)
    rows[CLASSES] = np.tile(np.eye(5, dtype=np.float32), (15, 1))
    return rows.assign(subject_id=range(75), report=None, split=["train"] * 50 + ["test"] * 25)


def config(**settings) -> TrainingConfig:
    defaults = {"max_steps": 20, "batch_size": 10, "learning_rate": 1e-2, "device": "cpu"}
    return TrainingConfig(**defaults | {"progress": False} | settings)


def accuracy(found: pd.DataFrame) -> float:
    return found.set_index(["metric", "class"]).loc[("accuracy", "average"), "value"]


@pytest.mark.parametrize("method", training.LEARNING_RATES)
def test_each_method_learns_and_leaves_the_model_alone(method, small_model, processor, table):
    before = {name: tensor.clone() for name, tensor in small_model.state_dict().items()}
    state = torch.random.get_rng_state()
    found = training.evaluate_method(
        method, small_model, processor, table, DATASETS["demo"], config(max_steps=60),
        resamples=20,
    )  # fmt: skip
    least = 0.28 if method == "prompt tuning" else 0.6  # of random encoders; chance is 0.2
    assert accuracy(found) >= least
    assert set(found["images"]) == {25}
    assert all(t.equal(before[name]) for name, t in small_model.state_dict().items())
    assert all(p.requires_grad for p in small_model.parameters())
    assert torch.random.get_rng_state().equal(state)


def test_training_is_seeded_and_starts_from_the_images_it_is_told(small_model, processor, table):
    def logits(seed, images=None):
        found = training.evaluate_method(
            "linear probe", small_model, processor, table, DATASETS["demo"],
            config(max_steps=3, seed=seed), train_images=images, resamples=2,
        )  # fmt: skip
        return found["value"].tolist()

    assert logits(0) == logits(0) != logits(1)
    assert logits(0, images=10) != logits(0)
    assert logits(0, images=10**6) == logits(0, images=50)


def test_a_frozen_encoder_does_not_learn_the_statistics_of_its_images(
    small_model, processor, table
):
    classifier = training.build_classifier("linear probe", small_model, CLASSES, "multiclass")
    images = LabelledImages(table["imgpath"][:50], np.arange(50) % 5, processor)
    before = {n: t.clone() for n, t in classifier.model.state_dict().items()}
    layer = classifier.fc.weight.clone()
    training.fit(classifier, images, config(), default_collate)
    assert not classifier.fc.weight.equal(layer)
    assert any("running_mean" in name for name in before)  # there is something to be kept
    assert all(t.equal(before[n]) for n, t in classifier.model.state_dict().items())
    assert not classifier.training
    classifier.train()
    assert classifier.training and not classifier.model.training


@pytest.mark.parametrize("method", ["linear probe", "prompt tuning"])
def test_binary(method, small_model, processor, table):
    """Two columns for prompts, one for a layer, whose threshold is a sigmoid's one half."""
    rows = table.assign(**{"Normal": table["Edema"] == 0, "Pneumonia": table["Edema"]})
    found = training.evaluate_method(
        method, small_model, processor, rows, DATASETS["rsna"], config(**LONG), resamples=20
    )
    assert set(found["class"]) == {"Normal", "Pneumonia", "average"}
    areas = found[(found["metric"] == "auroc") & (found["class"] == "Pneumonia")]["value"]
    assert areas.item() > 0.6


def test_multilabel_counts_only_known_labels(small_model, processor, table):
    rows = table.copy()
    rows.loc[50:59, "Edema"] = -1
    rows.loc[60:64, "Edema"] = np.nan
    found = training.evaluate_method(
        "linear probe", small_model, processor, rows, DATASETS["chexpert"],
        config(**LONG), resamples=20,
    ).set_index(["metric", "class"])  # fmt: skip
    assert found.loc[("auroc", "Edema"), "images"] == 10
    assert found.loc[("auroc", "Atelectasis"), "images"] == 25
    assert found.loc[("auroc", "average"), "value"] > 0.8


def test_errors_of_training(small_model, processor, table):
    known = DATASETS["demo"]
    with pytest.raises(ValueError, match="method is 'magic', expected one of"):
        training.evaluate_method("magic", small_model, processor, table, known)
    with pytest.raises(ValueError, match="no row of the manifest has split 'train'"):
        training.evaluate_method("linear probe", small_model, processor, table[50:], known)
    with pytest.raises(ValueError, match="2 images and 3 labels"):
        LabelledImages(pictures(2), np.zeros(3), processor)


# --- the authors' two methods, and the choice of a step -------------------------------------------


@pytest.mark.parametrize("method", ["linear probe", "prompt tuning"])
@pytest.mark.parametrize("dataset", ["demo", "rsna"])
def test_the_authors_methods_end_to_end(method, dataset, small_model, processor, table):
    if dataset == "rsna":
        table = table.assign(Normal=1 - table["Edema"], Pneumonia=table["Edema"])
    found = training.evaluate_method(
        method, small_model, processor, table, DATASETS[dataset], config(max_steps=12),
        protocol="authors", resamples=5,
    )  # fmt: skip
    assert 0 <= accuracy(found) <= 1 and set(found["images"]) == {25}


def test_the_authors_settings():
    made = training.method_config("linear probe", "authors", seed=3)
    assert (made.batch_size, made.epochs, made.learning_rate) == (64, 10, 5e-4)
    assert (made.weight_decay, made.seed) == (0, 3)
    with pytest.raises(ValueError, match="method is 'fine-tuning', expected the authors'"):
        training.method_config("fine-tuning", "authors")


def test_the_best_of_the_judged_steps_stays(small_model, processor, table):
    rows = table[:10]
    data = LabelledImages(rows["imgpath"].tolist(), np.arange(10) % 5, processor)
    classifier = training.build_classifier("linear probe", small_model, CLASSES, "multiclass")
    seen, scores = [], iter([0.1, 0.9, 0.5])

    def judge(classifier) -> float:
        seen.append(classifier.fc.weight.detach().clone())
        return next(scores)

    settings = config(max_steps=5)
    training.fit(classifier, data, settings, default_collate, judge=judge, every=2)
    assert len(seen) == 3  # after steps 2 and 4, and the last
    assert torch.equal(classifier.fc.weight, seen[1]) and not torch.equal(seen[1], seen[2])


def test_the_authors_probe_reads_a_resnet_s_projection_and_moves_its_statistics(small_model):
    theirs, ours = (
        training.build_classifier(
            "linear probe", small_model, CLASSES, "multiclass", as_authors=as_authors
        )
        for as_authors in (True, False)
    )
    head = small_model.vision_model.projection_head
    assert theirs.fc.in_features == head.out_features != ours.fc.in_features
    norms = [m for m in theirs.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = norms[0].running_mean.clone()
    for classifier in (theirs.train(), ours.train()):
        classifier(torch.rand(4, 1, 64, 64))
    assert not torch.equal(norms[0].running_mean, before)
    still = [m for m in ours.model.modules() if isinstance(m, torch.nn.BatchNorm2d)][0]
    assert torch.equal(still.running_mean, before)


def test_nothing_of_one_fit_stays_in_the_classifier(small_model, processor, table):
    """Accelerate's autocast would, and then hold for whatever comes after."""
    classifier = training.build_classifier("linear probe", small_model, CLASSES, "multiclass")
    rows = table[table["split"] == "train"].head(8)
    images = LabelledImages(rows["imgpath"].tolist(), np.zeros(8, np.float32), processor)
    batch = default_collate([images[0]])
    forward = type(classifier).forward
    for precision in ("bfloat16", "float32"):
        training.fit(classifier, images, config(max_steps=1, precision=precision), default_collate)
        with torch.no_grad():
            expected = forward(classifier, **batch, return_loss=False)["logits"]
            assert classifier(**batch, return_loss=False)["logits"].equal(expected)
    with pytest.raises(ValueError, match="chunk_size is 4, which is for pretraining only"):
        training.fit(classifier, images, config(chunk_size=4), default_collate)
    with pytest.raises(ValueError, match="the judge never gave a number"):
        training.fit(
            classifier, images, config(max_steps=1), default_collate, judge=lambda _: float("nan")
        )
