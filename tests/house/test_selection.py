"""`benchmarks selection` judges metrics of planted accuracies as it should, and its trainings repeat bit for bit."""

from __future__ import annotations

import json
import math
from importlib.util import find_spec

import numpy as np
import pytest

from benchmarks.selection import page as pages
from benchmarks.selection import probing, selectors
from benchmarks.selection.trainings import CENTRE, SWEEPS, Schedule, Setting, Training, trainings

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="it trains: torch is not installed")


def row(value, seed, rankme, right, *, step=100, sweep="temperature", loss="SimCLR", alpha=1.0):
    """Return a dump's row: the same accuracy for every target, the same metrics of both kinds."""
    spectrum = {"rankme": rankme, "alpha_req": alpha, "participation_ratio": rankme, "lidar": None}
    return {
        "images": "digits", "loss": loss, "sweep": CENTRE if value is None else sweep, "value": value, "seed": seed,
        "step": step, "accuracy": None if right is None else dict.fromkeys(probing.TARGETS, right),
        "metrics": None if right is None else dict.fromkeys(selectors.KINDS, spectrum),
    }  # fmt: skip


def sweep_of(ranks, rights, early=()):
    """Return rows of two seeds alike: the centre first, then values 1, 2 and so on."""
    values = [None, *(float(value) for value in range(1, len(ranks)))]
    rows = [row(value, seed, *pair) for seed in (0, 1) for value, *pair in zip(values, ranks, rights, strict=True)]
    return rows + [row(None, seed, rank, right, step=step) for seed in (0, 1) for step, rank, right in early]


def rankme_of(verdict):
    return next(one for one in verdict["selectors"] if (one["metric"], one["kind"]) == selectors.RANKME)


def page(rows):
    size = {"side": 8, "train": 1, "test": 1, "other_train": 1, "other_test": 1}
    return pages.markdown({
        "command": "c", "date": "d", "machine": "m", "seeds": 2, "steps": 100, "sizes": {"digits": size},
        "sets": json.loads(json.dumps(pages.judge(rows))), "rows": rows,
    })  # fmt: skip


def test_the_accuracy_lost_is_the_best_less_that_of_the_largest_merit():
    assert selectors.points_lost(np.array([1.0, 3.0, 2.0]), np.array([90.0, 80.0, 95.0])) == 15.0
    assert selectors.points_lost(np.array([1.0, 2.0, 3.0]), np.array([90.0, 80.0, 95.0])) == 0.0


def test_settings_that_tie_count_with_their_mean():
    assert selectors.points_lost(np.array([3.0, 3.0, 2.0]), np.array([90.0, 80.0, 95.0])) == 10.0


def test_a_setting_without_a_merit_or_an_accuracy_is_not_chosen():
    assert selectors.points_lost(np.array([1.0, math.nan, 2.0]), np.array([90.0, 95.0, 80.0])) == 15.0
    assert selectors.points_lost(np.array([1.0, 9.0, 2.0]), np.array([90.0, math.nan, 80.0])) == 10.0
    assert math.isnan(selectors.points_lost(np.full(3, math.nan), np.array([90.0, 95.0, 80.0])))


def test_spearmans_correlation_is_that_of_the_ranks():
    # 1 - 6 sum d^2 / (n (n^2 - 1)), with d = 0, 1, -1, 0
    assert selectors.spearman(np.array([1.0, 2.0, 3.0, 9.0]), np.array([10.0, 30.0, 20.0, 40.0])) == pytest.approx(0.8)
    assert selectors.kendall(np.array([1.0, 2.0, 3.0, 9.0]), np.array([10.0, 30.0, 20.0, 40.0])) == pytest.approx(2 / 3)


def test_correlations_leave_out_what_has_no_value_and_are_none_of_too_few():
    merits, rights = np.array([1.0, 2.0, 3.0, math.nan]), np.array([3.0, 2.0, 1.0, 9.0])
    assert selectors.spearman(merits, rights) == pytest.approx(-1.0)
    assert math.isnan(selectors.spearman(merits[1:], rights[1:]))
    assert math.isnan(selectors.spearman(np.ones(3), rights[:3]))


def test_an_interval_over_seeds_is_students_and_stays_within_the_quantity():
    # the 97.5 % quantile of t with 2 degrees of freedom is sqrt(2 (1.9)^2 / (4 * 0.975 * 0.025)) / 2 = 4.3027
    found = selectors.interval([1.0, 2.0, 3.0], least=0.0, most=4.0)
    quantile = (2 * 0.975 - 1) * math.sqrt(2 / (4 * 0.975 * 0.025))
    assert found == {"value": 2.0, "lower": 0.0, "upper": 4.0}
    assert selectors.interval([1.0, 2.0, 3.0], least=-9.0)["upper"] == pytest.approx(2.0 + quantile / math.sqrt(3.0))
    assert selectors.interval([1.0, math.nan], least=0.0)["value"] is None


