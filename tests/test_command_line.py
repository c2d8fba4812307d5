"""`medclip`: what each verb does, what it says, and with which exit code it ends."""

import inspect
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from medclip_helpers import classify_images, experiments, load_medclip, training
from medclip_helpers.__main__ import VERBS, main
from medclip_helpers.constants import CHEXPERT_COMPETITION, CHEXPERT_LABELS
from medclip_helpers.demo import CHECKPOINT_FOLDER, draw_phantom, sentence_table
from medclip_helpers.engines import choose_precision, compiled
from medclip_helpers.hub import describe_weights
from medclip_helpers.loading import choose_device
from medclip_helpers.prompts import load_class_prompts

ROOT = Path(__file__).parents[1]


def python(source: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", source]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture
def scans(tmp_path) -> Path:
    """A folder with two drawn radiographs, and a file that is none."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(draw_phantom(seed).image).save(folder / f"{seed}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def refused(arguments: list, capsys) -> str:
    """What is said on stderr where nothing could start; one line without a traceback."""
    assert main(list(map(str, arguments))) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.endswith("\n")
    assert "Traceback" not in said.err
    return said.err


# --- the command itself ---------------------------------------------------------------------------


def test_the_console_script_is_this_command():
    declared = re.search(r"\[project\.scripts\]\n(.*)", (ROOT / "pyproject.toml").read_text())
    assert declared[1] == 'medclip = "medclip_helpers.__main__:main"'


@pytest.mark.parametrize("words", [["--version"], ["--help"], *([v, "--help"] for v in VERBS)])
def test_version_and_help_are_there_at_once(words):
    """Which is to say, before torch is loaded, and pandas and matplotlib."""
    words = " ".join(words).split()
    source = f"import sys; sys.argv[1:] = {words}\nfrom medclip_helpers.__main__ import main\n"
    source += "try:\n    main()\nfinally:\n"
    source += (
        "    print({'torch', 'numpy', 'matplotlib', 'medclip_helpers.runs'} & set(sys.modules))"
    )
    done = python(source)
    assert done.returncode == 0, done.stderr
    text = done.stdout.removesuffix("set()\n")
    assert text != done.stdout
    if words == ["--version"]:
        assert re.fullmatch(r"medclip-helpers \d+\.\d+\.\d+\n", text)
    else:
        example = text.partition("example:\n")[2].strip()
        assert example.startswith(" ".join(["medclip", *words[:-1]]))


def test_the_module_is_the_command():
    command = [sys.executable, "-m", "medclip_helpers", "classify", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "medclip classify: no image file, folder or pattern at nowhere\n"


@pytest.mark.parametrize("words", [[], ["clasify", "x"], ["classify"], ["run"], ["train"]])
def test_what_is_no_command_is_refused(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "usage: medclip" in capsys.readouterr().err


def test_an_interrupt_ends_without_a_traceback(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_from_file", interrupt)
    assert main(["train", "run.yaml"]) == 130


# --- classify -------------------------------------------------------------------------------------


def test_classify_writes_what_classify_images_gives(scans, tmp_path, capsys):
    out = tmp_path / "new" / "scores.csv"
    how = choose_precision("auto", choose_device())  # what the machine has
    assert main(["classify", str(scans), "--model", "demo", "--out", str(out)]) == 1
    said = capsys.readouterr()
    expected = f"{out}: 2 of 3 images read, computed in {how} by torch. Demo model"
    assert said.out.startswith(expected)
    assert "3/3" in said.err  # the progress bar
    paths = sorted(scans.iterdir())
    asked = load_class_prompts("chexpert")
    table = classify_images(*load_medclip("demo", precision=how), paths, asked, progress=False)
    written = pd.read_csv(out)
    assert list(written) == list(table) and written.pop("note").isna().all()
    pd.testing.assert_frame_equal(written, table.drop(columns="note"), check_dtype=False, atol=1e-5)
    assert [Path(path).name for path in written["image"]] == ["0.png", "1.png", "broken.png"]
    assert "broken.png" in written["status"][2]
    assert list(out.parent.iterdir()) == [out]


def test_explain_draws_a_drawing_or_a_scan(scans, tmp_path, capsys):
    out = tmp_path / "explained.png"
    assert main(["explain", "--model", "demo", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: A radiograph, sentences ranked by similarity (There is a ple")
    assert "Dashed: where the finding is known to be" in said and "trained on drawings" in said
    with Image.open(out) as picture:
        assert picture.format == "PNG" and picture.width == 1400
    texts = ["--text", "clear lungs", "--text", "a large heart"]
    assert (
        main(["explain", str(scans / "0.png"), "--model", "demo", "--out", str(out), *texts]) == 0
    )
    said = capsys.readouterr().out
    assert "clear lungs" in said and "a large heart" in said and "Dashed" not in said
    said = refused(["explain", scans / "broken.png", "--model", "demo", "--out", out], capsys)
    assert "broken.png" in said
    said = refused(["explain", "--model", "demo", "--out", tmp_path], capsys)
    assert str(tmp_path) in said


def test_classify_takes_patterns_prompts_and_the_maximum(scans, tmp_path, capsys):
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps({"heart": ["large heart", "clear lungs"], "lung": ["effusion"]}))
    out, common = tmp_path / "a.csv", ["--model", "demo", "--prompts", str(prompts)]
    sources = [str(scans / "[01].png"), str(scans / "0.png")]
    tables = []
    for how in ([], ["--ensemble"], ["--maximum", "--batch-size", "1", "--device", "cpu"]):
        assert main(["classify", *sources, *common, "--out", str(out), *how]) == 0
        tables.append(pd.read_csv(out))
    assert "2 of 2 images read" in capsys.readouterr().out  # one of them is named twice
    assert tables[0].equals(tables[1])
    assert list(tables[0].columns)[:5] == ["image", "heart", "lung", "predicted", "status"]
    assert (tables[2]["heart"] > tables[0]["heart"]).all()
    assert tables[2]["lung"].to_numpy() == pytest.approx(tables[0]["lung"].to_numpy(), abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"": "gone"}, "no image file, folder or pattern at gone"),
        ({"--model": "vitt"}, "unknown model 'vitt'"),
        ({"--model": "no/such/folder"}, "no folder or file with weights at no/such/folder"),
        ({"--prompts": "chexpart"}, "unknown prompts 'chexpart'"),
        ({"--out": "."}, "--out is a folder, .: expected the name of a file"),
        ({"--device": "gpu"}, "gpu"),
    ],
)
def test_classify_refuses_before_it_starts(changes, message, scans, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    options = {"--model": "demo", "--out": "scores.csv", **changes}
    source = options.pop("", scans)
    words = [word for pair in options.items() for word in pair]
    said = refused(["classify", source, *words], capsys)
    assert said.startswith("medclip classify: ") and message in said
    assert list(tmp_path.iterdir()) == [scans]


@pytest.mark.parametrize("number", ["0", "-1", "1.5", "many"])
def test_a_number_that_is_none_is_refused(number, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["classify", "x", "--batch-size", number])
    assert f"argument --batch-size: {number!r}, expected a whole number" in capsys.readouterr().err


def test_ensemble_and_maximum_are_one_or_the_other(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["classify", "x", "--ensemble", "--maximum"])
    assert "not allowed with" in capsys.readouterr().err


# --- export ---------------------------------------------------------------------------------------

has_engines = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("openvino", "onnx", "onnxscript", "onnxruntime")),
    reason="medclip-helpers[engines] or onnxruntime is not installed",
)


@has_engines
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_export_writes_a_folder_whose_example_gives_the_scores(kind, scans, tmp_path, capsys):
    out = tmp_path / "served"
    assert main(["export", "demo", "--format", kind, "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: example.py shows how to use it. Demo model")
    encoders = ["image.onnx", "text.onnx"]
    if kind == "openvino":
        encoders = ["image.bin", "image.xml", "text.bin", "text.xml"]
    described = ["export.json", "preprocessing.json", "prompts.json", "prompts.npy"]
    expected = {*encoders, *described, "example.py", "tokenizer.json"}
    assert {path.name for path in out.iterdir()} == expected
    picture = tmp_path / "oblong.png"  # neither a square, nor of the model's size
    Image.open(scans / "1.png").crop((3, 0, 100, 60)).save(picture)
    environment = {**os.environ, "CI": "true"}  # in which OpenVINO reports nothing
    command = [sys.executable, str(out / "example.py"), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=scans)
    *lines, note = done.stdout.splitlines()
    scores = {name: float(score) for score, name in (line.split(maxsplit=1) for line in lines)}
    model, processor = load_medclip("demo", "cpu")
    prompts = load_class_prompts("chexpert")
    table = classify_images(model, processor, [picture], prompts, progress=False)
    assert scores == pytest.approx(table.loc[0, list(prompts)].to_dict(), abs=2e-4)
    about = json.loads((out / "export.json").read_text())
    assert note == about["note"] == model.note
    assert {name: about[name] for name in ("sha256", "parameters")} == describe_weights(model)


@has_engines
def test_export_keeps_what_it_did_not_write(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("medclip_helpers.engines.export.export_onnx", lambda encoder: b"a model")
    out, other = tmp_path / "served", tmp_path / "other"
    model, processor = load_medclip("demo", "cpu")
    with torch.no_grad():
        model.logit_scale += 0.1
    model.save_pretrained(other)
    processor.save_pretrained(other)
    arguments = ["export", str(other), "--out", str(out), "--prompts", "rsna"]
    assert main(["export", "demo", *arguments[2:]]) == 0
    assert main(["export", "demo", *arguments[2:]]) == 0  # of the same
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    said = refused(arguments, capsys)
    assert f"{out} holds an export of other weights, kind or versions" in said
    assert "holds an export of other" in refused([*arguments, "--format", "openvino"], capsys)
    with monkeypatch.context() as broken:
        broken.setattr("medclip_helpers.engines.export.export_onnx", lambda encoder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*arguments, "--force"])
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert main([*arguments, "--force"]) == 0
    found = json.loads((out / "export.json").read_text())
    assert found["sha256"] == describe_weights(model)["sha256"]
    capsys.readouterr()
    (out / "export.json").unlink()
    assert f"{out} holds other files" in refused(arguments, capsys)
    taken = tmp_path / "taken"
    taken.write_text("a file")
    assert str(taken) in refused([*arguments[:3], str(taken)], capsys)


def test_export_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    said = refused(["export", "demo", "--out", tmp_path / "served"], capsys)
    assert said == (
        "medclip export: openvino, onnx, onnxscript not installed: "
        "python -m pip install 'medclip-helpers[engines]'\n"
    )
    assert list(tmp_path.iterdir()) == []


# --- train ----------------------------------------------------------------------------------------


@pytest.fixture
def run_file(tmp_path) -> Path:
    """Two steps of the demo model on eight drawings, an evaluation after each."""
    labels = dict.fromkeys(CHEXPERT_LABELS, 0.0)
    rows = []
    for i in range(8):
        finding = CHEXPERT_COMPETITION[i % 2]
        Image.fromarray(draw_phantom(i, {finding: 0.8}).image).save(tmp_path / f"{i}.png")
        place = {"imgpath": f"{i}.png", "subject_id": i, "report": None}
        rows.append(place | labels | {finding: 1.0})
    pd.DataFrame(rows).to_csv(tmp_path / "images.csv", index=False)
    sentence_table(40).to_csv(tmp_path / "sentences.csv", index=False)
    prompts = {name: load_class_prompts("chexpert", 3)[name] for name in CHEXPERT_COMPETITION[:2]}
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(prompts))
    settings = {
        "model": "demo",
        "images": str(tmp_path / "images.csv"),
        "sentences": str(tmp_path / "sentences.csv"),
        "evaluate": {
            "images": str(tmp_path / "images.csv"), "prompts": str(tmp_path / "prompts.yaml"),
        },
        "training": {
            "output_dir": str(tmp_path / "trained"), "batch_size": 4, "max_steps": 2,
            "checkpoint_steps": 1, "device": "cpu",
        },
    }  # fmt: skip
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def test_train_trains_as_a_run_file_says(run_file, tmp_path, capsys):
    assert main(["train", str(run_file)]) == 0
    said = re.search(r"best at step ([12]); the model is in (.+)\n", capsys.readouterr().out)
    model, _ = load_medclip(said[2], device="cpu")
    assert Path(said[2]).is_relative_to(tmp_path / "trained")
    assert not model.training
    newest = tmp_path / "trained" / "checkpoint-2"
    before = newest.stat().st_mtime_ns
    assert refused(["train", run_file], capsys)  # it would begin again in a folder that is taken
    assert main(["train", str(run_file), "--resume"]) == 0  # nothing is left to do
    assert newest.stat().st_mtime_ns == before


def test_a_wrong_run_file_is_named(tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text("modell: vit")
    said = refused(["train", file], capsys)
    assert said.startswith(f"medclip train: {file}") and "modell" in said
    assert "gone.yaml" in refused(["train", "gone.yaml"], capsys)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (training.TrainingStopped("step 7: the loss is nan"), "step 7: the loss is nan"),
        (ImportError("pip install textaugment"), "pip install textaugment"),
        (ModuleNotFoundError("No module", name="nltk"), "nltk is not installed: python -m pip"),
    ],
)
def test_what_stops_a_training_is_one_line(error, message, monkeypatch, capsys):
    def stop(*_):
        raise error

    monkeypatch.setattr(training, "train_from_file", stop)
    said = refused(["train", "run.yaml"], capsys)
    assert said.startswith(f"medclip train: {message}") and said.count("\n") == 1


# --- train demo -----------------------------------------------------------------------------------


def test_train_demo_does_what_the_function_does_and_says_how_good_it_is(monkeypatch, capsys):
    """The same numbers where none is given, in one place each."""
    asked = {}

    def train_demo(output, **numbers):
        asked.update(numbers, output=output)
        return {"zero_shot": {"accuracy": 0.5}, "note": "x"}

    defaults = inspect.signature(experiments.train_demo).parameters
    monkeypatch.setattr(experiments, "train_demo", train_demo)
    assert main(["train", "demo", "--out", "x"]) == 0
    assert capsys.readouterr().out == 'x: {\n  "accuracy": 0.5\n}\n'
    assert asked.pop("output") == Path("x")
    assert asked == {name: defaults[name].default for name in asked}
    assert set(asked) == set(defaults) - {"output", "progress"}


@pytest.mark.parametrize("folder", [CHECKPOINT_FOLDER, CHECKPOINT_FOLDER / "x" / ".." / "mine"])
def test_train_demo_is_never_written_over_the_shipped_one(folder, capsys):
    before = {file: file.stat().st_mtime_ns for file in CHECKPOINT_FOLDER.iterdir()}
    said = refused(["train", "demo", "--out", folder], capsys)
    assert said.startswith("medclip train demo: ") and "the demo model that ships" in said
    assert {file: file.stat().st_mtime_ns for file in CHECKPOINT_FOLDER.iterdir()} == before


def test_train_demo_asks_where(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train", "demo"])
    assert "the following arguments are required: --out" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--samples", "--steps", "--test-images", "--threads"])
def test_train_demo_refuses_a_number_of_nothing(option, tmp_path, capsys):
    said = refused(["train", "demo", "--out", tmp_path / "x", option, "0"], capsys)
    name = option.removeprefix("--").replace("-", "_")
    assert re.match(rf"medclip train demo: {name} is 0, expected [15] or more\n", said)
    assert list(tmp_path.iterdir()) == []
