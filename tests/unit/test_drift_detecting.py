import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import jensenshannon

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.detecting import detect, profile_report
from shadow_mlops.drift.inputs import memory_source
from shadow_mlops.drift.report import decode_report, encode_report
from shadow_mlops.drift.rules import Rules
from shadow_mlops.statistics.profiles import Profile, merge, profile_of


def sample(rows=2000, seed=0, *, shift=0.0):
    rng = np.random.default_rng(seed)
    return {
        "tenure": rng.normal(shift, 1, rows),
        "tickets": rng.poisson(2, rows),
        "charges": np.where(rng.random(rows) < 0.1, np.nan, rng.lognormal(0, 2, rows)),
        "plan": rng.choice(["basic", "pro", "premium"], rows, p=[0.6, 0.3, 0.1]),
        "member": rng.random(rows) < 0.3,
    }


def score_in(report, feature, method="psi"):
    (found,) = [s for s in report.scores if (s.feature, s.method) == (feature, method)]
    return found


def feature_in(report, name):
    (found,) = [each for each in report.features if each.name == name]
    return found


def said(report, kind):
    return [finding for finding in report.findings if finding.kind == kind]


def named(finding):
    return [(each.value, each.rows) for each in finding.values]  # noqa: PD011 - a report's


def counts_of(report, name):
    bins = feature_in(report, name).bins
    return np.array([each.reference for each in bins]), np.array([each.current for each in bins])


def test_the_same_rows_have_not_moved():
    report = detect(sample(), sample())
    assert (report.verdict, report.reason) == ("none", "none of 5 features moved by more than chance")
    assert {score.score for score in report.scores} == {0.0}
    assert {(score.significant, score.severity) for score in report.scores} == {(False, "none")}
    assert report.findings == ()
    assert (report.reference_rows, report.current_rows) == (2000, 2000)


def test_what_moved_is_found_and_comes_first():
    report = detect(sample(), sample(seed=1, shift=0.7))
    assert report.verdict == "retrain"
    assert report.features[0].name == report.scores[0].feature == "tenure"
    assert report.reason.startswith("1 of 5 features moved beyond a threshold: tenure (PSI 0.")
    assert {s.feature for s in report.scores if s.significant} == {"tenure"}
    assert [s.method for s in report.scores[:3]] == ["psi", "ks", "js"]
    assert [s.feature for s in report.scores if s.method == "psi"] == [each.name for each in report.features]
    psi = report.scores[0]
    assert psi.interval[0] < psi.corrected < psi.score < psi.interval[1]
    assert psi.corrected == pytest.approx(psi.score - 9 * 2 / 2000)


@pytest.mark.parametrize("exact", [True, False])
def test_scores_are_those_of_their_definitions(exact):
    first, second = sample(), sample(1500, seed=1, shift=0.3)
    report = detect(first, second, exact_ks=exact, methods=("psi", "ks", "js", "chi_square"))
    for name in first:
        n, m = counts_of(report, name)
        assert (n.sum(), m.sum()) == (2000, 1500)
        p, q = (n + 0.5) / (n.sum() + len(n) / 2), (m + 0.5) / (m.sum() + len(n) / 2)
        assert score_in(report, name).score == pytest.approx(((p - q) * np.log(p / q)).sum(), abs=1e-12)
        assert score_in(report, name, "js").score == pytest.approx(jensenshannon(p, q, base=2), abs=1e-12)
        table = stats.chi2_contingency(np.stack([n, m]), correction=False)
        assert score_in(report, name, "chi_square").score == pytest.approx(table.statistic)
        assert score_in(report, name, "chi_square").p_value == pytest.approx(table.pvalue)
    for name in ("tenure", "tickets", "charges", "member"):
        one, other = (np.asarray(side[name], dtype=float) for side in (first, second))
        expected = stats.ks_2samp(one[~np.isnan(one)], other[~np.isnan(other)])
        ks = score_in(report, name, "ks")
        if exact:
            assert (ks.score, ks.error_bound) == (pytest.approx(expected.statistic, abs=1e-12), 0.0)
            assert ks.p_value == pytest.approx(expected.pvalue, abs=1e-12)
        else:
            assert ks.score - 1e-12 <= expected.statistic <= ks.score + ks.error_bound + 1e-12
            assert ks.p_value >= expected.pvalue - 1e-12
    assert report.settings.exact_ks == exact
    assert any("KS is from bin counts" in limit for limit in report.limits) == (not exact)
    assert not [s for s in report.scores if s.method == "ks" and s.feature == "plan"]


