"""Kinds of bad input, and what each public function makes of them.

A kind is a way in which input is commonly wrong: absent, blank, not finite, of a type that almost
fits, a string for a list, a list of one, twice the same, another precision, another thread. Every
pair of a function and a kind here ends in a right result or in an error that names the thing; what
must not happen is a wrong answer, or an error from deep inside. `test_the_pairs_are_counted` tells
how many there are. A new public function is added to PAIRS with the kinds that apply to it.
"""

from __future__ import annotations

import copy
import threading
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medclip_helpers import (
    ImageTextContrastiveLoss,
    PromptClassifier,
    SimilarityExplorer,
    classify_images,
    find_radiographs,
    info_nce_loss,
    label_similarity,
    load_medclip,
    plots,
    read_radiograph,
    semantic_contrastive_loss,
    semantic_matching_loss,
    similarity_map,
    visualize_image_text_similarity,
)
from medclip_helpers.data import (
    LABELS,
    LabelledImages,
    UnpairedDataset,
    build_manifest,
    class_numbers,
    is_exclusive,
    label_sentences,
    read_manifest,
    read_sentences,
    split_report,
)
from medclip_helpers.demo import draw_phantom, sample_findings
from medclip_helpers.evaluation import (
    bootstrap,
    calibrate,
    confusion,
    evaluate_classification,
    pair_probabilities,
    pointing_hits,
    precision_at_k,
    recall_at_k,
    zero_shot_evaluator,
)
from medclip_helpers.hub import read_checkpoint, read_settings, write_text
from medclip_helpers.prompts import (
    generate_chexpert_class_prompts,
    generate_class_prompts,
    load_class_prompts,
    process_class_prompts,
)
from medclip_helpers.runs import record_result
from medclip_helpers.similarity import encode_images, encode_texts
from medclip_helpers.training import TrainingConfig, classification_loss

NAN, INF = float("nan"), float("inf")
PROMPTS = {"Edema": ["there is edema"], "Normal": ["the lungs are clear"]}


@pytest.fixture(scope="module")
def loaded():
    return load_medclip("demo", device="cpu")


@pytest.fixture
def w(loaded, tmp_path) -> SimpleNamespace:
    """A model, its processor, a drawing and a folder for a pair to use."""
    model, processor = loaded
    image = draw_phantom(0, {"Edema": 0.8}).image
    return SimpleNamespace(model=model, processor=processor, image=image, folder=tmp_path)


def csv(w, text: str):
    path = w.folder / "table.csv"
    path.write_text(text)
    return path


def studies(value=1.0, **columns) -> pd.DataFrame:
    table = pd.DataFrame(np.zeros((2, len(LABELS)), np.float32), columns=LABELS)
    table["Edema"] = [1.0, value]
    images = [Image.new("L", (8, 8), 9), Image.new("L", (8, 8), 99)]
    return table.assign(imgpath=images, subject_id=["a", "b"], report="x", **columns)


def spoken(value=1.0) -> pd.DataFrame:
    return studies(value).assign(Reports=["there is edema", "again edema"])


def in_threads(function, count: int = 8) -> list:
    """What `function(i)` gives in as many threads at once; an error in one is raised here."""
    results, errors = [None] * count, []

    def one(i: int) -> None:
        try:
            for _ in range(5):
                results[i] = function(i)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def with_nan(model):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.vision_model.projection_head.weight[0, 0] = NAN
    return broken


def same(first, second) -> bool:
    return bool(np.allclose(np.asarray(first), np.asarray(second), atol=1e-5))


UNIT = np.eye(3, 4, dtype=np.float32)
SCORES = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9]])
NAMES = ["a", "b"]


def classify(w, images=None, prompts=PROMPTS, model=None, **how):
    images = [w.image] if images is None else images
    return classify_images(model or w.model, w.processor, images, prompts, progress=False, **how)


def evaluate(labels=(0, 1, 0, 1), scores=SCORES, **how):
    return evaluate_classification(labels, scores, NAMES, resamples=20, **how)


