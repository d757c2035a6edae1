"""What figures and pages of the model plane say: nothing wrong, nothing by colour alone, nothing cut at an edge."""

import re

import numpy as np
import pandas as pd

from nbops import check_plots, plots, report, search_plots, trust_plots
from nbops.calibration import calibration_scores
from nbops.evaluation import Check, Verdict, scoreboard

UGLY = "Größe der Wohnfläche in m² <b>laut</b> Grundbuch & Akte (Stand 2013)"


def verdict(*checks):
    return Verdict(period="all", digest="d", rows=100, checks=[Check(detail="", **one) for one in checks])


FLOOR = {"name": "floor", "value": 0.7, "low": 0.65, "high": 0.75, "limit": 0.6, "status": "pass"}
GAIN = {"name": "gain", "value": 0.02, "low": -0.01, "high": 0.05, "limit": 0.0, "champion": 0.68, "status": "pass"}
ERROR = {"area": "calibration", "name": "calibration_error", "value": 0.08, "low": 0.06, "high": 0.1, "limit": 0.05}
ERROR |= {"status": "fail"}


def test_a_limit_is_not_called_a_champion():
    board = scoreboard(verdict(FLOOR, GAIN, ERROR, ERROR | {"limit": None, "status": "abstain"}))
    assert board["against"].tolist() == ["at least 0.600", "the champion, 0.680", "at most 0.050", "no limit is given"]
    figure = plots.scoreboard(board)
    assert "champion" not in figure.layout.xaxis.title.text and "right of 0 is better" in figure.layout.xaxis.title.text
    assert "at least 0.600" in " ".join(figure.layout.yaxis.ticktext)
    assert plots.scoreboard(scoreboard(verdict(GAIN))).layout.xaxis.title.text == "Candidate minus champion"


def test_right_of_zero_is_better_for_ceilings_too():
    board = scoreboard(verdict(FLOOR, ERROR)).set_index("check")
    assert board.loc["floor", "difference"] > 0 > board.loc["calibration_error", "difference"]
    assert (board["low"] <= board["difference"]).all() and (board["difference"] <= board["high"]).all()


def test_what_abstained_is_said_where_nothing_can_be_drawn():
    board = scoreboard(verdict(ERROR | {"limit": None, "status": "abstain"}))
    figure = plots.scoreboard(board)
    assert [one.text for one in figure.layout.annotations] == ["abstained"]
    assert figure.layout.title.text == "0 of 1 checks passed, 1 abstained"


def rates(**more):
    line = {"rate": "selection_rate", "class": "", "low": 0.1, "high": 0.9, "rows": 50, "judged": True}
    groups = [("male", "0", 0.4), ("male", "1", 0.6), ("race × male", "black × 0", 0.3), (UGLY, UGLY, 0.5)]
    return pd.DataFrame([line | {"attribute": a, "group": g, "value": v} | more for a, g, v in groups])


def test_a_group_is_named_with_what_it_is_a_group_of():
    figure = trust_plots.group_rates(rates())
    assert {"male = 0 (50)", "race = black, male = 0 (50)"} <= set(figure.layout.yaxis.ticktext)
    assert "race = black, male = 0" in figure.layout.title.text
    assert not any("<b>" in one for one in figure.layout.yaxis.ticktext)


def apart():
    lines = [("candidate", 0.03, 0.0, 0.06), ("candidate", 0.05, 0.0, 0.2), ("before", 0.2, 0.1, 0.3)]
    return pd.DataFrame(
        [{"model": m, "attribute": "race", "measure": "demographic_parity_difference", "value": v, "low": low, "high": high, "limit": 0.1}
         for m, v, low, high in lines]
    )  # fmt: skip


def test_differences_are_counted_for_each_model_and_told_apart_without_colours():
    figure = trust_plots.differences(apart())
    assert figure.layout.title.text == "candidate: none of 2 differences beyond their limits; before: 1 of 1"
    symbols = {one.name: one.marker.symbol for one in figure.data if one.name}
    assert len(set(symbols.values())) == len(symbols) == 4


