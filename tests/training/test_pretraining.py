"""Training goes on after any interruption as if there had been none, and stops with a reason."""

import dataclasses
import datetime
import errno
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from training_run import STEPS, VOCABULARY, WORDS, build, config, dataset, run, tables

from medclip_helpers import load_medclip
from medclip_helpers.__main__ import main
from medclip_helpers.constants import PUBLISHED_NOTE, TRAINED_NOTE, UNTRAINED_NOTE
from medclip_helpers.data import MedCLIPCollator, UnpairedDataset
from medclip_helpers.evaluation import zero_shot_evaluator
from medclip_helpers.training import (
    TrainingConfig,
    TrainingStopped,
    build_model,
    checkpointing,
    train,
    train_from_file,
)
from medclip_helpers.training.arguments import training_arguments
from medclip_helpers.training.config import read_recipe
from medclip_helpers.training.run_file import read_run_file
from medclip_helpers.training.sampler import EpochSampler
from medclip_helpers.training.trainer import MedCLIPTrainer

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def program(folder: Path, *options: str) -> int:
    script = str(Path(__file__).with_name("training_run.py"))
    command = [sys.executable, script, str(folder), *options]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def losses(folder: Path) -> dict[int, float]:
    """step -> loss, the last one written."""
    lines = (folder / "losses.txt").read_text().split("\n")[:-1]
    return {int(step): float.fromhex(loss) for step, loss in map(str.split, lines)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "final.pt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert program(folder) == 0
    return folder


@pytest.mark.parametrize(
    ("kill", "first_again"),
    [
        (["--kill", "3"], 3),
        (["--kill", "7", "--workers", "2"], 7),
        (["--kill-in-checkpoint", "6"], 5),
    ],
    ids=["between steps", "with workers", "while writing a checkpoint"],
)
def test_a_killed_run_goes_on_bit_for_bit(uninterrupted, tmp_path, kill, first_again):
    assert program(tmp_path, *kill) == -signal.SIGKILL
    before = len(losses(tmp_path))
    checkpoints = checkpointing.checkpoints(tmp_path / "run")
    assert list(checkpoints)[-1] == first_again - 1 < STEPS
    (tmp_path / "losses.txt").unlink()

    assert program(tmp_path, "--resume", *kill[2:]) == 0
    again = losses(tmp_path)
    assert list(again) == list(range(first_again, STEPS + 1))
    assert again == {step: losses(uninterrupted)[step] for step in again}
    expected, found = weights(uninterrupted), weights(tmp_path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert before >= first_again - 1
    histories = [
        json.loads((folder / f"run/checkpoint-{STEPS}/trainer_state.json").read_text())
        for folder in (uninterrupted, tmp_path)
    ]
    first, second = ([e.get("loss") for e in h["log_history"]][:STEPS] for h in histories)
    assert first == second
    assert not list((tmp_path / "run").glob(".partial*"))


def test_the_run_depends_on_its_seed(uninterrupted, tmp_path):
    model, processor = build()
    history = run(model, processor, config(tmp_path, seed=1)).history
    assert history["loss"].iloc[1] != losses(uninterrupted)[2]


def test_sampler_covers_each_epoch_in_an_order_of_its_own():
    indices = list(EpochSampler(10, 25, seed=3))
    assert len(EpochSampler(10, 25, seed=3)) == len(indices) == 25
    epochs = [indices[:10], indices[10:20]]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10)), list(range(10, 20))]
    assert epochs[0] != [i - 10 for i in epochs[1]]
    assert all(20 <= i < 30 for i in indices[20:])
    assert indices == list(EpochSampler(10, 25, seed=3)) != list(EpochSampler(10, 25, seed=4))


def accuracies(*values: float):
    """An evaluation that gives these accuracies, one a checkpoint."""
    given = iter(values)
    return lambda model: {"zero_shot_accuracy": next(given)}


