import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import modelsamples as samples
from remotemodel import RemoteModel
from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.detecting import profile_report
from shadow_mlops.drift.inputs import memory_source
from shadow_mlops.drift.reference import baseline_of
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.prepared import read_card
from shadow_mlops.models.reference import (
    SCORE,
    decode_reference,
    encode_reference,
    read_reference_profile,
    score_of,
    write_reference_profile,
)
from shadow_mlops.models.rows import table_rows
from shadow_mlops.statistics.profiles import profile_of


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("reference")


@pytest.fixture(scope="module")
def registry(home):
    return samples.registry_in(home)


@pytest.fixture(scope="module")
def prepared(home, registry):
    """Prepared directory and kept rows of a registered version, as another process finds them."""
    samples.register_sample(registry, "2.1.0")
    version = registry.version("churn", "2.1.0")
    from mlflow import MlflowClient

    client = MlflowClient(registry.tracking_uri)
    kept = client.download_artifacts(version.run_id, "reference/reference.parquet", str(home))
    return prepare(registry, version, data_dir=home), pq.read_table(kept)


def columns_of(table, card, scores):
    rows = table_rows(table, card.signature)
    numbers = {name: rows.numbers[:, i] for i, name in enumerate(card.signature.numbers)}
    strings = {name: rows.strings[:, i] for i, name in enumerate(card.signature.strings)}
    return numbers | strings | {SCORE: scores}


def answers(frame):
    return samples.estimator("linear").predict_proba(frame.fillna(dict.fromkeys(samples.STRINGS, "")))


def test_a_registered_version_has_a_reference_of_its_rows_and_of_the_scores_that_are_served(prepared):
    directory, kept = prepared
    reference = read_reference_profile(directory)
    model = load_model(directory)
    rows = table_rows(kept, samples.SIGNATURE)
    scores = score_of("binary", model.predict(rows.numbers, rows.strings))
    assert (reference.model, reference.version, reference.rows) == ("churn", "2.1.0", 600)
    assert reference.source == "the 600 rows kept with it"
    assert tuple(reference.bins) == reference.profile.features == (*samples.SIGNATURE.names, SCORE)
    again = profile_of(reference.bins, columns_of(kept, model.card, scores))
    for mine, theirs in zip(again.counts, reference.profile.counts, strict=True):
        assert mine.tolist() == theirs.tolist()
    report = profile_report(reference.bins, reference.profile, again)
    assert {score.score for score in report.scores} == {0.0}
    bins = next(each.bins for each in report.features if each.name == SCORE)
    assert len(bins) == 10
    assert {each.reference for each in bins} == {60}


def test_a_shifted_score_and_a_new_category_are_seen_against_it(prepared):
    directory, kept = prepared
    reference = read_reference_profile(directory)
    columns = columns_of(kept, load_model(directory).card, np.linspace(0.9, 1, 600))
    columns["segment"] = np.array(["unheard of"] * 600, dtype=object)
    report = profile_report(reference.bins, reference.profile, profile_of(reference.bins, columns))
    assert {s.feature for s in report.scores if s.retrain} == {SCORE, "segment"}
    new = next(finding for finding in report.findings if finding.kind == "new_category")
    assert new.words == "segment: 600 current rows (100.00%) have values that the reference never has"


def test_the_file_gives_back_every_bit(prepared):
    reference = read_reference_profile(prepared[0])
    again = decode_reference(encode_reference(reference))
    assert encode_reference(again) == encode_reference(reference)
    for name, bins in reference.bins.items():
        if bins.kind == "number":
            assert again.bins[name].grid.tobytes() == bins.grid.tobytes()
            assert again.bins[name].tied.tolist() == bins.tied.tolist()


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_every_task_has_one_score(registry, tmp_path, task):
    samples.register_sample(registry, "1.0.0", name=task, task=task)
    directory = prepare(registry, registry.version(task, "1.0.0"), data_dir=tmp_path)
    model, reference = load_model(directory), read_reference_profile(directory)
    rows = samples.rows()
    scores = model.predict(rows.numbers, rows.strings)
    expected = scores.max(axis=1) if task == "multiclass" else scores[:, 0]
    place = reference.profile.features.index(SCORE)
    assert reference.profile.counts[place].tolist() == reference.bins[SCORE].count(expected).tolist()


def test_scores_without_an_answer_are_missing():
    scores = np.array([[0.25, 0.75], [np.nan, np.nan]])
    assert np.array_equal(score_of("binary", scores), [0.75, np.nan], equal_nan=True)
    assert np.array_equal(score_of("multiclass", scores), [0.75, np.nan], equal_nan=True)


def test_versions_of_before_have_no_reference(prepared, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(prepared[0], old)
    (old / "reference.json").unlink()
    assert read_reference_profile(old) is None
    assert load_model(old).card.version == "2.1.0"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:100],
        lambda text: text.replace(b'"format":1', b'"format":2'),
        lambda text: text.replace(b'"edges":[', b'"edges":[1e9,', 1),
        lambda text: text.replace(b'"counts":[', b'"counts":[5,', 1),
        lambda text: text.replace(b'"counts":[0,', b'"counts":[-1,', 1),
        lambda _: b"[]",
    ],
)
def test_a_damaged_reference_is_refused_with_its_path(prepared, tmp_path, damage):
    (tmp_path / "reference.json").write_bytes(damage((prepared[0] / "reference.json").read_bytes()))
    with pytest.raises(DriftError) as refused:
        read_reference_profile(tmp_path)
    assert str(tmp_path / "reference.json") in str(refused.value)
    assert "anew" in str(refused.value)


def test_a_model_that_is_served_elsewhere_keeps_its_reference(registry, tmp_path):
    """Only the place where it runs is another one."""
    with RemoteModel(answers).running() as model:
        tags = {"shadow.runtime": "http", "shadow.url": model.url}
        samples.register_sample(registry, "1.0.0", name="remote", tags=tags)
        directory = prepare(registry, registry.version("remote", "1.0.0"), data_dir=tmp_path)
    assert read_card(directory).runtime == "http"
    assert read_reference_profile(directory).rows == 600


def test_a_baseline_is_the_reference_of_whatever_rows_it_is_made_of(prepared, tmp_path):
    _, kept = prepared
    source = memory_source(kept.append_column("at", pa.array([0] * 600, pa.timestamp("us"))), "last_month.parquet")
    baseline = baseline_of(source, bins=20, model="churn", version="2.1.0")
    assert (baseline.rows, baseline.source, baseline.version) == (600, "last_month.parquet", "2.1.0")
    assert set(baseline.bins) >= set(samples.SIGNATURE.names)
    assert "at" not in baseline.bins
    assert len(baseline.bins["charges"].edges) == 19
    write_reference_profile(tmp_path, baseline)
    assert encode_reference(read_reference_profile(tmp_path)) == encode_reference(baseline)
    assert json.loads(encode_reference(baseline))["rows"] == 600
    with pytest.raises(DriftError, match="empty reference"):
        baseline_of(memory_source({"x": []}, "empty"))
    with pytest.raises(DriftError, match="no column of times"):
        baseline_of(memory_source({"x": [None]}, "times"))
