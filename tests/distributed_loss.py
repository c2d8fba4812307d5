"""Run by torchrun from test_losses.py: one loss and its gradients on a share of sixteen pairs.

Usage: torchrun --nproc-per-node=N distributed_loss.py OUTPUT; rank 0 writes OUTPUT (torch.save).
"""

import sys

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import BertConfig

from medclip_helpers.losses import ImageTextContrastiveLoss
from medclip_helpers.model import MedCLIPModel, MedCLIPTextModel, MedCLIPVisionEncoder

PAIRS = 16


def build_batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(0, 60, (PAIRS, 7), generator=generator),
        "attention_mask": torch.ones(PAIRS, 7, dtype=torch.long),
        "pixel_values": torch.randn(PAIRS, 1, 32, 32, generator=generator),
        "img_labels": torch.randint(-1, 2, (PAIRS, 14), generator=generator).float(),
        "text_labels": torch.randint(-1, 2, (PAIRS, 14), generator=generator).float(),
    }


def build_model() -> MedCLIPModel:
    """Tiny, the same in every process, and without dropout or batch statistics."""
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = BertConfig(vocab_size=60, hidden_size=32, **shape)
    vision = MedCLIPVisionEncoder("test_vit", projection_dim=16, img_size=32)
    return MedCLIPModel(vision, MedCLIPTextModel(text, projection_dim=16)).eval()


def loss_and_gradients(labels: bool, rank: int, world: int) -> dict:
    loss_of = ImageTextContrastiveLoss(build_model())
    batch = build_batch()
    if not labels:
        del batch["img_labels"], batch["text_labels"]
    share = slice(rank * PAIRS // world, (rank + 1) * PAIRS // world)
    module = DistributedDataParallel(loss_of, find_unused_parameters=True) if world > 1 else loss_of
    loss = module(**{name: tensor[share] for name, tensor in batch.items()})["loss_value"]
    loss.backward()
    gradients = {n: p.grad for n, p in loss_of.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), "gradients": gradients}


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()
    results = {labels: loss_and_gradients(labels, rank, world) for labels in (True, False)}
    if rank == 0:
        torch.save(results, sys.argv[1])
    distributed.destroy_process_group()
