"""Figures: what they show, that nothing in them overlaps or is cut off, and that they display."""

from __future__ import annotations

import itertools
import subprocess
import sys
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from medclip_helpers import plots
from medclip_helpers.plots import figure_png
from medclip_helpers.plots.style import number

NOTE = "Demo model, trained on drawings: not a clinical result."
IMAGE = np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
FINDINGS = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
TEXTS = [
    "No acute cardiopulmonary abnormality.",
    "There is a small left-sided pleural effusion with blunting of the costophrenic angle, which "
    "is unchanged since the prior examination of the same day, and a second one on the right.",
    "The heart is enlarged; it cost $ 5 and $ 6.",
    "Bibasilar_atelectasis_without_a_single_place_at_which_a_line_could_be_broken",
    "edema",
]
INTERVALS = pd.DataFrame(
    {"value": [0.4, 0.8, 0.9], "low": [0.3, np.nan, 0.85], "high": [0.6, np.nan, 0.91]}
)


def figures() -> dict[str, Figure]:
    random = np.random.default_rng(0)
    probabilities = random.random(200)
    history = [{"step": i, "loss": 1 / (i + 1)} for i in range(60)]
    history += [{"step": 10 * i, "zero_shot_accuracy": i / 6} for i in range(6)]
    embeds = 9 * np.eye(5, 8)[np.arange(20) % 5] + random.normal(size=(20, 8))
    targets = {"the own text only": np.eye(5), "of the same finding": random.random((5, 5))}
    many = TEXTS * 4
    return {
        "similarities": plots.plot_similarities(
            IMAGE, TEXTS, [0.3, -0.5, 0.2, 0.0, 0.1], title="a film", note=NOTE
        ),
        "twenty similarities": plots.plot_similarities(IMAGE, many, random.normal(size=20)),
        "one similarity": plots.plot_similarities(IMAGE, TEXTS[:1], [-0.1], note=NOTE),
        "matrix": plots.plot_similarity_matrix(
            random.normal(size=(4, 5)), [IMAGE] * 4, TEXTS, labels="diagonal", note=NOTE
        ),
        "large matrix": plots.plot_similarity_matrix(
            random.normal(size=(20, 20)), [IMAGE] * 20, many, note=NOTE
        ),
        "narrow matrix": plots.plot_similarity_matrix(
            random.normal(size=(1, 2)), [IMAGE], ["a", "b"], note=NOTE,
            names=["a name that is long enough to be wrapped"],
            title="softmax over 2 texts, temperature 0.070",
        ),
        "wide matrix": plots.plot_similarity_matrix(
            random.normal(size=(30, 3)), [IMAGE] * 30, TEXTS[:3], note=NOTE
        ),
        "class scores": plots.plot_class_scores(
            IMAGE, {name: random.normal(size=7) for name in [*FINDINGS, TEXTS[1]]}, note=NOTE
        ),
        "class scores with prompts": plots.plot_class_scores(
            IMAGE, {name: random.normal(size=5) for name in FINDINGS},
            prompts=dict.fromkeys(FINDINGS, TEXTS), note=NOTE,
        ),
        "embedding map": plots.plot_embedding_map(
            {"before training": (embeds, embeds[:5]), "after training": (-embeds, embeds[5:10])},
            [FINDINGS[i % 5] for i in range(20)], FINDINGS, note=NOTE,
        ),
        "explanation": plots.plot_explanation(
            IMAGE, TEXTS, [0.3, -0.5, 0.2, 0.0, 0.1], random.normal(size=(7, 7)),
            mask=np.ones((64, 48)) * (np.arange(48) > 20), note=NOTE,
        ),
        "lines": plots.plot_lines(
            pd.DataFrame({"n": [1, 2, 1, 2], "score": [0.1, 0.5, 0.2, 0.51], "arm": [*"aabb"]}),
            "n", "score", by="arm", references={"chance": 0.2}, note=NOTE,
        ),
        "targets": plots.plot_targets(targets, TEXTS, FINDINGS, note=NOTE),
        "targets with images": plots.plot_targets(
            targets, TEXTS, FINDINGS, images=[IMAGE] * 5, framed=np.eye(5) > 0, note=NOTE
        ),
        "small targets": plots.plot_targets(
            dict.fromkeys(["cosine, 1 (paper)", "dot, 1 (published)"], np.eye(2)),
            ["a", "b"], ["c", "d"], note=NOTE,
        ),
        "confusion": plots.plot_confusion(
            np.arange(25).reshape(5, 5), FINDINGS, title="all", note=NOTE
        ),
        "small confusion": plots.plot_confusion([[3, 1], [0, 2000]], ["COVID", "b"], note=NOTE),
        "large confusion": plots.plot_confusion(
            np.arange(400).reshape(20, 20), FINDINGS * 4, note=NOTE
        ),
        "map": plots.plot_similarity_map(IMAGE, random.normal(size=(7, 7)), TEXTS[1], note=NOTE),
        "training": plots.plot_training_curve(
            history, marks={30: "resumed from here", 33: "stopped"}, chance=0.2, title="demo",
            note=NOTE,
        ),
        "gallery": plots.plot_gallery([IMAGE] * 7, (TEXTS * 2)[:7], title="all", note=NOTE),
        "reliability": plots.plot_reliability(
            probabilities > random.random(200), probabilities, note=NOTE
        ),
        "reliability of two": plots.plot_reliability(
            probabilities > random.random(200),
            {"before": probabilities**2, "after": probabilities}, note=NOTE,
        ),
        "intervals": plots.plot_intervals(
            INTERVALS, TEXTS[:3], title="accuracies",
            published={TEXTS[0]: 0.5, TEXTS[2]: 0.9}, chance=0.2, note=NOTE,
        ),
    }  # fmt: skip


