"""From a table to a comparison that somebody else can recompute: trained, served, sent over HTTP, labelled, compared.

By default on a small table made here. ``SHADOW_COMPARISON_DATA=FILE`` takes another one, with
``SHADOW_COMPARISON_TARGET`` (``Churn``), ``SHADOW_COMPARISON_ID`` (``customerID``) and ``SHADOW_COMPARISON_POSITIVE``
(``Yes``).
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pytest
from sklearn import metrics
from tests.system import ROOT, System, get, wait_for

from shadow_mlops.lake.logs import page
from shadow_mlops.models.loading import load_model

SHADOW = str(Path(sys.executable).with_name("shadow"))
TARGET = os.environ.get("SHADOW_COMPARISON_TARGET", "Churn")
ID = os.environ.get("SHADOW_COMPARISON_ID", "customerID")
POSITIVE = os.environ.get("SHADOW_COMPARISON_POSITIVE", "Yes")
RATE = "600"


@dataclass
class Run:
    """What is left of a run: the data directory, what was sent, and what ``shadow compare`` printed."""

    data: Path
    rows: list[dict[str, str]]
    binned: dict
    exact: dict
    over_http: dict
    table: str


def made_up(path: Path, rows: int = 1200) -> Path:
    """Customers whose total charges are blank in their first month."""
    rng = np.random.default_rng(11)
    with path.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["customerID", "gender", "tenure", "Contract", "MonthlyCharges", "TotalCharges", "Churn"])
        for number in range(rows):
            tenure = int(rng.integers(0, 60)) if number % 40 else 0
            contract = str(rng.choice(["Month-to-month", "One year", "Two year"], p=[0.55, 0.2, 0.25]))
            monthly = round(float(rng.uniform(18, 118)), 2)
            odds = -0.6 + 1.5 * (contract == "Month-to-month") - 0.05 * tenure + 0.012 * monthly
            total = f"{tenure * monthly:.2f}" if tenure else " "
            churned = "Yes" if rng.random() < 1 / (1 + np.exp(-odds)) else "No"
            gender = str(rng.choice(["Female", "Male"]))
            writer.writerow([f"{number:04d}-MADE", gender, tenure, contract, monthly, total, churned])
    return path


def compare(data: Path, *options: str) -> str:
    command = [SHADOW, "compare", "--data-dir", str(data), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=data)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("telco")
    file = Path(os.environ.get("SHADOW_COMPARISON_DATA") or made_up(folder / "made_up.csv")).absolute()
    with file.open(newline="") as source:
        rows = list(csv.DictReader(source))
    data = folder / "data"
    described = ["--data", str(file), "--target", TARGET, "--id", ID]
    script = [sys.executable, str(ROOT / "scripts" / "train_model.py"), *described, "--name", "telco"]
    environment = os.environ | {"DATA_DIR": str(data)}
    train = [*script, "--output", str(folder)]
    subprocess.run(train, env=environment, cwd=folder, check=True, capture_output=True, timeout=600)
    settings = {"DEPLOYMENT_FILE": str(folder / "shadow.yaml"), "RATE_LIMIT_REQUESTS": "1000000"}
    with System(data, environment=settings).running() as system:
        sending = [SHADOW, "traffic", "--url", system.url, *described, "--rate", RATE, "--label-delay", "0.2"]
        sent = subprocess.run([*sending, "--format", "json"], capture_output=True, text=True, timeout=600, check=False)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        summary = json.loads(sent.stdout)
        assert (summary["ok"], summary["labels_posted"]) == (len(rows), len(rows))

        def joined() -> bool:
            return json.loads(compare(data, "--format", "json"))["labelled"] == len(rows)

        wait_for(joined, "not every row became a labelled pair", 120)
        yield Run(
            data=data,
            rows=rows,
            binned=json.loads(compare(data, "--format", "json")),
            exact=json.loads(compare(data, "--exact", "--format", "json")),
            over_http=json.loads(get(f"{system.url}/shadow/comparison?exact=true", timeout=60)[1]),
            table=compare(data),
        )


def recorded(data: Path) -> dict[str, np.ndarray]:
    """Scores and labels as the lake's files have them, joined by DuckDB alone: no code of the product, no pairs."""
    files = json.loads((data / "lake" / "manifest.json").read_bytes())["files"]
    connection = duckdb.connect()
    for table in ("events", "results", "outcomes"):
        paths = [str(data / "lake" / file["path"]) for file in files[table]]
        connection.read_parquet(paths, union_by_name=True).create_view(table)
    return connection.execute("""
        SELECT e.entity, e.score AS champion, r.score AS challenger, r.champion_score, o.label
        FROM events e JOIN results r USING (segment, row) JOIN outcomes o USING (request_id)
        WHERE r.status = 'paired' AND e.sampled
    """).fetchnumpy()


