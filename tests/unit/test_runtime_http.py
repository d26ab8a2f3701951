"""Remote models: what a remote may do wrong, and what a caller sees of it."""

from __future__ import annotations

import gc
import json
import threading

import numpy as np
import pytest

import modelsamples as samples
from remotemodel import BAD_DAYS, RemoteModel
from shadow_mlops.breaker import Breaker
from shadow_mlops.domain.errors import ConflictError, ModelRefusedError, UnavailableError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.endpoint import endpoint_of, tags_of
from shadow_mlops.models.loading import load_model
from shadow_mlops.models.preparation import prepare
from shadow_mlops.models.remotes import RemoteSignature, read_remote_signature, register_remote
from shadow_mlops.models.runtimes import Detached
from shadow_mlops.models.runtimes.http import HttpRuntime

SIGNATURE = RemoteSignature(features=samples.SIGNATURE.features, task="binary")


def proba(frame):
    return samples.estimator("boosting").predict_proba(frame[list(samples.SIGNATURE.names)])


def first_rows(count):
    return samples.rows().take(count)


@pytest.fixture
def remote():
    with RemoteModel(proba).running() as model:
        yield model


def card(**more):
    given = {
        "name": "churn", "version": "1", "registry_version": "1", "task": "binary", "runtime": "http",
        "file": "remote.json", "sha256": "", "signature": samples.SIGNATURE, "classes": ("0", "1"),
    }  # fmt: skip
    return ModelCard(**{**given, **more})


def runtime_of(remote, protocol="v2", *, timeout_ms=2000, breaker=None):
    endpoint = endpoint_of("churn", url=remote.url, protocol=protocol, timeout_ms=timeout_ms)
    return HttpRuntime(endpoint, card(), breaker=breaker)


@pytest.mark.parametrize("protocol", ["v2", "mlflow"])
def test_scores_are_the_remote_models(remote, protocol):
    runtime = runtime_of(remote, protocol)
    rows = samples.rows()  # with missing numbers and missing strings among them
    got = runtime.predict(rows.numbers, rows.strings)
    assert np.abs(got - proba(samples.frame())).max() < 1e-9
    for i in range(3):
        runtime.predict(rows.numbers[i : i + 1], rows.strings[i : i + 1])
    assert remote.connections == 1  # kept
    assert runtime.tally().calls == {"ok": 4}
    assert runtime.tally().calls == {}  # counted from the last time on


@pytest.mark.parametrize("day", BAD_DAYS)
@pytest.mark.parametrize("protocol", ["v2", "mlflow"])
def test_a_bad_day_is_unavailable_for_all_rows(remote, protocol, day):
    runtime = runtime_of(remote, protocol, timeout_ms=300 if day in {"hang", "drip"} else 5000)
    remote.day = day
    rows = first_rows(8)
    with pytest.raises(UnavailableError, match="the remote model http"):
        runtime.predict(rows.numbers, rows.strings)
    wanted = {
        "hang": "timeout", "drip": "timeout", "error": "status", "away": "status", "closed": "unreachable",
    }.get(day, "garbage")  # fmt: skip
    assert runtime.tally().calls == {wanted: 1}  # asked once for all rows, not row by row
    remote.day = "well"
    assert np.isfinite(runtime.predict(rows.numbers, rows.strings)).all()


def test_nobody_listening_is_unavailable(remote):
    runtime = runtime_of(remote)
    runtime._caller._url = "http://127.0.0.1:9/"
    with pytest.raises(UnavailableError, match="cannot be reached"):
        runtime.predict(*_pair(first_rows(1)))


def _pair(rows):
    return rows.numbers, rows.strings


@pytest.mark.parametrize("protocol", ["v2", "mlflow"])
def test_rows_without_a_score_are_told_apart(remote, protocol):
    """MLflow's server writes NaN into its JSON; the rows beside it have their scores."""
    remote._predict = lambda frame: np.where((frame["tenure"] == 13).to_numpy()[:, None], np.nan, proba(frame))
    runtime = runtime_of(remote, protocol)
    rows = first_rows(9)
    rows.numbers[:, 0] = 1
    rows.numbers[4, 0] = 13
    got = runtime.predict(*_pair(rows))
    assert np.isnan(got[4]).all()
    assert np.isfinite(np.delete(got, 4, axis=0)).all()
    assert runtime.tally().state == "closed"


