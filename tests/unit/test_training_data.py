"""What training makes of the files that people have."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shadow_mlops.domain.errors import TrainingError
from shadow_mlops.training import prepare, read_table
from shadow_mlops.training.fitting import data_hash

ROWS = 200


def table(**columns):
    rng = np.random.default_rng(0)
    whole = {
        "x": rng.normal(size=ROWS),
        "word": rng.choice(["a", "b"], ROWS),
        "y": np.tile([0, 1], ROWS // 2),
    } | columns
    return pa.table({name: values for name, values in whole.items() if values is not None})


def kinds(data):
    return {feature.name: feature.kind for feature in data.signature.features}


def written(tmp_path, text, name="data.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def messy_csv():
    """Blank numbers, a word "NA", gaps in words and counts, a boolean, a number that turns float in the last row."""
    lines = ["id,total,region,plan,children,vip,late,Outcome"]
    for i in range(ROWS):
        total = " " if i % 10 == 0 else f"{i * 1.5}"
        region = ("NA", "EU", "", "  ")[i % 4]
        children = "" if i % 7 == 0 else str(i % 3)
        late = "1.5" if i == ROWS - 1 else str(i)
        lines.append(
            f"C{i},{total},{region},{('Yes', 'No')[i % 2]},{children},{('true', 'false')[i % 2]},{late},{i % 2}"
        )
    return "\n".join(lines) + "\n"


def test_a_messy_file_gets_the_kinds_that_a_person_would_give(tmp_path):
    data = prepare(read_table(written(tmp_path, messy_csv())), target="Outcome", entity="id")
    assert kinds(data) == {
        "total": "number",
        "region": "string",
        "plan": "string",
        "children": "integer",
        "vip": "boolean",
        "late": "number",
    }
    assert data.table["total"].to_pylist()[:3] == [None, 1.5, 3.0]
    assert data.table["region"].to_pylist()[:4] == ["NA", "EU", None, None]
    assert data.table["children"].to_pylist()[:3] == [None, 1, 2]
    assert data.missing == ("total", "region", "children")
    assert data.table.column_names == ["id", *data.signature.names, "Outcome"]
    assert data.table["id"].to_pylist()[:2] == ["C0", "C1"]


def test_types_are_settled_on_the_whole_file_not_on_its_first_megabyte(tmp_path):
    rows = [f"{i},{i % 2}" for i in range(200_000)] + ["unknown,0"]
    data = read_table(written(tmp_path, "x,y\n" + "\n".join(rows) + "\n"))
    assert data["x"].type == pa.string()
    assert data.num_rows == 200_001


def test_compressed_csv_tsv_and_parquet_are_the_same_data(tmp_path):
    text = messy_csv()
    plain = read_table(written(tmp_path, text))
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress(text.encode()))
    pq.write_table(plain, tmp_path / "p.parquet")
    tsv = written(tmp_path, text.replace(",", "\t"), "t.tsv")
    for path in (tmp_path / "z.csv.gz", tmp_path / "p.parquet", tsv):
        assert read_table(path).equals(plain), path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "cannot be read"),
        ("data.xlsx", b"PK", r"\.csv"),
        ("data.parquet", b"not parquet", "cannot be read"),
        ("data.csv", b"", "cannot be read"),
        ("data.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read"),
        ("data.csv", b"a,b,a\n1,2,3\n", "more than once: a"),
        ("data.csv", b",b\n1,2\n", "no name"),
    ],
)
def test_unreadable_files_say_why(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        read_table(tmp_path / name)


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes(b"town,y\n" + b"K\xf6ln,1\nBonn,0\n" * 60)
    with pytest.raises(TrainingError, match="'town' is not UTF-8"):
        prepare(read_table(path), target="y")


@pytest.mark.parametrize(
    ("columns", "arguments", "message"),
    [
        ({}, {"target": "z"}, "no target column 'z'; the columns are x, word, y"),
        ({}, {"target": "y", "entity": "cust"}, "no id column 'cust'"),
        ({}, {"target": "y", "entity": "y"}, "both target and id"),
        ({"y": np.ones(ROWS, int)}, {}, "only the class 1"),
        ({"y": np.ones(ROWS)}, {"task": "regression"}, "only the value"),
        ({"x": pa.nulls(ROWS, pa.float64())}, {}, "'x' has no values"),
        ({"x": [" "] * ROWS}, {}, "'x' has no values"),
        ({"x": [np.inf] * ROWS}, {}, "'x' has infinite"),
        ({"y": [None, *([0, 1] * 100)][:ROWS]}, {}, "'y' is missing in 1 rows"),
        ({"y": ["a"] * 100 + ["b"] * 100}, {"task": "regression"}, "holds words"),
        ({"y": np.linspace(0, 1, ROWS)}, {"task": "multiclass"}, "fractions"),
        ({"y": np.arange(ROWS) % 3}, {"task": "binary"}, "3 classes"),
        ({"y": [f"c{i}" for i in range(ROWS)]}, {}, "200 classes"),
        ({"y": [0] * 197 + [1] * 3}, {}, "class 1 has 3 rows"),
        ({"x": None, "word": None}, {}, "no column is left"),
        ({}, {"positive": "7"}, "no class '7'; the classes are 0, 1"),
    ],
)
def test_data_that_cannot_be_trained_on_names_the_column(columns, arguments, message):
    with pytest.raises(TrainingError, match=message):
        prepare(table(**columns), **{"target": "y"} | arguments)


def test_too_few_rows_are_refused():
    with pytest.raises(TrainingError, match="49 rows are too few"):
        prepare(table().slice(0, 49), target="y")
    assert len(prepare(table().slice(0, 50), target="y")) == 50


def test_a_table_with_one_name_twice_is_refused():
    doubled = pa.table([[1] * 60, [2] * 60, [0, 1] * 30], names=["a", "a", "y"])
    with pytest.raises(TrainingError, match="more than once: a"):
        prepare(doubled, target="y")


@pytest.mark.parametrize(
    ("y", "task", "classes", "positive"),
    [
        ([0, 1], "binary", ("0", "1"), 1),
        ([0.0, 1.0], "binary", ("0", "1"), 1),
        ([1, 2], "binary", ("1", "2"), 1),
        ([False, True], "binary", ("0", "1"), 1),
        (["No", "Yes"], "binary", ("No", "Yes"), "Yes"),
        ([0, 1, 2], "multiclass", ("0", "1", "2"), None),
        ([0.0, 1.0, 2.0], "multiclass", ("0", "1", "2"), None),
        (["a", "b", "c"], "multiclass", ("a", "b", "c"), None),
        (list(range(11)), "regression", (), None),
        ([0.5, 1.5], "regression", (), None),
        (["1", "2", "3"], "multiclass", ("1", "2", "3"), None),
    ],
)
def test_the_task_follows_from_the_target(y, task, classes, positive):
    data = prepare(table(y=(y * ROWS)[:ROWS]), target="y")
    assert (data.task, data.classes, data.positive) == (task, classes, positive)


def test_the_rarer_of_two_names_is_the_positive_class_unless_told():
    y = ["good"] * 150 + ["bad"] * 50
    assert prepare(table(y=y), target="y").positive == "bad"
    assert prepare(table(y=y), target="y", positive="good").positive == "good"
    assert prepare(table(), target="y", positive="0").positive == 0


def test_the_task_can_be_overruled():
    assert prepare(table(y=np.arange(ROWS) % 5), target="y", task="regression").task == "regression"
    assert prepare(table(y=np.arange(ROWS) % 20), target="y", task="multiclass").classes[-1] == "19"


def test_columns_that_no_model_can_use_are_dropped_with_a_reason():
    names = [f"person {i}" for i in range(ROWS)]
    when = pa.array(range(ROWS), pa.timestamp("s"))
    data = prepare(table(name=names, when=when, pair=[[1, 2]] * ROWS), target="y", entity="name")
    assert set(data.dropped) == {"name", "when", "pair"}
    assert "identifies" in data.dropped["name"]
    assert "timestamp" in data.dropped["when"]
    assert "nearly every row" in prepare(table(name=names), target="y").dropped["name"]


def test_dictionary_columns_are_words_and_numbers_in_words_are_numbers():
    region = pa.array((["x", "y"] * ROWS)[:ROWS]).dictionary_encode()
    data = prepare(table(region=region, price=["1.5", "N/A"] * 100, code=["1_0", "2_0"] * 100), target="y")
    assert kinds(data)["region"] == "string"
    assert kinds(data)["price"] == "number"
    assert kinds(data)["code"] == "string"
    assert data.table["price"].null_count == 100


def test_nan_and_null_are_both_missing():
    data = prepare(table(x=[float("nan"), None, 1.0, 2.0] * 50), target="y")
    assert data.table["x"].null_count == 100


def test_the_hash_is_of_the_values_not_of_their_chunks():
    one = pa.table({"a": [1.0, None, 3.0], "s": ["x", None, ""]})
    chunked = pa.concat_tables([one.slice(0, 1), one.slice(1)])
    assert data_hash(one) == data_hash(chunked)
    for other in (
        pa.table({"a": [1.0, 0.0, 3.0], "s": ["x", None, ""]}),
        pa.table({"a": [1.0, None, 3.0], "s": ["x", "", None]}),
        pa.table({"a": [1.0, None, 3.0], "s": ["", None, "x"]}),
        pa.table({"b": [1.0, None, 3.0], "s": ["x", None, ""]}),
        pa.table({"a": [1.0, None, 3.0000000001], "s": ["x", None, ""]}),
    ):
        assert data_hash(other) != data_hash(one)
