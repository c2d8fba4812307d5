"""Classifiers to fine-tune: a linear layer on the image encoder, or learned words in the prompts.

Both take `labels` and return their loss, as `transformers.Trainer` and `ImageSuperviseLoss` expect.
Freeze what should not move with `requires_grad_(False)`: a frozen encoder under
`SuperviseClassifier` is a linear probe. What is frozen stays in eval mode: in train mode its
dropout would stay on, and batch normalisation would learn without a gradient. `fit` trains them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..classifier import PromptClassifier
from ..model import MedCLIPModel, MedCLIPVisionEncoder

MODES = ("multiclass", "multilabel", "binary")


def _check_mode(mode: str, num_class: int) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {MODES}")
    if num_class < (2 if mode == "multiclass" else 1):
        raise ValueError(f"num_class is {num_class}, too few for mode {mode!r}")


def classification_loss(logits: Tensor, labels: Tensor, mode: str) -> Tensor:
    """Cross-entropy for "multiclass", binary cross-entropy for "multilabel" and "binary".

    logits: (images, classes); for "binary" (images, 1). labels: (images,) class numbers for
    "multiclass"; (images, classes) of 0 and 1 otherwise, (images,) allowed for "binary". Of these,
    NaN and -1 mean unknown: such a label is ignored.
    Returns a scalar; ValueError where the shapes do not fit or a label is none of these.
    """
    labels = labels.to(logits.device)
    if mode == "binary":
        labels = labels.reshape(len(labels), -1)
    expected = logits.shape[:1] if mode == "multiclass" else logits.shape
    if labels.shape != expected:
        what = "class numbers" if mode == "multiclass" else "of 0 and 1"
        found = f"labels have shape {tuple(labels.shape)}"
        raise ValueError(f"{found}, expected {tuple(expected)} {what}")
    if mode == "multiclass":
        classes = logits.shape[1]
        wrong = (labels != labels.long()) | (labels < 0) | (labels >= classes)
        if wrong.any():
            other = labels[wrong][0].item()
            raise ValueError(f"labels hold {other}, expected class numbers from 0 to {classes - 1}")
        return F.cross_entropy(logits, labels.long())
    known, unknown = (labels == 0) | (labels == 1), labels.isnan() | (labels == -1)
    if not (known | unknown).all():
        other = labels[~(known | unknown)][0].item()
        raise ValueError(f"labels hold {other}, expected 1, 0, or -1 or NaN for what is not known")
    if not known.any():
        return logits.sum() * 0  # nothing to learn from; a mean over nothing would be NaN
    return F.binary_cross_entropy_with_logits(logits[known], labels[known].to(logits.dtype))


class SuperviseClassifier(nn.Module):
    """A linear layer on the features of an image encoder, before its projection.

    vision_model: a `MedCLIPVisionEncoder`. num_class: classes; mode "binary" always has one logit.
    input_dim: features of the encoder; by default what it has.
    mode: "multiclass" (one class per image), "multilabel" (each independent) or "binary".
    as_authors: a ResNet's layer reads the numbers after the projection, and its batch normalisation
        stays in train mode though nothing in the encoder is trained, as in the authors' probe.
    """

    def __init__(
        self,
        vision_model: MedCLIPVisionEncoder,
        num_class: int = 14,
        input_dim: int | None = None,
        mode: str = "multiclass",
        as_authors: bool = False,
    ):
        super().__init__()
        _check_mode(mode, num_class)
        self.as_authors = as_authors
        self.project = as_authors and "resnet" in vision_model.config["backbone"]
        head = vision_model.projection_head
        features = head.out_features if self.project else head.in_features
        if input_dim not in (None, features):
            raise ValueError(f"input_dim is {input_dim}, but the encoder has {features} features")
        self.model, self.mode = vision_model, mode
        self.fc = nn.Linear(features, 1 if mode == "binary" else num_class)

    def train(self, mode: bool = True):
        super().train(mode)
        learning = {name for name, p in self.model.named_parameters() if p.requires_grad}
        unused = all(name.startswith("projection_head.") for name in learning)
        if unused and not self.as_authors:
            self.model.eval()
        return self

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_loss: bool = True, **unused
    ) -> dict[str, Tensor]:
        """`embedding` (images, features), `logits` (images, classes) and, with labels, the loss.

        pixel_values: (images, 1 or 3, height, width). labels: as in `classification_loss`.
        The loss is under `loss` and under its published name `loss_value`.
        """
        embedding = self.model(pixel_values.to(self.fc.weight.device), project=self.project)
        outputs = {"embedding": embedding, "logits": self.fc(embedding)}
        return _with_loss(outputs, labels if return_loss else None, self.mode)


def _with_loss(outputs: dict, labels: Tensor | None, mode: str) -> dict:
    if labels is None:
        return outputs
    loss = classification_loss(outputs["logits"], labels, mode)
    return {"loss": loss, "loss_value": loss} | outputs


class PromptTuningClassifier(nn.Module):
    """A `PromptClassifier` whose prompts begin with learned words ("context").

    medclip_model: a `MedCLIPModel`. n_context: learned words, put after [CLS] in each prompt.
    class_specific_context: each class learns its own, otherwise all share them.
    num_class: classes that `prompt_inputs` will have.
    mode: as in `SuperviseClassifier`; "binary" takes one class and its prompts.
    ensemble: a class's score is the mean over its prompts, otherwise the maximum.
    joint_train_emb: the word embeddings learn with the context; otherwise only the context does.
    The model is copied, and its encoders stay as they are. Source of the idea: Zhou et al.,
    "Learning to Prompt for Vision-Language Models", IJCV 2022.
    """

    def __init__(
        self,
        medclip_model: MedCLIPModel,
        n_context: int,
        class_specific_context: bool,
        num_class: int,
        mode: str = "multiclass",
        ensemble: bool = True,
        joint_train_emb: bool = False,
    ):
        super().__init__()
        _check_mode(mode, num_class)
        if n_context < 1:
            raise ValueError(f"n_context is {n_context}, expected at least one learned word")
        if mode == "binary" and num_class != 1:
            raise ValueError(f"num_class is {num_class}, expected 1 for mode 'binary'")
        # A copy, because freezing the caller's own would stop whoever trains it next.
        self.model, self.ensemble = copy.deepcopy(medclip_model).requires_grad_(False), ensemble
        self.mode, self.num_class = mode, num_class
        words = self.model.text_model.model.get_input_embeddings()
        words.weight.requires_grad_(joint_train_emb)
        sets = num_class if class_specific_context else 1
        # as large as the words that they are put beside
        context = torch.randn(sets, n_context, words.embedding_dim) * words.weight.std().item()
        self.context = nn.Parameter(context)

    def train(self, mode: bool = True):
        super().train(mode)
        self.model.eval()
        return self

    def encode_prompts(
        self, prompt_inputs: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """{class: {"input_ids", "attention_mask"} (prompts, tokens)} -> {class: (prompts, dim)}.

        Raises ValueError where classes are too many or few, or prompts and learned words together
        are longer than the text encoder takes.
        """
        if len(prompt_inputs) != self.num_class:
            raise ValueError(f"{len(prompt_inputs)} classes of prompts, expected {self.num_class}")
        words = self.model.text_model.model.get_input_embeddings()
        learned_words = self.context.shape[1]
        longest = self.model.text_model.config.max_position_embeddings - learned_words
        embeds = {}
        for k, (name, inputs) in enumerate(prompt_inputs.items()):
            if (count := inputs["input_ids"].shape[1]) > longest:
                raise ValueError(
                    f"prompts of {name!r} have {count} tokens, expected at most {longest} with "
                    f"{learned_words} learned words"
                )
            context = self.context[k % len(self.context)]
            tokens = words(inputs["input_ids"].to(context.device))
            context = context.expand(len(tokens), -1, -1)
            mask = inputs["attention_mask"].to(context.device)
            learned = mask.new_ones(context.shape[:2])
            with self.model.autocast():
                encoded = self.model.text_model(
                    inputs_embeds=torch.cat([tokens[:, :1], context, tokens[:, 1:]], dim=1),
                    attention_mask=torch.cat([mask[:, :1], learned, mask[:, 1:]], dim=1),
                )
            embeds[name] = F.normalize(encoded.float(), dim=-1)
        return embeds

    def forward(
        self,
        pixel_values: Tensor,
        prompt_inputs: Mapping[str, Mapping[str, Tensor]],
        labels: Tensor | None = None,
        return_loss: bool = True,
        **unused,
    ) -> dict:
        """What `PromptClassifier` returns and, with labels, the loss.

        pixel_values: (images, 1 or 3, height, width). prompt_inputs: as for `PromptClassifier`.
        labels: as in `classification_loss`, classes in the order of `prompt_inputs`.
        """
        embeds, images = self.encode_prompts(prompt_inputs), self.model.encode_image(pixel_values)
        outputs = PromptClassifier(self.model, ensemble=self.ensemble).score(images, embeds)
        return _with_loss(outputs, labels if return_loss else None, self.mode)


class ImageSuperviseLoss(nn.Module):
    """The published module for supervised fine-tuning: the loss that a classifier itself computes.

    model: a `SuperviseClassifier` or `PromptTuningClassifier`.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor, labels: Tensor, **inputs) -> dict[str, Tensor]:
        """{"loss_value": scalar}. pixel_values: (images, channels, height, width)."""
        outputs = self.model(pixel_values=pixel_values, labels=labels, return_loss=True, **inputs)
        return {"loss_value": outputs["loss_value"]}