def test_a_row_that_the_remote_refuses_costs_no_other_its_score(remote):
    runtime = runtime_of(remote)
    remote.day = "refuses"
    rows = first_rows(64)
    rows.numbers[:, 0] = 1
    expected = runtime.predict(*_pair(rows))
    rows.numbers[17, 0] = 13
    remote.asked.clear()
    got = runtime.predict(*_pair(rows))
    assert np.isnan(got[17]).all()
    assert np.abs(np.delete(got - expected, 17, axis=0)).max() < 1e-9
    assert len(remote.asked) <= 2 * 6 + 1  # by halving
    assert runtime.tally().state == "closed"  # rows are no fault of the remote's


def test_a_remote_that_fails_is_left_alone_and_tried_again(remote):
    now = [0.0]
    breaker = Breaker(failures=3, pause=1.0, longest=4.0, clock=lambda: now[0])
    runtime = runtime_of(remote, breaker=breaker)
    rows = first_rows(1)
    remote.day = "error"
    for _ in range(5):
        with pytest.raises(UnavailableError):
            runtime.predict(*_pair(rows))
    tally = runtime.tally()
    assert tally.calls == {"status": 3, "skipped": 2}
    assert tally.state == "open"
    now[0] = 1.1
    with pytest.raises(UnavailableError):  # on trial, and still failing
        runtime.predict(*_pair(rows))
    now[0] = 2.2
    with pytest.raises(UnavailableError, match="left alone"):  # the pause has doubled
        runtime.predict(*_pair(rows))
    remote.day, now[0] = "well", 3.5
    runtime.predict(*_pair(rows))
    assert runtime.tally().state == "closed"


def test_a_text_that_is_no_unicode_costs_its_row_only(remote):
    runtime = runtime_of(remote)
    rows = first_rows(4)
    rows.strings[2, 0] = "\ud800"
    got = runtime.predict(*_pair(rows))
    assert np.isnan(got[:, 0]).tolist() == [False, False, True, False]


def test_a_runtime_leaves_no_thread_behind(remote):
    before = threading.active_count()
    runtime = runtime_of(remote)
    runtime.predict(*_pair(first_rows(1)))
    assert isinstance(runtime, Detached)
    thread = next(each for each in threading.enumerate() if each.name == "remote-model")
    del runtime
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()
    assert threading.active_count() <= before + 1  # the server's own, for a connection that it has not seen close


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://host/x", "http://"),
        ("file:///etc/passwd", "http://"),
        ("host:8080", "http://"),
        ("http://user:secret@host/x", "credentials"),
        ("http:///x", "name a host"),
        ("http://host:port/x", "no address"),
    ],
)
def test_addresses_that_may_not_be_called(url, said):
    with pytest.raises(ModelRefusedError, match=said) as caught:
        endpoint_of("churn", url=url, protocol="v2")
    assert "secret" not in str(caught.value)


def test_a_query_is_called_and_not_shown():
    endpoint = endpoint_of("churn", url="https://host/v2/models/m/infer?key=secret", protocol="v2")
    assert endpoint.url.endswith("?key=secret")
    assert "secret" not in endpoint.shown


def test_protocol_and_time_out_are_checked():
    with pytest.raises(ModelRefusedError, match="'grpc' is none of v2, mlflow"):
        endpoint_of("churn", url="http://host", protocol="grpc")
    with pytest.raises(ModelRefusedError, match="milliseconds"):
        endpoint_of("churn", url="http://host", protocol="v2", timeout_ms="soon")


# ---- registration ----


