#!/usr/bin/env python3
"""Record in tests/parity/protocol.json what the published package says of inputs.py next to it.

Run by the environment that tools/benchmark.py makes for the published package (medclip 0.0.3,
transformers 4.24), in some three minutes:

    build/benchmarks/published/bin/python tools/record_published.py [OPENI_REPORTS.json]

Its phrases and sentences are kept as hashes: they are their authors' work. The file named is a
list of reports, whose sentences are hashed as well.
"""

import contextlib
import hashlib
import json
import os
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

ROOT = Path(__file__).resolve().parent.parent
PARITY = ROOT / "tests" / "parity"
sys.path[:0] = [str(PARITY), str(ROOT / "tools" / "benchmarks")]
import inputs  # noqa: E402
import published  # noqa: E402
import weights  # noqa: E402


def sha256(found) -> str:
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def model():
    from medclip import MedCLIPModel, MedCLIPVisionModelViT

    made = MedCLIPModel(vision_cls=MedCLIPVisionModelViT).eval()
    spec = json.loads((PARITY / "spec-vit.json").read_text())
    published.fill(made.load_state_dict, weights.state_dict_from_spec(spec))
    return made


def draws(name: str, sentences: pd.DataFrame) -> list[dict]:
    """The prompts of five runs, as the authors' script draws them."""
    from medclip import prompts

    generate = getattr(prompts, f"generate_{name}_class_prompts")
    random.seed(42)
    np.random.seed(42)
    found = []
    for _ in range(5):
        drawn = {}
        if name != "chexpert":
            drawn = prompts.generate_class_prompts(sentences, ["No Finding"], n=10)
        found.append({**drawn, **generate(n=10)})
    return found


def zero_shot(name: str, classes: list[str], sentences: pd.DataFrame) -> dict:
    """Five runs over the pictures, maximum and mean: scores and metrics of the evaluator."""
    from medclip import PromptClassifier
    from medclip.dataset import ZeroShotImageCollator, ZeroShotImageDataset
    from medclip.evaluator import Evaluator

    Path("local_data").mkdir(exist_ok=True)
    paths = [f"{i}.png" for i in range(inputs.IMAGES)]
    for path, picture in zip(paths, inputs.pictures(), strict=True):
        picture.save(path)
    table = pd.DataFrame(
        np.eye(len(classes), dtype=int)[inputs.truth(len(classes))], columns=classes
    )
    table.insert(0, "imgpath", paths)
    table.to_csv(f"local_data/{name}-meta.csv")
    mode = "multiclass" if len(classes) > 2 else "binary"
    clip, found = model(), {"maximum": [], "ensemble": []}
    for prompts in draws(name, sentences):
        for rule, runs in found.items():
            loader = torch.utils.data.DataLoader(
                ZeroShotImageDataset([name], class_names=classes),
                batch_size=128,
                collate_fn=ZeroShotImageCollator(mode=mode, cls_prompts=prompts),
            )
            classifier = PromptClassifier(clip, ensemble=rule == "ensemble")
            out = Evaluator(medclip_clf=classifier, eval_dataloader=loader, mode=mode).evaluate()
            metrics = [out[key] for key in ("acc", "precision", "recall", "f1-score")]
            runs.append({"scores": out["pred"].round(5).tolist(), "metrics": metrics})
    return found


class Fed:
    """Inside, the package's draws of training texts come from one stream of `inputs`."""

    def __enter__(self):
        stream = inputs.Stream()
        self.kept = random.randint, pd.DataFrame.sample
        random.randint = lambda low, high: low + stream.integers(high - low + 1)

        def sample(table, n=None):
            places = (
                [stream.integers(len(table))] if n is None else stream.permutation(len(table))[:n]
            )
            return table.iloc[places]

        pd.DataFrame.sample = sample

    def __exit__(self, *_):
        random.randint, pd.DataFrame.sample = self.kept


def pretraining() -> dict:
    """The sentence dictionary, and labels and texts of the training items."""
    from medclip.dataset import ImageTextContrastiveDataset

    Path("local_data").mkdir(exist_ok=True)
    inputs.pictures()[0].save("one.png")
    table = inputs.studies()
    table.insert(0, "imgpath", "one.png")
    table.to_csv("local_data/studies-meta.csv")
    inputs.sentence_table().to_csv("local_data/sentence-label.csv")
    with Fed():
        dataset = ImageTextContrastiveDataset(["studies"], imgtransform=lambda _: torch.zeros(1, 1))
        known = {text: list(map(float, labels)) for text, labels in dataset.sent_label_dict.items()}
        items = [dataset[i][1:] for i in range(inputs.ITEMS)]
    items = [[text, *(list(map(float, part)) for part in labels)] for text, *labels in items]
    return {"sentences": len(known), "dictionary": sha256(known), "items": sha256(items)}


def loss() -> dict:
    """The loss on three pictures and texts, and with the texts' augmented forms."""
    from medclip.losses import ImageTextContrastiveLoss

    known = torch.load(PARITY / "golden.pt")
    texts = {"input_ids": known["input_ids"], "attention_mask": known["attention_mask"]}
    count = len(texts["input_ids"])
    given = {
        **texts,
        "pixel_values": known["batch_pixel_values"].float()[:count],
        "img_labels": known["img_labels"][:count].float(),
        "text_labels": known["text_labels"].float(),
    }
    shuffled = {f"aug_{name}": part.flip(0) for name, part in texts.items()}
    with torch.no_grad():
        of = ImageTextContrastiveLoss(model())
        return {
            "plain": of(**given)["loss_value"].item(),
            "augmented": of(**given, **shuffled)["loss_value"].item(),
        }


def sentences_of(reports: list) -> dict:
    from medclip.dataset import ImageTextContrastiveDataset

    split = ImageTextContrastiveDataset._split_report_into_segment
    found = [split(None, report) for report in reports]
    return {"count": sum(map(len, found)), "sha256": sha256(found)}


def main() -> None:
    sentences = inputs.sentence_table()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
        reports = [Path(name).read_text(encoding="utf-8") for name in sys.argv[1:]]
        (Path(folder) / "weights-vit").mkdir()
        (Path(folder) / "weights-vit" / "vocab.txt").write_text((PARITY / "vocab.txt").read_text())
        published.patch(Path(folder))
        os.chdir(folder)
        found = {
            "draws": {
                name: sha256([list(prompts.values()) for prompts in draws(name, sentences)])
                for name in ("chexpert", "covid", "rsna")
            },
            "zero-shot": {
                "chexpert-5x200": zero_shot("chexpert", inputs.FIVE, sentences),
                "rsna": zero_shot("rsna", ["Normal", "Pneumonia"], sentences),
            },
            "sentences": sentences_of(inputs.studies()["report"].tolist()),
            "pretraining": pretraining(),
            "loss": loss(),
        }
        if reports:
            found["openi"] = sentences_of(json.loads(reports[0]))
    (PARITY / "protocol.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
