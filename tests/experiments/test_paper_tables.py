"""The paper's tables, end to end, on small folders in the original layouts."""

import sys
from pathlib import Path

import inputs
import pandas as pd
import pytest
import yaml
from pictures import pictures

from medclip_helpers import evaluation as ev
from medclip_helpers.__main__ import main
from medclip_helpers.experiments import reproduce
from medclip_helpers.runs import read_result

sys.path.append(str(Path(__file__).parents[1] / "data"))
from dataset_trees import chexpert_tree, covid_tree, mimic_tree, rsna_tree


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """All four data sets, each picture another one."""
    root = tmp_path_factory.mktemp("data")
    chexpert_tree(root)
    covid_tree(root)
    rsna_tree(root).rename(root / "rsna-pneumonia-detection-challenge")
    jpg = mimic_tree(root)
    jpg.rename(root / "2.0.0")
    jpg.mkdir()
    (root / "2.0.0").rename(jpg / "2.0.0")
    files = [path for path in sorted(root.rglob("*")) if path.suffix in (".jpg", ".png", ".dcm")]
    for picture, file in zip(pictures(len(files)), files, strict=True):
        picture.save(file, "PNG")
    inputs.sentence_table().to_csv(root / "sentences.csv", index=False)
    return root


def made(data: Path, out: Path, table: str, *words: str) -> dict:
    small = ["--model", "demo", "--test-per-class", "2", "--max-steps", "2", *words]
    assert main(["reproduce", table, "--data", str(data), "--out", str(out), *small]) == 0
    return read_result(out)


def test_zero_shot_of_all_four_by_both_protocols(data, tmp_path, published_wheel):
    record = made(data, tmp_path, "table2", "--sentences", str(data / "sentences.csv"))
    rows = pd.DataFrame(record["results"])
    assert set(zip(rows["dataset"], rows["protocol"], strict=True)) == {
        (name, protocol) for name in ev.PUBLISHED_TEST_IMAGES for protocol in ev.PROTOCOLS
    }
    assert set(rows["list"]) == {"ours"}  # no authors' list can be drawn from these tables
    theirs = rows[rows["protocol"] == "authors"]
    assert set(theirs["prompts of"]) == {"authors"}
    assert set(theirs["prompts"]) == {"maximum", "ensemble"}
    assert set(record["settings"]["test"]) == {f"{d}, {p}" for d, p in zip(
        rows["dataset"], rows["protocol"], strict=True)}  # fmt: skip
    text = (tmp_path / "table2.md").read_text()
    assert "trained on drawings" in text and "| rsna | authors | ours | authors | all |" in text
    assert "published" not in text.lower().partition("| dataset")[2]  # nothing is, for a demo


def test_probe_and_prompt_tuning_of_both_protocols(data, tmp_path):
    only = tmp_path / "data"
    only.mkdir()
    for name in ("CheXpert-v1.0-small", "COVID-19_Radiography_Dataset"):
        (only / name).symlink_to(data / name)
    record = made(only, tmp_path / "out", "table3")
    rows = pd.DataFrame(record["results"])
    assert set(rows["method"]) == {"linear probe", "prompt tuning"}
    assert set(rows["dataset"]) == {"chexpert-5x200", "covid"}
    assert rows["value"].between(0, 1).all()
    assert "| covid | ours | ours | all |" not in (tmp_path / "out" / "table3.md").read_text()


def test_retrieval_is_ours_alone(data, tmp_path):
    rows = pd.DataFrame(made(data, tmp_path, "retrieval")["results"])
    assert set(rows["protocol"]) == {"ours"}
    assert set(rows["metric"]) == {"P@1", "P@2", "P@5", "P@10"}


def test_efficiency_leaves_run_files_over_nested_images(data, tmp_path, monkeypatch):
    monkeypatch.setattr("medclip_helpers.experiments.paper_tables.SIZES", (20, 60, 10_000))
    sentences = data / "sentences.csv"
    table = reproduce("efficiency", data, "demo", tmp_path, sentences=sentences)
    sizes = sorted(set(table["size"]))
    assert sizes[:2] == [20, 60] and len(table) == 2 * len(sizes)
    few, more = (pd.read_csv(tmp_path / f"images-{size}.csv")["imgpath"] for size in (20, 60))
    assert few.tolist() == more[:20].tolist()
    run = yaml.safe_load((tmp_path / "authors-20.yaml").read_text())
    model = {
        "vision": {"backbone": "test_vit", "projection_dim": 16, "img_size": 32},
        "text": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "intermediate_size": 32},
        "tokenizer": str(Path(__file__).parents[1] / "parity"), "image_size": 32,
    }  # fmt: skip
    short = {"batch_size": 4, "max_steps": 1, "num_workers": 0, "device": "cpu", "progress": False}
    run |= {"model": model, "training": run["training"] | short}
    (tmp_path / "authors-20.yaml").write_text(yaml.safe_dump(run))
    assert main(["train", str(tmp_path / "authors-20.yaml")]) == 0
    assert (tmp_path / "authors-20" / "model.safetensors").is_file()


def test_what_is_not_there_is_said(tmp_path, capsys):
    words = ["reproduce", "table2", "--data", str(tmp_path), "--model", "demo", "--out", "x"]
    assert main(words) == 2
    assert "no data set in" in (said := capsys.readouterr().err) and "CheXpert-v1.0-small" in said
    with pytest.raises(ValueError, match="table is 'table9', expected one of"):
        reproduce("table9", tmp_path, "demo", tmp_path)
    (tmp_path / "COVID-19_Radiography_Dataset").mkdir()
    with pytest.raises(ValueError, match="efficiency: expected sentences"):
        reproduce("efficiency", tmp_path, "demo", tmp_path)