def test_keeps_the_last_and_the_best_and_leaves_the_best(tmp_path):
    model, processor = build()
    evaluate = accuracies(0.2, 0.9, 0.4, 0.4, 0.5)
    result = run(model, processor, config(tmp_path, keep_last=1), evaluate=evaluate)
    assert result.best_step == 4
    assert list(result.checkpoints) == [4, STEPS]

    left, left_processor = load_medclip(tmp_path, device="cpu")
    best, _ = load_medclip(result.checkpoints[4], device="cpu")
    last = model.state_dict()
    assert all(torch.equal(best.state_dict()[n], t) for n, t in left.state_dict().items())
    assert not all(torch.equal(last[n], t) for n, t in left.state_dict().items())
    text, image = "left effusion", tables()[0]["imgpath"][0]
    inputs, again = processor(text=text, images=image), left_processor(text=text, images=image)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert not (tmp_path / "optimizer.pt").exists()

    assert result.history["step"].tolist() == list(range(1, STEPS + 1))
    assert result.history["loss"].notna().all()
    at = result.history.set_index("step")["zero_shot_accuracy"].dropna()
    assert at.to_dict() == {2: 0.2, 4: 0.9, 6: 0.4, 8: 0.4, 9: 0.5}
    assert result.history["epoch"].iloc[-1] == pytest.approx(STEPS * 4 / 10)

    # A finished run called again has nothing left to do, and says the same.
    again = run(model, processor, config(tmp_path, keep_last=1), evaluate=evaluate, resume=True)
    assert again.best_step == 4
    pd.testing.assert_frame_equal(again.history, result.history)


def test_global_random_state_is_left_alone(tmp_path):
    model, processor = build()
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(7), np.random.seed(7), random.seed(7)
    run(model, processor, config(tmp_path / "whole", max_steps=1))
    with pytest.raises(StopIteration):
        run(model, processor, config(tmp_path / "failed", max_steps=2), evaluate=accuracies())
    assert expected == (torch.rand(1), np.random.rand(), random.random())


def test_an_accuracy_that_is_no_number_is_not_the_best(tmp_path):
    evaluate = accuracies(float("nan"), 0.1, 0.4)
    assert run(*build(), config(tmp_path, max_steps=6), evaluate=evaluate).best_step == 6


def test_a_best_metric_that_is_not_measured_is_named(tmp_path):
    settings = config(tmp_path, max_steps=2, best_metric="zero_shot_acuracy")
    with pytest.raises(ValueError, match=r"'zero_shot_acuracy'.*\['zero_shot_accuracy'\]"):
        run(*build(), settings, evaluate=accuracies(0.5))


def test_a_trained_model_says_so_and_is_ready_to_use(tmp_path):
    model, processor = build()
    assert model.note == UNTRAINED_NOTE
    result = run(model, processor, config(tmp_path / "a", max_steps=1))
    assert not model.training
    assert model.note == load_medclip(result.folder, device="cpu")[0].note == TRAINED_NOTE
    model.note = "Weights of a study."
    run(model, processor, config(tmp_path / "b", max_steps=1))
    assert model.note == "Weights of a study."


