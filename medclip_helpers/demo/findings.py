"""How each finding changes a drawn chest: its density is added, its mask is where."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from .anatomy import Anatomy, clouds, edge, strokes

VISIBLE = 0.02  # density from which a change counts as part of a mask


def sides(side: str) -> tuple[str, ...]:
    return ("left", "right") if side == "both" else (side,)


def atelectasis(chest: Anatomy, rng, severity: float, side: str):
    """Plates of collapsed lung just above a raised diaphragm, nearly level; volume is lost."""
    x, y, size = chest.canvas
    density = np.zeros((size, size), np.float32)
    for s in sides(side):
        sign = 1 if s == "left" else -1
        lines = []
        for k in range(1 + round(2.2 * severity + 0.3 * rng.random())):
            level = chest.dome[s] - 0.035 - 0.05 * k - 0.02 * rng.random()
            inner = 0.10 + 0.06 * rng.random()
            outer = inner + 0.09 + 0.10 * severity + 0.04 * rng.random()
            t = np.linspace(0, 1, 7)
            across = chest.middle + sign * (inner + (outer - inner) * t)
            tilt = rng.normal(0.0, 0.035)
            down = level + tilt * (t - 0.5) + 0.012 * np.sin(np.pi * t) * rng.normal()
            lines.append(
                (np.stack([across, down], 1), 0.008 + 0.009 * severity * rng.uniform(0.6, 1))
            )
        plate = strokes(size, lines, 0.0035)
        lost = np.exp(-(((chest.floor - y - 0.02) / 0.045) ** 2)) * chest.side[s]
        density += (0.10 + 0.20 * severity) * plate + (0.03 + 0.10 * severity) * lost
    density *= chest.lung
    return density, density > VISIBLE + 0.02


def consolidation(chest: Anatomy, rng, severity: float, side: str):
    """A fluffy opacity that fills part of a lobe and lets some airways show."""
    x, y, size = chest.canvas
    density = np.zeros((size, size), np.float32)
    for s in sides(side):
        sign = 1 if s == "left" else -1
        zone = rng.choice([0.26, 0.44, 0.60], p=[0.3, 0.3, 0.4])
        at = chest.middle + sign * rng.uniform(0.17, 0.24), zone + rng.uniform(-0.04, 0.04)
        reach = 0.075 + 0.085 * severity
        away = np.hypot((x - at[0]) / reach, (y - at[1]) / (reach * rng.uniform(0.8, 1.15)))
        ragged = away + 0.17 * clouds(rng, size, 7)
        fill = edge(1.05 - ragged, 0.75) * chest.side[s]
        bronchi = []
        for _ in range(3):
            start = np.array([chest.middle + sign * 0.10, chest.hilum + 0.03])
            end = np.array(at) + reach * 0.7 * rng.standard_normal(2)
            bend = (start + end) / 2 + 0.02 * rng.standard_normal(2)
            bronchi.append(([start, bend, end], 0.006))
        airways = strokes(size, bronchi, 0.003)
        density += (0.09 + 0.25 * severity) * fill * (1 - 0.35 * airways)
    density *= chest.lung
    return density, density > VISIBLE + 0.25 * density.max()


def edema(chest: Anatomy, rng, severity: float, side: str):
    """Haze that spreads from the hila like wings and blurs the vessels, which are widened."""
    x, y, size = chest.canvas
    reach = 0.10 + 0.09 * severity
    wings = np.exp(-(((chest.from_hilum / reach) ** 2) ** 0.9))
    wings *= 1 + 0.22 * clouds(rng, size, 8) + 0.18 * clouds(rng, size, 3, 1)
    wings += 0.22 * severity * edge(chest.from_hilum - 0.03, 0.25)
    vessels = gaussian_filter(chest.vessel_field, (0.004 + 0.006 * severity) * size)
    density = (0.07 + 0.20 * severity) * wings + 0.12 * severity * vessels
    if side != "both":  # one side can lead, the other follows faintly
        density = density * np.where(chest.side[side], 1.0, 0.25)
    density = np.clip(density, 0, None) * chest.lung
    return density, density > 0.4 * density.max()


def pleural_effusion(chest: Anatomy, rng, severity: float, side: str):
    """Fluid that hides the diaphragm and climbs the chest wall as a meniscus."""
    x, y, size = chest.canvas
    density = np.zeros((size, size), np.float32)
    for s in sides(side):
        base = chest.dome[s] + 0.085 - (0.03 + 0.27 * severity + 0.02 * rng.random())
        out = np.clip(chest.distance / np.maximum(chest.wall, 0.05), 0, 1)
        rise = (0.05 + 0.06 * severity) * out ** rng.uniform(2.5, 4)
        surface = base - rise
        fluid = edge(y - surface, 0.018 + 0.02 * severity) * chest.side[s]
        density += (0.34 + 0.05 * severity) * fluid
    density *= chest.lung + 0.25 * chest.cavity * (1 - chest.lung)
    return density, density > 0.5 * max(density.max(), VISIBLE)


def pneumothorax(chest: Anatomy, rng, severity: float, side: str):
    """Air between lung and wall: black, without vessels, up to the thin line of the pleura."""
    x, y, size = chest.canvas
    density = np.zeros((size, size), np.float32)
    mask = np.zeros((size, size), bool)
    for s in sides(side):
        gap = 0.018 + 0.10 * severity
        high = np.clip(1.25 - (y - chest.apex) / 0.5, 0.12, 1.25)  # air gathers at the top
        inner = chest.wall - gap * high * (1 + 0.05 * rng.standard_normal())
        top = chest.apex + gap * 1.25
        depth = np.minimum(inner - chest.distance, (y - top) * 1.2)
        rim = edge(-depth, 0.006) * chest.lung * chest.side[s]
        line = np.exp(-((depth / 0.0042) ** 2)) * (chest.lung > 0.5) * chest.side[s]
        density += 0.13 * line - rim * (0.055 + 0.03 * severity)
        density -= rim * 0.17 * chest.vessel_field * np.exp(-chest.from_hilum / 0.26)
        mask |= rim > 0.5
    return density, mask


def lung_lesion(chest: Anatomy, rng, severity: float, side: str):
    """A round nodule or mass, slightly lobulated, somewhere in the lung."""
    x, y, size = chest.canvas
    density = np.zeros((size, size), np.float32)
    for s in sides(side):
        sign = 1 if s == "left" else -1
        radius = 0.017 + 0.038 * severity
        at = chest.middle + sign * rng.uniform(0.15, 0.29), rng.uniform(0.25, 0.60)
        angle = np.arctan2(y - at[1], x - at[0])
        wobble = 1 + 0.07 * np.sin(3 * angle + rng.uniform(0, 6)) + 0.05 * np.sin(5 * angle)
        away = np.hypot(x - at[0], y - at[1]) / (radius * wobble)
        density += (0.15 + 0.13 * severity) * edge(1.1 - away, 0.5)
    density *= np.maximum(chest.lung, 0.3 * chest.cavity)
    return density, density > 0.4 * density.max()


def support_devices(chest: Anatomy, rng, severity: float, side: str):
    """A breathing tube, a central line, or a pacemaker; more of them with severity."""
    x, y, size = chest.canvas
    sign = 1 if side == "left" else -1
    m = chest.middle
    box: np.ndarray | float = 0.0
    lines: list[tuple] = []
    kinds = rng.permutation(3)[: 1 + (severity > 0.5) + (severity > 0.85)]
    if 0 in kinds:  # tube in the trachea
        lines.append(([(m - 0.004, 0.0), (m - 0.006, chest.hilum - 0.07)], 0.009))
    if 1 in kinds:  # line under the clavicle to the vein before the heart
        t = np.linspace(0, 1, 12)
        across = m + sign * 0.30 * (1 - t) ** 1.5 - 0.028
        down = 0.17 + 0.02 * np.sin(4 * t) + 0.25 * t**2.4
        lines.append((np.stack([across, down], 1), 0.005))
    if 2 in kinds:  # pacemaker and its lead
        at = m + sign * 0.27, 0.22
        box = edge(1 - np.maximum(np.abs(x - at[0]) / 0.042, np.abs(y - at[1]) / 0.034), 0.2)
        t = np.linspace(0, 1, 14)
        across = at[0] + (m + 0.08 - at[0]) * t - sign * 0.03 * np.sin(np.pi * t)
        down = at[1] + (chest.dome["left"] - 0.07 - at[1]) * t**1.3 - 0.05 * np.sin(np.pi * t)
        lines.append((np.stack([across, down], 1), 0.005))
    field = (strokes(size, lines, 0.0018) if lines else 0) + box
    density = (0.26 + 0.16 * severity) * np.clip(field, 0, 1)
    return density.astype(np.float32), density > 0.12


DRAW = {
    "Atelectasis": atelectasis,
    "Consolidation": consolidation,
    "Edema": edema,
    "Pleural Effusion": pleural_effusion,
    "Pneumothorax": pneumothorax,
    "Lung Lesion": lung_lesion,
    "Support Devices": support_devices,
}
