import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadow_mlops.deployment import parse_deployment
from shadow_mlops.drift.rules import Measured, Rules, decide, rules_of, severity_of


def measured(name, *, psi=0.0, p_psi=1.0, ks=None, p_ks=None, js=0.0):
    scores = {"psi": psi, "js": js} | ({"ks": ks} if ks is not None else {})
    p_values = {"psi": p_psi, "js": p_psi} | ({"ks": p_ks} if p_ks is not None else {})
    return Measured(name, scores, p_values)


def row(decision, feature, method="psi"):
    (found,) = [s for each in decision.features for s in each.scores if (s.feature, s.method) == (feature, method)]
    return found


@pytest.mark.parametrize(
    ("psi", "p_value", "verdict"),
    [
        (0.5, 0.4, "none"),  # a small sample of the same
        (0.05, 1e-9, "none"),  # a large sample that hardly moved
        (0.3, 1e-9, "none"),  # at the threshold is not above it
        (0.31, 1e-9, "retrain"),
    ],
)
def test_an_alert_needs_both_significance_and_size(psi, p_value, verdict):
    decision = decide([measured("tenure", psi=psi, p_psi=p_value)], Rules())
    assert decision.verdict == verdict
    score = row(decision, "tenure")
    assert score.significant == (p_value < 0.01)
    assert score.alert == score.retrain == (verdict == "retrain")


def test_ks_and_js_alert_and_only_retrain_where_they_are_named():
    moved = [measured("tenure", psi=0.2, p_psi=1e-9, ks=0.2, p_ks=1e-9, js=0.2)]
    assert decide(moved, Rules()).verdict == "alert"
    assert not row(decide(moved, Rules()), "tenure").alert
    named = decide(moved, Rules(retrain_on=("ks",)))
    assert named.verdict == "retrain"
    assert [row(named, "tenure", method).retrain for method in ("psi", "ks", "js")] == [False, True, False]
    far = [measured("tenure", psi=3.0, p_psi=1e-9)]
    assert decide(far, Rules(retrain_on=("ks",))).verdict == "alert"


def test_a_number_is_tested_by_both_its_p_values_and_a_category_by_one():
    (number,) = decide([measured("tenure", psi=0.4, p_psi=0.3, ks=0.4, p_ks=0.004)], Rules()).features
    assert (number.p_value, number.significant) == (0.008, True)
    (category,) = decide([measured("plan", psi=0.4, p_psi=0.008)], Rules()).features
    assert (category.p_value, category.significant) == (0.008, True)
    (weak,) = decide([measured("tenure", psi=0.4, p_psi=0.3, ks=0.4, p_ks=0.006)], Rules()).features
    assert not weak.significant


def test_the_level_is_shared_by_the_features_of_a_window():
    alone = decide([measured("a", psi=1.0, p_psi=0.004)], Rules())
    assert alone.verdict == "retrain"
    company = [measured(f"x{i}", p_psi=0.5) for i in range(19)]
    assert decide([measured("a", psi=1.0, p_psi=0.004), *company], Rules()).verdict == "none"
    assert decide([measured("a", psi=1.0, p_psi=0.0004), *company], Rules()).verdict == "retrain"


def test_all_rows_of_a_feature_agree_on_what_is_true_of_the_feature():
    (each,) = decide([measured("a", psi=0.25, p_psi=1e-9, ks=0.05, p_ks=0.6, js=0.1)], Rules()).features
    assert {(s.significant, s.severity) for s in each.scores} == {(True, "moderate")}
    assert [s.p_value for s in each.scores] == [1e-9, 0.6, 1e-9]
    assert [s.threshold for s in each.scores] == [0.3, 0.1, 0.1]


def test_methods_without_a_threshold_never_alert():
    far = Measured("a", {"psi": 0.0, "chi_square": 1e6, "wasserstein": 1e6}, {"psi": 1e-9, "chi_square": 1e-99})
    assert decide([far], Rules()).verdict == "none"
    assert row(decide([far], Rules()), "a", "wasserstein").threshold is None