def test_the_decision_is_the_same_whichever_distances_are_shown():
    first, second = sample(), sample(seed=1, shift=0.25)
    full = detect(first, second)
    for methods in (("psi",), ("ks",), ("wasserstein", "hellinger", "total_variation")):
        report = detect(first, second, methods=methods)
        assert [(f.name, f.significant) for f in report.features if f.significant] == [
            (f.name, f.significant) for f in full.features if f.significant
        ]
        assert feature_in(report, "tenure").p_value == feature_in(full, "tenure").p_value
        assert {s.method for s in report.scores} == {"psi", *methods}
    moved = score_in(detect(first, second, methods=("wasserstein",)), "tenure", "wasserstein")
    assert moved.score == pytest.approx(stats.wasserstein_distance(first["tenure"], second["tenure"]))
    assert (moved.threshold, moved.alert) == (None, False)


def test_merged_profiles_give_the_scores_of_the_rows_to_the_last_bit():
    first, second = sample(), sample(5000, seed=1, shift=0.4)
    first["plan"], second["plan"] = (side["plan"].astype(object) for side in (first, second))
    rows = detect(first, second)
    bins = memory_source(first).bins(list(first), 10)
    rng = np.random.default_rng(5)
    for _ in range(3):
        shards = rng.permuted(np.arange(5000) % 64)
        parts = [
            profile_of(bins, {name: values[shards == shard] for name, values in second.items()}) for shard in range(64)
        ]
        merged = merge([parts[i] for i in rng.permutation(64)])
        live = profile_report(bins, profile_of(bins, first), merged)
        for method in ("psi", "js"):
            assert {s.feature: s.score for s in live.scores if s.method == method} == {
                s.feature: s.score for s in rows.scores if s.method == method
            }
        for name in ("tenure", "tickets", "charges", "member"):
            grid, exact = score_in(live, name, "ks"), score_in(rows, name, "ks")
            assert grid.score - 1e-12 <= exact.score <= grid.score + grid.error_bound + 1e-12
        assert (live.verdict, live.current_rows) == (rows.verdict, 5000)
        assert feature_in(live, "tenure").bins == feature_in(rows, "tenure").bins


