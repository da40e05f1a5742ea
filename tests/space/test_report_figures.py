"""The report's figures, charts and page against computations of their own."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis, skew

from w2w_hub import WeightDataset, WeightSpace, build_space
from w2w_hub.errors import AlreadyExistsError, DatasetChangedError
from w2w_hub.space.fit.diagnostics import at_steps, held_out, held_out_curve, orthogonality
from w2w_hub.space.fit.nulls import gaussian_spectrum
from w2w_hub.space.report import entanglement_by_population, figures, page, svg, write_report

from .population import LAYOUT, dataset_of, decaying

ROWS, HELD_OUT, K = 110, 30, 9
FITTED = ROWS - HELD_OUT


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> WeightDataset:
    rng = np.random.default_rng(0)
    values = decaying(ROWS, LAYOUT.size)
    beard = rng.random(ROWS) < 0.4
    values[beard] += 2e-3 * rng.normal(size=LAYOUT.size).astype(np.float32)
    values[:, 7] = 0.25  # constant
    columns = {
        "Beard": pd.array(np.where(rng.random(ROWS) < 0.1, None, beard), dtype="boolean"),
        "Age": np.where(rng.random(ROWS) < 0.1, np.nan, values[:, 50] * 1e3),
        "Hair": np.array(["grey", "red"])[(values[:, 70] > np.median(values[:, 70])).astype(int)],
        "Coin": rng.random(ROWS) < 0.5,
        "Odd": np.arange(ROWS) % 2 == 1,
        "Third": np.arange(ROWS) % 3 == 1,
        "Rare": np.arange(ROWS) < 3,
    }
    return dataset_of(
        tmp_path_factory.mktemp("d") / "people", values, layout=LAYOUT, held_out=HELD_OUT, columns=columns
    )


@pytest.fixture(scope="module")
def space(dataset: WeightDataset) -> WeightSpace:
    return build_space(dataset, K)


@pytest.fixture(scope="module")
def data(space: WeightSpace, dataset: WeightDataset) -> dict[str, Any]:
    return figures(space, dataset)


def standardised(space: WeightSpace, dataset: WeightDataset) -> np.ndarray:
    """All rows in the order of the space's."""
    rows = np.stack([dataset[row] for row in space.ids]).astype(np.float64)
    inside = rows[space.fitted]
    spread = inside.std(0, ddof=1)
    return (rows - inside.mean(0)) / np.where(spread == 0, 1, spread)


# ---------------------------------------------------------------- nulls
@pytest.mark.parametrize(("n", "d"), [(1, 5), (2, 1), (2, 7), (3, 2), (6, 5), (5, 5), (5, 4), (4, 30), (30, 4)])
def test_the_gaussian_null_is_that_of_centred_noise_for_every_shape(n: int, d: int) -> None:
    null = np.array([gaussian_spectrum(n, d, seed) for seed in range(300)])
    assert null.shape == (300, min(n - 1, d))
    if n == 1:
        return
    np.testing.assert_allclose(null.sum(1), 1)
    assert (np.diff(null, axis=1) <= 1e-12).all()
    assert (null >= 0).all()
    noise = np.random.default_rng(1).normal(size=(2000, n, d))
    values = np.linalg.svd(noise - noise.mean(1, keepdims=True), compute_uv=False)[:, : min(n - 1, d)] ** 2
    real = values / values.sum(1, keepdims=True)
    np.testing.assert_allclose(null.mean(0), real.mean(0), atol=0.03)
    np.testing.assert_allclose(null.std(0), real.std(0), atol=0.02)


def test_the_gaussian_null_comes_from_its_seed() -> None:
    np.testing.assert_array_equal(gaussian_spectrum(9, 20), gaussian_spectrum(9, 20, 0))
    assert (gaussian_spectrum(9, 20, 1) != gaussian_spectrum(9, 20, 0)).any()


# ---------------------------------------------------------------- diagnostics
@pytest.mark.parametrize("columns", [5, 8191, 8192, 8193, 20_000])
def test_orthogonality_sees_every_column_and_the_largest_entry(columns: int) -> None:
    rng = np.random.default_rng(columns)
    basis = rng.normal(size=(4, columns)).astype(np.float32) / np.float32(np.sqrt(columns))
    product = basis.astype(np.float64) @ basis.T.astype(np.float64)
    assert orthogonality(basis) == pytest.approx(np.abs(product - np.eye(4)).max(), rel=1e-9)
    basis = np.zeros((2, columns), np.float32)
    basis[0, 0] = basis[1, 1] = 1
    assert orthogonality(basis) == 0
    basis[:, -1] += [0.5, -0.25]
    assert orthogonality(basis) == pytest.approx(0.25)
    basis[1, -1] = -2
    assert orthogonality(basis) == pytest.approx(4)


