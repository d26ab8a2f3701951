"""Files as a source of a drift check: what is found, what a CSV's columns are, what is said of bad ones."""

from __future__ import annotations

import datetime as dt
import gc
import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shadow_mlops.domain.errors import DriftError
from shadow_mlops.drift.files import file_source
from shadow_mlops.drift.sources import Column
from shadow_mlops.statistics.bins import CategoryBins, quantile_bins

TWO = pa.table({"x": [1.0, 2.0], "s": ["a", "b"]})


def csv_of(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def refused(where, *, then=lambda source: source.schema()) -> str:
    with pytest.raises(DriftError) as caught:
        then(file_source(where))
    message = str(caught.value)
    assert "\n" not in message
    return message


def kinds(source) -> dict[str, str | None]:
    return {name: column.kind for name, column in source.schema().columns.items()}


# what is found


def test_a_folder_is_all_files_in_it_and_below_but_not_what_is_hidden(tmp_path):
    (tmp_path / "day=1").mkdir()
    (tmp_path / "_temporary").mkdir()
    for name in ("a.parquet", "day=1/b.pq", "_temporary/c.parquet", ".d.parquet"):
        pq.write_table(TWO, tmp_path / name)
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "README.md").touch()
    assert file_source(tmp_path).schema().rows == 4


def test_a_glob_may_reach_into_folders_and_names_its_files_once(tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    pq.write_table(TWO, tmp_path / "x.parquet")
    pq.write_table(TWO, tmp_path / "b" / "c" / "x.parquet")
    source = file_source([f"{tmp_path}/**/*.parquet", tmp_path / "x.parquet"])
    assert source.schema().rows == 4
    assert source.name == f"{tmp_path}/**/*.parquet and 1 more"


@pytest.mark.parametrize("name", ["odd [1].parquet", "odd [1].csv", "what?*.csv", "it's.csv"])
def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path, name):
    if name.endswith("csv"):
        csv_of(tmp_path / name, "x\n1\n")
        csv_of(tmp_path / "odd 1.csv", "x\n1\n2\n")
    else:
        pq.write_table(TWO.slice(1), tmp_path / name)
    assert file_source(tmp_path / name).schema().rows == 1


def test_files_that_cannot_be_had_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    pq.write_table(TWO, tmp_path / "x.parquet")
    csv_of(tmp_path / "x.csv", "x,s\n1,a\n")
    csv_of(tmp_path / "x.xlsx", "")
    assert refused(tmp_path / "none.csv") == f"{tmp_path}/none.csv: there is no such file"
    assert refused(f"{tmp_path}/none-*.csv") == f"{tmp_path}/none-*.csv: no file matches"
    assert refused(tmp_path / "empty") == f"{tmp_path}/empty is a folder without a CSV or Parquet file"
    assert refused(tmp_path / "pipe.csv") == f"{tmp_path}/pipe.csv is not a file"
    assert "x.xlsx: expected a .csv, .tsv, .txt or .parquet file" in refused(tmp_path / "x.xlsx")
    assert refused([]) == "no files were named"
    assert "x.parquet is Parquet but" in refused([tmp_path / "x.parquet", tmp_path / "x.csv"])


# Parquet


def test_damaged_parquet_is_one_line(tmp_path):
    csv_of(tmp_path / "text.parquet", "x,s\n1,a\n")
    assert "text.parquet cannot be read as Parquet: " in refused(tmp_path / "text.parquet")
    (tmp_path / "empty.parquet").touch()
    assert "empty.parquet cannot be read as Parquet: " in refused(tmp_path / "empty.parquet")
    pq.write_table(pa.table({"x": np.random.default_rng(1).normal(size=50_000)}), tmp_path / "torn.parquet")
    whole = (tmp_path / "torn.parquet").read_bytes()
    (tmp_path / "torn.parquet").write_bytes(whole[:-3])
    assert "torn.parquet cannot be read as Parquet: " in refused(tmp_path / "torn.parquet")
    damaged = bytearray(whole)
    damaged[1000:1400] = b"\xff" * 400
    damaged[4:40] = b"\xff" * 36
    (tmp_path / "torn.parquet").write_bytes(damaged)
    message = refused(tmp_path / "torn.parquet", then=lambda source: source.tally({"x": quantile_bins(np.arange(9.0))}))
    assert "torn.parquet cannot be read as Parquet: " in message


def test_files_that_do_not_fit_together_are_one_line(tmp_path):
    pq.write_table(TWO, tmp_path / "a.parquet")
    pq.write_table(TWO.drop_columns("s"), tmp_path / "b.parquet")
    pq.write_table(pa.table({"x": ["one"], "s": ["a"]}), tmp_path / "c.parquet")
    pq.write_table(TWO.rename_columns(["x", "x"]), tmp_path / "d.parquet")
    lacks = f"{tmp_path}/b.parquet lacks the column 's' that {tmp_path}/a.parquet has"
    assert refused([tmp_path / "a.parquet", tmp_path / "b.parquet"]).startswith(lacks)
    assert refused([tmp_path / "b.parquet", tmp_path / "a.parquet"]).startswith(lacks)
    clash = f"column 'x' holds double in {tmp_path}/a.parquet but string in {tmp_path}/c.parquet"
    assert refused([tmp_path / "a.parquet", tmp_path / "c.parquet"]).startswith(clash)
    assert refused(tmp_path / "d.parquet") == f"{tmp_path}/d.parquet has two columns called 'x': rename one"


