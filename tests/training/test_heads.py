"""The classifiers to fine-tune: they learn what they should and leave alone what they should."""

import pytest
import torch
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from medclip_helpers import ImageSuperviseLoss, PromptTuningClassifier, SuperviseClassifier
from medclip_helpers.prompts import process_class_prompts
from medclip_helpers.training import classification_loss

PROMPTS = {
    "Edema": ["mild pulmonary edema", "moderate interstitial pulmonary edema"],
    "Cardiomegaly": ["cardiac silhouette enlarged"],
}
LABELS = {
    "multiclass": torch.tensor([0, 1, 0, 1]),
    "multilabel": torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]]),
    "binary": torch.tensor([1, 0, 1, 0]),
}


@pytest.fixture
def prompt_inputs(standin_processor):
    return process_class_prompts(PROMPTS, standin_processor)


@pytest.fixture
def pixel_values():
    """Four images, bright and dark in turn: separable."""
    noise = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    return 0.1 * noise + torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None, None, None]


def learn(classifier, steps: int = 60, **inputs) -> torch.Tensor:
    parameters = [p for p in classifier.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(steps):
        outputs = classifier(**inputs)
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
    return classifier(**inputs)["logits"].detach()


@pytest.mark.parametrize("mode", LABELS)
def test_linear_probe_learns_and_the_encoder_stays(mode, small_model, pixel_values):
    encoder = small_model.vision_model.requires_grad_(False)
    before = {n: p.clone() for n, p in encoder.named_parameters()}
    torch.manual_seed(0)
    classifier = SuperviseClassifier(encoder, num_class=2, mode=mode)
    logits = learn(classifier, pixel_values=pixel_values, labels=LABELS[mode])
    assert logits.shape == (4, 1 if mode == "binary" else 2)
    if mode == "multiclass":
        assert logits.argmax(1).equal(LABELS[mode])
    else:
        assert (logits > 0).reshape(LABELS[mode].shape).equal(LABELS[mode].bool())
    assert all(p.equal(before[n]) for n, p in encoder.named_parameters())


def test_a_frozen_encoder_stays_in_eval_mode_whatever_its_unused_projection_does(small_model):
    encoder = small_model.vision_model
    classifier = SuperviseClassifier(encoder, num_class=2)
    assert classifier.train().model.training
    encoder.backbone.requires_grad_(False)
    assert classifier.train().training and not classifier.model.training


@pytest.mark.parametrize("specific", [True, False])
@pytest.mark.parametrize("joint", [True, False])
def test_prompt_tuning_trains_the_context_and_nothing_else(
    specific, joint, small_model, prompt_inputs, pixel_values
):
    classifier = PromptTuningClassifier(
        small_model, 3, specific, num_class=2, joint_train_emb=joint
    )
    assert classifier.context.shape == (2 if specific else 1, 3, 32)
    trained = {n for n, p in classifier.named_parameters() if p.requires_grad}
    words = "model.text_model.model.embeddings.word_embeddings.weight"
    assert trained == {"context"} | ({words} if joint else set())
    inputs = {"pixel_values": pixel_values, "prompt_inputs": prompt_inputs}
    first = classifier(**inputs, labels=LABELS["multiclass"])["loss"].item()
    learn(classifier, **inputs, labels=LABELS["multiclass"])
    assert classifier(**inputs, labels=LABELS["multiclass"])["loss"].item() < first - 0.01


def test_prompt_tuning_modes_and_names(small_model, prompt_inputs, pixel_values):
    one = {"Edema": prompt_inputs["Edema"]}
    classifier = PromptTuningClassifier(small_model, 2, True, num_class=1, mode="binary")
    outputs = classifier(pixel_values, one, labels=LABELS["binary"])
    assert outputs["class_names"] == ["Edema"] and outputs["logits"].shape == (4, 1)
    assert outputs["loss_value"] is outputs["loss"]
    best = PromptTuningClassifier(small_model, 2, True, 2, "multilabel", ensemble=False)
    assert best(pixel_values, prompt_inputs, labels=LABELS["multilabel"])["loss"].isfinite()
    assert "loss" not in best(pixel_values, prompt_inputs)


def test_the_published_loss_module_and_the_trainer_take_them(small_model, pixel_values, tmp_path):
    classifier = SuperviseClassifier(small_model.vision_model, num_class=2)
    loss = ImageSuperviseLoss(classifier)(pixel_values, LABELS["multiclass"])["loss_value"]
    expected = classifier(pixel_values, LABELS["multiclass"])["loss"]
    torch.testing.assert_close(loss, expected)
    samples = [
        {"pixel_values": x, "labels": y}
        for x, y in zip(pixel_values, LABELS["multiclass"], strict=True)
    ]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=2, report_to=[], use_cpu=True, disable_tqdm=True, save_steps=100
    )
    before = classifier.fc.weight.clone()
    Trainer(classifier, arguments, train_dataset=samples).train()
    assert not classifier.fc.weight.equal(before)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda m: SuperviseClassifier(m.vision_model, mode="regression"), "mode is 'regression'"),
        (lambda m: SuperviseClassifier(m.vision_model, num_class=1), "num_class is 1, too few"),
        (lambda m: SuperviseClassifier(m.vision_model, input_dim=7), "input_dim is 7"),
        (lambda m: PromptTuningClassifier(m, 0, True, 2), "n_context is 0"),
        (lambda m: PromptTuningClassifier(m, 2, True, 2, "binary"), "expected 1 for mode"),
    ],
)
def test_bad_arguments(make, expected, small_model):
    with pytest.raises(ValueError, match=expected):
        make(small_model)