def test_one_process_uses_one_gpu_and_the_batch_that_was_asked_for(tmp_path, monkeypatch):
    from transformers import TrainingArguments

    def two_gpus(self, before=TrainingArguments.__post_init__):
        before(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", two_gpus)
    arguments = training_arguments(config(tmp_path), tmp_path, 10)
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == arguments.per_device_train_batch_size


@pytest.mark.parametrize(("outside", "bound"), [(-1, 0), (10, np.log(100))])
def test_temperature_stays_in_its_bounds(outside, bound, tmp_path):
    model, processor = build()
    with torch.no_grad():
        model.logit_scale.fill_(outside)
    # Too slow to come back by itself.
    run(model, processor, config(tmp_path, max_steps=1, learning_rate=1e-6, warmup_ratio=0))
    assert model.logit_scale.item() == pytest.approx(bound)


def test_the_bar_is_the_trainers_and_ends_its_line_where_the_run_does(tmp_path, capsys):
    model, processor = build()
    result = run(model, processor, config(tmp_path / "whole", max_steps=2, progress=True))
    assert result.history["step"].tolist() == [1, 2]
    shown = capsys.readouterr()
    assert "2/2" in shown.err and "'epoch': '0.8'" in shown.out
    with pytest.raises(StopIteration):
        settings = config(tmp_path / "stopped", max_steps=4, progress=True)
        run(model, processor, settings, evaluate=accuracies(0.5))
    shown = capsys.readouterr().err
    assert "4/4 " in shown and shown.endswith("\n")


class Poisoned(torch.utils.data.Dataset):
    """The samples of `dataset()`, until one of them has no brightness."""

    def __init__(self, after: int):
        self.samples, self.left = dataset(), after

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def collate(self, collator):
        def batch(items):
            tensors = collator(items)
            self.left -= 1
            if self.left < 0:
                tensors["pixel_values"][0] = float("nan")
            return tensors

        return batch


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    from medclip_helpers.data import MedCLIPCollator

    model, processor = build()
    samples = Poisoned(after=5)
    collator = samples.collate(MedCLIPCollator(processor))
    with pytest.raises(TrainingStopped, match=r"loss is nan at step 6.*checkpoint-4"):
        train(model, processor, samples, config(tmp_path), collator=collator)
    kept = checkpointing.checkpoints(tmp_path)
    assert list(kept) == [2, 4]
    good, _ = load_medclip(kept[4], device="cpu")
    assert all(parameter.isfinite().all() for parameter in good.parameters())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    model, processor = build()

    def spoil(model):
        with torch.no_grad():
            model.logit_scale.fill_(float("nan"))
        return {}

    with pytest.raises(TrainingStopped, match=r"weight is not finite after step 2.*no checkpoint"):
        run(model, processor, config(tmp_path), evaluate=spoil)
    assert not list(tmp_path.glob("[!.]*"))


def test_a_disk_that_takes_no_more_stops_the_run(tmp_path):
    """A limit on the size of files: an error of the system, in the middle of a weights file."""
    model, processor = build()
    run(model, processor, config(tmp_path, max_steps=2))
    shutil.rmtree(tmp_path / "checkpoint-2")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "model.safetensors").stat().st_size

    def shrink(model):
        calls.append(model)
        if len(calls) == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        return {"zero_shot_accuracy": 0.5}

    calls = []
    try:
        with pytest.raises(TrainingStopped, match=r"checkpoint of step 4.*checkpoint-2.*resume"):
            run(model, processor, config(tmp_path), evaluate=shrink)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(checkpointing.checkpoints(tmp_path)) == [2]
    assert not list(tmp_path.glob(".partial*"))
    resumed = run(model, processor, config(tmp_path), evaluate=shrink, resume=True)
    assert resumed.history["step"].iloc[-1] == STEPS


def test_a_resumed_run_keeps_its_evaluation_and_its_dropout(tmp_path):
    """Or the best of the steps before would be left, whatever came after."""
    model, processor = build()
    evaluate = accuracies(0.2, 0.9)
    run(model, processor, config(tmp_path, max_steps=2), evaluate=evaluate)
    with pytest.raises(ValueError, match="evaluated was True and is False"):
        run(model, processor, config(tmp_path, max_steps=2), resume=True)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.77
    with pytest.raises(ValueError, match="other rates of dropout in the model"):
        run(model, processor, config(tmp_path, max_steps=2), evaluate=evaluate, resume=True)


def test_an_interrupted_run_leaves_the_model_in_eval_mode(tmp_path):
    def interrupt(model):
        raise KeyboardInterrupt

    model, processor = build()
    with pytest.raises(KeyboardInterrupt):
        run(model, processor, config(tmp_path), evaluate=interrupt)
    assert not model.training


def test_a_refused_run_leaves_the_note_of_the_weights(tmp_path):
    model, processor = build()
    run(model, processor, config(tmp_path, max_steps=2))
    model.note = PUBLISHED_NOTE
    with pytest.raises(ValueError, match="already holds"):
        run(model, processor, config(tmp_path, max_steps=2))
    assert model.note == PUBLISHED_NOTE


def test_a_full_disk_stops_the_run_and_names_itself(tmp_path, monkeypatch):
    model, processor = build()
    seal = checkpointing.seal

    def full(folder):
        if folder.name == "checkpoint-4":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seal(folder)

    monkeypatch.setattr(checkpointing, "seal", full)
    with pytest.raises(TrainingStopped, match=r"checkpoint of step 4.*No space left.*checkpoint-2"):
        run(model, processor, config(tmp_path))
    assert list(checkpointing.checkpoints(tmp_path)) == [2]


def test_an_incomplete_checkpoint_is_passed_over(tmp_path):
    model, processor = build()
    run(model, processor, config(tmp_path, max_steps=4, keep_last=3))
    settings = config(tmp_path, max_steps=4, keep_last=3)
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    assert list(checkpointing.checkpoints(tmp_path)) == [2]
    file = tmp_path / "checkpoint-2" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    assert checkpointing.checkpoints(tmp_path) == {}
    file.write_bytes(content)
    result = run(model, processor, settings, resume=True)
    assert list(result.checkpoints) == [2, 4]