def register(registry, remote, version="9", **more):
    endpoint = endpoint_of("churn", url=remote.url, protocol=more.pop("protocol", "v2"), timeout_ms=10_000)
    given = {"name": "churn", "signature": SIGNATURE, "rows": samples.rows(), **more}
    return register_remote(registry, version=version, endpoint=endpoint, **given)


def test_a_registered_remote_serves_as_it_answered(remote, tmp_path):
    registry = samples.registry_in(tmp_path)
    made = register(registry, remote, aliases=("champion",))
    assert registry.aliases("churn") == {"champion": made.registry_version}
    version = registry.version("churn", "9")
    assert version.tags["shadow.url"] == f"{remote.url}/v2/models/churn/infer"
    directory = prepare(registry, version, data_dir=tmp_path / "data")
    model = load_model(directory)
    assert model.detached is not None
    rows = samples.rows()
    assert np.abs(model.predict(rows.numbers, rows.strings) - proba(samples.frame())).max() < 1e-9
    with pytest.raises(ConflictError):
        register(registry, remote)


def test_a_remote_that_answers_otherwise_than_recorded_is_refused(remote, tmp_path):
    registry = samples.registry_in(tmp_path)
    register(registry, remote)
    directory = prepare(registry, registry.version("churn", "9"), data_dir=tmp_path / "data")
    remote._predict = lambda frame: proba(frame)[:, ::-1]
    with pytest.raises(ModelRefusedError, match="otherwise"):
        load_model(directory)
    remote.day = "error"
    with pytest.raises(UnavailableError):  # later it may serve: not the same as refused
        load_model(directory)


def test_a_remote_that_answers_with_labels_is_refused_unless_that_is_declared(remote, tmp_path):
    remote._predict = lambda frame: proba(frame)[:, 1] > 0.5
    registry = samples.registry_in(tmp_path)
    with pytest.raises(ModelRefusedError, match=r"shadow\.outputs"):
        register(registry, remote, protocol="mlflow")
    declared = RemoteSignature(features=samples.SIGNATURE.features, task="binary", outputs="labels")
    register(registry, remote, protocol="mlflow", signature=declared)
    assert load_model(prepare(registry, registry.version("churn", "9"), data_dir=tmp_path / "data"))


def test_tags_alone_make_a_remote_of_a_version_with_a_signature(remote, tmp_path):
    """The model that a team logged with MLflow and has deployed itself."""
    registry = samples.registry_in(tmp_path)
    samples.register_sample(
        registry, "1", kind="boosting", tags=tags_of(endpoint_of("churn", url=remote.url, protocol="mlflow"))
    )
    model = load_model(prepare(registry, registry.version("churn", "1"), data_dir=tmp_path / "data"))
    assert model.card.runtime == "http"
    assert remote.asked


def test_tags_that_name_another_remote_than_the_probed_one_are_refused(remote, tmp_path):
    registry = samples.registry_in(tmp_path)
    register(registry, remote)
    registry._client().set_model_version_tag("churn", "1", "shadow.url", "http://127.0.0.1:9/infer")
    with pytest.raises(ModelRefusedError, match="register another version"):
        prepare(registry, registry.version("churn", "9"), data_dir=tmp_path / "data")


def test_a_signature_file_has_features_task_and_rows(tmp_path):
    path = tmp_path / "signature.json"
    content = {
        "features": [{"name": "tenure", "kind": "integer"}, {"name": "gender", "kind": "string"}],
        "task": "binary",
        "rows": [{"tenure": 3, "gender": "female"}, {"tenure": None}],
    }
    path.write_text(json.dumps(content))
    found, rows = read_remote_signature(path)
    assert found.classes == ("0", "1")
    assert np.isnan(rows.numbers[:, 0]).tolist() == [False, True]
    assert rows.strings[:, 0].tolist() == ["female", None]
    for change, said in (
        ({"rows": []}, "no rows"),
        ({"rows": [{"age": 1}]}, "age"),
        ({"rows": [{"tenure": "long"}]}, "no number"),
        ({"task": "multiclass"}, "classes"),
        ({"featurs": []}, "featurs"),
    ):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(ModelRefusedError, match=said):
            read_remote_signature(path)
