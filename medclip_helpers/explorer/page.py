"""An interactive page inside a notebook: radiographs against texts, live.

Core ipywidgets only, valid on versions 7.7 (Colab) and 8. Scores are HTML (see `pieces`): what a
keystroke changes must not wait for matplotlib, which draws a figure only on request.
"""

from __future__ import annotations

import asyncio
import base64
import html
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from ipywidgets import Layout
from scipy.special import expit, softmax

from .. import plots
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..prompts import load_class_prompts
from ..similarity import encode_images, encode_texts, similarity_map
from . import pieces
from .inputs import (
    default_presets,
    demo_images,
    free_name,
    named_images,
    read_picture,
    split_pair,
    unknown_words,
    uploaded_files,
)

if TYPE_CHECKING:
    from ..plots import NotebookFigure

logger = logging.getLogger(__name__)

COSINE, SOFTMAX, PAIR = "cosine", "softmax over the texts", "positive against negative"
BARS, MAP, MATRIX = "bars", "map of a text", "all images"
OWN_TEXTS, ALONE = "own texts", "none"
TYPING_PAUSE = 0.12  # seconds without a further change before results are computed
HINT = (
    "One text per line. For positive against negative write <i>present | absent</i>; "
    "without the second half an opposite is made and shown."
)
PREFERENCE = (
    "A preference for the text before the bar, not a probability: notebook 06 shows how well such "
    "numbers can rank images while .5, as a threshold, is far off."
)
BANNER = (
    "<b>This model has only ever seen drawings.</b> Not known to be one: {}. "
    "The scores below say nothing about a real radiograph."
)
PRIVACY = "For research use only. Uploads go to this notebook's kernel and nowhere else."


class Shown(NamedTuple):
    """What the page shows. map_text: whose map, or None. label: what the values are.

    values: (images, texts). rows: the texts as they stand on the page, a pair with both halves.
    """

    view: str
    names: list[str]
    map_text: str | None
    texts: list[str]
    rows: list[str]
    values: np.ndarray
    label: str


