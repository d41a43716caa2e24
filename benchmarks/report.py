"""What a benchmark found: figures with their units, and which aims they meet; as a table or as one JSON object."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from statistics import median

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Aim:
    """`value` is to be at least `aim`, or at most where `at_most`."""

    name: str
    value: float
    aim: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.value <= self.aim if self.at_most else self.value >= self.aim


@dataclass(slots=True)
class Report:
    """One benchmark's findings; the keys of `figures` end with their unit."""

    name: str
    figures: dict[str, float] = field(default_factory=dict)
    aims: list[Aim] = field(default_factory=list)

    def add(self, name: str, rounds: list[float]) -> float:
        """Take the median of some rounds as a figure; return it."""
        value = self.figures[name] = median(rounds)
        return value

    def as_json(self) -> str:
        aims = [{"name": aim.name, "value": aim.value, "aim": aim.aim, "met": aim.met} for aim in self.aims]
        return json.dumps({"name": self.name, "figures": self.figures, "aims": aims})

    def show(self) -> None:
        """Print it as a table."""
        table = Table(title=self.name, title_justify="left")
        table.add_column("figure")
        table.add_column("value", justify="right")
        table.add_column("aim", justify="right")
        table.add_column("met")
        for name, value in self.figures.items():
            table.add_row(name, format(value, ",.4g" if abs(value) < 1000 else ",.0f"), "", "")
        for aim in self.aims:
            bound = ("≤ " if aim.at_most else "≥ ") + format(aim.aim, ",g")
            table.add_row(aim.name, format(aim.value, ",.4g"), bound, "yes" if aim.met else "no")
        Console().print(table)