@pytest.mark.parametrize(
    ("length", "steps"),
    [(0, []), (1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (5, [1, 2, 5]), (11, [1, 2, 5, 10, 11]),
     (101, [1, 2, 5, 10, 20, 50, 100, 101])],
)  # fmt: skip
def test_a_curve_is_told_at_round_numbers_and_at_its_end(length: int, steps: list[int]) -> None:
    curve = np.arange(1, length + 1) / 7
    assert at_steps(curve) == {str(s): round(s / 7, 6) for s in steps}


def test_diagnostics_are_those_of_the_standardised_rows(space: WeightSpace, dataset: WeightDataset) -> None:
    x = standardised(space, dataset)
    inside, outside = x[space.fitted], x[~space.fitted]
    total = (inside**2).sum()
    values = np.linalg.svd(inside, compute_uv=False)[:K] ** 2
    basis = np.linalg.svd(inside, full_matrices=False)[2][:K]
    found = space.diagnostics
    steps = ["1", "2", "5", "9"]
    curve = np.cumsum(values) / total
    assert found["explained_variance"] == pytest.approx({s: curve[int(s) - 1] for s in steps}, rel=1e-4)
    carried = np.cumsum(((outside @ basis.T) ** 2).sum(0)) / (outside**2).sum()
    np.testing.assert_allclose(held_out_curve(space.population), carried, rtol=1e-3)
    assert found["held_out"]["rows"] == HELD_OUT
    assert found["held_out"]["mean_only"] == 0
    assert found["held_out"]["explained_variance"] == pytest.approx({s: carried[int(s) - 1] for s in steps}, rel=1e-3)
    for kind, rows in (("fitted", inside), ("held_out", outside)):
        errors = 1 - ((rows @ basis.T) ** 2).sum(1) / (rows**2).sum(1)
        told = found["reconstruction_error"][kind]
        assert told == pytest.approx({
            "mean": errors.mean(), "median": np.median(errors), "p95": np.quantile(errors, 0.95),
            "largest": errors.max(),
        }, abs=1e-4)  # fmt: skip
    d = LAYOUT.size - 1  # one number is constant
    assert found["nulls"]["mean_only"] == 0
    noise = np.cumsum(gaussian_spectrum(FITTED, d))
    assert found["nulls"]["gaussian_spectrum"] == pytest.approx({s: noise[int(s) - 1] for s in steps}, abs=1e-6)
    assert found["nulls"]["held_out_chance"] == pytest.approx({s: int(s) / d for s in steps}, abs=1e-6)
    assert found["orthogonality_error"] == orthogonality(space.basis)
    assert space.residuals is not None
    assert found["largest_residual"] == space.residuals.max()


def test_a_space_without_held_out_rows_tells_so(tmp_path: Path) -> None:
    whole = build_space(dataset_of(tmp_path / "whole", decaying(20, 60)), 3)
    assert held_out(whole.population) == whole.diagnostics["held_out"] == {"rows": 0}
    assert whole.diagnostics["reconstruction_error"].keys() == {"fitted"}
    told = figures(whole)
    assert told["spectrum"]["held_out"] is None
    assert told["reconstruction_error"]["held_out"] == []
    assert told["neighbours"]["held_out"] == []
    assert told["neighbours"]["examples"] == []
    assert "scatter" not in told
    assert "entanglement_by_population" not in told
    assert "held-out" not in page(told).split("<h2>Directions")[0].split("</style>")[-1].replace("held-out rows, ", "")


# ---------------------------------------------------------------- figures
def test_the_spectrum_is_told_with_its_nulls(space: WeightSpace, dataset: WeightDataset, data: dict[str, Any]) -> None:
    x = standardised(space, dataset)[space.fitted]
    share = np.linalg.svd(x, compute_uv=False)[:K] ** 2 / (x**2).sum()
    found = data["spectrum"]
    np.testing.assert_allclose(found["share"], share, rtol=1e-4)
    np.testing.assert_allclose(found["fitted"], np.cumsum(share), rtol=1e-4)
    d = LAYOUT.size - 1
    np.testing.assert_allclose(found["gaussian_null"], gaussian_spectrum(FITTED, d)[:K])
    np.testing.assert_allclose(found["gaussian_null_cumulated"], np.cumsum(gaussian_spectrum(FITTED, d)[:K]))
    np.testing.assert_allclose(found["held_out_chance"], np.arange(1, K + 1) / d)
    np.testing.assert_allclose(found["held_out"], held_out_curve(space.population))
    older = with_rows(space, squared_norms=None)
    told = figures(older)
    np.testing.assert_allclose(told["spectrum"]["share"], share, rtol=1e-3)
    assert told["spectrum"]["held_out"] is None
    assert told["reconstruction_error"] is None


def test_the_rest_of_the_figures_is_what_the_space_says(space: WeightSpace, data: dict[str, Any]) -> None:
    assert (data["name"], data["version"], data["digest"]) == (space.name, space.version, space.digest)
    assert (data["k"], data["numbers"]) == (K, LAYOUT.size)
    assert data["recipe"] == space.recipe
    assert data["diagnostics"] == space.diagnostics
    assert data["directions"] == {name: d.evidence() for name, d in space.directions.items()}
    assert data["entanglement"] == space.entanglement().to_json()
    errors = space.reconstruction_error()
    for kind, chosen in (("fitted", space.fitted), ("held_out", ~space.fitted)):
        np.testing.assert_allclose(data["reconstruction_error"][kind], errors[chosen], atol=1e-6)
    assert list(data["coefficients"]) == [f"PC{j}" for j in range(1, 7)]
    for j, entry in enumerate(data["coefficients"].values()):
        values = space.coefficients[space.fitted, j].astype(np.float64)
        np.testing.assert_allclose(entry["values"], values, atol=1e-5)
        assert entry["skew"] == pytest.approx(skew(values))
        assert entry["excess_kurtosis"] == pytest.approx(kurtosis(values))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_neighbours_are_the_fitted_rows_of_largest_cosine(space: WeightSpace, data: dict[str, Any]) -> None:
    inside, outside = space.coefficients[space.fitted], space.coefficients[~space.fitted]
    names = [row for row, used in zip(space.ids, space.fitted, strict=True) if used]
    others = [row for row, used in zip(space.ids, space.fitted, strict=True) if not used]
    table = np.array([[cosine(a, b) for b in inside] for a in inside])
    np.fill_diagonal(table, -2)
    found = data["neighbours"]
    np.testing.assert_allclose(found["fitted"], table.max(1), atol=1e-5)
    drawn = [point.coefficients for point in space.sample(200, seed=0)]
    for kind, rows in (("held_out", outside), ("samples", drawn)):
        expected = [max(cosine(row, b) for b in inside) for row in rows]
        np.testing.assert_allclose(found[kind], expected, atol=1e-5)
    assert [entry["row"] for entry in found["examples"]] == others[:12]
    for row, entry in zip(outside, found["examples"], strict=False):
        best = sorted(((cosine(row, b), name) for b, name in zip(inside, names, strict=True)), reverse=True)[:3]
        assert [name for name, _ in entry["nearest"]] == [name for _, name in best]
        assert [value for _, value in entry["nearest"]] == pytest.approx([value for value, _ in best], abs=1e-4)


def with_rows(space: WeightSpace, **changes: Any) -> WeightSpace:
    """The space with another population, and without directions if that has other rows."""
    assert space.population is not None
    population = dataclasses.replace(space.population, **changes)
    directions = {} if "ids" in changes else space.directions
    return dataclasses.replace(space, population=population, directions=directions)


@pytest.mark.parametrize("rows", [1, 2, 511, 512, 513, 1300])
def test_no_row_is_its_own_neighbour_whatever_their_number(rows: int, space: WeightSpace) -> None:
    rng = np.random.default_rng(rows)
    c = rng.normal(size=(rows, K)).astype(np.float32)
    large = with_rows(
        space, coefficients=c, ids=tuple(f"r{i}" for i in range(rows)), splits=np.array([space.fitted_split] * rows),
        squared_norms=(c.astype(np.float64) ** 2).sum(1) * 1.5, left_out=(),
    )  # fmt: skip
    if rows == 1:
        return  # has no spread to sample from
    found = figures(large)["neighbours"]
    unit = c.astype(np.float64) / np.linalg.norm(c.astype(np.float64), axis=1, keepdims=True)
    table = unit @ unit.T - 3 * np.eye(rows)
    np.testing.assert_allclose(found["fitted"], table.max(1), atol=1e-5)


def test_scatters_show_the_attributes_on_the_pair_that_correlates_most(
    space: WeightSpace, dataset: WeightDataset, data: dict[str, Any]
) -> None:
    shown = data["scatter"]
    c = space.coefficients[space.fitted].astype(np.float64)
    rows = np.flatnonzero(space.fitted)
    expected = {}
    for name in space.directions:
        column, _, level = name.partition("=")
        raw = [dataset.labels[column].loc[space.ids[i]] for i in rows]
        y = np.array([np.nan if pd.isna(v) else float(v == level if level else v) for v in raw])
        known = ~np.isnan(y)
        r = np.array([np.corrcoef(c[known, j], y[known])[0, 1] for j in range(K)])
        pair = sorted(np.argsort(-np.abs(r))[:2])
        split = y > (np.median(y[known]) if column == "Age" else 0.5)
        expected[name] = (
            float(np.sqrt((r[pair] ** 2).sum())), [int(p) + 1 for p in pair], c[known & split][:, pair],
            c[known & ~split][:, pair],
        )  # fmt: skip
    best = sorted(expected, key=lambda name: -expected[name][0])[:6]
    assert len(expected) == 7
    assert [round(s["correlation"], 6) for s in shown] == [round(expected[name][0], 6) for name in best]
    for entry in shown:
        correlation, pair, has, lacks = expected[entry["attribute"]]
        assert entry["correlation"] == pytest.approx(correlation, rel=1e-6)
        assert entry["components"] == pair
        assert entry["continuous"] == (entry["attribute"] == "Age")
        np.testing.assert_allclose(entry["with"], has, atol=1e-4)
        np.testing.assert_allclose(entry["without"], lacks, atol=1e-4)


def test_entanglement_by_population_is_that_of_spaces_built_from_fewer_people(
    space: WeightSpace, dataset: WeightDataset
) -> None:
    found = entanglement_by_population(space, dataset, sizes=(12, 40, FITTED, 1000), draws=2)
    assert [entry["people"] for entry in found] == [12, 40, FITTED]
    assert [len(entry["draws"]) for entry in found] == [2, 2, 1]
    assert found == entanglement_by_population(space, dataset, sizes=(12, 40), draws=2)
    for entry in found:
        assert entry["mean_cosine"] == pytest.approx(np.mean(entry["draws"]))
        assert len(set(entry["draws"])) == len(entry["draws"])
    # of all fitted people: least squares on their standardised coefficients, of complete binary columns and levels
    x = standardised(space, dataset)[space.fitted]
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    c = (left * values)[:, :K]
    ids = [row for row, used in zip(space.ids, space.fitted, strict=True) if used]
    hair = dataset.labels["Hair"].loc[ids].to_numpy(object)
    labels = [(hair == level).astype(float) for level in ("grey", "red")]
    labels += [dataset.labels[name].loc[ids].to_numpy(bool).astype(float) for name in ("Coin", "Odd", "Third")]
    weights = [np.linalg.lstsq(c, y - y.mean(), rcond=None)[0] for y in labels]
    pairs = [abs(cosine(a, b)) for a, b in itertools.combinations(weights, 2)]
    assert found[-1]["attributes"] == 5
    assert found[-1]["mean_cosine"] == pytest.approx(np.mean(pairs), abs=1e-4)


@pytest.mark.parametrize("options", [{"standardize": False}, {"canonical": "svd"}], ids=str)
def test_spaces_from_fewer_people_are_built_as_the_space_was(options: dict[str, Any], dataset: WeightDataset) -> None:
    own = build_space(dataset, 4, **options)
    [found] = entanglement_by_population(own, dataset, sizes=())
    c = own.coefficients[own.fitted].astype(np.float64)
    ids = [row for row, used in zip(own.ids, own.fitted, strict=True) if used]
    hair = dataset.labels["Hair"].loc[ids].to_numpy(object)
    labels = [(hair == level).astype(float) for level in ("grey", "red")]
    labels += [dataset.labels[name].loc[ids].to_numpy(bool).astype(float) for name in ("Coin", "Odd", "Third")]
    weights = [np.linalg.lstsq(c - c.mean(0), y - y.mean(), rcond=None)[0] for y in labels]
    pairs = [abs(cosine(a, b)) for a, b in itertools.combinations(weights, 2)]
    assert found["mean_cosine"] == pytest.approx(np.mean(pairs), abs=1e-4)


def test_populations_are_ten_and_more_by_default_and_smaller_ones_have_fewer_components(
    space: WeightSpace, dataset: WeightDataset, data: dict[str, Any]
) -> None:
    told = data["entanglement_by_population"]
    assert [(entry["people"], len(entry["draws"])) for entry in told] == [(10, 3), (FITTED, 1)]
    small = entanglement_by_population(space, dataset, sizes=(2, 7))
    assert [entry["people"] for entry in small][-2:] == [7, FITTED]


@pytest.mark.slow
def test_scatters_of_many_rows_show_a_sample_of_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(1620, 60)).astype(np.float32)
    columns = {"Odd": np.arange(1620) % 2 == 1}
    many = dataset_of(tmp_path / "many", values, held_out=20, columns=columns)
    space = build_space(many, 3, directions=False)
    [shown] = figures(with_rows(space, squared_norms=None), many)["scatter"]
    points = [*shown["with"], *shown["without"]]
    assert len(points) == 1500
    axes = [number - 1 for number in shown["components"]]
    fitted = {tuple(row) for row in space.coefficients[space.fitted][:, axes].astype(np.float64).round(4).tolist()}
    assert {tuple(point) for point in points} <= fitted
    assert len({tuple(point) for point in points}) > 1450