def test_nothing_is_said_about_a_model_that_is_not_there():
    none = pd.DataFrame(columns=["feature", "importance", "share"])
    assert trust_plots.global_importance(none).layout.title.text == "Nothing was explained"
    flat = pd.DataFrame({"feature": ["a"], "importance": [0.0], "share": [0.0]})
    assert trust_plots.global_importance(flat).layout.title.text == "No feature has an effect"
    still = pd.DataFrame({"feature": ["a"], "value": ["1"], "effect": [0.0]})
    assert "lowers" not in trust_plots.waterfall(still, base=0.2).layout.title.text


def test_intervals_end_in_points_so_that_none_is_cut_at_the_edge():
    families = pd.DataFrame({"family": ["a", UGLY], "score": [0.7, 0.6], "low": [0.6, np.nan], "high": [0.8, np.nan]})
    for figure in (
        trust_plots.group_rates(rates()),
        trust_plots.differences(apart()),
        plots.model_comparison(families),
    ):
        lines = [one for one in figure.data if "lines" in one.mode]
        assert lines and all(one.mode == "lines+markers" and one.marker.size for one in lines)
    only = plots.model_comparison(families.tail(1))
    assert "Interval" not in [one.name for one in only.data]  # nothing in the legend that is not in the picture


def test_the_board_names_what_failed_and_fits_narrow_parts():
    table = pd.DataFrame({
        "area": "performance", "check": "worst_slice", "slice": [f"{UGLY} = {i}" for i in range(30)],
        "status": ["fail"] + ["pass"] * 29, "detail": "x",
    })  # fmt: skip
    figure = check_plots.check_board(table)
    assert "failed: Worst slice (" in figure.layout.title.text
    failed = next(one for one in figure.data if one.name == "Failed")
    assert list(failed.text) == ["1"] and failed.textangle == 0


def test_what_never_varied_gets_no_axis_and_pruned_trials_are_explained():
    trials = pd.DataFrame({
        "number": [1, 2, 3], "family": "linear", "state": ["complete", "complete", "pruned"], "score": [0.6, 0.7, 0.5],
        "best": [0.6, 0.7, 0.7], "params": ['{"C": 1, "l": 2}', '{"C": 2, "l": 2}', "{}"],
    })  # fmt: skip
    assert [one.label for one in search_plots.search_parameters(trials).data[0].dimensions] == ["C", "Score"]
    assert "Hollow: pruned" in [one.name for one in search_plots.search_history(trials).data]


def test_a_calibration_score_lies_in_its_interval():
    rng = np.random.default_rng(0)
    for seed in range(20):
        chance = rng.uniform(size=300)
        codes = (rng.uniform(size=300) < chance).astype(
            int
        )  # as well calibrated as can be: drawing again only adds noise
        found = calibration_scores(np.column_stack([1 - chance, chance]), codes, np.arange(300), seed=seed)
        assert all(low <= value <= high for value, low, high in found.values())


def test_every_colour_of_a_figure_on_the_page_has_one_for_dark():
    colours = {plots.INK, plots.MUTED, plots.ACCENT}
    told = {tuple(map(int, one)) for one in re.findall(r"fill: rgb\((\d+), (\d+), (\d+)\)", report.FIGURES)}
    assert {tuple(bytes.fromhex(one[1:])) for one in colours} <= told
    assert "color-scheme: light dark" in report.PAGE


def test_small_numbers_are_written_out():
    axis = plots.coverage(pd.DataFrame({"feature": ["a"], "missing": [0.0]})).layout.template.layout.xaxis
    assert axis.exponentformat == "power" and axis.minexponent == 6  # plotly's own would be 20µ


def test_numbers_are_no_probabilities():
    prices = pd.DataFrame({"model": "candidate", "predicted": [1e5, 3e5], "observed": [1.2e5, 3e5], "rows": [10, 10]})
    figure = plots.calibration(prices, kind="regression")
    assert figure.layout.title.text == "candidate is off by 10,000 on average"
    assert "robability" not in figure.layout.xaxis.title.text and "rate" not in figure.layout.yaxis.title.text
    assert "most likely class" in plots.calibration(prices, kind="multiclass").layout.xaxis.title.text


def test_trials_below_the_picture_are_told():
    trials = pd.DataFrame({"number": range(1, 7), "family": "linear", "state": "complete", "score": [0.7, 0.71, 0.72, 0.71, 0.1, 0.72],
                           "best": 0.72, "params": "{}"})  # fmt: skip
    assert [one.text for one in search_plots.search_history(trials).layout.annotations] == [
        "↓ 1 trial below, down to 0.1000"
    ]