class SimilarityExplorer:
    """Choose an image, edit texts, see their similarity. The last line of a cell shows it.

    model, processor: as `load_medclip` returns them. Of a model, the explorer uses `encode_image`,
        `encode_text`, `compute_logits`, `device` and `note`; and offers maps where it has the
        feature map of `similarity.similarity_map`.
    images: name -> radiograph, a list of radiographs (paths, PIL images, arrays), or a folder,
        file or pattern; by default drawings of the demo world. Only a `Phantom` itself is known to
        be a drawing: for all else, its array or file too, the demo model's scores have a warning.
    presets: name -> texts, offered beside the texts; the first is shown at first.
    note: stands at the foot of every figure; by default what the model says of its weights.

    `table` (a DataFrame) and `figure` (drawn on request) are what is shown. The controls are
    attributes: `image`, `beside`, `upload`, `preset`, `texts`, `score`, `temperature`, `view`,
    `map_text`. Changes made from code are shown when the cell has ended, or at once by `refresh()`.
    """

    def __init__(
        self,
        model: MedCLIPModel,
        processor: MedCLIPProcessor,
        images=None,
        *,
        presets: Mapping[str, Sequence[str]] | None = None,
        note: str | None = None,
    ):
        self.model, self.processor = model, processor
        self.note = getattr(model, "note", None) if note is None else note
        self.presets = {
            name: [texts] if isinstance(texts, str) else list(texts)
            for name, texts in (presets or default_presets()).items()
        }
        self._images = named_images(demo_images() if images is None else images)
        self._embeds: dict[str, dict[str, np.ndarray]] = {"image": {}, "text": {}}
        self._maps: dict[tuple[str, str], np.ndarray] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._listening = True
        self.table: pd.DataFrame | None = None
        self._drawn: NotebookFigure | None = None
        self._shown: Shown | None = None
        self._pictured: tuple[list[str], str | None] | None = None
        self._rows: list[widgets.HBox] = []
        self._build()
        self.refresh()

    # --- page ---------------------------------------------------------------------------------

    def _build(self) -> None:
        first, lines = next(iter(self.presets.items()))

        def control(kind, label, **more):
            # a layout of its own, because some of them come and go
            style = {} if kind is widgets.FileUpload else {"style": {"description_width": "86px"}}
            return kind(description=label, layout=Layout(width="98%"), **style, **more)

        def menu(label, options, **more):
            return control(widgets.Dropdown, label, options=options, **more)

        self.image = menu("Radiograph", list(self._images))
        self.beside = menu("Compare", [ALONE, *self._images])
        self.upload = control(widgets.FileUpload, "Upload PNG, JPEG or DICOM", multiple=True)
        self.preset = menu("Preset", [OWN_TEXTS, *self.presets], value=first)
        self.texts = control(widgets.Textarea, "Texts", value="\n".join(lines), rows=9)
        self.score = menu("Score", [COSINE, SOFTMAX, PAIR])
        self.temperature = control(
            widgets.BoundedFloatText, "Temperature", value=self._model_temperature(), min=0.003,
            max=3, step=0.01,
        )  # fmt: skip
        has_map = hasattr(getattr(self.model, "vision_model", None), "forward_features")
        self.view = menu("View", [BARS, *([MAP] if has_map else []), MATRIX])
        self.map_text = menu("Map of", [])
        self.status, self.words = widgets.HTML(), widgets.HTML()
        self.pictures = widgets.HTML(layout=Layout(flex="1 1 230px", min_width="0"))
        self.axis = widgets.HTML(layout=Layout(flex="1 1 54%", min_width="0"))
        self.head = widgets.HBox([widgets.HTML(layout=Layout(width="42%")), self.axis])
        self.bars = widgets.VBox(layout=Layout(flex="1.4 1 300px", min_width="0"))
        self.download = widgets.Button(
            description="Figure and numbers for download",
            layout=Layout(width="auto", align_self="flex-start"),
        )
        self.downloads = widgets.HTML()
        about = widgets.HTML(f"<small>{html.escape(self.note or '')} {PRIVACY}</small>")
        hint = f"<div style='line-height:1.3'><small>{HINT}</small></div>"
        left = widgets.VBox(
            [
                self.image, self.beside, self.upload, self.preset, self.texts,
                widgets.HTML(hint, layout=Layout(width="98%")), self.score, self.temperature,
                self.view, self.map_text,
            ],
            layout=Layout(width="310px", max_width="100%", flex="0 0 auto"),
        )  # fmt: skip
        body = widgets.HBox([self.pictures, self.bars], layout=Layout(flex_flow="row wrap"))
        right = widgets.VBox(
            [self.words, body, self.status, self.download, self.downloads, about],
            layout=Layout(flex="1 1 300px", min_width="0", padding="0 0 0 12px"),
        )
        self.page = widgets.HBox(
            [widgets.HTML(pieces.STYLE, layout=Layout(display="none")), left, right],
            layout=Layout(flex_flow="row wrap"),
        )
        self.page.add_class("medclip")
        self.words.add_class("medclip-words")
        for computed in (
            self.image, self.beside, self.texts, self.score, self.temperature, self.view,
            self.map_text,
        ):  # fmt: skip
            computed.observe(self._changed, names="value")
        self.preset.observe(self._preset_chosen, names="value")
        self.upload.observe(self._uploaded, names="value")
        self.download.on_click(self._downloads_asked)

    def _model_temperature(self) -> float:
        """By which the model divides cosines: its logit for a cosine of 1 is the inverse."""
        with torch.no_grad():
            one = torch.ones(1, 1, device=self.model.device)
            return 1 / self.model.compute_logits(one, one).item()

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        """The live page; beside it the picture, for readers without a kernel (as on GitHub)."""
        bundle: dict = {
            "text/plain": f"SimilarityExplorer of {len(self._images)} images, {self.view.value}",
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.page.model_id,
            },
        }
        if self.figure is None:
            return bundle, {}
        still, metadata = self.figure._repr_png_()
        return bundle | {"image/png": base64.b64encode(still).decode()}, {"image/png": metadata}

    # --- events -------------------------------------------------------------------------------

    def _changed(self, change) -> None:
        """A control has changed: compute once the person has paused."""
        if not self._listening:
            return
        with self._deaf():
            if change["owner"] is self.texts:
                self.preset.value = OWN_TEXTS
            if change["owner"] is self.view:  # a map opens on the best text
                self.map_text.value = None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # plain Python, no kernel: at once
            self.refresh()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(TYPING_PAUSE, self.refresh)

    def _preset_chosen(self, change) -> None:
        if self._listening and change["new"] != OWN_TEXTS:
            with self._deaf():
                self.texts.value = "\n".join(self.presets[change["new"]])
            self.refresh()

    def _pressed(self, place: int) -> None:
        """A text was pressed: its map opens, or closes where it is open."""
        assert self._shown is not None
        if MAP not in self.view.options:
            return
        text = self._shown.texts[place]
        with self._deaf():
            is_open = self._shown.map_text == text
            self.view.value = BARS if is_open else MAP
            self.map_text.value = text
        self.refresh()

    def _downloads_asked(self, button) -> None:
        if (figure := self.figure) is not None and self.table is not None:
            csv = self.table.to_csv(index=False).encode()
            self.downloads.value = (
                _link("the figure (PNG)", "similarity.png", "image/png", plots.figure_png(figure))
                + " or "
                + _link("the numbers (CSV)", "similarity.csv", "text/csv", csv)
            )

    def _uploaded(self, change) -> None:
        files, problems = uploaded_files(change["new"]), []
        for name, content in files:
            try:
                file = BytesIO(content)
                file.name = name  # so that an error names it
                name = free_name(name, self._images)
                self._images[name] = read_picture(file)
            except Exception as error:
                problems.append(str(error))
                logger.info("upload refused: %s", error)
                continue
            with self._deaf():
                other = self.beside.value
                self.image.options = list(self._images)
                self.beside.options = [ALONE, *self._images]
                self.image.value, self.beside.value = name, other
        if len(problems) < len(files):
            self.refresh()
        if problems:
            self._say("; ".join(problems), error=True)

    @contextmanager
    def _deaf(self):
        """Set a control without its change counting as a person's."""
        before, self._listening = self._listening, False
        try:
            yield
        finally:
            self._listening = before

    # --- results ------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Compute and show what the controls say. Problems are reported; the last result stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        start = time.perf_counter()
        for control, used in (
            (self.image, self.view.value != MATRIX),
            (self.beside, self.view.value != MATRIX and len(self._images) > 1),
            (self.temperature, self.score.value != COSINE),
            (self.map_text, self.view.value == MAP),
        ):
            control.layout.display = None if used else "none"
        try:
            count = self._compute()
        except (ValueError, OSError) as error:  # worded for people
            logger.info("no new result", exc_info=True)
            self._say(str(error), error=True)
        except Exception as error:
            logger.exception("the explorer could not show a result")
            self._say(f"Unexpected {type(error).__name__}: {error}", error=True)
        else:
            seconds = time.perf_counter() - start
            self._say(f"{count} text{'s' if count > 1 else ''}, scored in {seconds:.3f} s")

    def _compute(self) -> int:
        """From the controls to the page: count of texts; raises before anything has changed."""
        lines = list(dict.fromkeys(filter(None, map(str.strip, self.texts.value.splitlines()))))
        if not any(line.replace("|", "").strip() for line in lines):
            raise ValueError("There is no text: write one per line.")
        pairs = [split_pair(line) for line in lines] if self.score.value == PAIR else None
        if pairs:
            texts, negatives = map(list, zip(*pairs, strict=True))
        else:
            parts = (part.strip() for line in lines for part in line.split("|"))
            texts, negatives = list(dict.fromkeys(filter(None, parts))), []
        chosen = [self.image.value, *([] if self.beside.value == ALONE else [self.beside.value])]
        names = list(self._images) if self.view.value == MATRIX else chosen
        image_embeds = self._embed("image", names)
        text_embeds = self._embed("text", [*texts, *negatives])
        cosine = image_embeds @ text_embeds.T  # (images, texts and negatives)
        values, label = self._scores(cosine, len(texts))
        options = list(dict.fromkeys([*texts, *negatives]))
        best = texts[int(values[0].argmax())]
        map_text = self.map_text.value if self.map_text.value in options else best
        maps = [self._map(name, map_text) for name in names] if self.view.value == MAP else []
        table = {
            "image": np.repeat(names, len(texts)),
            "text": np.tile(texts, len(names)),
            "cosine": cosine[:, : len(texts)].ravel(),
        }
        if pairs:
            table |= {
                "negative": np.tile(negatives, len(names)),
                "negative_cosine": cosine[:, len(texts) :].ravel(),
            }
        said = self._in_words(names, texts, negatives, values, image_embeds)
        with self._deaf():
            if self.map_text.options != tuple(options):  # one message fewer per keystroke
                self.map_text.options = options
            self.map_text.value = map_text
        self.table, self._drawn = pd.DataFrame(table | {"score": values.ravel()}), None
        labels = [f"{p} | {n}" for p, n in pairs] if pairs else texts
        shown = Shown(
            self.view.value, names, map_text if maps else None, texts, labels, values, label
        )
        self._shown = shown
        self.downloads.value = ""
        self.words.value = said
        if shown.view == MATRIX:
            images = {name: self._images[name].small for name in names}
            self.pictures.value, self._pictured = pieces.matrix(values, images, labels, label), None
        else:
            self._show_pictures(names, shown.map_text, maps)
            self._show_rows(shown)
        self.bars.layout.display = "none" if shown.view == MATRIX else None
        return len(texts)

    def _show_pictures(self, names, map_text, maps) -> None:
        now = names, map_text
        if self._pictured == now:  # their PNG takes as long as all other HTML
            return
        letters = "AB" if len(names) > 1 else ""
        largest = max((float(np.abs(one).max()) for one in maps), default=0)
        shown = []
        for place, name in enumerate(names):
            picture = self._images[name].small
            caption = f"{letters[place]}: {name}" if letters else name
            told = f"Radiograph {caption}"
            if maps:
                told += f" with the map of {map_text}"
                total = pieces.number(maps[place].sum())
                caption += (
                    f". Orange adds to the cosine with “{map_text}”, {total}; blue lowers it."
                )
                picture = pieces.overlay(picture, maps[place], largest)
            shown.append((caption, told, picture))
        self.pictures.value, self._pictured = pieces.pictures(shown), now

    def _show_rows(self, shown: Shown) -> None:
        """A row per text, in the order they were written in: the best is named, not moved."""
        names, values = shown.names, shown.values
        has_map = MAP in self.view.options
        while len(self._rows) < len(shown.rows):
            place = len(self._rows)
            button = widgets.Button(disabled=not has_map, layout=Layout(width="42%", height="auto"))
            button.add_class("medclip-text")
            button.on_click(lambda _, place=place: self._pressed(place))
            bar = widgets.HTML(layout=Layout(flex="1 1 54%", min_width="0"))
            self._rows.append(widgets.HBox([button, bar]))
        letters = ["A", "B"] if len(names) > 1 else [""]
        low = -1 if self.score.value == COSINE else 0
        best = values.argmax(1)
        self.axis.value = pieces.axis(low, shown.label)
        for row, label in enumerate(shown.rows):
            button, bar = self._rows[row].children
            unknown = self._unknown(label)
            colours = [
                pieces.UNSURE if unknown or self._foreign(name) or self._images[name].warning
                else (pieces.INK if best[place] == row else pieces.PALE)[place]
                for place, name in enumerate(names)
            ]  # fmt: skip
            note = f"not in the vocabulary: {', '.join(unknown)}" if unknown else ""
            button.description = label
            is_open = shown.map_text == shown.texts[row]
            button.button_style = "info" if is_open else ""
            button.tooltip = ("Close its map" if is_open else "Show its map") if has_map else ""
            bar.value = pieces.score(values[:, row].tolist(), low, colours, letters, note)
        if len(self.bars.children) != len(shown.rows) + 1:
            self.bars.children = [self.head, *self._rows[: len(shown.rows)]]

    def _in_words(self, names, texts, negatives, values, image_embeds) -> str:
        """What the scores say, and what must be known first: HTML."""
        said = [
            f"<div class='medclip-alert'>{html.escape(told)}</div>"
            for name in names if (told := self._warning(name))
        ]  # fmt: skip
        if foreign := [name for name in names if self._foreign(name)]:
            which = html.escape(foreign[0])
            if len(foreign) > 1:
                which = f"{len(foreign)} of these {len(names)} pictures"
            said.append(f"<div class='medclip-banner'>{BANNER.format(which)}</div>")
        told = [] if self.view.value == MATRIX else names
        for name, scores, embed in zip(told, values, image_embeds, strict=False):
            place = f"{html.escape(name)}: " if len(names) > 1 else ""
            first, *others = np.argsort(-scores, kind="stable")
            nearest = f"{pieces.quoted(texts[first])} ({pieces.number(scores[first])})"
            if negatives:
                over = pieces.quoted(negatives[first])
                led = "Prefers most" if scores[first] > 0.5 else "Prefers none; closest"
                said.append(f"<div>{place}{led}: {nearest} to {over}</div>")
                continue
            cosines = embed @ self._embed("text", texts).T
            margin, spread = cosines[first] - max(cosines[others], default=-1), self._spread(embed)
            if others and margin < spread:
                said.append(
                    f"<div>{place}No text stands out: {nearest} is {pieces.number(margin)} ahead "
                    f"in cosine, and putting a finding in other words moves it by "
                    f"{pieces.number(spread)}.</div>"
                )
            else:
                said.append(f"<div>{place}Nearest: {nearest}</div>")
            if unknown := self._unknown(texts[first]):
                words = ", ".join(map(pieces.quoted, unknown))
                said.append(f"<div>Its vocabulary does not know {words}.</div>")
        if negatives:
            said.append(f"<small>{PREFERENCE}</small>")
        return f"<div role='status'>{''.join(said)}</div>"

    def _spread(self, image_embed: np.ndarray) -> float:
        """Standard deviation of an image's cosine with several wordings of the same finding."""
        wordings = load_class_prompts("chexpert", n=4, seed=0)
        variances = [
            np.var(self._embed("text", texts) @ image_embed) for texts in wordings.values()
        ]
        return float(np.sqrt(np.mean(variances)))

    def _warning(self, name: str) -> str:
        warning = self._images[name].warning
        return warning if name in warning or not warning else f"{name}: {warning}"

    def _foreign(self, name: str) -> bool:
        """Whether the model knows only drawings and the image is not known to be one."""
        note = getattr(self.model, "note", None) or ""
        return "drawings" in note and not self._images[name].drawing

    def _unknown(self, text: str) -> list[str]:
        tokenizer = getattr(self.processor, "tokenizer", None)
        return unknown_words(tokenizer, text) if hasattr(tokenizer, "tokenize") else []

    @property
    def figure(self) -> NotebookFigure | None:
        """What is shown, as a figure of `plots`; None before the first result.

        Of two images it has the scores, and no map.
        """
        if self._timer is not None:  # what has been typed a moment ago
            self.refresh()
        if self._drawn is None and self._shown is not None:
            self._drawn = self._draw(self._shown)
        return self._drawn

    def _embed(self, kind: str, keys: Sequence[str]) -> np.ndarray:
        """(keys, dim): embeddings of images by name, or of texts; each is computed once."""
        known = self._embeds[kind]
        if new := list(dict.fromkeys(key for key in keys if key not in known)):
            self._say(f"encoding {len(new)} {kind}{'s' if len(new) > 1 else ''} …", busy=True)
            if kind == "text":
                embeds = encode_texts(self.model, self.processor, new)
            else:
                images = [self._images[name].image for name in new]
                embeds = encode_images(self.model, self.processor, images, progress=False)
            known.update(zip(new, embeds.numpy(), strict=True))
        return np.stack([known[key] for key in keys])

    def _map(self, name: str, text: str) -> np.ndarray:
        """(h, w): contributions of positions to the cosine of an image and a text."""
        if (name, text) not in self._maps:
            self._say("computing the map …", busy=True)
            pixel_values = self.processor(images=self._images[name].image)["pixel_values"]
            text_embeds = torch.from_numpy(self._embed("text", [text]))
            maps = similarity_map(self.model, pixel_values, text_embeds)
            self._maps[name, text] = maps[0, 0].cpu().numpy()
        return self._maps[name, text]

    def _scores(self, cosine: np.ndarray, count: int) -> tuple[np.ndarray, str]:
        """Cosines (images, texts [and negatives]) -> chosen score (images, texts), its name."""
        temperature = self.temperature.value
        if self.score.value == COSINE:
            return cosine, "cosine similarity"
        at = f"temperature {temperature:.3f}"
        if self.score.value == PAIR:
            difference = (cosine[:, :count] - cosine[:, count:]) / temperature
            return expit(difference), f"preference for the text before the bar, {at}"
        return softmax(cosine / temperature, axis=1), f"softmax over {count} texts, {at}"

    def _draw(self, shown: Shown) -> NotebookFigure:
        names, values, note = shown.names, shown.values, self.note
        images = [self._images[name].image for name in names]
        if len(names) > 1 or shown.view == MATRIX:
            return plots.plot_similarity_matrix(
                values, images, shown.rows, title=shown.label, note=note, names=names
            )
        if shown.map_text is not None:
            contributions = self._map(names[0], shown.map_text)
            return plots.plot_similarity_map(images[0], contributions, shown.map_text, note=note)
        return plots.plot_similarities(
            images[0], shown.rows, values[0], title=names[0], xlabel=shown.label, note=note
        )

    def _say(self, message: str, *, error: bool = False, busy: bool = False) -> None:
        text = html.escape(message)
        if error:
            kept = "<br>The page shows the last valid result." if self._shown else ""
            text = f"<div role='alert' class='medclip-alert'>{text}<i>{kept}</i></div>"
        elif busy:
            text = f"<b>⏳ {text}</b>"
        self.status.value = text


def _link(text: str, name: str, kind: str, content: bytes) -> str:
    href = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<a download="{name}" href="{href}" style="text-decoration:underline">{text}</a>'
