"""``shadow traffic`` as a user runs it, against a server that remembers what it was sent."""

import itertools
import json
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from httpserver import Seen, Server, reply
from typer.testing import CliRunner

from shadow_mlops.cli.traffic import traffic
from shadow_mlops.cli.trafficrows import example_rows, file_rows, read_table
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.example import generate

CSV = """customerID,Partner,Code,tenure,TotalCharges,Empty,Churn
A-1,Yes,07,1,29.85,,No
A-2,NA,08,34, ,,Yes
A-3, ,09,,108.15,,
"""


def invoke(*arguments):
    app = typer.Typer()
    app.command()(traffic)
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(CSV)
    return path


def test_rows_of_a_file_go_out_typed_without_the_target(table):
    with Server().running() as server:
        result = invoke(
            "--url",
            server.url,
            "--data",
            table,
            "--target",
            "Churn",
            "--id",
            "customerID",
            "--label-delay",
            0,
        )
    assert result.exit_code == 0, result.output
    assert server.bodies("/predict") == [
        {"customerID": "A-1", "Partner": "Yes", "Code": 7, "tenure": 1, "TotalCharges": 29.85, "Empty": None},
        {"customerID": "A-2", "Partner": "NA", "Code": 8, "tenure": 34, "TotalCharges": None, "Empty": None},
        {
            "customerID": "A-3",
            "Partner": None,
            "Code": 9,
            "tenure": None,
            "TotalCharges": 108.15,
            "Empty": None,
        },
    ]


def test_the_deployments_own_fields_decide_what_is_sent_and_as_what(table):
    any_of = {
        name: {"anyOf": [{"type": kind}, {"type": "null"}]}
        for name, kind in {"Partner": "string", "Code": "string", "tenure": "number"}.items()
    }
    document = {"components": {"schemas": {"Features": {"additionalProperties": False, "properties": any_of}}}}
    with Server(document=document).running() as server:
        result = invoke("--url", server.url, "--data", table, "--target", "Churn", "--label-delay", 0)
    assert server.bodies("/predict")[:2] == [
        {"Partner": "Yes", "Code": "07", "tenure": 1},
        {"Partner": "NA", "Code": "08", "tenure": 34},
    ]
    assert "customerID, TotalCharges, Empty" in result.stderr


def test_labels_are_reported_for_the_requests_they_belong_to(table):
    with Server().running() as server:
        result = invoke(
            "--url",
            server.url,
            "--data",
            table,
            "--target",
            "Churn",
            "--id",
            "customerID",
            "--label-delay",
            0,
        )
    sent = {seen.request_id: seen.body["customerID"] for seen in server.seen if seen.path == "/predict"}
    reported = [outcome for body in server.bodies("/outcomes") for outcome in body["outcomes"]]
    assert {(sent[o["request_id"]], o["label"]) for o in reported} == {("A-1", "No"), ("A-2", "Yes")}
    assert len(reported) == 2  # the third has no label to report
    assert "labels    2 posted" in result.output


def test_labels_of_many_rows_are_posted_in_batches_that_the_api_takes():
    with Server().running() as server:
        result = invoke("--url", server.url, "--example", "churn", "--count", 3000, "--rate", 10000, "--format", "json")
    summary = json.loads(result.stdout)
    assert (summary["sent"], summary["ok"], summary["labels_posted"]) == (3000, 3000, 3000)
    assert max(len(body["outcomes"]) for body in server.bodies("/outcomes")) <= 500


def test_failures_set_the_exit_code_and_are_named(table):
    async def busy(seen: Seen) -> bytes:
        return reply(202) if seen.path == "/outcomes" else reply(429 if seen.body["customerID"] == "A-2" else 200)

    with Server(busy).running() as server:
        result = invoke(
            "--url",
            server.url,
            "--data",
            table,
            "--target",
            "Churn",
            "--id",
            "customerID",
            "--label-delay",
            0,
        )
    assert result.exit_code == 1
    assert "429 x1" in result.output
    assert "RATE_LIMIT_REQUESTS" in result.output


def test_refused_labels_are_failures(table):
    async def refuse_labels(seen: Seen) -> bytes:
        return reply(503 if seen.path == "/outcomes" else 200)

    with Server(refuse_labels).running() as server:
        result = invoke(
            "--url", server.url, "--data", table, "--target", "Churn", "--label-delay", 0, "--format", "json"
        )
    assert result.exit_code == 1
    assert json.loads(result.stdout)["labels_failed"] == 2