def test_a_report_is_written_once_for_the_spaces_own_dataset(
    space: WeightSpace, dataset: WeightDataset, tmp_path: Path
) -> None:
    told = write_report(space, tmp_path / "report")
    assert "scatter" not in told
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"report.html", "report.json"}
    assert (tmp_path / "report" / "report.html").read_text("utf-8") == page(told)
    with pytest.raises(AlreadyExistsError):
        write_report(space, tmp_path / "report")
    other = dataset_of(tmp_path / "other", decaying(20, LAYOUT.size, seed=2), layout=LAYOUT)
    for call in (write_report, lambda space, path, other: entanglement_by_population(space, other)):
        with pytest.raises(DatasetChangedError):
            call(space, tmp_path / "second", other)
    assert not (tmp_path / "second").exists()


# ---------------------------------------------------------------- page
def cells(html: str, row: str) -> list[str]:
    found = next(
        line for line in re.findall(r"<tr>.*?</tr>", html, re.DOTALL) if re.match(f"<tr><td[^>]*>{row}</td>", line)
    )
    return [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td.*?</td>", found, re.DOTALL)]


def test_the_page_tells_every_direction_with_its_figures(space: WeightSpace, data: dict[str, Any]) -> None:
    html = unescape(page(json.loads(json.dumps(data))))
    for name, d in space.directions.items():
        shown = cells(html, name)
        assert d.interval is not None
        assert d.p_value is not None
        assert d.score is not None
        assert shown[1:8] == [
            "" if d.kind == "float" else str(d.positives), str(d.rows), str(d.held_out_rows), f"{d.score:.3f}",
            f"{d.interval[0]:.3f} to {d.interval[1]:.3f}", f"{d.p_value:.3f}", f"{d.sd:.2f}",
        ]  # fmt: skip
        more = f" and {len(d.controlled_for) - 3} more" if len(d.controlled_for) > 3 else ""
        assert shown[8] == ("" if d.typical is None else f"{d.typical:.1f}")
        assert shown[9] == ((", ".join(d.controlled_for[:3]) + more) or "nothing")
        assert (f'class="bad">{name}<' in html) == bool(d.unreliable)
    assert {bool(d.unreliable) for d in space.directions.values()} == {True, False}
    assert "3 of 80" in cells(html, "Rare")[1]
    tiles = dict(reversed(t) for t in re.findall(r'<div class="tile"><b>(.*?)</b><span>(.*?)</span>', html))
    spectrum = data["spectrum"]
    scores = [d.auc for d in space.directions.values() if d.auc is not None]
    assert tiles["of the fitted rows' variance"] == f"{spectrum['fitted'][-1]:.1%}"
    assert tiles["of the held-out rows' variance"] == f"{spectrum['held_out'][-1]:.1%}"
    assert tiles["of Gaussian noise, same shape"] == f"{spectrum['gaussian_null_cumulated'][-1]:.1%}"
    good = sum(score >= 0.95 for score in scores)
    assert tiles["attributes read with AUC of at least .95"] == f"{good} of {len(scores)}"
    assert tiles["unreliable directions"] == str(sum(bool(d.unreliable) for d in space.directions.values()))
    assert tiles["largest residual of a component"] == f"{data['diagnostics']['largest_residual']:.0e}"
    above = sum(a > b for a, b in zip(spectrum["share"], spectrum["gaussian_null"], strict=True))
    assert f"{above} of {K} components carry more" in html
    for entry in data["entanglement_by_population"]:
        assert cells(html, str(entry["people"])) == [
            str(entry["people"]), str(entry["attributes"]), f"{entry['mean_cosine']:.3f}"
        ]  # fmt: skip
    for entry in data["neighbours"]["examples"]:
        near = ", ".join(f"{name} ({value:.2f})" for name, value in entry["nearest"])
        assert cells(html, entry["row"])[1] == near
    assert cells(html, "space digest")[1] == space.digest
    for name, value in space.recipe.items():
        told = cells(html, name.replace("_", " "))[1]
        assert told == (f"{value:.3g}" if isinstance(value, float) else told)
        assert told == (str(value) if isinstance(value, (str, int)) else told)
    assert cells(html, "rows")[1] == str(FITTED)
    for name in ("orthogonality_error", "largest_residual"):
        assert cells(html, name.replace("_", " "))[1] == f"{data['diagnostics'][name]:.3g}"
    for name in ("PC1", "PC6"):
        assert f"skew {data['coefficients'][name]['skew']:+.2f}" in html
    methods = {d.interval_method for d in space.directions.values() if d.interval_method}
    assert f"intervals ({', '.join(sorted(methods))})" in html


def test_the_pages_curves_have_both_ends_and_at_most_four_hundred_points(data: dict[str, Any]) -> None:
    n = 3000
    curve = (np.arange(1, n + 1) / n).tolist()
    spectrum = dict.fromkeys(data["spectrum"], curve)
    html = page(json.loads(json.dumps({**data, "spectrum": spectrum})))
    lines = [p for p in re.findall(r'<polyline[^>]*points="([^"]*)"', html) if len(p.split()) > 100]
    assert len(lines) >= 6
    ends = set()
    for line in lines[:4]:
        points = [tuple(map(float, p.split(","))) for p in line.split()]
        assert 100 <= len(points) <= 400
        ends.add((points[0], points[-1]))
        assert points[0][0] == 62
        assert points[-1][0] == 640 - 14
    assert len(ends) == 1


# ---------------------------------------------------------------- charts
SVG = "{http://www.w3.org/2000/svg}"


def parsed(chart: Any) -> ElementTree.Element:
    return ElementTree.fromstring(re.sub(r"^<div.*?</div>", "", str(chart), flags=re.DOTALL))


def placed(chart: Any, tag: str, **attributes: str) -> list[dict[str, str]]:
    return [
        e.attrib
        for e in parsed(chart).iter(SVG + tag)
        if all(e.attrib.get(n.rstrip("_")) == v for n, v in attributes.items())
    ]


@settings(max_examples=150, deadline=None)
@given(st.floats(-1e5, 1e5), st.floats(1e-6, 1e5))
def test_ticks_are_round_evenly_spaced_and_inside(low: float, span: float) -> None:
    if span < 1e-6 * abs(low):
        return
    found = svg.ticks(low, low + span, False)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 * span - 1e-9 <= value <= low + span + 1e-6 * span + 1e-9 for value in found)
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-3, atol=1e-9)
    assert found[0] - low < steps[0] * 1.001 + 1e-9
    assert low + span - found[-1] < steps[0] * 1.001 + 1e-9


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 3, [1, 10, 100, 1000]),
        (-0.5, 3.2, [1, 10, 100, 1000]),
        (0, 2.5, [1, 2, 5, 10, 20, 50, 100, 200]),
        (0, 2, [1, 2, 5, 10, 20, 50, 100]),
        (0, 1, [1, 1.5, 2, 3, 4, 5, 6, 8, 10]),
        (0.2, 0.8, [2, 3, 4, 5, 6]),
    ],
)
def test_logarithmic_ticks_are_powers_of_ten_and_more_where_those_are_few(
    low: float, high: float, expected: list[float]
) -> None:
    assert svg.ticks(low, high, True) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1.5, "1.5"), (999, "999"), (1000, "1,000"), (99_999, "99,999"), (1e5, "1e5"), (-2e6, "-2e6"),
     (0.001, "0.001"), (0.0005, "5e-4"), (0.123456, "0.1235"), (1234.5, "1,234"), (1e12, "1e+12"), (1e-12, "1e-12")],
)  # fmt: skip
def test_numbers_are_short(value: float, shown: str) -> None:
    assert svg.number(value) == shown