def test_bad_labels_and_prompts(small_model, prompt_inputs, pixel_values):
    with pytest.raises(ValueError, match=r"labels have shape \(4, 2\), expected \(4,\)"):
        classification_loss(torch.zeros(4, 2), torch.zeros(4, 2), "multiclass")
    with pytest.raises(ValueError, match=r"expected \(4, 2\) of 0 and 1"):
        classification_loss(torch.zeros(4, 2), torch.zeros(4), "multilabel")
    room = small_model.text_model.config.max_position_embeddings
    crowded = PromptTuningClassifier(small_model, room - 2, True, 2)
    with pytest.raises(ValueError, match=f"'Edema' have .* at most 2 with {room - 2} learned"):
        crowded(pixel_values, prompt_inputs)
    with pytest.raises(ValueError, match="2 classes of prompts, expected 3"):
        PromptTuningClassifier(small_model, 2, True, 3)(pixel_values, prompt_inputs)


@pytest.mark.parametrize("unknown", [float("nan"), -1.0])
def test_labels_that_are_not_known_do_not_count(unknown):
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    labels = torch.tensor([[1.0, unknown], [unknown, 0.0]])
    loss = classification_loss(logits, labels, "multilabel")
    known = torch.stack([logits[0, 0], logits[1, 1]])
    expected = F.binary_cross_entropy_with_logits(known, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, expected)
    nothing = classification_loss(logits, torch.full((2, 2), unknown), "multilabel")
    nothing.backward()
    assert nothing.item() == 0 and logits.grad.abs().sum() == 0


@pytest.mark.parametrize(
    ("mode", "labels", "logits", "expected"),
    [
        ("binary", [0.0, 2.0], (2, 1), "labels hold 2.0, expected 1, 0, or -1 or NaN"),
        ("multilabel", [[0.5, 1.0]], (1, 2), "labels hold 0.5, expected 1, 0"),
        ("multilabel", [[float("inf"), 1.0]], (1, 2), "labels hold inf"),
        ("multiclass", [0, 3], (2, 3), "labels hold 3, expected class numbers from 0 to 2"),
        ("multiclass", [0, -1], (2, 3), "labels hold -1, expected class numbers"),
        ("multiclass", [0.0, 1.5], (2, 3), "labels hold 1.5, expected class numbers"),
    ],
)
def test_labels_that_mean_nothing_are_refused(mode, labels, logits, expected):
    with pytest.raises(ValueError, match=expected):
        classification_loss(torch.zeros(logits), torch.tensor(labels), mode)


def test_prompt_tuning_leaves_the_callers_model_as_it_is(small_model):
    PromptTuningClassifier(small_model, 2, False, 2)
    assert all(parameter.requires_grad for parameter in small_model.parameters())


def test_supervise_loss_returns_the_classifiers_own():
    class Classifier(torch.nn.Module):
        def forward(self, pixel_values, labels, return_loss, weight=1):
            assert return_loss
            return {
                "loss_value": weight * torch.nn.functional.mse_loss(pixel_values, labels),
                "logits": pixel_values,
            }

    loss_of = ImageSuperviseLoss(Classifier())
    assert loss_of(torch.zeros(2, 3), torch.ones(2, 3))["loss_value"].item() == 1
    assert loss_of(torch.zeros(2, 3), torch.ones(2, 3), weight=2)["loss_value"].item() == 2