def test_a_folder_in_use_and_other_settings_are_refused(tmp_path):
    model, processor = build()
    run(model, processor, config(tmp_path, max_steps=2))
    with pytest.raises(ValueError, match=r"already holds checkpoint-2.*resume=True"):
        run(model, processor, config(tmp_path, max_steps=2))
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001 and is 0\.5"):
        run(model, processor, config(tmp_path, max_steps=2, learning_rate=0.5), resume=True)
    fewer = UnpairedDataset(*tables(7))
    with pytest.raises(ValueError, match="samples was 10 and is 7"):
        train(model, processor, fewer, config(tmp_path, max_steps=2), resume=True)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("loss", "clip", "info_nce"),
        ("precision", "half", "bfloat16"),
        ("batch_size", 0, "positive"),
        ("max_steps", -1, "positive"),
        ("learning_rate", "2e-5", "expected float (YAML reads 1e-3 as text: write 1.0e-3)"),
        ("batch_size", 2.5, "expected int"),
        ("max_steps", True, "expected int | None"),
        ("progress", "no", "expected bool"),
        ("learning_rate", float("inf"), "positive"),
        ("epochs", float("nan"), "positive"),
        ("weight_decay", -0.1, "positive number or 0"),
        ("seed", -1, "positive number or 0"),
        ("output_dir", datetime.date(2026, 1, 2), "expected str"),
        ("loss", ["semantic"], "expected str"),
    ],
)
def test_a_wrong_setting_names_itself(field, value, expected):
    with pytest.raises(ValueError) as error:
        TrainingConfig(**{field: value})
    assert field in str(error.value) and expected in str(error.value)


def test_defaults_are_the_papers():
    settings = TrainingConfig()
    assert (settings.batch_size, settings.epochs, settings.warmup_ratio) == (100, 10, 0.1)
    assert (settings.learning_rate, settings.weight_decay) == (2e-5, 1e-4)
    assert settings.steps(1234) == 123


def test_both_losses_learn_noise_by_heart(tmp_path):
    """Few samples, many steps: each loss must get well below where it began."""
    for loss in ("semantic", "info_nce"):
        model, processor = build()
        settings = config(tmp_path / loss, max_steps=30, learning_rate=3e-3, loss=loss)
        settings = dataclasses.replace(settings, checkpoint_steps=30, label_temperature=0.1)
        history = run(model, processor, settings).history["loss"]
        assert history[-5:].mean() < 0.8 * history[:5].mean(), loss


# Without dropout and batch statistics, whose results depend on the number of processes.
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}
MODEL = {
    "vision": {"backbone": "test_vit", "projection_dim": 16, "img_size": 32},
    "text": TEXT,
    "image_size": 32,
    "tokenizer": str(VOCABULARY.parent),
}
FIXED = MODEL["vision"] | {"dynamic_img_size": False}
DAY = datetime.date(2026, 1, 2)  # what YAML makes of 2026-01-02


@pytest.fixture
def run_file(tmp_path):
    """changes -> a run file over image files and tables on the disk."""
    images, sentences = tables(12)
    for i, picture in enumerate(images["imgpath"]):
        picture.save(tmp_path / f"{i}.png")
    names = [f"{i}.png" for i in range(12)]
    images = images.assign(imgpath=names, subject_id=range(12), report=None)
    images.to_csv(tmp_path / "images.csv", index=False)
    # One length: texts are padded to the longest of a process's share, and padding counts.
    texts = [" ".join(text.split()[:3]) for text in sentences["Reports"]]
    sentences.assign(Reports=texts).to_csv(tmp_path / "sentences.csv", index=False)
    prompts = {"Edema": WORDS[:3], "Consolidation": WORDS[3:6]}
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(prompts))

    def write(folder: str, **changes) -> Path:
        training = dataclasses.asdict(config(tmp_path / folder, batch_size=8, max_steps=4))
        settings = {
            "model": MODEL,
            "images": str(tmp_path / "images.csv"),
            "sentences": [str(tmp_path / "sentences.csv")],
            "evaluate": {
                "images": str(tmp_path / "images.csv"),
                "prompts": str(tmp_path / "prompts.yaml"),
            },
            "training": training,
        }
        file = tmp_path / f"{folder}.yaml"
        file.write_text(yaml.safe_dump(settings | changes))
        return file

    return write


def logged(run: Path) -> list[float]:
    state = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())
    return [entry["loss"] for entry in state["log_history"] if "loss" in entry]