def test_a_plot_places_values_in_proportion_or_by_their_logarithm_and_clips_them() -> None:
    plot = svg.Plot((0, 10), (-1, 1), "x", "y", width=500, height=300, left=50)
    left, right, top, bottom = 50, 500 - 14, 12, 300 - 44
    for value, expected in ((0, left), (10, right), (2.5, left + 0.25 * (right - left)), (-3, left), (99, right)):
        assert plot.x(value) == pytest.approx(expected)
    for value, expected in ((-1, bottom), (1, top), (0.5, bottom - 0.75 * (bottom - top)), (-9, bottom), (9, top)):
        assert plot.y(value) == pytest.approx(expected)
    log = svg.Plot((1, 1000), (1, 100), "x", "y", width=500, height=300, left=50, log_x=True)
    assert log.x(10) == pytest.approx(left + (right - left) / 3)
    assert log.y(50.5) == pytest.approx((top + bottom) / 2)
    logy = svg.Plot((1, 1000), (1, 100), "x", "y", width=500, height=300, left=50, log_y=True)
    assert logy.y(10) == pytest.approx((top + bottom) / 2)
    assert logy.x(500.5) == pytest.approx((left + right) / 2)
    assert logy.y(0) == bottom
    flat = svg.Plot((3, 3), (0, 1), "x", "y", width=500, height=300, left=50)
    assert flat.x(3) == pytest.approx((left + right) / 2)
    axes = parsed(plot.svg("title"))
    assert axes.attrib["viewBox"] == "0 0 500 300"
    assert {"x", "y", "title"} <= {e.text for e in axes.iter()}
    labels = {e.text: e.attrib for e in axes.iter(SVG + "text")}
    assert float(labels["4"]["x"]) == pytest.approx(plot.x(4), abs=0.1)
    assert float(labels["0.5"]["y"]) == pytest.approx(plot.y(0.5) + 4, abs=0.1)