def test_numbers_of_different_types_and_columns_without_values_go_together(tmp_path):
    pq.write_table(pa.table({"x": pa.array([1, 2], pa.int8()), "s": pa.nulls(2)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [0.5], "s": pa.array(["q"]).dictionary_encode()}), tmp_path / "b.parquet")
    source = file_source(f"{tmp_path}/*.parquet")
    assert kinds(source) == {"x": "number", "s": "category"}
    assert sorted(source.values("x")) == [0.5, 1, 2]
    assert source.tally({"s": CategoryBins(("q",))})["s"].counts.tolist() == [1, 0, 2]


def test_types_of_parquet(tmp_path):
    table = pa.table(
        {
            "decimal": pa.array([1, None], pa.decimal128(9, 2)),
            "half": pa.array(np.array([1.5, 2.5], np.float16)),
            "large": pa.array([2**64 - 1, 0], pa.uint64()),
            "flag": [True, None],
            "level": pd.Categorical(["low", None]),
            "nanoseconds": pa.array([1, 2], pa.timestamp("ns")),
            "day": [dt.date(2026, 1, 1), None],
            "list": [[1], []],
            "struct": [{"a": 1}, {"a": 2}],
            "bytes": [b"a", b"b"],
        }
    )
    pq.write_table(table, tmp_path / "types.parquet")
    source = file_source(tmp_path / "types.parquet")
    assert kinds(source) == {
        **dict.fromkeys(("decimal", "half", "large", "flag"), "number"),
        "level": "category",
    }
    assert source.schema().left_out["nanoseconds"].startswith("a time")
    assert set(source.schema().left_out) == {"nanoseconds", "day", "list", "struct", "bytes"}
    assert source.values("large")[0] == 2.0**64
    np.testing.assert_array_equal(source.values("flag"), [1, np.nan])
    np.testing.assert_array_equal(source.values("half"), [1.5, 2.5])
    assert source.tally({"level": CategoryBins(("low",))})["level"].counts.tolist() == [1, 0, 1]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_names_that_differ_only_in_case_or_by_what_follows_a_dot_are_different_columns(tmp_path, suffix):
    names = ["a.b", "a.B", "a", "A", "Ä", "ä"]
    frame = pd.DataFrame({name: [float(place)] for place, name in enumerate(names)})
    path = tmp_path / f"x.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
    source = file_source(path)
    assert list(source.schema().columns) == names
    assert [source.values(name)[0] for name in names] == list(range(6))
    bins = source.bins(names, 2)
    assert [source.tally({name: bins[name]})[name].low for name in names] == list(range(6))


def test_a_file_without_rows_has_none(tmp_path):
    pq.write_table(TWO.slice(0, 0), tmp_path / "none.parquet")
    csv_of(tmp_path / "none.csv", "x,s\n")
    for name in ("none.parquet", "none.csv"):
        source = file_source(tmp_path / name)
        assert source.schema().rows == 0
        assert source.tally({"x": quantile_bins(np.arange(9.0))})["x"].counts.sum() == 0


# CSV


def test_all_values_of_a_csv_decide_what_its_columns_are(tmp_path):
    lines = [f"{row},{row / 3},,true,2026-01-01T00:00:00,{row}" for row in range(30_000)]
    lines += ["NA,-,,False,2026-01-02,x7", ", null ,,  ,,"]
    source = file_source(csv_of(tmp_path / "x.csv", "number,share,none,flag,time,code\n" + "\n".join(lines) + "\n"))
    assert source.schema().rows == 30_002
    assert source.schema().columns["none"] == Column(None, "no value at all")
    assert source.schema().left_out == {"time": "a time (text)"}
    assert kinds(source) == {"number": "number", "share": "number", "none": None, "flag": "number", "code": "category"}
    assert np.isnan(source.values("number")[-2:]).all()
    np.testing.assert_array_equal(source.values("flag")[-3:], [1, 0, np.nan])
    assert source.values("share")[1] == 1 / 3
    tally = source.tally({"code": CategoryBins(("x7",)), "none": CategoryBins(())})
    assert tally["code"].counts.tolist() == [1, 30_000, 1]
    assert tally["none"].counts.tolist() == [0, 30_002]


def test_the_files_of_a_csv_decide_together(tmp_path):
    csv_of(tmp_path / "1.csv", "code,flag\n1,true\n")
    csv_of(tmp_path / "2.csv", "flag,code\n0.5,B\n")
    source = file_source(f"{tmp_path}/*.csv")
    assert kinds(source) == {"code": "category", "flag": "category"}
    assert source.occurrences({"code": ["1", "B"], "flag": ["true", "0.5"]}) == {
        "code": {"1": 1, "B": 1},
        "flag": {"true": 1, "0.5": 1},
    }