def test_two_processes_train_as_one(run_file, tmp_path):
    """Each compares its share of the batch with all of it; checkpoints come from one of them."""
    assert main(["train", str(run_file("one"))]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "medclip_helpers", "train", str(run_file("two"))]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert len(one) == 4
    assert two == pytest.approx(one, abs=1e-4)
    first, second = (load_medclip(tmp_path / name, device="cpu")[0] for name in ("one", "two"))
    begin = build_model(**yaml.safe_load(run_file("one").read_text())["model"])[0].state_dict()
    for name, tensor in first.state_dict().items():
        moved = (tensor - begin[name]).abs().max()
        assert (second.state_dict()[name] - tensor).abs().max() <= 1e-4 + 0.02 * moved, name
    assert (tmp_path / "two" / "checkpoint-4" / "rng_state_1.pth").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imags": "x.csv"}, ["imags", "images"]),
        ({"training": {"learning_rat": 1}}, ["learning_rat", "learning_rate", "training"]),
        ({"sentences": "nowhere.csv"}, ["nowhere.csv"]),
        ({"model": "vitt"}, ["vitt", "demo"]),
        ({"model": {"vision": {}, "text": {}}}, ["tokenizer", "model", "missing"]),
        ({"model": None}, ["model", "expected a mapping"]),
        ({"training": [1]}, ["training", "expected a mapping"]),
        ({"training": {"learning_rate": float("inf")}}, ["training", "learning_rate is inf"]),
        ({"training": {"output_dir": str(VOCABULARY)}}, ["output_dir", str(VOCABULARY)]),
        ({"model": DAY}, ["model", repr(DAY)]),
        ({"model": MODEL | {"vision": {"backbone": "swinn"}}}, ["model", "swinn"]),
        ({"model": MODEL | {"vision": {"bakbone": "swin"}}}, ["model", "bakbone"]),
        ({"model": MODEL | {"text": TEXT | {"num_attention_heads": 5}}}, ["model", "heads", "5"]),
        ({"model": MODEL | {"text": TEXT | {"max_position_embeddings": 9}}}, ["model", "9"]),
        ({"model": MODEL | {"image_size": 64, "vision": FIXED}}, ["model", "64"]),
        ({"images": DAY}, ["images", repr(DAY)]),
        ({"images": [DAY]}, ["images", repr(DAY)]),
        ({"images": str(VOCABULARY.parent)}, ["images", str(VOCABULARY.parent)]),
        ({"image_root": 5}, ["image_root is 5"]),
        ({"sentences": {"a.csv": 1}}, ["a.csv"]),
        ({"sampling": {"text": "no"}}, ["sampling", "text is 'no'", "authors"]),
        ({"sampling": {"text": "own", "bank": 9}}, ["sampling", "bank"]),
        ({"sampling": {"txt": "own"}}, ["sampling", "txt"]),
        ({"augmentation": {"flip": 1}}, ["augmentation", "flip is 1"]),
        ({"augmentation": {"keep_original": True}}, ["augmentation", "keep_original"]),
        ({"labels": {"absent": "x"}}, ["absent is 'x'"]),
        ({"recipe": "paper"}, ["recipe is 'paper'", "authors", "ours"]),
        ({"evaluate": {"images": DAY, "prompts": "chexpert"}}, ["evaluate", repr(DAY)]),
        ({"evaluate": {"images": "x.csv", "prompts": DAY}}, ["evaluate", repr(DAY)]),
        ({"evaluate": [1]}, ["evaluate", "expected a mapping"]),
        ({"evaluate": {"images": "x.csv", "prompts": "covid"}}, ["COVID", "Edema", "prompts"]),
    ],
)
def test_a_wrong_run_file_names_what_is_wrong(run_file, changes, words, capsys):
    assert main(["train", str(run_file("run", **changes))]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words), said