def test_lines_have_their_colours_dashes_and_ranges() -> None:
    series = {"a": [(1.0, 2.0), (2.0, 4.0), (11.0, 1.0)], "b": [(1.0, -1.0), (6.0, 3.0)]}
    chart = svg.line_chart(series, "people", "share", dashed=["b"], dots=True)
    first, second = placed(chart, "polyline")
    assert [first["stroke"], second["stroke"]] == list(svg.COLORS[:2])
    assert "stroke-dasharray" not in first
    assert "stroke-dasharray" in second
    points = [tuple(map(float, p.split(","))) for p in first["points"].split()]
    high, low, right = 4 * 1.02, -1, 640 - 14
    assert points[0][0] == 62
    assert points[2][0] == right
    assert points[1][1] == pytest.approx(276 - (4 - low) / (high - low) * 264, abs=0.1)
    assert len(placed(chart, "circle")) == 5
    assert str(chart).startswith('<div class="legend">')
    assert re.findall(r"3px (solid|dashed) (#\w+)", str(chart)) == [
        ("solid", svg.COLORS[0]),
        ("dashed", svg.COLORS[1]),
    ]
    whole = svg.line_chart({"a": [(0.0, 2.0), (1.0, 3.0)]}, "x", "y", low=1.0, high=5.0)
    [line] = placed(whole, "polyline")
    assert not placed(whole, "circle")
    assert [float(p.split(",")[1]) for p in line["points"].split()] == pytest.approx([276 - 66, 276 - 132], abs=0.1)
    [zero] = placed(svg.line_chart({"a": [(0.0, 2.0), (1.0, 3.0)]}, "x", "y"), "polyline")
    assert float(zero["points"].split()[0].split(",")[1]) == pytest.approx(276 - 2 / 3.06 * 264, abs=0.1)  # from 0
    logged = svg.line_chart({"a": [(1.0, 0.1), (10.0, 0.0), (100.0, 1.0)]}, "x", "y", logarithmic=True)
    [line] = placed(logged, "polyline")
    xs, ys = zip(*(map(float, p.split(",")) for p in line["points"].split()), strict=True)
    assert xs[1] == pytest.approx((62 + 626) / 2, abs=0.1)
    assert ys[0] == ys[1] == 276
    assert ys[2] == pytest.approx(276 - 264 / np.log10(11), abs=0.1)
    [only_x] = placed(svg.line_chart({"a": [(1.0, 5.0), (10.0, 5.0), (100.0, 10.0)]}, "x", "y", log_x=True), "polyline")
    assert float(only_x["points"].split()[1].split(",")[0]) == pytest.approx((62 + 626) / 2, abs=0.1)
    assert float(only_x["points"].split()[0].split(",")[1]) == pytest.approx(276 - 5 / 10.2 * 264, abs=0.1)
    for empty in ({}, {"a": []}):
        assert "svg" not in str(svg.line_chart(empty, "x", "y"))
    assert "svg" not in str(svg.line_chart({"a": [(1.0, 0.0)]}, "x", "y", logarithmic=True))