def test_alpha_req_is_better_the_nearer_it_is_to_one():
    merits = [
        selectors.merit(row(1.0, 0, 5.0, 90.0, alpha=alpha), "alpha-ReQ", "embeddings") for alpha in (0.5, 1.1, 3)
    ]
    assert merits == pytest.approx([-0.5, -0.1, -2.0])
    assert math.isnan(selectors.merit(row(1.0, 0, 5.0, 90.0), "LiDAR", "embeddings"))


def test_a_metric_that_orders_as_accuracy_does_loses_nothing_and_one_that_reverses_it_the_most():
    right = [90.0, 92.0, 94.0, 98.0]
    good = selectors.verdict(selectors.candidates("s", sweep_of([5, 6, 7, 8], right)), probing.IN)
    bad = selectors.verdict(selectors.candidates("s", sweep_of([8, 7, 6, 5], right)), probing.IN)
    assert (rankme_of(good)["spearman"], rankme_of(good)["lost"]["value"]) == (pytest.approx(1.0), 0.0)
    assert (rankme_of(bad)["spearman"], rankme_of(bad)["lost"]["value"]) == (pytest.approx(-1.0), 8.0)
    assert [good[name]["value"] for name in ("centre", "chance", "worst")] == [8.0, 4.5, 8.0]


def test_only_the_ends_of_trainings_are_candidates():
    rows = sweep_of([5, 6, 7], [90.0, 91.0, 92.0], early=[(10, 50, 10.0)])
    among = selectors.candidates("s", rows)
    assert among.accuracy[probing.IN].shape == (2, 3)
    assert among.merit[selectors.RANKME].max() == 7
    assert among.centres == [0]


def test_the_spread_is_the_range_of_means_and_the_deviation_between_seeds():
    rows = [
        row(value, seed, 5.0, right)
        for value, pair in ((None, (90, 92)), (1.0, (95, 97)))
        for seed, right in enumerate(pair)
    ]
    found = selectors.spread(selectors.candidates("s", rows))
    assert found[probing.IN] == {"settings": 5.0, "seeds": pytest.approx(math.sqrt(2.0))}


def test_a_diverged_training_is_left_out_and_counted():
    rows = [*sweep_of([5, 6, 7, 8], [90.0, 92.0, 94.0, 98.0]), *(row(9.0, seed, None, None) for seed in (0, 1))]
    verdict = selectors.verdict(selectors.candidates("s", rows), probing.IN)
    assert rankme_of(verdict)["spearman"] == pytest.approx(1.0)
    assert verdict["worst"]["value"] == 8.0
    assert "10 trainings, 2 diverged" in page(rows)


def test_the_page_says_where_rankme_misleads():
    text = page(sweep_of([8, 7, 6, 5], [90.0, 92.0, 94.0, 98.0], early=[(10, 50.0, 60.0)]))
    assert "RankMe rises with accuracy in 0 of 1 sweeps, not in 1 (SimCLR, temperature)" in text
    assert "below the mean of the settings in 1 of 1 sweeps (points: SimCLR, temperature by 3.50)" in text
    assert "SimCLR, undertrained: after 10 of 100 steps RankMe of embeddings is above" in text


def test_the_page_says_where_rankme_works():
    text = page(sweep_of([5, 6, 7, 8], [90.0, 92.0, 94.0, 98.0], early=[(10, 2.0, 60.0)]))
    assert "RankMe rises with accuracy in 1 of 1 sweeps, not in 0." in text
    assert "below the mean of the settings in 0 of 1 sweeps." in text
    assert "undertrained" not in text
    assert "little to choose" not in text


def test_the_page_says_which_metric_has_no_value():
    text = page(sweep_of([5, 6, 7, 8], [90.0, 92.0, 94.0, 98.0]))
    assert "without a value in some sweep: LiDAR of embeddings, LiDAR of representations." in text
    assert "{" not in text


def test_the_page_says_where_seeds_differ_as_much_as_settings():
    rows = sweep_of([5, 6, 7], [90.0, 90.1, 90.2])
    for one in rows:
        one["accuracy"] = {name: right + 2.0 * one["seed"] for name, right in one["accuracy"].items()}
    assert "in 1 of 1 sweeps (SimCLR, temperature) the means of the settings span less" in page(rows)