@pytest.fixture(scope="module")
def drawn() -> dict[str, Figure]:
    made = figures()
    for figure in made.values():
        FigureCanvasAgg(figure).draw()
    return made


def written(figure: Figure) -> list[Text]:
    """Every text that is to be seen."""
    unseen = set()
    for axes in figure.axes:
        frame = axes.get_window_extent().padded(2)
        for axis, low, high in ((axes.xaxis, *frame.intervalx), (axes.yaxis, *frame.intervaly)):
            if not axes.axison:
                unseen |= {id(text) for text in axis.findobj(Text)}
            # Tick labels beyond the limits exist, but are not drawn.
            for label in axis.get_ticklabels(which="both"):
                box = label.get_window_extent()
                middle = (box.x0 + box.x1) / 2 if axis is axes.xaxis else (box.y0 + box.y1) / 2
                if not low <= middle <= high:
                    unseen.add(id(label))
    texts = figure.findobj(Text)
    return [t for t in texts if t.get_text().strip() and t.get_visible() and id(t) not in unseen]


NAMES = list(figures())


@pytest.mark.parametrize("name", NAMES)
def test_no_text_overlaps_another_or_is_cut_off(drawn, name):
    figure = drawn[name]
    boxes = [(text.get_text(), text.get_window_extent()) for text in written(figure)]
    assert len(boxes) >= 4
    for text, box in boxes:
        inside = (
            box.x0 > -1
            and box.y0 > -1
            and box.x1 < figure.bbox.x1 + 1
            and box.y1 < figure.bbox.y1 + 1
        )
        assert inside, f"{text!r} at {box} leaves the figure {figure.bbox}"
    for (a, first), (b, second) in itertools.combinations(boxes, 2):
        across = min(first.x1, second.x1) - max(first.x0, second.x0)
        down = min(first.y1, second.y1) - max(first.y0, second.y0)
        assert across < 1 or down < 2, f"{a!r} overlaps {b!r}"


@pytest.mark.parametrize("name", [n for n in NAMES if n != "twenty similarities"])
def test_the_note_is_on_the_figure(drawn, name):
    texts = " ".join(" ".join(text.get_text().split()) for text in written(drawn[name]))
    assert NOTE in texts


