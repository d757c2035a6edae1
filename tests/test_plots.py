"""Figures: what they show in a notebook, and that no input of the right shape breaks them."""

import json

import numpy as np
import pandas as pd
import pytest

from nbops import plots

PERIOD = {"period": ["2013-04", "2013-05"]}
TABLES = {
    "rows_by_period": pd.DataFrame(PERIOD | {"table": "flights", "rows": [10, 12]}),
    "quarantine": pd.DataFrame({"table": ["flights"], "rule": ["dep_time is not null"], "rows": [1]}),
    "quality": pd.DataFrame(PERIOD | {"table": "flights", "share": [0.0, np.nan], "limit": 0.02}),
    "coverage": pd.DataFrame({"feature": ["a", "b"], "missing": [0.0, 0.5]}),
    "score_distribution": pd.DataFrame({"no": [0.2, 0.9], "yes": [0.8, 0.1]}),
    "drift_heatmap": pd.DataFrame(PERIOD | {"feature": "a", "psi": [np.nan, 0.3], "status": ["stable", "drift"]}),
    "decision": pd.DataFrame({"rule": ["age"], "value": [np.nan], "limit": [0], "fired": [True]}),
    "model_comparison": pd.DataFrame({"family": ["a", "b"], "score": [0.7, np.nan], "fit_seconds": [1.0, np.nan]}),
    "calibration": pd.DataFrame({"model": ["a"], "predicted": [0.1], "observed": [0.2], "rows": [5]}),
    "scoreboard": pd.DataFrame(
        {"check": ["c"], "candidate": [0.7], "champion": [np.nan], "difference": [np.nan], "low": [np.nan], "high": [np.nan],
         "status": ["skipped"]}
    ),
}  # fmt: skip
ARGUMENTS = {"performance": ("roc_auc",), "distribution": ("a", "2013-05")}
TABLES["performance"] = pd.DataFrame(
    PERIOD | {"model": "champion", "version": pd.array([1, None], dtype="Int64"), "coverage": [1.0, 0.5], "complete": [True, False],
              "roc_auc": [0.7, 0.72], "reference": [None, None], "limit": [None, None]}
)  # fmt: skip
TABLES["distribution"] = pd.DataFrame(
    PERIOD | {"feature": "a", "position": 0, "bin": "<x>", "share": 0.5, "reference_share": 0.4}
)


def figure_of(name, table):
    return getattr(plots, name)(table, *ARGUMENTS.get(name, ()))


@pytest.fixture
def shown():
    """What a notebook's cell would store for an object."""
    from IPython.core.formatters import DisplayFormatter

    return lambda value: DisplayFormatter().format(value)[0]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_figure_is_shown_as_plain_json_without_plotlys_library(name, shown):
    bundle = shown(figure_of(name, TABLES[name]))
    assert set(bundle) == {"application/vnd.plotly.v1+json", "text/plain"}
    text = json.dumps(bundle, allow_nan=False)
    assert "://" not in text and len(text) < 20_000
    assert bundle["application/vnd.plotly.v1+json"]["config"]["displayModeBar"] is False


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_figure_has_a_title_without_missing_numbers_and_keeps_its_table(name):
    table = TABLES[name]
    before = table.copy(deep=True)
    title = figure_of(name, table).layout.title.text
    assert title and "nan" not in title
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"score_distribution"}))
def test_an_empty_table_gives_a_figure_that_says_why(name):
    figure = figure_of(name, TABLES[name].iloc[:0])
    assert figure.layout.title.text and figure.layout.annotations[0].text


@pytest.mark.parametrize("name", sorted(set(TABLES) - {"score_distribution"}))
def test_a_missing_column_is_named(name):
    with pytest.raises(ValueError, match=f"{name} needs .* the table has: other"):
        figure_of(name, pd.DataFrame({"other": [1]}))


def test_scores_of_a_million_rows_make_a_small_figure():
    figure = plots.score_distribution(pd.DataFrame({"prediction": np.linspace(-5, 5, 1_000_000)}))
    assert len(figure.data[0].x) == 40 and sum(figure.data[0].y) == pytest.approx(100)


def test_tables_without_time_do_not_hide_the_last_period():
    table = pd.DataFrame(
        {"period": ["2013-01", "2013-02", "all"], "table": ["flights", "flights", "planes"], "rows": [100, 110, 9]}
    )
    assert plots.rows_by_period(table).layout.title.text == "Feb 2013 brought 110 rows, +10.0 % on the period before"


def test_names_from_data_cannot_become_markup():
    table = pd.DataFrame({"feature": ["<a href='x'>"], "missing": [0.5]})
    assert "<a" not in plots.coverage(table).layout.title.text


def test_the_most_drifted_features_stay_on_top():
    psi = np.linspace(0, 0.5, 40)
    table = pd.DataFrame({"period": "all", "feature": [f"f{i:02d}" for i in range(40)], "psi": psi, "status": "stable"})
    assert list(plots.drift_heatmap(table, top=3).layout.yaxis.ticktext) == ["f37", "f38", "f39"]
