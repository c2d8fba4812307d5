"""The authors' protocol, beside what the published package gave for the same; and ours."""

import hashlib
import json

import inputs
import numpy as np
import pandas as pd
import pytest
from pictures import pictures
from sklearn.metrics import classification_report
from standin import PARITY

from medclip_helpers import evaluation as ev
from medclip_helpers.data import DATASETS
from medclip_helpers.evaluation.protocols import answers
from medclip_helpers.processor import MedCLIPImageProcessor, MedCLIPProcessor
from medclip_helpers.prompts import load_class_prompts
from medclip_helpers.similarity import encode_images

RECORDED = json.loads((PARITY / "protocol.json").read_text())  # by tools/record_published.py
METRICS = ["accuracy", "precision", "recall", "f1"]


def manifest(images: list, dataset: str, numbers: list[int]) -> pd.DataFrame:
    """Rows of a manifest whose image i is of class numbers[i]; patients have two images."""
    classes = DATASETS[dataset].classes
    labels = np.eye(len(classes), dtype=np.float32)[numbers]
    table = pd.DataFrame(labels, columns=list(classes))
    return table.assign(imgpath=images, subject_id=[f"p{i // 2}" for i in range(len(images))])


@pytest.fixture
def processor(standin_processor) -> MedCLIPProcessor:
    return MedCLIPProcessor(MedCLIPImageProcessor(64), standin_processor.tokenizer)


# --- equal to the published package --------------------------------------------------------------


@pytest.mark.parametrize("name", ["chexpert", "covid", "rsna"])
def test_prompts_of_five_runs_are_drawn_as_by_the_authors(published_wheel, name):
    sentences = None if name == "chexpert" else inputs.sentence_table()
    drawn = ev.draw_prompts(f"authors:{name}", sentences)
    assert [len(prompts) for run in drawn for prompts in run.values()][:2] == [10, 10]
    text = json.dumps([list(run.values()) for run in drawn])
    assert hashlib.sha256(text.encode()).hexdigest() == RECORDED["draws"][name]