@pytest.mark.parametrize("name", NAMES)
def test_paper_is_opaque_and_png_has_the_figures_size(drawn, name):
    assert drawn[name].get_facecolor() == (1, 1, 1, 1)
    png = figure_png(drawn[name])
    assert png.startswith(b"\x89PNG") and len(png) > 3000


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_says_in_words_what_it_shows(drawn, name):
    words = f"{drawn[name].caption} {drawn[name].alt}"
    assert len(drawn[name].alt) > 15 and "nan" not in words and not {*"{}"} & {*words}
    assert all(text.endswith(".") for text in (drawn[name].caption, drawn[name].alt) if text)


CAPTIONS = {
    "similarities": (
        "“No acute cardiopulmonary abnormality.” scores highest (0.30), 0.10 above “The heart is "
        f"enlarged; it cost $ 5 and $ 6.”; “{TEXTS[1]}” scores lowest (−0.50)."
    ),
    "one similarity": "“No acute cardiopulmonary abnormality.” scores highest (−0.10).",
    "lines": (
        "From left to right, score goes from 0.10 to 0.50 for “a”, from 0.20 to 0.51 for “b”; "
        "chance is 0.20."
    ),
    "small confusion": (
        "2,003 of 2,004 are predicted correctly; the most frequent mistake: COVID taken for b (1)."
    ),
    "training": "In 59 steps: loss from 1.00 to 0.02; zero-shot accuracy from 0.00 to 0.83.",
    "intervals": (
        "Highest accuracy: The heart is enlarged; it cost $ 5 and $ 6., 0.90 (0.85 to 0.91); "
        "lowest: No acute cardiopulmonary abnormality., 0.40 (0.30 to 0.60); chance: 0.20."
    ),
    "explanation": "",  # its sentence is in the picture
}


@pytest.mark.parametrize("name", CAPTIONS)
def test_a_caption_says_what_to_see_from_the_numbers(drawn, name):
    assert drawn[name].caption == CAPTIONS[name]


def test_a_caption_counts():
    exact = plots.plot_confusion(np.eye(2), ["a", "b"])
    assert exact.caption == "2 of 2 are predicted correctly."
    scores = [[0.1, 0.7], [0.2, 0.3]]
    matrix = plots.plot_similarity_matrix(scores, [IMAGE] * 2, ["x", "y"], labels="diagonal")
    assert matrix.caption == (
        "Highest: image 1 and “y” (0.70). The highest text is a framed one for 1 of 2 images."
    )
    partly = plots.plot_similarity_matrix(scores, [IMAGE] * 2, ["x", "y"], labels=[1, -1])
    assert partly.caption.endswith("is a framed one for 1 of 1 images that have one.")
    classes = plots.plot_class_scores(IMAGE, {"a": [1, 3], "b": [5, 6]})
    assert classes.caption == (
        "b scores highest (5.50), 3.50 above a. The prompts of b reach from 5.00 to 6.00."
    )
    half = plots.plot_reliability([0, 1], {"before": [0.2, 0.4], "after": [0.1, 0.9]})
    said = "50% are positive; mean predicted value: before 0.30; after 0.50."
    assert half.caption == said


def test_captions_of_what_is_missing():
    """Not a number is neither the highest nor an end; and what is equal is not ahead."""
    nan = float("nan")
    level = plots.plot_similarities(IMAGE, ["a", "b"], [0.5, 0.5])
    assert level.caption == "“a” scores highest (0.50), level with “b”."
    table = pd.DataFrame({"value": [0.4, nan, 0.9], "low": nan, "high": nan})
    caption = plots.plot_intervals(table, ["a", "b", "c"], xlabel="AUROC").caption
    assert caption == "Highest AUROC: c, 0.90; lowest: a, 0.40; undefined: b."
    assert plots.plot_intervals(table[1:2], ["b"]).caption == "undefined: b."
    rows = pd.DataFrame({"n": [1, 2, 3, 1], "score": [0.1, 0.5, nan, nan], "arm": [*"aaab"]})
    lines = plots.plot_lines(rows, "n", "score", by="arm")
    assert lines.caption == "From left to right, score goes from 0.10 to 0.50 for “a”."
    with pytest.raises(ValueError, match="no row with a finite 'score'"):
        plots.plot_lines(rows[2:], "n", "score", by="arm")
    history = [{"step": 1, "loss": nan, "lr": 1e-4}, {"step": 2, "loss": nan, "lr": 2e-5}]
    curve = plots.plot_training_curve(history, metrics=["lr"])
    assert curve.caption == "In 2 steps: loss is never a number; lr from 0.0001 to 2e-05."
    assert plots.plot_gallery([IMAGE] * 2).alt == "2 images."
    with pytest.raises(ValueError, match=r"prompt_scores\['b'\] has no finite score"):
        plots.plot_class_scores(IMAGE, {"a": [1.0], "b": [nan]})