def test_histograms_are_densities_on_common_edges_with_the_first_groups_gaussian() -> None:
    rng = np.random.default_rng(0)
    groups = {"a": rng.normal(2, 1.5, 300), "none": np.empty(0), "b": rng.normal(3, 0.5, 100)}
    chart = svg.histogram(groups, "value", bins=20, normal=True)
    every = np.concatenate(list(groups.values()))
    edges = np.linspace(every.min(), every.max(), 21)
    heights = {name: np.histogram(groups[name], edges)[0] for name in ("a", "b")}
    for name, colour in (("a", svg.COLORS[0]), ("b", svg.COLORS[1])):
        boxes = placed(chart, "rect", fill=colour)
        assert len(boxes) == np.count_nonzero(heights[name])
        share = heights[name][heights[name] > 0] / heights[name].sum()
        tall = np.array([float(box["height"]) for box in boxes])
        ratio = tall / share
        np.testing.assert_allclose(ratio, ratio.mean(), rtol=0.05, atol=9)
        left = [float(box["x"]) for box in boxes]
        where = 62 + np.flatnonzero(heights[name]) / 20 * (640 - 14 - 62)
        np.testing.assert_allclose(left, where, atol=0.1)
        assert {round(float(box["y"]) + float(box["height"]), 0) for box in boxes} == {260 - 44}
    [curve] = placed(chart, "polyline")
    assert "stroke-dasharray" in curve
    points = np.array([list(map(float, p.split(","))) for p in curve["points"].split()])
    mean, spread = groups["a"].mean(), groups["a"].std(ddof=1)
    peak = points[points[:, 1].argmin(), 0]
    assert peak == pytest.approx(62 + (mean - edges[0]) / (edges[-1] - edges[0]) * 564, abs=5)
    density = heights["a"] / 300 / np.diff(edges)
    tops = np.array([float(box["height"]) for box in placed(chart, "rect", fill=svg.COLORS[0])])
    unit = tops.max() / density.max()
    assert 216 - points[:, 1].min() == pytest.approx(unit / (spread * np.sqrt(2 * np.pi)), rel=0.02)
    assert str(chart).startswith('<div class="legend">')
    alone = svg.histogram({"a": groups["a"]}, "value")
    assert str(alone).startswith("<svg")
    assert not placed(alone, "polyline")
    assert 'fill-opacity="0.45"' in str(alone)
    for flat in ({"a": np.full(5, 3.0)}, {"a": np.full(5, 3.0), "b": rng.normal(size=9)}, {"a": np.array([3.0])}):
        chart = svg.histogram(flat, "value", normal=True)
        assert "<svg" in str(chart)
        assert not placed(chart, "polyline")  # a group without spread has no Gaussian
        assert "nan" not in str(chart)
    assert "svg" not in str(svg.histogram({"a": np.empty(0)}, "value"))