@pytest.mark.parametrize("dataset", ["chexpert-5x200", "rsna"])
def test_whole_runs_equal_the_published_evaluation(
    published_wheel, standin_model, standin_processor, dataset
):
    model, classes = standin_model("vit"), DATASETS[dataset].classes
    truth = inputs.truth(len(classes))
    table = manifest(inputs.pictures(), dataset, truth)
    sentences = inputs.sentence_table() if dataset == "rsna" else None
    found = ev.evaluate_zero_shot(
        model, standin_processor, table, dataset, protocol="authors", sentences=sentences,
        resamples=10, progress=False,
    )  # fmt: skip
    drawn = ev.draw_prompts(f"authors:{DATASETS[dataset].prompts}", sentences)
    bilinear = MedCLIPProcessor(
        MedCLIPImageProcessor(resample="bilinear"), standin_processor.tokenizer
    )
    embeds = encode_images(model, bilinear, table["imgpath"], progress=False)
    scores = [ev.prompt_scores(model, bilinear, embeds, prompts) for prompts in drawn]
    for rule, runs in RECORDED["zero-shot"][dataset].items():
        ours = [ev.class_scores(run, rule)[0] for run in scores]
        np.testing.assert_allclose(ours, [run["scores"] for run in runs], atol=3e-5)
        metrics = np.array([run["metrics"] for run in runs])
        mine = found[found["prompts"] == rule].set_index("metric").loc[METRICS]
        np.testing.assert_allclose(mine["value"], metrics.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(mine["sd"], metrics.std(axis=0), atol=1e-9)


# --- by itself -----------------------------------------------------------------------------------


def test_binary_answers_saturate_as_a_float32_sigmoid_does():
    scores = np.array([[1, 2], [2, 1], [16, 17], [18, 40], [-1, -2]], np.float32)
    assert answers(scores, "binary").argmax(1).tolist() == [1, 0, 1, 0, 0]  # 18 and 40 are both 1
    assert answers(scores, "multiclass").argmax(1).tolist() == [1, 0, 1, 1, 0]


def test_runs_are_means_of_scikit_learn_s_report(small_model, processor):
    truth = [i % 5 for i in range(30)]
    table = manifest(pictures(30), "chexpert-5x200", truth)
    found = ev.evaluate_zero_shot(
        small_model, processor, table, "chexpert-5x200", protocol="authors", source="chexpert",
        runs=3, resamples=50, progress=False,
    )  # fmt: skip
    small = MedCLIPProcessor(MedCLIPImageProcessor(64, resample="bilinear"), processor.tokenizer)
    embeds = encode_images(small_model, small, table["imgpath"], progress=False)
    reports = []
    for prompts in ev.draw_prompts("chexpert", runs=3):
        scores = ev.class_scores(ev.prompt_scores(small_model, small, embeds, prompts), "maximum")
        report = classification_report(
            truth, scores[0].argmax(1), output_dict=True, zero_division=0
        )
        macro = report["macro avg"]
        reports.append([report["accuracy"], macro["precision"], macro["recall"], macro["f1-score"]])
    mine = found[found["prompts"] == "maximum"]
    assert mine["metric"].tolist() == METRICS and set(mine["class"]) == {ev.AVERAGE}
    np.testing.assert_allclose(mine["value"], np.mean(reports, axis=0))
    np.testing.assert_allclose(mine["sd"], np.std(reports, axis=0))
    assert (mine["low"] <= mine["value"]).all() and (mine["value"] <= mine["high"]).all()
    assert set(found["patients"]) == {"all"} and set(mine["images"]) == {30}


def test_ours_asks_all_prompts_and_tells_patients_never_seen(small_model, processor):
    truth = [i % 2 for i in range(30)]
    table = manifest(pictures(30), "rsna", truth)
    known = pd.array([i < 10 for i in range(30)], dtype="boolean")
    table = table.assign(pretrained=False, patient_pretrained=known)
    found = ev.evaluate_zero_shot(
        small_model, processor, table, "rsna", resamples=50, progress=False
    )
    prompts = {name: load_class_prompts("rsna")[name] for name in DATASETS["rsna"].classes}
    for who, rows in (("all", slice(0, 30)), ("never seen", slice(10, 30))):
        embeds = encode_images(small_model, processor, table["imgpath"][rows], progress=False)
        scores = ev.class_scores(ev.prompt_scores(small_model, processor, embeds, prompts))[0]
        expected = ev.evaluate_classification(
            truth[rows], scores, list(prompts), "binary", groups=table["subject_id"][rows],
            resamples=50,
        )  # fmt: skip
        mine = found[found["patients"] == who].reset_index(drop=True)
        pd.testing.assert_frame_equal(mine[expected.columns], expected)


def test_what_cannot_be_evaluated_is_said(small_model, processor, published_wheel):
    table = manifest(pictures(4), "rsna", [0, 1, 0, 1])

    def evaluate(**options):
        return ev.evaluate_zero_shot(small_model, processor, table, "rsna", **options)

    with pytest.raises(ValueError, match="protocol is 'paper', expected one of"):
        evaluate(protocol="paper")
    with pytest.raises(ValueError, match="drew those of normal images from a table of labelled"):
        evaluate(protocol="authors")
    with pytest.raises(ValueError, match=r"prompts for \['Atelectasis', .* expected \['Normal'"):
        evaluate(source="chexpert")
    with pytest.raises(ValueError, match="dataset is 'brain', expected one of"):
        ev.evaluate_zero_shot(small_model, processor, table, "brain")
    with pytest.raises(ValueError, match="runs is 0, expected at least 1"):
        evaluate(protocol="authors", source="rsna", runs=0)
    other = inputs.sentence_table().assign(Fracture=1)
    with pytest.raises(ValueError, match="none of 902 sentences is labelled No Finding and no oth"):
        ev.draw_prompts("authors:rsna", other)
