"""Classifiers to fine-tune: a linear layer on the image encoder, or learned words in the prompts.

Both take `labels` and return their loss, as `transformers.Trainer` and `ImageSuperviseLoss` expect.
Freeze what should not move with `requires_grad_(False)`: a frozen encoder under
`SuperviseClassifier` is a linear probe. What is frozen stays in eval mode: in train mode its
dropout would go on, and batch normalisation would learn without a gradient. `tuning` trains them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..model import MedCLIPModel

MODES = ("multiclass", "multilabel", "binary")


def _check_mode(mode: str, num_class: int) -> None:
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {MODES}")
    if num_class < (2 if mode == "multiclass" else 1):
        raise ValueError(f"num_class is {num_class}, too few for mode {mode!r}")


def classification_loss(logits: Tensor, labels: Tensor, mode: str) -> Tensor:
    """Cross-entropy for "multiclass", binary cross-entropy for "multilabel" and "binary".

    logits: (images, classes); for "binary" (images, 1). labels: (images,) class numbers for
    "multiclass"; (images, classes) of 0 and 1 otherwise, (images,) allowed for "binary".
    Returns a scalar; ValueError where the shapes do not fit.
    """
    labels = labels.to(logits.device)
    if mode == "multiclass":
        if labels.shape != logits.shape[:1]:
            found = tuple(labels.shape)
            raise ValueError(f"labels have shape {found}, expected ({len(logits)},) class numbers")
        return F.cross_entropy(logits, labels.long())
    if mode == "binary":
        labels = labels.reshape(len(labels), -1)
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)}, expected {tuple(logits.shape)} of 0 and 1"
        )
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


class SuperviseClassifier(nn.Module):
    """A linear layer on the features of an image encoder, before its projection.

    vision_model: a `MedCLIPVisionEncoder`. num_class: classes; mode "binary" always has one logit.
    input_dim: features of the encoder; by default what it has.
    mode: "multiclass" (one class an image), "multilabel" (each for itself) or "binary".
    """

    def __init__(
        self,
        vision_model: nn.Module,
        num_class: int = 14,
        input_dim: int | None = None,
        mode: str = "multiclass",
    ):
        super().__init__()
        _check_mode(mode, num_class)
        features = vision_model.projection_head.in_features
        if input_dim not in (None, features):
            raise ValueError(f"input_dim is {input_dim}, but the encoder has {features} features")
        self.model, self.mode = vision_model, mode
        self.fc = nn.Linear(features, 1 if mode == "binary" else num_class)

    def train(self, mode: bool = True):
        super().train(mode)
        # the projection is not used
        used = [
            parameter for name, parameter in self.model.named_parameters()
            if not name.startswith("projection_head.")
        ]  # fmt: skip
        if not any(parameter.requires_grad for parameter in used):
            self.model.eval()
        return self

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_loss: bool = True, **unused
    ) -> dict[str, Tensor]:
        """`embedding` (images, features), `logits` (images, classes) and, with labels, the loss.

        pixel_values: (images, 1 or 3, height, width). labels: as in `classification_loss`.
        The loss stands under `loss` and under its published name `loss_value`.
        """
        embedding = self.model(pixel_values.to(self.fc.weight.device), project=False)
        outputs = {"embedding": embedding, "logits": self.fc(embedding)}
        return _with_loss(outputs, labels if return_loss else None, self.mode)


def _with_loss(outputs: dict, labels: Tensor | None, mode: str) -> dict:
    if labels is None:
        return outputs
    loss = classification_loss(outputs["logits"], labels, mode)
    return {"loss": loss, "loss_value": loss} | outputs


class PromptTuningClassifier(nn.Module):
    """A prompt classifier whose prompts begin with learned words ("context").

    medclip_model: a `MedCLIPModel`. n_context: learned words, put after [CLS] in each prompt.
    class_specific_context: each class learns its own, otherwise all share them.
    num_class: classes that `prompt_inputs` will have.
    mode: as in `SuperviseClassifier`; "binary" takes one class and its prompts.
    ensemble: a class scores the mean over its prompts, otherwise their maximum.
    joint_train_emb: the word embeddings learn with the context; otherwise only the context does.
    Encoders stay as they are. Source of the idea: Zhou et al., "Learning to Prompt for
    Vision-Language Models", IJCV 2022.
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
        self.model, self.mode, self.ensemble = medclip_model.requires_grad_(False), mode, ensemble
        self.num_class = num_class
        words = medclip_model.text_model.model.get_input_embeddings()
        words.weight.requires_grad_(joint_train_emb)
        sets = num_class if class_specific_context else 1
        # as large as the words that they stand beside
        context = torch.randn(sets, n_context, words.embedding_dim) * words.weight.std().item()
        self.context = nn.Parameter(context)

    def train(self, mode: bool = True):
        super().train(mode)
        self.model.eval()
        return self

    def encode_prompts(self, prompt_inputs: Mapping[str, Mapping[str, Tensor]]) -> list[Tensor]:
        """{class: {"input_ids", "attention_mask"} (prompts, tokens)} -> [(prompts, dim)].

        Raises ValueError where classes are too many or few, or prompts and learned words together
        are longer than the text encoder takes.
        """
        if len(prompt_inputs) != self.num_class:
            raise ValueError(f"{len(prompt_inputs)} classes of prompts, expected {self.num_class}")
        words = self.model.text_model.model.get_input_embeddings()
        learned_words = self.context.shape[1]
        longest = self.model.text_model.config.max_position_embeddings - learned_words
        embeds = []
        for k, (name, inputs) in enumerate(prompt_inputs.items()):
            if (count := inputs["input_ids"].shape[1]) > longest:
                raise ValueError(
                    f"prompts of {name!r} have {count} tokens, expected at most {longest} beside "
                    f"{learned_words} learned words"
                )
            context = self.context[k % len(self.context)]
            tokens = words(inputs["input_ids"].to(context.device))
            context = context.expand(len(tokens), -1, -1)
            mask = inputs["attention_mask"].to(context.device)
            learned = mask.new_ones(context.shape[:2])
            encoded = self.model.text_model(
                inputs_embeds=torch.cat([tokens[:, :1], context, tokens[:, 1:]], dim=1),
                attention_mask=torch.cat([mask[:, :1], learned, mask[:, 1:]], dim=1),
            )
            embeds.append(F.normalize(encoded, dim=-1))
        return embeds

    def forward(
        self,
        pixel_values: Tensor,
        prompt_inputs: Mapping[str, Mapping[str, Tensor]],
        labels: Tensor | None = None,
        return_loss: bool = True,
        **unused,
    ) -> dict:
        """`logits` (images, classes), `class_names` and, with labels, the loss.

        pixel_values: (images, 1 or 3, height, width). prompt_inputs: as for `PromptClassifier`.
        labels: as in `classification_loss`, classes in the order of `prompt_inputs`.
        """
        embeds = self.encode_prompts(prompt_inputs)
        images = self.model.encode_image(pixel_values)
        by_class = [self.model.compute_logits(images, texts) for texts in embeds]
        logits = torch.stack([x.mean(1) if self.ensemble else x.amax(1) for x in by_class], dim=1)
        outputs = {"logits": logits, "class_names": list(prompt_inputs)}
        return _with_loss(outputs, labels if return_loss else None, self.mode)