def test_scatters_place_each_groups_points_in_its_colour() -> None:
    groups = {"without": [(0.0, 0.0), (10.0, 4.0)], "with": [(5.0, 1.0)]}
    chart = svg.scatter(groups, "PC1", "PC2", colors=("#111", "#222"), size=300)
    marks = [(g.attrib["fill"], [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in g]) for g in parsed(chart).iter(SVG + "g")]  # fmt: skip  # noqa: E501
    right, bottom, left, top = 286, 256, 52, 12
    assert marks[0] == ("#111", [(left, bottom), (right, top)])
    assert marks[1] == ("#222", [((left + right) / 2, bottom - (bottom - top) / 4)])
    assert re.findall(r"solid (#\w+)", str(chart)) == ["#111", "#222"]
    assert "svg" not in str(svg.scatter({"a": []}, "x", "y"))


def test_bars_show_figure_interval_null_and_what_is_bad() -> None:
    rows: list[Any] = [
        ("Beard", 0.9, (0.8, 0.95), 0.6, False),
        ("Coin", 0.5, None, None, True),
        ("Low", 0.1, None, 0.7, False),
    ]
    chart = svg.bars(rows, "AUC", (0.4, 1.0))
    left = 24 + 7 * 5
    boxes = placed(chart, "rect")

    def x(value: float) -> float:
        return left + (value - 0.4) / 0.6 * (640 - 14 - left)

    assert [box["fill"] for box in boxes] == [svg.COLORS[0], svg.RED, svg.COLORS[0]]
    assert [float(box["width"]) for box in boxes] == pytest.approx([x(0.9) - left, x(0.5) - left, 0], abs=0.2)
    assert [float(box["y"]) for box in boxes] == [16, 36, 56]
    [whisker] = placed(chart, "path")
    ends = re.findall(r"[MH]([\d.]+)", whisker["d"])
    assert float(ends[0]) == float(ends[1]) == pytest.approx(x(0.8), abs=0.1)
    assert float(ends[2]) == float(ends[3]) == pytest.approx(x(0.95), abs=0.1)
    nulls = placed(chart, "line", stroke=svg.RED)
    assert [float(line["x1"]) for line in nulls] == pytest.approx([x(0.6), x(0.7)], abs=0.1)
    assert [e.attrib.get("class") for e in parsed(chart).iter(SVG + "text") if e.text == "Coin"] == ["bad"]
    assert "Beard: 0.900" in str(chart)
    assert len(placed(chart, "line", class_="grid")) == len(svg.ticks(0.4, 1.0, False))