def test_a_count_beyond_the_file_starts_over(table):
    with Server().running() as server:
        result = invoke(
            "--url",
            server.url,
            "--data",
            table,
            "--target",
            "Churn",
            "--id",
            "customerID",
            "--count",
            7,
            "--label-delay",
            0,
        )
    assert result.exit_code == 0
    assert Counter(b["customerID"] for b in server.bodies("/predict")) == {"A-1": 3, "A-2": 2, "A-3": 2}
    assert len({seen.request_id for seen in server.seen if seen.path == "/predict"}) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either"),
        (["--data", "x.csv", "--example", "churn"], "give either"),
        (["--data", "x.csv"], "needs --target"),
        (["--data", "x.csv", "--target", "y", "--drift-at", "3"], "needs --example"),
        (["--data", "absent.csv", "--target", "y"], "does not exist"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_sent(arguments, message):
    result = invoke("--url", "http://127.0.0.1:1", *arguments)
    assert isinstance(result.exception, SettingsError)
    assert message in str(result.exception)


def test_columns_that_are_not_there_are_named(table):
    with pytest.raises(SettingsError, match=r"no column 'churn'; the file has customerID, Partner"):
        file_rows(read_table(table), target="churn", entity=None)


def test_parquet_reads_as_csv_does(table, tmp_path):
    columns = {
        "id": [7, 8],
        "x": [1.5, float("nan")],
        "kind": pa.array(["a", " "]).dictionary_encode(),
        "y": [1, 0],
    }
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    rows = list(file_rows(read_table(tmp_path / "rows.parquet"), target="y", entity="id"))
    assert [json.loads(row.body) for row in rows] == [
        {"id": "7", "x": 1.5, "kind": "a"},
        {"id": "8", "x": None, "kind": None},
    ]
    assert [row.label for row in rows] == [1, 0]


def test_drift_begins_at_the_row_that_was_asked_for():
    plain = [row.body for row in itertools.islice(example_rows(seed=5), 2500)]
    drifted = [row.body for row in itertools.islice(example_rows(seed=5, drift_at=2100), 4200)]
    assert drifted[:2000] == plain[:2000]
    before = [json.loads(body)["monthly_charges"] for body in drifted[:2100]]
    after = [json.loads(body)["monthly_charges"] for body in drifted[2100:]]
    assert sum(after) / len(after) - sum(before) / len(before) > 5
    assert [json.loads(body)["customer_id"] for body in drifted[-2:]] == ["CUST-4199", "CUST-4200"]


def test_example_rows_are_the_generators():
    rows = list(itertools.islice(example_rows(seed=5), 50))
    assert [json.loads(row.body) for row in rows] == list(itertools.islice(generate(2000, seed=5).requests(), 50))


@pytest.mark.parametrize("key", ["", "shadow_s3cret"])
def test_a_clients_key_is_sent_with_predictions_and_labels_and_shown_nowhere(table, monkeypatch, key):
    monkeypatch.setenv("SHADOW_API_KEY", key)
    with Server().running() as server:
        result = invoke("--url", server.url, "--data", table, "--target", "Churn", "--label-delay", 0)
    assert {seen.path for seen in server.seen} == {"/predict", "/outcomes"}
    assert {seen.authorization for seen in server.seen} == {f"Bearer {key}" if key else None}
    assert not key or key not in result.output


def test_where_clients_need_a_key_the_hint_says_how_to_get_one(table):
    async def closed(seen: Seen) -> bytes:
        return reply(401)

    with Server(closed).running() as server:
        result = invoke("--url", server.url, "--data", table, "--target", "Churn", "--label-delay", 0)
    assert (result.exit_code, "SHADOW_API_KEY" in result.output) == (1, True)


@pytest.mark.parametrize("key", ["two words", "a\r\nHost: elsewhere", "schl\u00fcssel"])
def test_a_key_that_would_break_a_header_is_refused_and_not_repeated(table, monkeypatch, key):
    monkeypatch.setenv("SHADOW_API_KEY", key)
    result = invoke("--url", "http://127.0.0.1:1", "--data", table, "--target", "Churn")
    assert isinstance(result.exception, SettingsError)
    assert key not in str(result.exception)
