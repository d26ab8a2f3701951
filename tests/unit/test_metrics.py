"""Metrics: many observations at once, and one text for all processes of a host."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from shadow_mlops.telemetry.metrics import LATENCY_BUCKETS, merged_samples, merged_text, observe_many


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(LATENCY_BUCKETS)), max_size=50))
def test_observing_many_is_observing_each(values: list[float]):
    texts = []
    for many in (True, False):
        registry = CollectorRegistry()
        histogram = Histogram("h", "x", ("a",), registry=registry, buckets=LATENCY_BUCKETS).labels("b")
        if many:
            observe_many(histogram, np.array(values, dtype=np.float64))
        else:
            for value in values:
                histogram.observe(value)
        lines = generate_latest(registry).decode().splitlines()
        texts.append([line for line in lines if "_sum" not in line and "_created" not in line])
    assert texts[0] == texts[1]


PROCESS = """
import sys
from pathlib import Path
from shadow_mlops.telemetry.metrics import open_metrics
metrics = open_metrics(Path(sys.argv[1]), sys.argv[2])
metrics.predictions.labels("churn", "1", "champion").inc(int(sys.argv[3]))
metrics.shadow_lag_events.labels("challenger").set(int(sys.argv[3]))
"""


def test_processes_add_up_and_a_restarted_one_goes_on_with_its_counters(tmp_path: Path):
    for identity, count in (("gateway-0", 3), ("gateway-1", 4), ("gateway-0", 10)):
        subprocess.run([sys.executable, "-c", PROCESS, str(tmp_path), identity, str(count)], check=True)
    samples = merged_samples(tmp_path)
    who = (("model", "churn"), ("role", "champion"), ("version", "1"))
    assert samples["predictions_total", who] == 17
    assert samples["shadow_lag_events", (("challenger", "challenger"),)] == 10
    assert b'predictions_total{model="churn",role="champion",version="1"} 17.0' in merged_text(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6, "a restart must not leave files of its own"


LEFT = """
import sys
from pathlib import Path
from shadow_mlops.telemetry.metrics import merged_samples, open_metrics
from shadow_mlops.telemetry.series import Series
directory = Path(sys.argv[1])
metrics = open_metrics(directory, "monitor")
lag = Series(metrics.shadow_lag_events, merged_samples(directory))
accounts = Series(metrics.accounting, merged_samples(directory))
for names in sys.argv[2:]:
    lag.replace({(name,): 1 for name in names.split()})
    accounts.replace({(name, "paired"): 2 for name in names.split()})
"""


def test_series_that_are_gone_leave_the_text_also_those_of_an_earlier_process(tmp_path: Path):
    def told(*rounds: str) -> set[str]:
        subprocess.run([sys.executable, "-c", LEFT, str(tmp_path), *rounds], check=True)
        text = merged_text(tmp_path).decode()
        lags = set(re.findall(r'^shadow_lag_events{challenger="(.)"} 1.0$', text, flags=re.MULTILINE))
        accounts = re.findall(
            r'^shadow_accounting_events{challenger="(.)",state="paired"} 2.0$', text, flags=re.MULTILINE
        )
        assert lags == set(accounts)
        assert "NaN" not in text
        return lags

    assert told("a b", "b c") == {"b", "c"}
    assert told("b d") == {"b", "d"}
    assert told("a") == {"a"}
