"""A normal frontal chest, drawn from a seed: where things are, and how bright.

Coordinates are fractions of the side: x to the right of the picture (the patient's left), y down.
Brightness adds up like attenuation; `phantoms` turns the sum into a film-like picture.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter


class Canvas(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    size: int


@functools.lru_cache(maxsize=8)
def canvas_of(size: int) -> Canvas:
    line = (np.arange(size, dtype=np.float32) + 0.5) / size
    return Canvas(line[None, :].repeat(size, 0), line[:, None].repeat(size, 1), size)


def edge(distance: np.ndarray, softness: float) -> np.ndarray:
    """0 outside (negative distance), 1 inside, with a smooth rim of width `softness`."""
    t = distance * np.float32(1 / softness)
    t += np.float32(0.5)
    np.clip(t, 0, 1, out=t)
    smooth = t * t  # and times 3 - 2 t, in place: new arrays are what costs
    t *= -2
    t += 3
    smooth *= t
    return smooth


def resize(field: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))


def clouds(rng, size: int, cells: int, octaves: int = 2) -> np.ndarray:
    """Smooth random field, mean 0, deviation about 1; `cells` blobs across the picture."""
    fields = (rng.standard_normal((cells * 2**k + 3,) * 2) for k in range(octaves))
    total = np.zeros((size, size), np.float32)
    for k, field in enumerate(fields):
        total += resize(field, size) / 1.6**k
    return total / total.std()


def strokes(size: int, lines, blur: float) -> np.ndarray:
    """Lines [(points (n, 2), width)] in fractions of the side, drawn and blurred; peak about 1."""
    scale = 2 if size < 160 else 1
    image = Image.new("L", (size * scale,) * 2)
    draw = ImageDraw.Draw(image)
    for points, width in lines:
        pixels = [tuple(p) for p in (np.asarray(points) * size * scale).tolist()]
        draw.line(pixels, fill=255, width=max(1, round(width * size * scale)), joint="curve")
    field = np.asarray(image, dtype=np.float32) / 255
    if scale > 1:
        field = field.reshape(size, scale, size, scale).mean((1, 3))
    return gaussian_filter(field, blur * size)


class Anatomy:
    """A normal chest: where things are (`lung`, `heart`, ...) and how bright (`density`).

    enlarged: severity of cardiomegaly, or None. raised: side -> how far its diaphragm is raised.
    """

    def __init__(self, rng, canvas: Canvas, difficulty: float, enlarged: float | None,
                 raised: Mapping[str, float]):  # fmt: skip
        x, y, size = canvas
        self.rng, self.canvas = rng, canvas
        vary = 0.5 + difficulty  # how far normal chests differ from each other
        self.middle = middle = 0.5 + 0.012 * vary * rng.standard_normal()
        self.width = width = rng.uniform(0.365, 0.415)  # half the inner width of the chest
        self.apex = apex = rng.uniform(0.10, 0.14)
        inspiration = rng.uniform(-0.035, 0.02) * vary
        right_dome = 0.775 + inspiration
        self.dome = {"right": right_dome, "left": right_dome + rng.uniform(0.005, 0.035)}
        self.dome = {s: level - raised.get(s, 0.0) for s, level in self.dome.items()}
        self.distance = np.abs(x - middle)
        self.is_left = x > middle
        self.side = {"left": self.is_left, "right": ~self.is_left}

        # chest wall, from the apex out to the full width and slightly in again
        depth = np.clip((y - apex) / 0.5, 0, 1)
        self.wall = width * (1 - (1 - depth) ** 2.4) ** 0.55 * (1 - 0.05 * np.clip(y - 0.5, 0, 1))
        curve = (self.distance - 0.42 * width) / width
        fall = np.where(curve > 0, 0.34 * curve**2, 0.14 * curve**2)
        self.floor = self._by_side(self.dome["left"], self.dome["right"]) + fall

        # heart: an ellipse whose projected width is the cardiothoracic ratio times the chest's
        normal = rng.uniform(0.40, 0.455) + 0.02 * difficulty * rng.random()
        self.ratio = normal if enlarged is None else 0.525 + 0.15 * enlarged
        self.heart = self._heart(rng)
        mediastinum = 0.050 + 0.022 * np.exp(-(((y - 0.40) / 0.10) ** 2))
        # the great vessels widen into the heart, more to the left
        mediastinum += self._by_side(0.40, 0.20) * np.clip(y - 0.42, 0, 0.14)
        knob = np.hypot(x - middle - 0.040, (y - 0.30) * 0.75) - rng.uniform(0.036, 0.046)
        self.centre = np.maximum(edge(mediastinum - self.distance, 0.02), 0.85 * edge(-knob, 0.03))
        inside = edge(self.wall - self.distance, 0.018) * edge(y - apex, 0.03)
        self.cavity = inside * edge(self.floor - y, 0.012)
        self.lung = self.cavity * (1 - self.centre) * (1 - 0.93 * self.heart)
        # distance from the nearer hilum, where vessels and edema are densest
        self.hilum = 0.40 + 0.02 * rng.standard_normal()
        self.from_hilum = np.hypot(self.distance - 0.085, (y - self.hilum) * 0.8)

    def _by_side(self, left: float, right: float) -> np.ndarray:
        return np.where(self.is_left, np.float32(left), np.float32(right))

    def _heart(self, rng) -> np.ndarray:
        x, y, _ = self.canvas
        half = self.ratio * self.width
        tall = rng.uniform(0.125, 0.145) + 0.30 * max(0.0, half - 0.17)
        angle = rng.uniform(0.30, 0.55)
        cos, sin = float(np.cos(angle)), float(np.sin(angle))  # keeps the fields float32
        long = float(np.sqrt(max(half**2 - (tall * sin) ** 2, 0.01)) / cos)
        level = (self.dome["left"] + self.dome["right"]) / 2
        dx = x - (self.middle + 0.28 * half)
        dy = y - (level - 0.55 * tall)
        u, v = (dx * cos + dy * sin) / long, (-dx * sin + dy * cos) / tall
        # a little squarer than an ellipse, as a heart that rests on the diaphragm is
        return edge(1 - (np.abs(u) ** 2.3 + np.abs(v) ** 2.3) ** (1 / 2.3), 0.10)

    def vessels(self) -> np.ndarray:
        """Branching arteries from both hila; thick near the heart, gone near the wall."""
        rng = self.rng
        lines: list[tuple] = []
        for sign in (-1, 1):
            start = np.array([self.middle + sign * 0.075, self.hilum])
            for aim in np.linspace(-1.25, 1.45, 7) + 0.12 * rng.standard_normal(7):
                heading = np.array([sign * np.cos(aim), np.sin(aim)])
                self._branch(lines, start, heading, 0.0115, rng.uniform(0.075, 0.11), 3)
        return strokes(self.canvas.size, lines, 0.004)

    def _branch(self, lines, start, heading, width, length, depth) -> None:
        rng = self.rng
        bend = heading + 0.25 * rng.standard_normal(2)
        middle = start + heading * length / 2
        end = middle + bend / np.hypot(*bend) * length / 2
        lines.append(([start, middle, end], width))
        if depth:
            for turn in (-0.45, 0.4):
                angle = np.arctan2(*bend[::-1]) + turn + 0.2 * rng.standard_normal()
                heading = np.array([np.cos(angle), np.sin(angle)])
                self._branch(lines, end, heading, width * 0.62, length * 0.78, depth - 1)

    def ribs(self) -> np.ndarray:
        """Ten pairs seen from behind, and fainter front ends that run the other way."""
        rng, (_, y, size) = self.rng, self.canvas
        out = self.distance / self.width
        warp = 0.006 * clouds(rng, size, 2, 1)
        rows = y - self.apex + warp
        back = rows + 0.06 * out - 0.19 * out**2
        front = rows - 0.30 * np.clip(1 - out, 0, 1) ** 1.1 - 0.055
        pitch = rng.uniform(0.080, 0.090)
        strength = 1 + 0.25 * clouds(rng, size, 3, 1)
        return strength * (
            self._bands(back, pitch, 0.27) * (0.5 + 0.5 * np.clip(out * 1.6, 0, 1))
            + 0.28 * self._bands(front, pitch * 1.2, 0.30) * edge(out - 0.5, 0.35)
        )

    @staticmethod
    def _bands(rows: np.ndarray, pitch: float, half: float) -> np.ndarray:
        # a rib is a tube: its walls are denser than its middle
        phase = np.abs((rows / pitch) % 1 - 0.5)
        solid = edge(half - phase, 0.16)
        return solid * (0.6 + 0.4 * np.exp(-(((phase - half + 0.06) / 0.07) ** 2)))

    def clavicles(self) -> np.ndarray:
        lines = []
        tilt = 0.02 * self.rng.standard_normal()
        for sign in (-1, 1):
            t = np.linspace(0, 1, 9)
            across = self.middle + sign * (0.035 + 0.32 * t)
            down = self.apex + 0.075 - 0.055 * t - 0.025 * np.sin(t * np.pi * 1.6) + sign * tilt * t
            lines.append((np.stack([across, down], 1), 0.024))
        return strokes(self.canvas.size, lines, 0.005)

    def density(self) -> np.ndarray:
        rng, (x, y, size) = self.rng, self.canvas
        shoulder = edge(y - 0.075, 0.17)
        outline = 0.13 + 0.40 * shoulder - 0.05 * edge(y - 0.45, 0.5)
        self.body = edge(outline * rng.uniform(0.94, 1.08) - self.distance, 0.03)
        soft = 0.60 + 0.025 * clouds(rng, size, 3)
        soft += 0.05 * np.clip((self.distance - self.wall) / 0.1, 0, 1)  # muscle beside the chest
        density = soft * self.body
        density += 0.10 * edge(y - self.floor, 0.014) * self.body  # liver and spleen
        bubble = np.hypot((x - self.middle - 0.19) / 0.06, (y - self.dome["left"] - 0.075) / 0.035)
        density -= rng.uniform(0, 0.22) * edge(1 - bubble, 0.3)
        aeration = rng.uniform(0.35, 0.41) * (1 - 0.12 * np.clip((0.35 - y) / 0.3, 0, 1))
        density -= (aeration + 0.018 * clouds(rng, size, 5)) * self.lung
        vertebrae = 0.75 + 0.25 * np.cos((y - self.apex) / 0.047 * 2 * np.pi)
        spine = edge(0.034 - self.distance, 0.02)
        density += spine * (0.07 + 0.035 * vertebrae) * np.clip(1.2 - y, 0, 1)
        density += 0.05 * self.heart + 0.045 * self.centre * self.body
        trachea = np.abs(x - self.middle + 0.004) - 0.014
        density -= 0.09 * edge(-trachea, 0.014) * edge(self.hilum - 0.06 - y, 0.04) * self.body
        density += 0.075 * np.exp(-((self.from_hilum / 0.05) ** 2))
        density -= 0.05 * np.clip(self.distance - 0.3, 0, 1) * self.body  # less tissue to the sides
        chest = edge(self.wall + 0.02 - self.distance, 0.02) * edge(y - self.apex, 0.04)
        density += 0.062 * self.ribs() * chest * np.clip((self.floor + 0.06 - y) / 0.1, 0.15, 1)
        density += 0.13 * self.clavicles()
        blade = self.distance - (0.80 * self.wall + 0.25 * (y - 0.3) ** 2 + 0.02)
        density += (
            0.045 * edge(blade, 0.012) * edge(0.46 - y, 0.12) * edge(y - 0.13, 0.05) * self.body
        )
        if rng.random() < 0.45:  # breast shadows
            breast = np.hypot((self.distance - 0.22) / 0.19, (y - 0.66) / 0.15)
            density += rng.uniform(0.02, 0.07) * edge(1 - breast, 0.25) * self.body
        self.vessel_field = self.vessels()
        density += 0.17 * self.vessel_field * self.lung * np.exp(-self.from_hilum / 0.26)
        return density