def test_every_sweep_passes_through_its_centre_once():
    for loss, sweeps in SWEEPS.items():
        for name, values in sweeps.items():
            centre = getattr(Setting(loss), name)
            assert min(values) < centre < max(values) and len({*values, centre}) == 5


def test_trainings_are_the_same_after_json():
    planned = trainings("digits", "VICReg", "covariance", (0.1, 5.0), Schedule(2, 8, (0, 4)))
    assert [Training.from_dict(json.loads(json.dumps(one.to_dict()))).setting for one in planned] == [
        Setting("VICReg", covariance=value) for value in (0.1, 0.1, 5.0, 5.0)
    ]
    assert [*planned[0].dumped] == [8]
    assert [*trainings("digits", "VICReg", CENTRE, (), Schedule(1, 8, (0, 4)))[0].dumped] == [0, 4, 8]


@pytest.fixture(scope="module")
def task():
    return probing.task(probing.digits())


def test_the_parts_of_a_task_share_no_image_and_hold_their_digits(task):
    parts = vars(task).values()
    assert sum(len(part.images) for part in parts) == 1797
    images = [image.tobytes() for part in parts for image in part.images]
    assert len(set(images)) == len({image.tobytes() for image in probing.digits().images})
    assert {*np.unique(task.train.classes)} == {*np.unique(task.test.classes)} == {*range(probing.SOURCE_CLASSES)}
    assert {*np.unique(task.other_train.classes)} == {*np.unique(task.other_test.classes)} == {7, 8, 9}


def test_probes_read_what_is_there_and_nothing_else(task):
    pixels = probing.accuracies(lambda images: images.reshape(len(images), -1), task)
    nothing = probing.accuracies(lambda images: np.zeros((len(images), 2), np.float32), task)
    assert [*pixels] == [*probing.TARGETS]
    assert pixels[probing.IN] > 95.0 and pixels[probing.OTHER] > 80.0
    assert max(nothing[name] for name in (probing.IN, probing.ROTATED, probing.NOISED)) < 20.0
    assert pixels[probing.IN] > pixels[probing.IN_FEW] > pixels[probing.ROTATED]


@needs_torch
def test_the_same_seed_gives_the_same_dumps_bit_for_bit(task, tmp_path):
    import torch
    import zarr

    from benchmarks.selection import pretraining

    def dumps(name, seed):
        training = Training("digits", CENTRE, Setting("VICReg"), seed, 3, (0, 3))
        images = torch.from_numpy(task.train.images)[:, None]
        made = []
        for step, net in pretraining.trained(images, training):
            pretraining.dump(net, images, tmp_path / name / f"{step}.zarr", has_views=step == 3)
            made.append(zarr.open_group(tmp_path / name / f"{step}.zarr", mode="r"))
        return [array[:] for group in made for _, array in sorted(group.arrays())]

    first, again, other = dumps("first", 0), dumps("again", 0), dumps("other", 1)
    assert len(first) == 6 and all(one.tobytes() == two.tobytes() for one, two in zip(first, again, strict=True))
    assert all(one.tobytes() != two.tobytes() for one, two in zip(first, other, strict=True))


@needs_torch
def test_a_training_that_diverges_has_no_dump_at_its_end(task, tmp_path):
    from benchmarks.selection import pretraining

    training = Training("digits", CENTRE, Setting("VICReg", learning_rate=math.inf), 0, 4, (0, 4))
    rows = list(pretraining.dump_rows(training, task, tmp_path))
    assert [(one["step"], one["accuracy"] is None) for one in rows] == [(0, False), (4, True)]


@needs_torch
def test_the_losses_are_those_of_their_papers_where_they_have_a_closed_form():
    import torch

    from benchmarks.selection import pretraining

    n, temperature = 8, 0.2
    orthonormal = torch.eye(n)
    # every other row at cosine 0 but the other view at 1
    expected = math.log(math.exp(1 / temperature) + 2 * n - 2) - 1 / temperature
    assert float(pretraining.simclr(orthonormal, orthonormal, Setting("SimCLR"))) == pytest.approx(expected, rel=1e-5)
    # collapsed: every deviation is sqrt(1e-4), everything else 0
    collapsed = torch.ones(n, 3)
    assert float(pretraining.vicreg(collapsed, collapsed, Setting("VICReg"))) == pytest.approx(25.0 * 0.99, rel=1e-5)
    # three features, alike but for their signs: every correlation is 1 or -1, six of them off the diagonal
    column = torch.linspace(-1.0, 1.0, n)
    alike = torch.stack([column, -column, column], 1)
    twins = pretraining.barlow_twins(alike, alike, Setting("Barlow Twins"))
    assert float(twins) == pytest.approx(6 * 5e-3, rel=1e-3)