def test_a_recipe_is_what_its_file_says_and_a_run_file_changes_it(run_file, tmp_path):
    file = run_file("run", recipe="authors", augmentation={"flip": False})
    found = read_run_file(file, tmp_path)
    recipe = read_recipe("authors")
    assert found["augmentation"] == recipe["augmentation"] | {"flip": False}
    assert found["sampling"] == recipe["sampling"] and found["model"] == MODEL
    changed = {"sampling": {"text": "label"}, "augmentation": {"images": False, "texts": False}}
    other = read_run_file(run_file("other", recipe="authors", **changed), tmp_path)
    assert other["sampling"] == changed["sampling"]  # and nothing that is for text: authors alone
    assert other["augmentation"] == changed["augmentation"]
    assert found["training"]["max_steps"] == 4 and found["training"]["batch_size"] == 8
    assert TrainingConfig.from_recipe("ours", seed=7) == TrainingConfig(
        **read_recipe("ours")["training"] | {"seed": 7}
    )
    with pytest.raises(
        ValueError, match=r"recipe is 'ourz', expected one of \['authors', 'ours'\]"
    ):
        TrainingConfig.from_recipe("ourz")


def test_a_run_file_takes_paths_from_its_folder_and_leaves_what_is_none(run_file, tmp_path):
    """A mapping is no path, however long its text is."""
    long = MODEL | {"vision": MODEL["vision"] | {"note": "x" * 300}}
    found = read_run_file(run_file("run", model=long, image_root=None, images="a.csv"), tmp_path)
    assert found["model"] == long | {"tokenizer": found["model"]["tokenizer"]}
    assert found["image_root"] is None and found["images"] == str(tmp_path / "a.csv")


def test_recipes_say_the_same_things():
    """Each difference between the two can be read off, line by line."""
    authors, ours = (read_recipe(name) for name in ("authors", "ours"))
    only = {"bank", "first_character"}  # of sampling as the authors
    for part in set(authors) | set(ours):
        assert set(authors[part]) - only == set(ours[part]), part
    fields = {field.name for field in dataclasses.fields(TrainingConfig)}
    assert set(authors["training"]) < fields


@pytest.mark.parametrize("recipe", ["authors", "ours"])
def test_a_recipe_trains_from_a_folder_of_data(recipe, tmp_path):
    """The whole recipe but for its model and length, with paths from the folder of the data."""
    images, sentences = tables(12)
    for i, picture in enumerate(images["imgpath"]):
        picture.save(tmp_path / f"{i}.png")
    reports = ["heart small. mild left effusion with opacity now seen.", None] * 6
    images.assign(
        imgpath=[f"{i}.png" for i in range(12)], subject_id=range(12), report=reports
    ).to_csv(tmp_path / "images.csv", index=False)
    known = pd.DataFrame({name: sentences[name] for name in sentences}).assign(
        Reports=[f"{text} seen again today" for text in sentences["Reports"]]
    )
    known["No Finding"] = 1.0
    known.to_csv(tmp_path / "sentences.csv", index=False)
    settings = {
        "recipe": recipe,
        "model": MODEL,
        "images": "images.csv",
        "sentences": "sentences.csv",
        "training": {
            "output_dir": "out", "batch_size": 4, "max_steps": 2, "num_workers": 0,
            "device": "cpu", "progress": False,
        },
    }  # fmt: skip
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "run.yaml").write_text(yaml.safe_dump(settings))
    assert main(["train", str(elsewhere / "run.yaml"), "--data", str(tmp_path)]) == 0
    history = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    assert all(math.isfinite(entry["loss"]) for entry in history["log_history"] if "loss" in entry)


def test_norms_decay_where_it_is_asked_for(tmp_path):
    model, processor = build_model(**MODEL)

    def decaying(**changes) -> set[str]:
        settings = config(tmp_path, **changes)
        collator = MedCLIPCollator(processor)
        made = MedCLIPTrainer(model, processor, dataset(), settings, tmp_path, collator, None)
        return set(made.get_decay_parameter_names(made.model))

    ours, theirs = decaying(), decaying(decay_norms=True)
    more = theirs - ours
    assert ours < theirs and all("vision_model" in name for name in more), more
    assert not any("bias" in name or "LayerNorm" in name for name in theirs)
    assert "model.logit_scale" in ours


@pytest.mark.parametrize("text", ["a: [", "", "- 1", "2026-01-02: 1"])
def test_a_run_file_that_is_none_is_named(text, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    assert main(["train", str(file)]) == 2
    assert re.search(r"run\.yaml(:| is not YAML)", capsys.readouterr().err)


def test_held_out_images_that_cannot_be_used_name_their_file(run_file, tmp_path, capsys):
    prompts = tmp_path / "other.yaml"
    prompts.write_text("Fracture: [rib fracture]")
    evaluate = {"images": str(tmp_path / "images.csv"), "prompts": str(prompts)}
    assert main(["train", str(run_file("run", evaluate=evaluate))]) == 2
    assert re.search(r"images\.csv.*none of 12 .*'Fracture'", capsys.readouterr().err)


def test_a_batch_must_divide_among_processes(run_file, monkeypatch):
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "world_size", property(lambda self: 3))
    with pytest.raises(ValueError, match="batch_size is 8.*3 processes"):
        train_from_file(run_file("run"))


