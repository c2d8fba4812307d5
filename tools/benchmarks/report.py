"""Rows of the table: what was measured, on which side, against which aim."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

HEAD = ("part", "measure", "ours", "published", "bare", "x published", "/ bare", "aim", "met")


@dataclass
class Row:
    """One measure.

    ours, published, bare: medians in `unit`, None where a side has nothing to measure. Of a unit a
        second ("images/s") more is better, of any other less.
    aims: {kind: bound}: "published", at least so many times better than the published package;
        "bare", at most so many times the bare backbone's cost; "most", at most so much.
    note: what a reader must know; the reason if nothing could be measured.
    samples: all measurements, {side: [number, ...]}.
    """

    part: str
    measure: str
    unit: str = ""
    ours: float | None = None
    published: float | None = None
    bare: float | None = None
    aims: dict[str, float] = field(default_factory=dict)
    note: str = ""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def times_less(self, other: float | None) -> float | None:
        """How many times less ours costs than `other`."""
        if not self.ours or not other:
            return None
        return self.ours / other if self.unit.endswith("/s") else other / self.ours

    @property
    def over_published(self) -> float | None:
        return self.times_less(self.published)

    @property
    def over_bare(self) -> float | None:
        """Ours costs so many times what the bare backbone costs."""
        less = self.times_less(self.bare)
        return 1 / less if less else None

    @property
    def met(self) -> bool | None:
        """Whether every aim is reached; None where there is none, or nothing was measured."""
        found = {"published": self.over_published, "bare": self.over_bare, "most": self.ours}
        if not self.aims or any(found[kind] is None for kind in self.aims):
            return None
        return all(
            found[kind] >= bound if kind == "published" else found[kind] <= bound
            for kind, bound in self.aims.items()
        )

    def as_dict(self) -> dict:
        ratios = {"over_published": self.over_published, "over_bare": self.over_bare}
        return asdict(self) | ratios | {"met": self.met}

    def cells(self) -> list[str]:
        words = {
            "published": "≥ {:g} x published",
            "bare": "≤ {:g} x bare",
            "most": f"≤ {{:g}} {self.unit}",
        }
        aims = " and ".join(words[kind].format(bound) for kind, bound in self.aims.items())
        values = [_number(value, self.unit) for value in (self.ours, self.published, self.bare)]
        ratios = [_number(self.over_published), _number(self.over_bare)]
        verdict = {None: "", True: "yes", False: "NO"}[self.met]
        return [self.part, self.measure, *values, *ratios, aims, verdict]


def _number(value: float | None, unit: str = "") -> str:
    if value is None:
        return ""
    digits = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def table(rows: Iterable[Row]) -> str:
    """The rows as text, columns aligned; notes below, numbered."""
    lines, notes = [list(HEAD)], []
    for row in rows:
        cells = row.cells()
        if row.note:
            if row.note not in notes:
                notes.append(row.note)
            cells[1] += f" [{notes.index(row.note) + 1}]"
        lines.append(cells)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    text = [line.rstrip() for line in padded]
    text += ["", *(f"[{i}] {note}" for i, note in enumerate(notes, 1))] if notes else []
    return "\n".join(text)