def test_every_row_is_paired_labelled_and_accounted_for(run: Run):
    n = len(run.rows)
    (challenger,) = run.binned["challengers"]
    assert (run.binned["pairs"], run.binned["labelled"], challenger["label_coverage"]) == (n, n, 1)
    account = challenger["accounting"]
    assert account.pop("source") == "monitor"
    assert account == {"sampled": n, "paired": n, "timed_out": 0, "shed": 0, "errored": 0, "pending": 0}
    counted = json.loads(compare(run.data, "--since", "2000-01-01", "--format", "json"))["challengers"][0]["accounting"]
    assert counted == {**account, "source": "lake"}


def test_a_checker_without_a_line_of_the_product_gets_the_same_figures(run: Run):
    rows = recorded(run.data)
    assert len(rows["label"]) == len(run.rows)
    assert (rows["champion"] == rows["champion_score"]).all()
    truth = rows["label"] == POSITIVE
    for side, scores in ((run.exact["champion"], rows["champion"]), (run.exact["challengers"][0], rows["challenger"])):
        assert side["accuracy"] == pytest.approx(metrics.accuracy_score(truth, scores >= 0.5), abs=1e-9)
        assert side["auc"] == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-9)
        assert side["log_loss"] == pytest.approx(metrics.log_loss(truth, scores), abs=1e-9)
        assert side["brier"] == pytest.approx(metrics.brier_score_loss(truth, scores), abs=1e-9)
    agreed = np.mean((rows["champion"] >= 0.5) == (rows["challenger"] >= 0.5))
    assert run.exact["agreement"] == pytest.approx(agreed, abs=1e-9)


def test_the_route_says_what_the_command_says(run: Run):
    assert run.over_http.keys() == run.exact.keys()
    for side in ("accuracy", "auc", "log_loss", "brier", "latency_p50_ms", "latency_p99_ms"):
        assert run.over_http["champion"][side] == pytest.approx(run.exact["champion"][side], abs=1e-12)
        assert run.over_http["challengers"][0][side] == pytest.approx(run.exact["challengers"][0][side], abs=1e-12)
    assert run.over_http["challengers"][0]["accounting"] == run.exact["challengers"][0]["accounting"]


def test_the_binned_area_is_within_its_bound(run: Run):
    for side in ("champion", "challenger"):
        binned, exact = (
            found["champion"] if side == "champion" else found["challengers"][0] for found in (run.binned, run.exact)
        )
        assert exact["auc_error"] == 0 < binned["auc_error"] < 1e-3
        assert abs(binned["auc"] - exact["auc"]) <= binned["auc_error"]


def test_the_registered_artefacts_give_the_logged_scores(run: Run):
    by_entity = {row[ID]: row for row in run.rows}
    assert len(by_entity) == len(run.rows)
    rows = recorded(run.data)
    serving = json.loads((run.data / "serving.json").read_bytes())
    for side, directory in (("champion", serving["champion"]), ("challenger", serving["challengers"]["challenger"])):
        model = load_model(run.data / directory)
        sent = [by_entity[entity] for entity in rows["entity"]]
        signature = model.card.signature
        numbers = np.array([[float(row[name].strip() or "nan") for name in signature.numbers] for row in sent])
        strings = np.array([[row[name] for name in signature.strings] for row in sent], dtype=object)
        scores = model.predict(numbers, strings)[:, model.card.outputs.index(POSITIVE)]
        assert np.abs(scores - rows[side]).max() <= 1e-6


def test_blanks_travelled_as_null(run: Run):
    columns = [name for name in run.rows[0] if any(not row[name].strip() for row in run.rows)]
    assert columns
    files = json.loads((run.data / "lake" / "manifest.json").read_bytes())["files"]["events"]
    events = duckdb.read_parquet([str(run.data / "lake" / file["path"]) for file in files], union_by_name=True)
    for name in columns:
        blank = {row[ID] for row in run.rows if not row[name].strip()}
        assert {entity for (entity,) in events.filter(f'"n_{name}" IS NULL').project("entity").fetchall()} == blank


def test_the_logs_have_every_pair_once(run: Run):
    seen, after = {}, ""
    while after is not None:
        found = page(run.data / "lake", limit=1000, after=after)
        seen |= {pair.event_id: pair for pair in found.pairs}
        after = found.next
    assert {(pair.entity, pair.outcome) for pair in seen.values()} == {(row[ID], row[TARGET]) for row in run.rows}
    assert all(pair.challengers["challenger"].status == "paired" for pair in seen.values())


def test_the_table_says_it_in_words(run: Run):
    n = f"{len(run.rows):,}"
    assert f"{n} pairs, {n} labelled (100.0%)" in run.table
    assert f"sampled {n} = paired {n} + timed out 0" in run.table
    for name in ("accuracy", "AUC", "log loss", "Brier", "p99 ms"):
        assert name in run.table
