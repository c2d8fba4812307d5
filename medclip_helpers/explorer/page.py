"""An interactive page inside a notebook: radiographs against texts, live.

Core ipywidgets only, valid on versions 7.7 (Colab) and 8. Pictures are PNG bytes in an `Image`
widget: an `Output` widget would swallow exceptions and lose figures in Colab.
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

import ipywidgets as widgets
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.special import expit, softmax

from .. import plots
from ..model import MedCLIPModel
from ..processor import MedCLIPProcessor
from ..radiographs import read_radiograph
from ..similarity import encode_images, encode_texts, eval_mode, similarity_map
from .inputs import (
    default_presets,
    demo_images,
    free_name,
    named_images,
    split_pair,
    uploaded_files,
)

logger = logging.getLogger(__name__)

COSINE, SOFTMAX, PAIR = "cosine", "softmax over the texts", "positive against negative"
BARS, MAP, MATRIX = "bars", "map of a text", "all images"
OWN_TEXTS = "own texts"
TYPING_PAUSE = 0.12  # seconds without a further change before results are computed
HINT = (
    "One text a line. For positive against negative write <i>present | absent</i>; "
    "without the second half a negative is made and shown."
)
PRIVACY = "For research use only. Uploads go to this notebook's kernel and nowhere else."


class SimilarityExplorer:
    """Choose an image, edit texts, see their similarity. The last line of a cell shows it.

    model, processor: as `load_medclip` returns them. Of a model, the explorer asks `encode_image`,
        `encode_text`, `compute_logits`, `device` and `note`; and offers maps where it has the
        feature map of `similarity.similarity_map`.
    images: name -> radiograph, a list of radiographs (paths, PIL images, arrays), or a folder,
        file or pattern; by default drawings of the demo world.
    presets: name -> texts, offered beside the texts; the first is shown at first.
    note: stands at the foot of every figure; by default what the model says of its weights.

    `table` (a DataFrame) and `figure` hold what is shown. The controls are attributes: `image`,
    `upload`, `preset`, `texts`, `score`, `temperature`, `view`, `map_text`. Changes made from code
    are drawn when the cell has ended, or at once by `refresh()`.
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
        self._image_cache: dict[str, np.ndarray] = {}
        self._text_cache: dict[str, np.ndarray] = {}
        self._map_cache: dict[tuple[str, str], np.ndarray] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._listening = True
        self.table: pd.DataFrame | None = None
        self.figure: Figure | None = None
        self._build()
        self.refresh()

    # --- page ---------------------------------------------------------------------------------

    def _build(self) -> None:
        wide = widgets.Layout(width="98%")
        style = {"description_width": "86px"}
        first, lines = next(iter(self.presets.items()))

        def menu(label, options, layout=wide, **more):
            return widgets.Dropdown(
                description=label, options=options, layout=layout, style=style, **more
            )

        self.image = menu("Radiograph", list(self._images))
        self.upload = widgets.FileUpload(
            description="Upload PNG, JPEG or DICOM", multiple=True, layout=wide
        )
        self.preset = menu("Preset", [OWN_TEXTS, *self.presets], value=first)
        self.texts = widgets.Textarea("\n".join(lines), rows=9, layout=wide)
        self.score = menu("Score", [COSINE, SOFTMAX, PAIR])
        self.temperature = widgets.FloatLogSlider(
            description="Temperature", value=self._model_temperature(), min=-2.5, max=0.5,
            step=0.02, readout_format=".3f", layout=wide, style=style, disabled=True,
        )  # fmt: skip
        has_map = hasattr(getattr(self.model, "vision_model", None), "forward_features")
        self.view = menu("View", [BARS, *([MAP] if has_map else []), MATRIX])
        self.map_text = menu("Text", [], layout=widgets.Layout(width="98%"))  # hidden at times
        self.status = widgets.HTML()
        self.picture = widgets.Image(format="png", layout=widgets.Layout(max_width="100%"))
        self.downloads = widgets.HTML()
        about = widgets.HTML(f"<small>{PRIVACY}</small>")
        hint = f"<div style='line-height:1.3'><small>{HINT}</small></div>"
        left = widgets.VBox(
            [
                self.image, self.upload, self.preset, self.texts, widgets.HTML(hint, layout=wide),
                self.score, self.temperature, self.view, self.map_text,
            ],
            layout=widgets.Layout(width="310px", flex="0 0 auto"),
        )  # fmt: skip
        right = widgets.VBox(
            [self.status, self.picture, self.downloads, about],
            layout=widgets.Layout(flex="1 1 420px", min_width="0", padding="0 0 0 12px"),
        )
        self.page = widgets.HBox([left, right], layout=widgets.Layout(flex_flow="row wrap"))
        computed_from = "image", "texts", "score", "temperature", "view", "map_text"
        for name in computed_from:
            getattr(self, name).observe(self._changed, names="value")
        self.preset.observe(self._preset_chosen, names="value")
        self.upload.observe(self._uploaded, names="value")

    def _model_temperature(self) -> float:
        """By which the model divides cosines: its logit for a cosine of 1 is the inverse."""
        with torch.no_grad():
            one = torch.ones(1, 1, device=self.model.device)
            return 1 / self.model.compute_logits(one, one).item()

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The live page; beside it the picture, for readers without a kernel (as on GitHub)."""
        if self._timer is not None:
            self.refresh()
        return {
            "text/plain": f"SimilarityExplorer of {len(self._images)} images, {self.view.value}",
            "image/png": base64.b64encode(self.picture.value).decode(),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.page.model_id,
            },
        }

    # --- events -------------------------------------------------------------------------------

    def _changed(self, change) -> None:
        """A control has changed: compute once the person has paused."""
        if not self._listening:
            return
        if change["owner"] is self.texts:
            with self._deaf():
                self.preset.value = OWN_TEXTS
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

    def _uploaded(self, change) -> None:
        files, problems = uploaded_files(change["new"]), []
        for name, content in files:
            try:
                file = BytesIO(content)
                file.name = name  # so that an error names it
                name = free_name(name, self._images)
                self._images[name] = read_radiograph(file)
            except Exception as error:
                problems.append(str(error))
                logger.info("upload refused: %s", error)
                continue
            with self._deaf():
                self.image.options = list(self._images)
                self.image.value = name
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
        """Compute and draw what the controls say now. Problems are shown; the last result stays."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        start = time.perf_counter()
        self.temperature.disabled = self.score.value == COSINE
        self.map_text.layout.display = None if self.view.value == MAP else "none"
        try:
            self.table, self.figure = self._compute()
            self._show(self.table, self.figure)
        except (ValueError, OSError) as error:  # worded for people
            logger.info("no new result", exc_info=True)
            self._say(str(error), error=True)
        except Exception as error:
            logger.exception("the explorer could not show a result")
            self._say(f"Unexpected {type(error).__name__}: {error}", error=True)
        else:
            count = self.table["text"].nunique()
            seconds = time.perf_counter() - start
            self._say(f"{count} text{'s' if count > 1 else ''}, drawn in {seconds:.2f} s")

    def _compute(self):
        lines = list(dict.fromkeys(filter(None, map(str.strip, self.texts.value.splitlines()))))
        if not any(line.replace("|", "").strip() for line in lines):
            raise ValueError("There is no text: write one a line.")
        pairs = [split_pair(line) for line in lines] if self.score.value == PAIR else None
        if pairs:
            texts, negatives = map(list, zip(*pairs, strict=True))
        else:
            parts = (part.strip() for line in lines for part in line.split("|"))
            texts, negatives = list(dict.fromkeys(filter(None, parts))), []
        names = list(self._images) if self.view.value == MATRIX else [self.image.value]
        image_embeds = self._embed(self._image_cache, self._encode_images, names, "image")
        text_embeds = self._embed(
            self._text_cache, self._encode_texts, [*texts, *negatives], "text"
        )
        cosine = image_embeds @ text_embeds.T  # (images, texts and negatives)
        with self._deaf():
            chosen = self.map_text.value
            options = list(dict.fromkeys([*texts, *negatives]))
            self.map_text.options = options
            self.map_text.value = chosen if chosen in options else options[0]
        values, label = self._scores(cosine, len(texts))
        labels = [f"{p} | {n}" for p, n in pairs] if pairs else texts
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
        table |= {"score": values.ravel()}
        return pd.DataFrame(table), self._draw(names, labels, values, label)

    def _embed(self, cache, encode, keys, kind) -> np.ndarray:
        """Embeddings of `keys`; only those not in `cache` are computed."""
        new = list(dict.fromkeys(key for key in keys if key not in cache))
        if new:
            self._say(f"encoding {len(new)} {kind}{'s' if len(new) > 1 else ''} …", busy=True)
            cache.update(zip(new, encode(new).numpy(), strict=True))
        return np.stack([cache[key] for key in keys])

    def _encode_images(self, names: Sequence[str]) -> torch.Tensor:
        images = [self._images[name] for name in names]
        return encode_images(self.model, self.processor, images, progress=False)

    def _encode_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return encode_texts(self.model, self.processor, texts)

    def _map(self, name: str, text: str) -> np.ndarray:
        """(h, w): contributions of positions to the cosine of an image and a text."""
        if (name, text) not in self._map_cache:
            self._say("computing the map …", busy=True)
            pixel_values = self.processor(images=self._images[name])["pixel_values"]
            text_embeds = torch.from_numpy(self._text_cache[text])[None]
            with eval_mode(self.model):
                maps = similarity_map(self.model, pixel_values, text_embeds)
            self._map_cache[name, text] = maps[0, 0].cpu().numpy()
        return self._map_cache[name, text]

    def _scores(self, cosine: np.ndarray, count: int) -> tuple[np.ndarray, str]:
        """Cosines (images, texts [and negatives]) -> chosen score (images, texts), its name."""
        temperature = self.temperature.value
        if self.score.value == COSINE:
            return cosine, "cosine similarity"
        at = f"temperature {temperature:.3f}"
        if self.score.value == PAIR:
            difference = (cosine[:, :count] - cosine[:, count:]) / temperature
            return expit(difference), f"probability of the text before the bar, {at}"
        return softmax(cosine / temperature, axis=1), f"softmax over {count} texts, {at}"

    def _draw(self, names, labels, values, label):
        if self.view.value == MATRIX:
            return plots.plot_similarity_matrix(
                values, [self._images[name] for name in names], labels,
                title=label, note=self.note, selected=names.index(self.image.value),
            )  # fmt: skip
        name, text = self.image.value, self.map_text.value
        image = self._images[name]
        if self.view.value == MAP:
            return plots.plot_similarity_map(image, self._map(name, text), text, note=self.note)
        return plots.plot_similarities(
            image, labels, values[0], title=name, xlabel=label, note=self.note
        )

    def _show(self, table: pd.DataFrame, figure: Figure) -> None:
        picture = plots.figure_png(figure)
        csv = table.to_csv(index=False).encode()
        figure_link = _link("the figure (PNG)", "similarity.png", "image/png", picture)
        numbers_link = _link("the numbers (CSV)", "similarity.csv", "text/csv", csv)
        # The picture last: who sees it can download the numbers that belong to it.
        self.downloads.value = f"Download {figure_link} or {numbers_link}"
        self.picture.value = picture

    def _say(self, message: str, *, error: bool = False, busy: bool = False) -> None:
        text = html.escape(message)
        if error:
            kept = "<br>The picture shows the last valid result." if self.figure is not None else ""
            # Own ink and paper: readable in light and dark themes.
            style = "background:#fdecea;color:#611a15;padding:4px 8px;border-left:4px solid #D55E00"
            text = f"<div role='alert' style='{style};line-height:1.4'>{text}<i>{kept}</i></div>"
        elif busy:
            text = f"<b>⏳ {text}</b>"
        self.status.value = text


def _link(text: str, name: str, kind: str, content: bytes) -> str:
    href = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<a download="{name}" href="{href}" style="text-decoration:underline">{text}</a>'