# (function, kind, call, and what comes of it: a regular expression that the ValueError matches, or
# a function of the result that must be true)
PAIRS = [
    # --- reading
    ("read_radiograph", "absent", lambda w: read_radiograph(None), "expected a path"),
    ("read_radiograph", "blank", lambda w: read_radiograph(""), "no image file|is a folder"),
    ("read_radiograph", "not finite", lambda w: read_radiograph(np.full((9, 9), NAN)), "holds NaN"),
    ("read_radiograph", "infinite", lambda w: read_radiograph(np.full((9, 9), INF)), "infinite"),
    ("read_radiograph", "wrong type", lambda w: read_radiograph(7), "expected a path"),
    ("read_radiograph", "a list", lambda w: read_radiograph([w.image]), "expected a path"),
    ("read_radiograph", "text array", lambda w: read_radiograph(np.full((9, 9), "a")), "numbers"),
    ("read_radiograph", "precision",
     lambda w: read_radiograph((w.image / 255).astype(np.float16)),
     lambda r: np.abs(np.asarray(r, int) - draw_phantom(0, {"Edema": 0.8}).image).max() <= 1),
    ("find_radiographs", "absent", lambda w: find_radiographs(w.folder / "no"), "no image file"),
    ("find_radiographs", "blank", lambda w: find_radiographs(w.folder), "no radiographs in"),
    # --- processor
    ("processor", "absent", lambda w: w.processor(), "nothing to process"),
    ("processor", "blank", lambda w: w.processor(text=[]), "non-empty list"),
    ("processor", "wrong type", lambda w: w.processor(text=["a", 3]), "text must be a string"),
    ("processor", "a string",
     lambda w: w.processor(text="edema")["input_ids"].shape[0], lambda r: r == 1),
    ("processor", "twice",
     lambda w: w.processor(text=["edema", "edema"])["input_ids"],
     lambda r: r[0].equal(r[1])),
    ("processor", "thread",
     lambda w: [r["input_ids"].shape for r in in_threads(
         lambda i: w.processor(text=["edema " * (i + 1), "edema"]))],
     lambda r: r == [(2, i + 3) for i in range(8)]),
    # --- embeddings
    ("encode_texts", "blank", lambda w: encode_texts(w.model, w.processor, []), "non-empty list"),
    ("encode_texts", "absent", lambda w: encode_texts(w.model, w.processor, [None]), "must be a"),
    ("encode_texts", "a string",
     lambda w: (encode_texts(w.model, w.processor, "edema"),
                encode_texts(w.model, w.processor, ["edema"])), lambda r: same(*r)),
    ("encode_texts", "twice",
     lambda w: encode_texts(w.model, w.processor, ["edema", "no", "edema"]),
     lambda r: same(r[0], r[2]) and not same(r[0], r[1])),
    ("encode_texts", "too long",
     lambda w: encode_texts(w.model, w.processor, ["edema " * 99]), "word pieces"),
    ("encode_images", "blank", lambda w: encode_images(w.model, w.processor, []), "is empty"),
    ("encode_images", "absent", lambda w: encode_images(w.model, w.processor, [None]), "a path"),
    ("encode_images", "twice",
     lambda w: encode_images(w.model, w.processor, [w.image, w.image], progress=False),
     lambda r: same(r[0], r[1])),
    ("encode_images", "thread",
     lambda w: in_threads(
         lambda i: encode_images(w.model, w.processor, [w.image], progress=False)),
     lambda r: all(same(r[0], one) for one in r)),
    ("similarity_map", "wrong shape",
     lambda w: similarity_map(w.model, w.processor(images=w.image)["pixel_values"],
                              torch.ones(1, 3)), "text_embeds has shape"),
    # --- prompts
    ("load_class_prompts", "blank", lambda w: load_class_prompts(""), "unknown prompts|no prompt"),
    ("load_class_prompts", "wrong type",
     lambda w: load_class_prompts("chexpert", n=2.0), "whole number, 1 or more"),
    ("load_class_prompts", "twice",
     lambda w: load_class_prompts(settings(w, "a: [x]\na: [y]")), "twice in one mapping"),
    ("generate_chexpert_class_prompts", "a boolean",
     lambda w: generate_chexpert_class_prompts(n=True), "whole number, 1 or more"),
    ("generate_class_prompts", "absent",
     lambda w: generate_class_prompts(spoken().drop(columns="Edema")), "lacks the columns"),
    ("generate_class_prompts", "twice",
     lambda w: generate_class_prompts(spoken(), ["Edema", "Edema"]), "name a class twice"),
    ("process_class_prompts", "a string",
     lambda w: process_class_prompts({"a": "edema"}, w.processor), "needs a non-empty list"),
    ("process_class_prompts", "absent",
     lambda w: process_class_prompts({"a": [None]}, w.processor), "is not text"),
    ("process_class_prompts", "blank",
     lambda w: process_class_prompts({}, w.processor), "expected {class"),
    ("process_class_prompts", "a list of one",
     lambda w: process_class_prompts({"a": ["edema"]}, w.processor)["a"]["input_ids"].shape,
     lambda r: r == (1, 3)),
    # --- classification
    ("classify_images", "blank", lambda w: classify(w, []), "images is empty"),
    ("classify_images", "a string", lambda w: classify(w, "scans"), "is one path"),
    ("classify_images", "one picture", lambda w: classify(w, Image.new("L", (9, 9))), "is a Image"),
    ("classify_images", "a table", lambda w: classify(w, studies()), "is a DataFrame"),
    ("classify_images", "absent",
     lambda w: classify(w, [None, w.image])["status"].tolist(),
     lambda r: r[1] == "ok" and "expected a path" in r[0]),
    ("classify_images", "not finite",
     lambda w: classify(w, model=with_nan(w.model)),
     lambda r: r["predicted"].isna().all() and "finite" in r["status"][0]),
    ("classify_images", "blank picture",
     lambda w: classify(w, [np.full((32, 32), 7, np.uint8)])["note"][0], lambda r: r == "blank"),
    ("classify_images", "twice",
     lambda w: classify(w, [w.image, w.image])["Edema"], lambda r: same(r[0], r[1])),
    ("classify_images", "precision",
     lambda w: (classify(w)["Edema"][0],
                classify(w, model=copy.deepcopy(w.model).bfloat16())["Edema"][0]),
     lambda r: abs(r[0] - r[1]) < 0.3),
    ("classify_images", "thread",
     lambda w: in_threads(lambda i: classify(w)["Edema"][0], 4), lambda r: same(r[0], r)),
    ("PromptClassifier", "blank",
     lambda w: PromptClassifier(w.model)(torch.zeros(1, 1, 112, 112), {}), "is empty"),
    # --- losses
    ("info_nce_loss", "wrong shape", lambda w: info_nce_loss(torch.zeros(2, 3)), "expected"),
    ("label_similarity", "wrong shape",
     lambda w: label_similarity(torch.zeros(2, 3), torch.zeros(2, 4)), "expected"),
    ("label_similarity", "not finite",
     lambda w: label_similarity(torch.tensor([[NAN, 1.0]]), torch.tensor([[0.0, 1.0]])),
     lambda r: r.tolist() == [[1.0]]),
    ("semantic_matching_loss", "not finite",
     lambda w: semantic_matching_loss(torch.zeros(2, 2), torch.eye(2), NAN), "temperature is nan"),
    ("semantic_matching_loss", "zero",
     lambda w: semantic_matching_loss(torch.zeros(2, 2), torch.eye(2), 0), "temperature is 0"),
    ("semantic_matching_loss", "precision",
     lambda w: (semantic_matching_loss(torch.eye(3).half(), torch.eye(3).half()),
                semantic_matching_loss(torch.eye(3), torch.eye(3))), lambda r: same(*r)),
    ("semantic_contrastive_loss", "wrong shape",
     lambda w: semantic_contrastive_loss(torch.ones(2, 3), torch.ones(2, 3), torch.eye(3)), "has"),
    ("ImageTextContrastiveLoss", "one of two",
     lambda w: ImageTextContrastiveLoss(w.model)(
         w.processor(text=["edema"])["input_ids"], torch.zeros(1, 1, 112, 112),
         image_labels=torch.ones(1, 14)), "text_labels missing"),
    # --- data
    ("label_sentences", "a string",
     lambda w: label_sentences("there is edema", progress=False)["Reports"].tolist(),
     lambda r: r == ["there is edema"]),
    ("label_sentences", "blank", lambda w: len(label_sentences([], progress=False)),
     lambda r: r == 0),
    ("label_sentences", "twice",
     lambda w: len(label_sentences(["edema", "edema"], progress=False)), lambda r: r == 1),
    ("split_report", "absent", lambda w: split_report(None), lambda r: r == []),
    ("read_manifest", "absent",
     lambda w: read_manifest(csv(w, "imgpath,subject_id\na,b\n")), "no column 'report'"),
    ("read_manifest", "infinite",
     lambda w: read_manifest(csv(w, ",".join(["imgpath,subject_id,report", *LABELS]) + "\n"
                                 + "a,b,c," + ",".join(["inf"] * 14) + "\n"), check_images=False),
     "expected 1, 0, -1 or blank"),
    ("read_sentences", "blank",
     lambda w: read_sentences(csv(w, ",".join(["Reports", *LABELS]) + "\n ," + "," * 13 + "\n")),
     "column 'Reports': blank"),
    ("UnpairedDataset", "a string for a boolean",
     lambda w: UnpairedDataset(studies(), spoken(), match="false"), "match"),
    ("UnpairedDataset", "absent",
     lambda w: UnpairedDataset(studies().assign(**dict.fromkeys(LABELS, NAN)), spoken()),
     "no image with a label"),
    ("build_manifest", "wrong type",
     lambda w: build_manifest("demo", sizes={"train": -1}), "sizes"),
    ("build_manifest", "absent", lambda w: build_manifest("chexpert"), "needs root"),
    ("class_numbers", "two of one",
     lambda w: class_numbers(studies().assign(Fracture=1.0), ["Edema", "Fracture"]), "exactly one"),
    ("is_exclusive", "absent",
     lambda w: is_exclusive(studies(), ["Fracture"]), "has exactly one of"),
    ("LabelledImages", "one too few",
     lambda w: LabelledImages([w.image], np.zeros(2), w.processor), "1 images and 2 labels"),
    # --- drawings
    ("draw_phantom", "not finite", lambda w: draw_phantom(0, {"Edema": NAN}), "severity of Edema"),
    ("draw_phantom", "wrong type", lambda w: draw_phantom(0, {"Flu": 0.5}), "unknown finding"),
    ("sample_findings", "unknown", lambda w: sample_findings(0, "Flu"), "unknown finding"),
    # --- metrics
    ("evaluate_classification", "not finite",
     lambda w: evaluate(scores=np.where(SCORES == 0.9, NAN, SCORES)), "not all finite"),
    ("evaluate_classification", "absent",
     lambda w: evaluate(labels=[None, 1, 0, 1]), "labels"),
    ("evaluate_classification", "wrong type",
     lambda w: evaluate(labels=["a", "b", "a", "b"]), "labels"),
    ("evaluate_classification", "blank",
     lambda w: evaluate(labels=(0, 1, 1, 1), groups=["p", None, "", "q"]),
     lambda r: (r["low"] < r["high"]).any()),
    ("bootstrap", "absent groups",
     lambda w: bootstrap(lambda c: c[:, :1], 3, groups=[None, None, None], resamples=9).std() > 0,
     lambda r: r),
    ("bootstrap", "wrong type", lambda w: bootstrap(lambda c: c, 3, resamples=0), "resamples is 0"),
    ("confusion", "not finite",
     lambda w: confusion([0, 1, 0, 1], np.full((4, 2), NAN), NAMES), "not all finite"),
    ("recall_at_k", "not finite",
     lambda w: recall_at_k(np.full((3, 4), NAN), UNIT, list("abc"), list("abc")), "finite"),
    ("recall_at_k", "wrong shape",
     lambda w: recall_at_k(UNIT[:, :2], UNIT, list("abc"), list("abc")), "embeddings have shapes"),
    ("precision_at_k", "not finite",
     lambda w: precision_at_k(UNIT, UNIT * INF, list("abc"), list("abc"), ks=(1,)), "finite"),
    ("precision_at_k", "too many",
     lambda w: precision_at_k(UNIT, UNIT, list("abc"), list("abc"), ks=(9,)), "ks are"),
    ("pair_probabilities", "not finite",
     lambda w: pair_probabilities([NAN, 1.0], [0.0, 1.0]), "finite"),
    ("calibrate", "one kind", lambda w: calibrate([1, 1, 1], [0.1, 0.2, 0.3]), "all of one kind"),
    ("calibrate", "not finite", lambda w: calibrate([1, 0, 1], [0.1, NAN, 0.3]), "finite"),
    ("pointing_hits", "not finite",
     lambda w: pointing_hits(np.full((1, 2, 2), NAN), np.ones((1, 4, 4))), "finite"),
    ("zero_shot_evaluator", "unknown",
     lambda w: zero_shot_evaluator(w.processor, [w.image], ["Flu"], PROMPTS), "no prompts for"),
    # --- training
    ("TrainingConfig", "not finite", lambda w: TrainingConfig(epochs=INF), "epochs is inf"),
    ("TrainingConfig", "negative", lambda w: TrainingConfig(weight_decay=-1.0), "weight_decay is"),
    ("TrainingConfig", "too much", lambda w: TrainingConfig(warmup_ratio=5.0), "warmup_ratio is 5"),
    ("TrainingConfig", "a boolean", lambda w: TrainingConfig(batch_size=True), "is True"),
    ("TrainingConfig", "a string", lambda w: TrainingConfig(learning_rate="1e-3"), "1.0e-3"),
    ("TrainingConfig", "a list of one",
     lambda w: TrainingConfig(loss="info_nce", batch_size=1), "batch_size is 1"),
    ("classification_loss", "outside",
     lambda w: classification_loss(torch.zeros(2, 1), torch.tensor([0.0, 2.0]), "binary"), "hold"),
    ("classification_loss", "absent",
     lambda w: (classification_loss(torch.ones(1, 2), torch.tensor([[1.0, NAN]]), "multilabel"),
                classification_loss(torch.ones(1, 1), torch.tensor([[1.0]]), "multilabel")),
     lambda r: same(*r)),
    # --- figures and the page
    ("visualize_image_text_similarity", "a string",
     lambda w: visualize_image_text_similarity(w.model, w.processor, w.image, "there is edema"),
     lambda r: [t.get_text() for t in r.axes[1].get_yticklabels()] == ["there is edema"]),
    ("visualize_image_text_similarity", "blank",
     lambda w: visualize_image_text_similarity(w.model, w.processor, w.image, []), "empty"),
    ("plot_similarities", "a string",
     lambda w: plots.plot_similarities(w.image, "there is edema", [0.5]),
     lambda r: [t.get_text() for t in r.axes[1].get_yticklabels()] == ["there is edema"]),
    ("plot_gallery", "blank", lambda w: plots.plot_gallery([]), "images is empty"),
    ("SimilarityExplorer", "a string",
     lambda w: SimilarityExplorer(w.model, w.processor, [w.image], presets={"p": "there is edema"}),
     lambda r: r.texts.value == "there is edema"),
    ("SimilarityExplorer", "blank",
     lambda w: SimilarityExplorer(w.model, w.processor, []), "images is empty"),
    # --- files
    ("read_settings", "twice", lambda w: read_settings(settings(w, "a: 1\na: 2")), "twice in one"),
    ("read_settings", "not YAML", lambda w: read_settings(settings(w, "a: [")), "is not YAML"),
    ("read_checkpoint", "blank", lambda w: read_checkpoint(w.folder), "no checkpoint in"),
    ("record_result", "not finite",
     lambda w: record_result(w.folder, "found", value=NAN), lambda r: r == "found"),
    ("record_result", "wrong type",
     lambda w: record_result(w.folder, "found", value=[1]), "metric 'value' is a list"),
]  # fmt: skip


def settings(w, text: str):
    path = w.folder / "settings.yaml"
    write_text(path, text)
    return path


@pytest.mark.parametrize(
    ("call", "outcome"), [pair[2:] for pair in PAIRS], ids=[f"{f}: {k}" for f, k, *_ in PAIRS]
)
def test_each_kind_meets_a_right_answer_or_a_clear_error(call, outcome, w):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if isinstance(outcome, str):
            with pytest.raises((ValueError, FileNotFoundError), match=outcome):
                call(w)
        else:
            assert outcome(call(w))


def test_the_pairs_are_counted():
    """No pair twice, and the number that CONTRIBUTING and the notes may quote."""
    counted = Counter((function, kind) for function, kind, *_ in PAIRS)
    assert max(counted.values()) == 1
    assert len(counted) >= 100
    assert len({function for function, _ in counted}) >= 40
