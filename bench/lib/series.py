"""What a row measures: pairs of a figure of the engine and of its limit, and a goal."""

import dataclasses
import statistics
from typing import Callable


@dataclasses.dataclass
class Goal:
    """"text" is for the table; "met" judges a Series, and is None if there is no goal."""
    text: str
    met: Callable | None


def ratio_at_least(bound):
    return Goal(f'>= {bound:g}', lambda series: series.ratio >= bound)


def ratio_at_most(bound):
    return Goal(f'<= {bound:g}', lambda series: series.ratio <= bound)


def engine_at_most(bound, text):
    return Goal(f'<= {text}', lambda series: series.engine <= bound)


NO_GOAL = Goal('-', None)


@dataclasses.dataclass
class Series:
    """
    Pairs (engine, limit) taken in turn.  Where nothing can be a limit it is None in each pair.
    "ticks" are labels of the plot's x axis, else it is the number of the pair.
    """
    name: str
    unit: str
    goal: Goal
    pairs: list = dataclasses.field(default_factory=list)
    limit_name: str = 'limit'
    note: str = ''
    ticks: list = None

    def add(self, engine, limit=None):
        self.pairs.append((engine, limit))

    @property
    def engine(self):
        return statistics.median(engine for engine, limit in self.pairs)

    @property
    def limit(self):
        limits = [limit for engine, limit in self.pairs if limit is not None]
        return statistics.median(limits) if limits else None

    @property
    def ratios(self):
        return [engine / limit for engine, limit in self.pairs if limit]

    @property
    def ratio(self):
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def verdict(self):
        """For the table: is the goal met?"""
        if self.goal.met is None:
            return '-'
        return 'yes' if self.goal.met(self) else 'NO'


def alternate(series, count, engine, limit):
    """Add "count" pairs, taken in turn: A B A B ..."""
    for _ in range(count):
        series.add(engine(), limit())
    return series