def test_a_run_file_that_is_not_there_is_named(tmp_path, capsys):
    for path in (tmp_path / "nowhere.yaml", tmp_path):
        assert main(["train", str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_help_tells_what_a_run_file_holds(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert all(word in text for word in ("sentences:", "torchrun", "--resume"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("sentences", "other images, labels, sentences or way of matching them"),
        ("match", "other images, labels, sentences or way of matching them"),
        ("images", "other images, labels, sentences or way of matching them"),
        ("collator", "other processor, transforms or meaning of absent and uncertain"),
        ("prompts", "other held-out images or prompts"),
        ("nothing", None),
    ],
)
def test_a_continued_run_sees_the_same_data_and_is_judged_the_same_way(change, expected, tmp_path):
    model, processor = build()
    images, sentences = tables()

    def go_on(change: str, steps: int, resume: bool):
        rows, texts = images.copy(), sentences.copy()
        prompts = {"Edema": ["left opacity"], "Pneumonia": ["mild effusion"]}
        if change == "sentences":
            texts["Reports"] = texts["Reports"] + " left"
        elif change == "images":
            rows["imgpath"] = rows["imgpath"].tolist()[::-1]
        elif change == "prompts":
            prompts["Edema"] = ["right opacity"]
        data = UnpairedDataset(rows, texts, match=change != "match")
        collator = MedCLIPCollator(processor, uncertain=-1.0 if change == "collator" else 0.0)
        evaluate = zero_shot_evaluator(
            processor, images["imgpath"][:2], ["Edema", "Pneumonia"], prompts
        )
        settings = config(tmp_path, max_steps=steps)
        how = {"collator": collator, "evaluate": evaluate, "resume": resume}
        return train(model, processor, data, settings, **how)

    go_on("nothing", 2, False)
    if expected is None:
        assert list(go_on(change, 2, True).checkpoints) == [2]
    else:
        with pytest.raises(ValueError, match=f"belongs to a run with other settings.*{expected}"):
            go_on(change, 2, True)


def test_a_metric_that_is_not_measured_is_named_before_the_first_step(tmp_path):
    model, processor = build()
    evaluate = zero_shot_evaluator(processor, tables()[0]["imgpath"][:1], ["a"], {"a": ["heart"]})
    with pytest.raises(ValueError, match="best_metric is 'f1', expected one of .*zero_shot_auroc"):
        run(model, processor, config(tmp_path, best_metric="f1"), evaluate=evaluate)
    assert not list(tmp_path.glob("checkpoint-*"))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    model, processor = build()
    holder = "import sys, time; from medclip_helpers.hub import locked_folder\n"
    holder += f"with locked_folder({str(tmp_path)!r}): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"is in use by process {other.pid} on .*, since"):
            run(model, processor, config(tmp_path, max_steps=2))
        other.kill()
    assert run(model, processor, config(tmp_path, max_steps=2)).checkpoints  # free again


@pytest.mark.parametrize(
    ("cuda", "ampere", "half"), [(True, True, "bf16"), (True, False, "fp16"), (False, False, None)]
)
def test_auto_is_half_precision_on_a_gpu_alone(cuda, ampere, half, monkeypatch, tmp_path):
    """On a CPU that has it, too: there a continued run is to equal the uninterrupted one."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: ampere or including_emulation,
    )
    told = {}
    monkeypatch.setattr(
        "medclip_helpers.training.arguments.TrainingArguments",
        lambda **arguments: told.update(arguments) or SimpleNamespace(n_gpu=1, world_size=1),
    )
    training_arguments(TrainingConfig(output_dir=str(tmp_path)), tmp_path, 10)
    assert [name for name in ("bf16", "fp16") if told[name]] == ([half] if half else [])
    assert told["use_cpu"] is not cuda


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.filterwarnings("ignore:bfloat16 is emulated")
def test_bfloat16_trains_on_a_cpu_that_nobody_named(tmp_path):
    arguments = training_arguments(TrainingConfig(precision="bfloat16"), tmp_path, 10)
    assert arguments.bf16 and arguments.device.type == "cpu"
