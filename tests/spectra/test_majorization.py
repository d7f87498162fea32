"""Intervals over a floor, a ceiling and an energy hold what is allowed, and are not much wider than they must be."""

from __future__ import annotations

import numpy as np
import pytest

from rankme_stream.spectra import majorization
from rankme_stream.spectra.spectrum import ConsistentSet
from tests.interval_metrics import METRICS


def floor_set(generator: np.random.Generator, m: int) -> ConsistentSet:
    """Floors of every shape, with some energy to give away and, now and then, a ceiling."""
    floor = np.sort(generator.random(m) ** generator.choice([0.3, 1.0, 4.0]))[::-1].copy()
    floor[int(generator.integers(1, m + 1)) :] = 0.0
    slack = generator.choice([1e-6, 0.1, 3.0, 30.0]) * (floor**2).sum() / generator.integers(1, m + 1)
    rise = generator.choice([slack, slack / generator.integers(1, m + 1)])
    energy = float((floor**2).sum() + slack)
    level = majorization.largest_heads(floor, np.sqrt(floor**2 + slack), energy)
    ceiling = np.minimum(np.sqrt(floor**2 + rise), level[1:] / np.arange(1, m + 1))
    ceiling = np.maximum(floor, np.minimum.accumulate(ceiling))
    top = min(energy, float((ceiling**2).sum()))
    return ConsistentSet(floor, ceiling, (top, top))


def members(generator: np.random.Generator, box: ConsistentSet, count: int) -> np.ndarray:
    """Random spectra of the set: energy given out in random order, to a few, to many or evenly."""
    found = []
    room = box.upper**2 - box.lower**2
    for _ in range(count):
        left = box.energy[0] - (box.lower**2).sum()
        added = np.zeros(box.lower.size)
        for place in generator.permutation(box.lower.size):
            wish = left * generator.choice([generator.random(), 1.0, 1.0 / box.lower.size])
            added[place] = min(room[place], wish)
            left -= added[place]
        for place in generator.permutation(box.lower.size):  # whatever is still left
            more = min(room[place] - added[place], left)
            added[place] += more
            left -= more
        squares = np.sort(box.lower**2 + added)[::-1]
        found.append(np.sqrt(squares))
    return np.array(found)


def is_allowed(values: np.ndarray, box: ConsistentSet) -> bool:
    return bool(np.all(values >= box.lower * (1 - 1e-12)) and np.all(values <= box.upper * (1 + 1e-12)))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("m", [1, 2, 3, 7, 24])
def test_no_allowed_spectrum_is_outside(name, m):
    extremes, metric = METRICS[name]
    n_tried = 0
    for seed in range(40):
        generator = np.random.default_rng([seed, m])
        box = floor_set(generator, m)
        low, high = extremes(box)
        for values in members(generator, box, 50):
            if is_allowed(values, box):
                n_tried += 1
                value = metric(values)
                slack = 1e-9 * abs(value) + 1e-12
                assert low - slack <= value <= high + slack
    assert n_tried > 500


@pytest.mark.parametrize("name", ["rankme", "effective_rank", "variance", "participation"])
def test_the_ends_are_reached_or_nearly(name):
    extremes, metric = METRICS[name]
    slack = []
    for seed in range(30):
        generator = np.random.default_rng([seed, 99])
        box = floor_set(generator, 20)
        low, high = extremes(box)
        lower, upper = box.lower**2, box.upper**2
        flat = np.sqrt(np.sort(majorization.levelled(lower, upper, box.energy[0]))[::-1])
        squeezed = [np.sqrt(majorization.packed(lower, upper, box.energy[0]))]
        for head in range(1, 21):  # the first few as level as they can be
            some = np.concatenate([upper[:head], lower[head:]])
            squeezed.append(np.sqrt(np.sort(majorization.levelled(lower, some, box.energy[0]))[::-1]))
        tried = [values for values in (flat, *squeezed) if is_allowed(values, box)]
        found = [metric(values) for values in tried]
        most = np.sqrt(majorization.levelled(lower, upper, box.energy[1]))
        if name == "rankme" and metric(most) * (1 + 1e-9) >= metric(np.clip(most * 1.001, box.lower, box.upper)):
            continue  # the greatest is below the energy
        assert max(found) == pytest.approx(high, rel=1e-6)
        slack.append((high - low) / max(max(found) - min(found), 1e-3 * high))
    assert max(slack) < 3.0  # never wider than three times what some spectra make unavoidable
    assert np.median(slack) < 1.2


def test_packed_majorises_and_levelled_is_majorised():
    generator = np.random.default_rng(5)
    for _ in range(50):
        box = floor_set(generator, 9)
        lower, upper = box.lower**2, box.upper**2
        most, least = (
            np.cumsum(pick(lower, upper, box.energy[0])) for pick in (majorization.packed, majorization.levelled)
        )
        for values in members(generator, box, 20):
            heads = np.cumsum(values**2)
            assert np.all(heads <= most * (1 + 1e-9) + 1e-15)
            assert np.all(heads >= least * (1 - 1e-9) - 1e-15)


def test_heads_are_those_of_a_search():
    generator = np.random.default_rng(11)
    for _ in range(50):
        box = floor_set(generator, 8)
        heads = majorization.largest_heads(box.lower, box.upper, box.energy[1])
        shares = np.cumsum(majorization.majorant(box.lower, box.upper, box.energy)[0])
        for values in members(generator, box, 30):
            assert np.all(np.cumsum(values) <= heads[1:] * (1 + 1e-9))
            assert np.all(np.cumsum(values) / values.sum() <= shares + 1e-9)


def test_the_first_values_of_a_box_keep_what_is_known_of_their_energy():
    box = ConsistentSet(np.array([3.0, 1.0, 0.0]), np.array([4.0, 2.0, 1.0]), (12.0, 15.0))
    assert box.first(2).energy == (11.0, 15.0)
    assert box.with_zeros(1).energy == (12.0, 15.0)