def test_a_profile_whose_features_have_different_rows():
    first = sample()
    bins = memory_source(first).bins(["tenure", "tickets", "member"], 10)
    reference, current = profile_of(bins, first), profile_of(bins, sample(seed=1, shift=1.0))
    fewer = Profile(
        current.features, (current.counts[0], bins["tickets"].count(np.arange(100) % 5), current.counts[2] * 0), 2000
    )
    report = profile_report(bins, reference, fewer, created=datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    assert [(each.name, each.current_rows) for each in report.features] == [("tenure", 2000), ("tickets", 100)]
    assert [finding.words for finding in said(report, "empty")] == ["member: no row of this window has it"]
    assert report.created == "2026-01-02T03:04:00Z"
    with pytest.raises(DriftError, match="empty window"):
        profile_report(bins, reference, Profile(fewer.features, tuple(0 * each for each in fewer.counts), 0))


def test_new_and_vanished_categories_are_named_with_their_rows():
    rng = np.random.default_rng(2)
    first = {"plan": rng.choice(["basic", "pro", "old"], 1000, p=[0.5, 0.3, 0.2])}
    second = {"plan": np.array(["basic"] * 600 + ["pro"] * 300 + ["trial"] * 60 + ["beta"] * 40)}
    report = detect(first, second)
    (new,), (gone,) = said(report, "new_category"), said(report, "vanished_category")
    assert named(new) == [("trial", 60), ("beta", 40)]
    assert (new.rows, new.share, new.more) == (100, 0.1, 0)
    assert new.words == (
        "plan: 100 current rows (10.00%) have values that the reference never has: 'trial' (60), 'beta' (40)"
    )
    assert [value for value, _ in named(gone)] == ["old"]
    assert gone.rows == named(gone)[0][1] == (first["plan"] == "old").sum()
    other = next(each for each in feature_in(report, "plan").bins if each.role == "other")
    assert (other.label, other.reference, other.current) == ("other", 0, 100)


def test_a_rare_category_that_is_not_there_by_chance_has_not_vanished():
    first = {"plan": np.array(["basic"] * 995 + ["rare"] * 5)}
    assert not said(detect(first, {"plan": np.array(["basic"] * 200)}), "vanished_category")
    assert said(detect(first, {"plan": np.array(["basic"] * 20_000)}), "vanished_category")


def test_the_tail_of_the_reference_is_not_new():
    """Beyond the thousand largest, values share a bin; whether one is new is asked of the reference's rows."""
    first = {"city": [f"c{i:04}" for i in range(1500)] * 2}
    second = {"city": [f"c{i:04}" for i in range(1500)] * 2 + ["c1499"] * 50 + ["nowhere"] * 40}
    (new,) = said(detect(first, second), "new_category")
    assert named(new) == [("nowhere", 40)]
    assert not said(detect(first, first), "new_category")


def test_many_new_categories_are_counted_and_the_largest_named():
    second = {"id": [f"n{i}" for i in range(100)] + ["often"] * 5}
    (new,) = said(detect({"id": ["a", "b"] * 50}, second), "new_category")
    assert (new.rows, len(named(new)), new.more, named(new)[0][0]) == (105, 20, 81, "often")
    assert new.words.endswith("'often' (5), 'n0' (1), 'n1' (1) and 98 more")


def test_jumps_of_the_missing_rate():
    rng = np.random.default_rng(0)

    def side(share, rows=1000):
        return {
            "age": np.where(rng.random(rows) < share, np.nan, rng.random(rows)),
            "plan": np.where(rng.random(rows) < share, None, "basic"),
        }

    found = said(detect(side(0.1), side(0.25)), "missing_rate")
    assert {each.feature for each in found} == {"age", "plan"}
    assert "of the current rows have no value" in found[0].words
    assert 0.2 < found[0].share < 0.3
    assert not said(detect(side(0.1, 200_000), side(0.13, 200_000)), "missing_rate")  # significant and small
    assert not said(detect(side(0.1, 30), side(0.25, 30)), "missing_rate")  # large and by chance
    few = {"age": np.array([np.nan] * 20 + [1.0] * 20)}
    assert said(detect({"age": np.linspace(0, 1, 10_000)}, few), "missing_rate")


def test_values_out_of_range_are_named():
    rng = np.random.default_rng(0)
    first = {"age": rng.uniform(18, 90, 5000)}
    within = {"age": rng.uniform(18, 90, 5000)}
    assert not said(detect(first, within), "out_of_range")
    negative = {"age": np.append(within["age"], [-1.0] * 30)}
    (found,) = said(detect(first, negative), "out_of_range")
    assert found.rows >= 30
    assert named(found) == [(-1.0, 1)]
    assert "below the reference's least value 18.0" in found.words
    one = {"age": np.append(within["age"], 1e6)}
    (found,) = said(detect(first, one), "out_of_range")  # by chance, but for its distance
    assert "the highest is 1e+06" in found.words
    assert not said(detect({"age": np.append(first["age"], np.inf)}, one), "out_of_range")


def test_one_outlier_moves_a_score_like_any_other_row_of_the_last_bin():
    first, second = {"x": sample(1000)["tenure"]}, {"x": sample(1000, seed=1)["tenure"]}
    ordinary, outlier = ({"x": np.append(second["x"], value)} for value in (first["x"].max() - 1e-3, 1e6))
    before, after, like = (detect(first, side) for side in (second, outlier, ordinary))
    assert abs(score_in(after, "x", "ks").score - score_in(before, "x", "ks").score) <= 1 / 1001
    for method in ("psi", "js"):
        assert score_in(after, "x", method).score == score_in(like, "x", method).score


def test_columns_without_variety_are_named_and_compared():
    first = {"same": np.ones(100), "was": np.ones(100), "empty": [None] * 100, "word": ["a"] * 100}
    second = {"same": np.ones(100), "was": np.arange(100.0), "empty": [None] * 100, "word": ["b"] * 100}
    report = detect(first, second)
    assert [finding.words for finding in said(report, "constant")] == [
        "word: constant in the reference rows, 'a', constant in the current rows, 'b'",
        "was: constant in the reference rows, 1",
        "same: constant, always 1 on both sides",
    ]
    assert [finding.words for finding in said(report, "empty")] == ["empty: no value at all on either side"]
    assert report.verdict == "retrain"
    assert score_in(report, "same").score == 0.0
    assert feature_in(report, "same").p_method == "none"


def test_a_column_that_lost_all_its_values_has_moved():
    first, second = sample(), sample(seed=1)
    second["tenure"] = np.full(2000, np.nan)
    second["plan"] = [None] * 2000
    report = detect(first, second)
    assert {s.feature for s in report.scores if s.retrain} == {"tenure", "plan"}
    assert not [s for s in report.scores if (s.feature, s.method) == ("tenure", "ks")]
    assert {finding.words for finding in said(report, "empty")} == {
        "tenure: no value at all in the current rows",
        "plan: no value at all in the current rows",
    }
    assert feature_in(report, "tenure").missing_current == 1.0
    back = detect(second, first)
    assert {s.feature for s in back.scores if s.retrain} == {"tenure", "plan"}
    assert feature_in(back, "plan").kind == "category"
    assert (feature_in(back, "plan").missing_reference, feature_in(back, "plan").missing_current) == (1.0, 0.0)


def test_columns_of_one_side_are_named_and_the_others_compared():
    first, second = sample(), sample(seed=1)
    del first["plan"]
    del second["tenure"]
    first["at"] = second["at"] = np.full(2000, "2026-01-01", dtype="datetime64[s]")
    report = detect(first, second)
    assert {each.name for each in report.features} == {"tickets", "charges", "member"}
    assert said(report, "only_in_reference")[0].words == "tenure: current has no such column, so it is not compared"
    assert said(report, "only_in_current")[0].words == "plan: reference has no such column, so it is not compared"
    assert "a time" in said(report, "left_out")[0].words


def test_features_are_chosen_and_left_out():
    first, second = sample(), sample(seed=1, shift=2.0)
    assert {each.name for each in detect(first, second, features=["plan", "member"]).features} == {"plan", "member"}
    rules = Rules(unchecked=frozenset({"tenure"}))
    report = detect(first, second, rules=rules)
    assert report.verdict == "none"
    assert "tenure" not in {each.name for each in report.features}
    strict = detect(first, second, rules=Rules(psi=9, ks=0.9, js=0.9, overrides={"tenure": {"js": 0.05}}))
    assert [(s.feature, s.method) for s in strict.scores if s.alert] == [("tenure", "js")]
    assert strict.settings.overrides == {"tenure": {"js": 0.05}}
    assert strict.settings.thresholds == {"psi": 9, "ks": 0.9, "js": 0.9}


class CountsOnly:
    """A warehouse: it gives counts, and no values."""

    def __init__(self, data, name):
        self._inner = memory_source(data, name)
        self.name = name
        self.schema, self.bins = self._inner.schema, self._inner.bins
        self.tally, self.occurrences = self._inner.tally, self._inner.occurrences


def test_a_source_of_counts_gives_the_same_scores_but_ks():
    first, second = sample(), sample(seed=1, shift=0.3)
    rows, counts = detect(first, second), detect(CountsOnly(first, "db"), CountsOnly(second, "db2"))
    assert (counts.reference, counts.current, counts.settings.exact_ks) == ("db", "db2", False)
    for method in ("psi", "js"):
        assert [s.score for s in counts.scores if s.method == method] == [
            s.score for s in rows.scores if s.method == method
        ]
    assert detect(first, CountsOnly(second, "db2")).settings.exact_ks is False


@pytest.mark.parametrize(
    ("first", "second", "options", "words"),
    [
        ({"a": [1]}, {"b": [1], "c": [2]}, {}, ["no column in common", "reference has a", "current has b, c"]),
        ({"a": [1, 2]}, {"a": ["x", "y"]}, {}, ["'a'", "a number (int64) in reference", "a category (string) in cur"]),
        ({"a": []}, {"a": [1]}, {}, ["empty reference", "reference has no rows"]),
        ({"a": [1]}, {"a": []}, {}, ["empty window", "current has no rows"]),
        ({"a": [1]}, {"a": [1]}, {"features": ["b"]}, ["'b'"]),
        ({"age": [1]}, {"age": [1]}, {"features": ["agee"]}, ["'agee'", "did you mean 'age'"]),
        ({"a": [1]}, {"a": [1]}, {"methods": ("psy",)}, ["'psy'", "did you mean psi"]),
        ({"a": [1]}, {"a": [1]}, {"bins": 1}, ["bins", "2"]),
        ({"a": [b"x"]}, {"a": [b"x"]}, {}, ["no column can be compared", "binary"]),
        ({"a": [1]}, CountsOnly({"a": [1]}, "a table"), {"exact_ks": True}, ["exact KS", "a table"]),
        ({"a": [1]}, {"a": [1]}, {"rules": Rules(unchecked=frozenset({"a"}))}, ["no column"]),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(first, second, options, words):
    with pytest.raises(DriftError) as refused:
        detect(first, second, **options)
    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_column_that_is_left_out_may_mix_types():
    data = {"a": [1, 2], "b": [1, "x"]}
    with pytest.raises(DriftError, match="'b' of reference mixes int and str"):
        detect(data, data)
    assert detect(data, data, features=["a"]).verdict == "none"
    assert detect(data, data, rules=Rules(unchecked=frozenset({"b"}))).verdict == "none"


def test_types_that_mean_the_same_do_not_clash():
    first = {"x": np.arange(100), "y": np.arange(100) % 2 == 0, "z": pd.Series(["a", "b"] * 50, dtype="category")}
    second = {"x": np.arange(100.0), "y": np.arange(100) % 2, "z": ["a", "b"] * 50}
    assert detect(first, second).verdict == "none"


def test_one_row_against_many_says_nothing():
    report = detect(sample(1), sample(2000))
    assert report.verdict == "none"
    assert detect(sample(2000), sample(1)).verdict == "none"


def test_infinities_are_values_and_the_report_is_json():
    values = np.array([-np.inf, np.inf, np.nan, 1.0, 2.0] * 40)
    report = detect({"x": values}, {"x": values}, methods=("psi", "ks", "js", "wasserstein"))
    assert score_in(report, "x").score == score_in(report, "x", "ks").score == 0.0
    assert not [s for s in report.scores if s.method == "wasserstein"]  # no number says how far infinities are apart
    plain = json.loads(encode_report(report))
    assert plain["scores"][0]["score"] == 0.0
    assert decode_report(encode_report(report)) == report
    assert decode_report(encode_report(detect(sample(), sample(seed=1, shift=1.0)))).verdict == "retrain"


def test_threads_change_nothing():
    first, second = sample(30_000), sample(30_000, seed=1)
    together = detect(first, second)
    for name in first:
        alone = detect(first, second, features=[name])
        assert score_in(alone, name).score == score_in(together, name).score
        assert feature_in(alone, name).bins == feature_in(together, name).bins