def test_severities():
    assert [severity_of(x) for x in (0.0, 0.0999, 0.1, 0.1999, 0.2, 0.2999, 0.3, 9.0)] == [
        "none", "none", "low", "low", "moderate", "moderate", "significant", "significant",
    ]  # fmt: skip


def test_what_moved_most_comes_first():
    features = [
        measured("still", psi=0.01, p_psi=0.9),
        measured("noisy", psi=2.0, p_psi=0.9),  # far and not significant
        measured("alerts", psi=0.1, p_psi=1e-9, js=0.11),
        measured("moved", psi=0.29, p_psi=1e-9, js=0.09),
        measured("worst", psi=0.9, p_psi=1e-9, js=0.4),
        measured("bad", psi=0.4, p_psi=1e-9, js=0.2),
    ]
    decision = decide(features, Rules())
    assert [each.feature for each in decision.features] == ["worst", "bad", "alerts", "moved", "noisy", "still"]
    assert decide(features[::-1], Rules()).features == decision.features


def test_reasons_are_sentences():
    still = [measured(f"x{i}", p_psi=0.5) for i in range(22)]
    assert decide(still, Rules()).reason == "none of 22 features moved by more than chance"
    small = decide([measured("tenure", psi=0.05, p_psi=1e-9), *still], Rules())
    assert (
        small.reason == "1 of 23 features moved by more than chance, none beyond a threshold: tenure (PSI 0.05, JS 0)"
    )
    moved = [
        measured("tenure", psi=0.412, p_psi=1e-9, ks=0.22, p_ks=1e-9, js=0.05),
        *(measured(f"y{i}", psi=0.2, p_psi=1e-9, js=0.12) for i in range(4)),
    ]
    assert decide([*moved, *still], Rules()).reason == (
        "5 of 27 features moved beyond a threshold: tenure most (PSI 0.41, KS 0.22), y0 (JS 0.12), y1 (JS 0.12) and 2"
        " more; retraining is called for by PSI"
    )


def test_a_deployment_file_states_the_rules():
    text = (
        "name: churn\ndrift: {ks: 0.2, level: 0.05, retrain_on: [psi, ks]}\n"
        "features:\n  tenure: {drift: {psi: 0.2}}\n  id: {drift: {check: false}}\n  plan: {default: basic}\n"
    )
    rules = rules_of(parse_deployment(text), psi=0.25)
    assert (rules.psi, rules.ks, rules.js, rules.level) == (0.25, 0.2, 0.1, 0.05)
    assert rules.retrain_on == ("psi", "ks")
    assert rules.unchecked == {"id"}
    assert [rules.threshold(name, "psi") for name in ("tenure", "plan")] == [0.2, 0.25]
    assert [rules.threshold("tenure", method) for method in ("ks", "wasserstein")] == [0.2, None]
    stated = rules_of(parse_deployment("name: churn\ndrift: {psi: 0.4}"), psi=0.25)
    assert stated.psi == 0.4
    decision = decide([measured("tenure", psi=0.22, p_psi=1e-9), measured("plan", psi=0.22, p_psi=1e-9)], rules)
    assert [score.feature for each in decision.features for score in each.scores if score.alert] == ["tenure"]


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.floats(0, 3), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
        min_size=1,
        max_size=8,
    )
)
def test_an_alert_is_a_significant_score_above_its_threshold_and_nothing_else(rows):
    features = [measured(f"f{i}", psi=a, p_psi=b, ks=c, p_ks=d, js=e) for i, (a, b, c, d, e) in enumerate(rows)]
    decision = decide(features, Rules())
    scores = [score for each in decision.features for score in each.scores]
    for score in scores:
        assert score.alert == (score.significant and score.score > score.threshold)
        assert score.retrain == (score.alert and score.method == "psi")
    expected = "retrain" if any(s.retrain for s in scores) else "alert" if any(s.alert for s in scores) else "none"
    assert decision.verdict == expected
    # no one can be significant alone where the smallest p would not pass a level of its own
    smallest = min(each.p_value for each in decision.features)
    assert np.any([s.significant for s in scores]) <= (smallest <= 0.01)