@pytest.mark.parametrize("count", [2, 24, 25, 91])
def test_heatmaps_have_rows_down_columns_across_and_the_sign_in_the_colour(count: int) -> None:
    rng = np.random.default_rng(count)
    matrix = rng.normal(size=(count, count))
    matrix[0, 1], matrix[1, 0] = -0.25, 12.0
    names = [f"n{i}" for i in range(count)]
    chart = svg.heatmap(matrix, names)
    cell = 30 if count <= 24 else max(8, 720 // count)
    left = 16 + 7 * len(names[-1])
    boxes = placed(chart, "rect")
    assert len(boxes) == count**2
    for i, j in [(0, 1), (1, 0), (1, 1), (count - 1, 0)]:
        box = boxes[i * count + j]
        assert (float(box["x"]), float(box["y"])) == (left + cell * j, left + cell * i)
        assert box["fill"] == svg.COLORS[1 if matrix[i, j] > 0 else 0]
        assert float(box["fill-opacity"]) == pytest.approx(min(abs(matrix[i, j]), 1), abs=1e-3)
    assert "n0 / n1: -0.25" in str(chart)
    shown = [e for e in parsed(chart).iter(SVG + "text") if e.attrib.get("class") == "cell"]
    assert len(shown) == (count**2 if cell >= 26 else 0)
    if shown:
        assert [shown[1].text, shown[count].text] == ["-.25", "12"]
        assert "#fff" in shown[count].attrib["style"]
        assert "#fff" not in shown[1].attrib["style"]
    assert parsed(chart).attrib["width"] == str(left + cell * count + 6)
    half = placed(svg.heatmap(np.array([[1.0]]), ["a"], limit=2.0), "rect")
    assert float(half[0]["fill-opacity"]) == 0.5