def test_ways_to_write_csv(tmp_path):
    text = '\ufeff"a, b","c ""d"""\r\n1.5,"two\nlines"\r\n2.5,"semi;colon"\r\n'
    csv_of(tmp_path / "x.csv", text)
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(text.encode()))
    csv_of(tmp_path / "x.tsv", text.replace(",c", "\tc").replace('5,"', '5\t"').replace('b",', 'b"\t'))
    for name in ("x.csv", "x.csv.gz", "x.tsv"):
        source = file_source(tmp_path / name)
        assert list(source.schema().columns) == ["a, b", 'c "d"'], name
        assert source.values("a, b").tolist() == [1.5, 2.5]
        assert source.occurrences({'c "d"': ["two\nlines"]}) == {'c "d"': {"two\nlines": 1}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: expected a header row"),
        ("x,y\n1,2\n3\n", "cannot be read as CSV: line 3 has 1 columns, not 2"),
        ("x,y\n1,2,3\n", "cannot be read as CSV: line 2 has 3 columns, not 2"),
        ("x,x\n1,2\n", "has two columns called 'x': rename one"),
        ('x,y\n1,"never closed\n2,3\n', "cannot be read as CSV: line 2: "),
    ],
)
def test_a_bad_csv_is_one_line(tmp_path, text, said):
    assert f"bad.csv {said}" in refused(csv_of(tmp_path / "bad.csv", text))


def test_a_csv_that_is_no_text_is_one_line(tmp_path):
    (tmp_path / "bad.csv").write_bytes(b"x,y\n1,\xff\xfe\n")
    assert "bad.csv cannot be read as CSV: " in refused(tmp_path / "bad.csv")
    (tmp_path / "bad.csv.gz").write_bytes(b"x,y\n1,2\n")
    assert "bad.csv.gz cannot be read as CSV: " in refused(tmp_path / "bad.csv.gz")


def test_what_a_source_spilled_is_gone_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = file_source(csv_of(tmp_path / "x.csv", "x,s\n1,a\n2,b\n"))
    source.bins(list(source.schema().columns), 2)
    assert list(tmp_path.glob("shadow-drift-*/*.parquet"))
    del source
    gc.collect()
    assert not list(tmp_path.glob("shadow-drift-*"))


# longer than what is held


def test_long_columns_have_the_bins_of_short_ones(tmp_path):
    rng = np.random.default_rng(3)
    rows = 60_000
    columns = {
        "normal": rng.normal(size=rows),
        "sorted": np.sort(rng.lognormal(0, 2, rows)),
        "counts": rng.poisson(4, rows).astype(float),
        "zeros": rng.exponential(size=rows) * (rng.random(rows) < 0.4),
        "constant": np.full(rows, 7.0),
        "mostly missing": np.where(rng.random(rows) < 0.01, rng.normal(size=rows), np.nan),
        "missing": np.full(rows, np.nan),
        "infinite": np.where(rng.random(rows) < 0.2, np.inf, rng.normal(size=rows)),
    }
    pq.write_table(pa.table(columns), tmp_path / "long.parquet", row_group_size=7000)
    held, read = file_source(tmp_path / "long.parquet"), file_source(tmp_path / "long.parquet", exact_rows=5000)
    assert held.affordable
    assert not read.affordable
    names = list(columns)
    expected, found = held.bins(names, 10), read.bins(names, 10)
    for name in names:
        np.testing.assert_array_equal(found[name].edges, expected[name].edges, err_msg=name)
        np.testing.assert_array_equal(found[name].tied, expected[name].tied, err_msg=name)
        # cells within the bins end where a sample says: about as many, about as large
        assert len(found[name].grid) == pytest.approx(len(expected[name].grid), rel=0.1, abs=3)
        counts = read.tally({name: found[name]})[name].counts
        np.testing.assert_array_equal(
            found[name].coarse(counts), expected[name].coarse(expected[name].count(columns[name]))
        )
    share = read.tally({"normal": found["normal"]})["normal"].counts.max() / rows
    assert share < 0.01


def test_more_categories_than_memory_would_like_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("shadow_mlops.drift.categories._ENTRIES", 1000)
    rng = np.random.default_rng(4)
    ids = [f"customer-{number}" for number in rng.permutation(20_000)] + ["regular"] * 50 + [None] * 7
    pq.write_table(pa.table({"id": ids}), tmp_path / "ids.parquet", row_group_size=3000)
    source = file_source(tmp_path / "ids.parquet")
    bins = source.bins(["id"], 10)["id"]
    assert len(bins.categories) == 1000
    assert bins.categories[:2] == ("regular", "customer-0")
    tally = source.tally({"id": CategoryBins(("regular",))})["id"]
    assert tally.counts.tolist() == [50, 20_000, 7]
    assert tally.distinct_others == 20_000
    assert list(tally.others)[:2] == ["customer-0", "customer-1"]