def test_chance_stands_at_the_metric_that_it_is_of():
    history = [{"step": 1, "loss": 1.0, "auroc": 0.7}]
    metrics = ("zero_shot_accuracy", "auroc")
    _, panel = plots.plot_training_curve(history, metrics=metrics, chance=0.2).axes
    assert len(panel.lines) == 1
    history[0]["zero_shot_accuracy"] = 0.5
    _, panel, other = plots.plot_training_curve(history, metrics=metrics, chance=0.2).axes
    assert len(panel.lines) == 2 and len(other.lines) == 1


@pytest.mark.parametrize("shape", [(64, 64), (64, 48), (600, 200)])
def test_an_outline_lies_where_the_mask_is(shape):
    """Whatever the sizes of image and mask, and however the image is padded or shrunk."""
    mask = np.zeros(shape, bool)
    mask[: shape[0] // 2] = True  # the upper half
    for image in (np.zeros(shape, np.uint8), np.zeros((2 * shape[0], 2 * shape[1]), np.uint8)):
        gallery = plots.plot_gallery([image], masks=[mask]).axes[0]
        if image.shape == shape:
            shown = plots.plot_similarity_map(image, np.eye(4), "a", mask=mask).axes[:2]
        for axes in (gallery, *shown):
            (edge,) = {round(c.get_paths()[0].vertices[:, 1].max()) for c in axes.collections[:1]}
            assert edge == pytest.approx(axes.images[0].get_size()[0] / 2, abs=1.6)


def test_a_scale_holds_every_value():
    figure = plots.plot_targets({"a": np.array([[-3.0, 1.0]])}, ["x"], ["y", "z"])
    assert figure.axes[0].images[0].get_clim() == (-3, 3)


def test_one_text_is_not_taken_for_its_letters():
    figure = plots.plot_explanation(IMAGE, "edema", [0.3], np.eye(4))
    assert "(edema 0.30)" in figure.alt


DISPLAYED = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from medclip_helpers.plots import plot_targets
shell, caption = InteractiveShell.instance(), {caption!r}
figure = plot_targets({{"t": [[0.0, 1.0]]}}, ["a"], ["b", "c"], caption=caption)
with capture_output() as shown:
    assert shell.display_formatter.format(figure) == ({{}}, {{}})
picture, *below = shown.outputs
assert picture.data["image/png"].startswith("iVBORw0KGgo"), list(picture.data)
assert picture.metadata["image/png"]["alt"].startswith(caption)
assert "matplotlib.pyplot" not in sys.modules
print(*(output.data["text/html"] for output in below))
"""


@pytest.mark.parametrize(
    ("caption", "below"),
    [("", ""), ("1 < 2", '<p class="medclip-caption">1 &lt; 2</p>')],
)
def test_a_figure_shows_in_a_notebook_over_its_caption_without_pyplot(caption, below):
    pytest.importorskip("IPython")
    command = [sys.executable, "-c", DISPLAYED.format(caption=caption)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == below


def row_names(figure: Figure) -> list[str]:
    return [" ".join(t.get_text().split()) for t in figure.axes[1].get_yticklabels()]


def test_similarities_are_sorted_and_named_by_their_texts():
    figure = plots.plot_similarities(IMAGE, ["a", "b", "c $x$"], [0.1, 0.7, -0.001])
    assert row_names(figure) == ["b", "a", "c $x$"]
    bars = figure.axes[1].patches
    assert [bar.get_width() for bar in bars] == [0.7, 0.1, -0.001]
    assert [bar.get_y() for bar in bars] == sorted(bar.get_y() for bar in bars)
    bottom, top = figure.axes[1].get_ylim()
    assert bottom > top, "the best is on top"
    assert [t.get_text() for t in figure.axes[1].texts] == ["0.70", "0.10", "0.00"]


@pytest.mark.parametrize(
    "image",
    [
        IMAGE,
        Image.fromarray(IMAGE),
        IMAGE[None].astype(float) / 255,
        np.repeat(IMAGE[None], 3, axis=0),
    ],
    ids=["array", "PIL", "(1, h, w)", "(3, h, w)"],
)
def test_images_of_every_kind_are_shown_as_they_are(image):
    figure = plots.plot_similarities(image, ["a"], [1.0])
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == IMAGE.shape
    # floats are stretched to the full range, which this image has already
    assert np.abs(shown.astype(int) - IMAGE).max() <= 1


def test_tensors_are_arrays_too():
    torch = pytest.importorskip("torch")
    scores = torch.tensor([0.2, 0.4], requires_grad=True)
    figure = plots.plot_similarities(torch.from_numpy(IMAGE)[None], ["a", "b"], scores)
    assert row_names(figure) == ["b", "a"]


def framed(figure: Figure) -> list[tuple[int, int]]:
    """(column, row) of the frames in a matrix."""
    return [(round(p.get_x() + 0.46), round(p.get_y() + 0.46)) for p in figure.axes[0].patches]


@pytest.mark.parametrize(
    ("labels", "pairs"),
    [
        (None, []),
        ("diagonal", [(0, 0), (1, 1)]),
        ([2, -1], [(0, 2)]),
        ([[True, False, True], [False, True, False]], [(0, 0), (0, 2), (1, 1)]),
    ],
)
def test_matrix_frames_the_pairs_that_belong_together(labels, pairs):
    values = [[1, 2, 3], [4, 5, 6]]
    figure = plots.plot_similarity_matrix(values, [IMAGE] * 2, ["a", "b", "c"], labels)
    assert framed(figure) == pairs
    assert np.asarray(figure.axes[0].images[0].get_array()).tolist() == [[1, 4], [2, 5], [3, 6]]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]


def test_class_scores_show_every_prompt_and_order_by_the_mean():
    scores = {"low": [0.1, 0.2], "high": [0.4, 0.6, 0.8], "mid": [0.3]}
    figure = plots.plot_class_scores(IMAGE, scores)
    assert row_names(figure) == ["high", "mid", "low"]
    dots = [c.get_offsets()[:, 0].tolist() for c in figure.axes[1].collections[:3]]
    assert dots == [[0.4, 0.6, 0.8], [0.3], [0.1, 0.2]]
    assert [line.get_xdata()[0] for line in figure.axes[1].lines[:3]] == pytest.approx(
        [0.6, 0.3, 0.15]
    )


def test_an_embedding_map_is_a_plane_with_each_modality_centred():
    random = np.random.default_rng(0)
    plane = random.normal(size=(12, 2)) * [3, 1]
    basis, _ = np.linalg.qr(random.normal(size=(6, 2)))
    images, texts = plane[:8] @ basis.T + 5, plane[8:] @ basis.T - 5
    names = ["a", "a", "a", "a", "b", "b", "b", "b"]
    figure = plots.plot_embedding_map({"t": (images, texts)}, names, ["a", "a", "b", "b"])
    dots, crosses = (c.get_offsets() for c in figure.axes[0].collections[:2])
    expected = [part - part.mean(0) for part in (plane[:8], plane[8:])]

    def distances(x):
        return np.linalg.norm(x[:, None] - x[None], axis=-1)

    found, expected = np.concatenate([dots, crosses]), np.concatenate(expected)
    np.testing.assert_allclose(distances(found), distances(expected), atol=1e-9)
    middles = dots[:4].mean(0), dots[4:].mean(0)
    nearest = [np.linalg.norm(cross - middles, axis=1).argmin() for cross in crosses]
    own = int(np.sum(np.array(nearest) == [0, 0, 1, 1]))
    apart = np.linalg.norm(images.mean(0) - texts.mean(0))
    title = " ".join(figure.axes[0].get_title().split())
    assert title == (
        f"t {own} of 4 texts nearest to their own images, means {apart:.2f} apart before centring"
    )
    said = "Texts nearest, in this plane, to the mean of their own finding's images"
    assert figure.caption == f"{said}: t {own} of 4; by chance 1 in 2."


def test_a_finding_has_one_colour_whatever_stands_beside_it():
    alone, beside = (plots.finding_colors(names) for names in (["Edema"], ["x", *FINDINGS, "y"]))
    assert alone["Edema"] == beside["Edema"]
    assert len({*beside.values()}) == 7


def test_a_figure_carries_its_size_and_alternative_text_into_a_notebook():
    figure = plots.plot_explanation(IMAGE, ["one", "two"], [0.1, 0.4], np.eye(4) - 0.5)
    png, metadata = figure._repr_png_()
    with Image.open(BytesIO(png)) as picture:
        assert picture.size == (2 * metadata["width"], 2 * metadata["height"])
    assert metadata["width"] == 700
    assert metadata["alt"].startswith("A radiograph, sentences ranked by similarity (two 0.40; one")
    assert "Dashed" not in metadata["alt"]  # nothing is known to be anywhere


def test_the_map_is_warm_for_what_speaks_for_the_text_and_blue_for_what_speaks_against():
    figure = plots.plot_similarity_map(IMAGE, [[0.5, -0.25], [0.0, 0.0]], "a text")
    cells = np.asarray(figure.axes[1].images[1].get_array())
    (for_, against), nothing = cells[0], cells[1]
    assert for_[0] > for_[2] and against[2] > against[0]
    assert for_[3] == 2 * against[3] > 0 and (nothing[:, 3] == 0).all()


def test_similarities_of_both_signs_have_their_white_at_zero():
    figure = plots.plot_similarity_matrix([[0.5, -0.1]], [IMAGE], ["a", "b"])
    assert figure.axes[0].images[0].get_clim() == (-0.5, 0.5)
    figure = plots.plot_similarity_matrix([[0.5, 0.1]], [IMAGE], ["a", "b"])
    assert figure.axes[0].images[0].get_clim() == (0, 0.5)


def test_zeros_are_left_out_and_what_is_asked_for_is_framed():
    matrix = np.array([[1, 0], [0.5, 1]])
    figure = plots.plot_targets({"t": matrix}, ["a", "b"], ["c", "d"], framed=matrix == 0.5)
    assert [t.get_text() for t in figure.axes[0].texts] == ["1.00", "0.50", "1.00"]
    assert framed(figure) == [(0, 1)]


def test_reliability_has_an_interval_in_each_bin():
    labels, probabilities = [0, 1, 1, 1], [0.1, 0.15, 0.9, 0.95]
    axes = plots.plot_reliability(labels, probabilities).axes[0]
    low, high = (line for line in axes.lines[1:3])
    assert low.get_xdata()[0] == pytest.approx(0.125) and high.get_xdata()[0] == pytest.approx(
        0.925
    )
    # Wilson's interval of 1 of 2, and of 2 of 2
    np.testing.assert_allclose(low.get_ydata(), [0.0945, 0.9055], atol=1e-4)
    np.testing.assert_allclose(high.get_ydata(), [0.3424, 1.0], atol=1e-4)


def test_confusion_writes_counts_and_shares():
    figure = plots.plot_confusion([[3, 1], [0, 0]], ["a", "b"])
    assert [t.get_text() for t in figure.axes[0].texts] == ["3\n75%", "1\n25%", "0\n0%", "0\n0%"]


def test_map_tells_the_sum_and_covers_the_padded_square():
    contributions = np.array([[0.1, -0.02], [0.0, 0.2]])
    figure = plots.plot_similarity_map(IMAGE, contributions, "edema")
    assert "cosine similarity 0.28: the sum" in figure.get_suptitle()
    radiograph, cells = figure.axes[1].images
    assert np.asarray(radiograph.get_array()).shape == (64, 64)
    assert cells.get_extent() == [0, 64, 64, 0]
    red, _, blue, alpha = np.moveaxis(np.asarray(cells.get_array()), -1, 0)
    assert red[0, 0] > blue[0, 0] and blue[0, 1] > red[0, 1]
    assert alpha[1, 0] == 0 and alpha.argmax() == 3


def test_training_curve_skips_gaps_and_shows_what_there_is():
    history = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "zero_shot_accuracy": 0.5},
        {"step": 3, "loss": 1.0},
    ]
    loss, accuracy = plots.plot_training_curve(history).axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 2], [3, 1]]
    assert accuracy.lines[0].get_xydata().tolist() == [[2, 0.5]]
    assert len(plots.plot_training_curve(history[:1]).axes) == 1


def test_gallery_shows_every_image():
    images = [np.full((4, 4), value, np.uint8) for value in (10, 20, 30)]
    figure = plots.plot_gallery(images, ["a", "b", "c"], columns=2)
    shown = [int(axes.images[0].get_array()[0, 0]) for axes in figure.axes if axes.images]
    assert shown == [10, 20, 30]
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", ""]


def test_reliability_bins_by_probability():
    figure = plots.plot_reliability([0, 1, 1, 1], [0.05, 0.05, 0.95, 0.95])
    observed = figure.axes[0].lines[-1].get_xydata()
    np.testing.assert_allclose(observed, [[0.05, 0.5], [0.95, 1.0]])


def test_intervals_end_where_the_table_says():
    figure = plots.plot_intervals(INTERVALS, ["a", "b", "c"], published={"c": 0.5})
    (bars,) = figure.axes[0].containers
    segments = bars.lines[2][0].get_segments()
    ends = [segment[:, 0].tolist() for segment in segments]
    np.testing.assert_allclose(ends, [[0.3, 0.6], [0.8, 0.8], [0.85, 0.91]])
    (diamond,) = figure.axes[0].collections[:1]
    heights = [segment[0, 1] for segment in segments]
    np.testing.assert_allclose(diamond.get_offsets(), [[0.5, heights[2]]])
    assert heights[0] < heights[1]  # the axis points down: the first row is on top
    assert figure.axes[0].yaxis_inverted()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plots.plot_similarities(IMAGE, ["a", "b"], [1.0]),
            r"scores has shape \(1,\), expected \(2,\)",
        ),
        (lambda: plots.plot_similarities(IMAGE, [], []), "texts is empty"),
        (
            lambda: plots.plot_similarity_matrix([[1.0]], [IMAGE], ["a", "b"]),
            r"expected \(1, 2\)",
        ),
        (
            lambda: plots.plot_similarity_matrix([[1.0]], [IMAGE], ["a"], "rows"),
            "'rows'.*'diagonal'",
        ),
        (
            lambda: plots.plot_targets({"x": np.eye(3)}, ["a"], ["b"]),
            r"targets\['x'\] has shape \(3, 3\)",
        ),
        (
            lambda: plots.plot_intervals(INTERVALS, ["a"]),
            r"names has shape \(1,\), expected \(3,\)",
        ),
        (lambda: plots.plot_training_curve([{"step": 1}]), "'loss'"),
        (
            lambda: plots.plot_similarity_map(IMAGE, [0.1], "a"),
            r"shape \(1,\), expected \(h, w\)",
        ),
        (lambda: plots.plot_gallery([IMAGE], ["a", "b"]), "2 titles for 1 images"),
        (lambda: plots.plot_gallery([]), "images is empty"),
        (
            lambda: plots.plot_similarity_matrix([[1.0]], [IMAGE], ["a"], [7]),
            "labels has 7, expected an index of 1 texts, or -1",
        ),
        (lambda: plots.plot_class_scores(IMAGE, {}), "prompt_scores is empty"),
    ],
)
def test_wrong_shapes_say_what_was_expected(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_thumbnails_stand_on_their_feet():
    picture = np.zeros((64, 64), np.uint8)
    picture[:20] = 255
    figure = plots.plot_similarity_matrix(np.eye(2), [picture, picture], ["a", "b"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes, pixels = figure.axes[0], np.asarray(canvas.buffer_rgba())[..., 0]
    places = axes.transData.transform([(0, -1.4), (0, -0.65)])  # first image: top, bottom
    assert [pixels[-1 - int(y), int(x)] for x, y in places] == [255, 0]


def test_the_documents_chart_end_to_end():
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):
        note = NOTE
        device = torch.device("cpu")

        def encode_image(self, pixel_values):
            assert not self.training
            return torch.tensor([[1.0, 0.0]])

        def encode_text(self, input_ids, attention_mask):
            assert not self.training and attention_mask.all(), "padding is part of an embedding"
            values = {1: [0.6, 0.8], 2: [0.8, 0.6]}
            return torch.tensor([values[pieces[0]] for pieces in input_ids.tolist()])

    def processor(text=None, images=None, truncation=False):
        if text is None:
            return {"pixel_values": torch.zeros(1, 1, 4, 4), "blank": [False]}
        assert text == ["a", "b, which is longer"] and truncation
        mask = torch.tensor([[1, 0, 0], [1, 1, 1]])
        return {"input_ids": torch.tensor([[1, 0, 0], [2, 3, 4]]), "attention_mask": mask}

    model = Model().train()
    figure = plots.visualize_image_text_similarity(
        model, processor, Image.fromarray(IMAGE), ["a", "b, which is longer"]
    )
    assert row_names(figure) == ["b, which is longer", "a"]
    assert [t.get_text() for t in figure.axes[1].texts] == ["0.80", "0.60"]
    assert figure._supxlabel.get_text() == NOTE
    assert model.training, "the model is left as it was"


def test_an_explanation_is_what_the_model_scores():
    pytest.importorskip("torch")
    from medclip_helpers import explain_similarity, load_medclip
    from medclip_helpers.demo import draw_phantom
    from medclip_helpers.similarity import encode_images, encode_texts

    model, processor = load_medclip("demo", "cpu")
    phantom = draw_phantom(3, {"Pleural Effusion": 0.8})
    texts = ["large pleural effusion", "clear lungs"]
    figure = explain_similarity(model, processor, phantom, texts)
    image = encode_images(model, processor, [phantom.image], progress=False)
    cosines = (image @ encode_texts(model, processor, texts).T)[0].tolist()
    ranking = "; ".join(f"{t} {number(c)}" for t, c in zip(texts, cosines, strict=True))
    assert ranking in figure.alt and "Dashed" in figure.alt
    assert model.note in [t.get_text() for t in figure.findobj(Text)]
    outlines = [axes for axes in figure.axes if axes.collections and axes.images]
    assert len(outlines) == 1  # over the map, and not over the plain radiograph
    model.train()  # as one that was trained a moment ago
    assert explain_similarity(model, processor, phantom, texts).alt == figure.alt
    assert model.training
    assert "(edema " in explain_similarity(model, processor, phantom, "edema").alt
    model.eval()
    plain = explain_similarity(model, processor, phantom.image)
    assert "Dashed" not in plain.alt and plain.alt.count(";") == 4  # a sentence for each finding
    assert "Dashed" not in explain_similarity(model, processor, draw_phantom(1)).alt


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="1 masks for 2 images: expected as many"):
        plots.plot_gallery([IMAGE] * 2, masks=[None])
    with pytest.raises(ValueError, match="texts is empty: expected at least one text"):
        plots.plot_explanation(IMAGE, [], [], np.eye(4))
    with pytest.raises(ValueError, match="labels are not all 0 or 1"):
        plots.plot_reliability([0, 1, 2], [0.1, 0.2, 0.3])
