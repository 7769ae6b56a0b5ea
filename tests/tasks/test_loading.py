"""Tasks and rows as an operator names them."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import re
import sys
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from chatenv_client import ChatEnv, InvalidRequestError
from chatenv_client.wire import reset_to_proto
from chatenv_server import Answer, ChatEnvironment, ModelTurn, Settings, Task, serve
from chatenv_server.engine import TokenEngine
from chatenv_server.settings.errors import SettingError
from chatenv_server.tasks.loading import load_rows, load_tasks
from chatenv_server.tasks.rows import NO_ROWS, Rows
from chatenv_server.tokenizer_files.byte_tokenizer import ByteTokenizer
from tests.tasks.ways import WAYS, playing, said

HI = {"role": "user", "content": "Hi"}


class Right(Task):
    """Scores by its row."""

    def answer(self, turn: ModelTurn) -> Answer:
        """Compare."""
        assert turn.row is not None
        return Answer(reward=float(turn.text == turn.row["answer"]), terminated=True)


class Silent(Task):
    """Defines nothing."""


class Generating(Task):
    """Yields."""

    def answer(self, turn: ModelTurn) -> Any:  # noqa: ARG002
        """Not an answer."""
        yield Answer()


class WithoutTurn(Task):
    """Takes nothing."""

    def answer(self) -> Any:  # type: ignore[override]
        """Not called so."""


class HalfState(Right):
    """Tells what it knows, and takes nothing back."""

    def state_dict(self) -> dict[str, Any]:
        """Something."""
        return {}


async def made_async() -> Task:
    """Not how a task is made."""
    return Right()


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module by the name of `my_tasks`."""
    made = ModuleType("my_tasks")
    for name in ("Right", "Silent", "Generating", "WithoutTurn", "HalfState", "made_async"):
        setattr(made, name, globals()[name])
    made.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_tasks", made)
    return made


@pytest.mark.usefixtures("module")
def test_a_task_goes_by_the_name_of_its_class_or_by_another() -> None:
    assert load_tasks(["my_tasks:Right"], NO_ROWS).names == ("Right",)
    assert load_tasks(["gsm=my_tasks:Right", "my_tasks:Right"], NO_ROWS).names == ("gsm", "Right")


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("named", "told"),
    [
        (["my_tasks:Nothing"], "cannot be loaded"),
        (["no_such_module:Right"], "cannot be loaded"),
        (["unknown-entry-point"], "no task is called"),
        (["my_tasks:number"], "subclass of chatenv_server.Task"),
        (["my_tasks:Silent"], "does not answer"),
        (["my_tasks:Generating"], "is a generator"),
        (["my_tasks:WithoutTurn"], "takes one argument"),
        (["my_tasks:HalfState"], "needs both, or none"),
        (["my_tasks:made_async"], "async function"),
        (["my_tasks:Right", "my_tasks:Right"], "two tasks are called 'Right'"),
        (["a b=my_tasks:Right"], "name has 1 to 64 characters"),
        (["x=my_tasks:Right="], "module:attribute, or NAME=module:attribute, not 'x=my_tasks:Right='"),
        (["x="], "module:attribute, or NAME=module:attribute, not 'x='"),
        (["Right"], "no task is called 'Right'; write module:Right, with the module that it is in"),
        (["my_tasks.Right"], "no task is called 'my_tasks.Right'; write my_tasks:Right"),
    ],
)
def test_what_can_be_no_task_is_refused_at_the_start(named: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        load_tasks(named, NO_ROWS)


@pytest.mark.usefixtures("module")
def test_an_entry_point_names_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "a_task-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: a-task\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[chatenv.tasks]\nright = my_tasks:Right\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_tasks(["right"], NO_ROWS).names == ("right",)


ROWS: list[dict[str, Any]] = [
    {"id": "one", "answer": "1", "public": {"level": 1}},
    {"id": "two", "answer": "2"},
    {"answer": "3"},
]


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    return str(path)


def test_rows_are_for_all_tasks_or_for_one(tmp_path: Path) -> None:
    train, test = written(tmp_path, "a.jsonl", ROWS), written(tmp_path, "b.jsonl", ROWS[:1])
    rows = load_rows([train, f"test={test}", f"gsm/train={test}"])
    assert [(one.task, one.split, one.count) for one in rows.counts] == [
        ("", "test", 1),
        ("", "train", 3),
        ("gsm", "train", 1),
    ]
    assert rows.split("gsm", "")[0] == "train"
    assert len(rows.split("other", "train")[1]) == 3
    with pytest.raises(ValueError, match="rows for a task 'gsm'"):
        load_tasks([], rows)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "row 0 (line 1) cannot be read"),
        ("[1]", "row 0 (line 1) cannot be read"),
        ('\n \n{}\n\n{"a": NaN}', "row 1 (line 5) cannot be read"),
        ('{"id": 1}\n\n{"id": "1"}', "row 1 (line 3) has the id '1', as row 0 (line 1) has"),
        ('{"id": "1"}\n{"x": 2}', "row 1 (line 2) has the id '1', as row 0 (line 1) has"),
        ('{"a": "x"}\n{"a": "\xe9"}', "line 2 is not UTF-8; give JSONL, or Parquet as *.parquet"),
    ],
)
def test_a_file_that_holds_no_rows_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"'{path}' cannot be read as rows: {told}")):
        load_rows([str(path)])
    with pytest.raises(ValueError, match="two files are of split 'train'"):
        load_rows([written(tmp_path, "good.jsonl", ROWS)] * 2)
    with pytest.raises(ValueError, match=r"none.jsonl' cannot be read: No such file or directory$"):
        load_rows([str(tmp_path / "none.jsonl")])


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"id": "é"}\r\n{"a": 1}\r\n'.encode())
    _, rows = load_rows([str(path)]).split("any", "")
    assert [rows.row(place) for place in range(len(rows))] == [{"id": "é"}, {"a": 1}]


def test_parquet_has_rows_too(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"id": ["a", "b"], "answer": ["1", None], "public": [{"n": 1}, {"n": 2}]}), path)
    _, rows = load_rows([f"test={path}"]).split("any", "test")
    assert [rows.row(place) for place in range(2)] == [
        {"id": "a", "answer": "1", "public": {"n": 1}},
        {"id": "b", "answer": None, "public": {"n": 2}},
    ]


WITHOUT_JSON: dict[str, Any] = {
    "day": dt.date(2024, 5, 1),
    "time": dt.time(12, 30),
    "moment": dt.datetime(2024, 5, 1, 12, tzinfo=dt.timezone.utc),
    "price": decimal.Decimal("1.50"),
    "bytes": b"\x00\xff",
    "nested": {"a": [{"b": b"x", "c": dt.date(2024, 5, 1)}]},
}
AS_JSON: dict[str, Any] = {
    "day": "2024-05-01",
    "time": "12:30:00",
    "moment": "2024-05-01T12:00:00+00:00",
    "price": "1.50",
    "bytes": "AP8=",
    "nested": {"a": [{"b": "eA==", "c": "2024-05-01"}]},
}


def test_what_parquet_holds_beside_json_becomes_texts(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([WITHOUT_JSON]), path)
    _, rows = load_rows([str(path)]).split("any", "")
    assert rows.row(0) == AS_JSON


def test_so_does_what_a_list_of_rows_holds() -> None:
    more = {
        "uuid": uuid.UUID(int=1),
        "tuple": (1, (2,)),
        "whole": np.int64(3),
        "half": np.float32(0.5),
        "flag": np.bool_(True),
        "array": np.arange(4).reshape(2, 2),
        "texts": np.array(["a"], dtype=object),
    }
    plain = {
        "uuid": "00000000-0000-0000-0000-000000000001",
        "tuple": [1, [2]],
        "whole": 3,
        "half": 0.5,
        "flag": True,
        "array": [[0, 1], [2, 3]],
        "texts": ["a"],
    }
    _, rows = Rows.of([{**WITHOUT_JSON, **more}]).split("any", "")
    assert rows.row(0) == {**AS_JSON, **plain}
    assert type(rows.row(0)["flag"]) is bool


HELD_IN_ITSELF: list[Any] = []
HELD_IN_ITSELF.append(HELD_IN_ITSELF)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"a": {1}}, "row 1: 'a' holds a set, which is not JSON"),
        ({"a": [dt.timedelta(1)]}, "row 1: 'a' holds a timedelta, which is not JSON"),
        ({"a": {"b": float("nan")}}, "row 1: 'a' holds nan, which is not JSON"),
        ({"a": np.array([np.inf])}, "row 1: 'a' holds inf, which is not JSON"),
        ({"a": np.array(["2024-05-01"], dtype="datetime64[ns]")}, "row 1: 'a' holds an array of datetime64[ns]"),
        ({"a": np.datetime64("2024-05-01")}, "row 1: 'a' holds a datetime64, which is not JSON"),
        ({"a": {1: 2}}, "row 1: 'a' holds the key 1 is a int, and no text"),
        ({1: 2}, "row 1: the key 1 is a int, and no text"),
        ({"a": HELD_IN_ITSELF}, "row 1: 'a' is nested too deeply"),
        ({"a": "\ud800"}, "row 1 cannot be read"),
        ([1], "row 1 is a list, and no mapping"),
        (None, "row 1 is a NoneType, and no mapping"),
    ],
)
def test_what_can_be_no_row_is_refused_by_row_and_key(row: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        ChatEnvironment(ByteTokenizer(), task=Right, rows=[{}, row])


@pytest.mark.parametrize(
    ("kind", "values", "told"),
    [
        ("float64", [0.5, float("nan")], "row 1: 'a' holds nan, which is not JSON"),
        ("duration", [dt.timedelta(1)], "row 0: 'a' holds a timedelta, which is not JSON"),
        ("timestamp", [1, 2**40], "row 1: 'a' holds what Python cannot hold: "),
    ],
)
def test_what_parquet_holds_that_can_be_no_row_is_refused_by_file_row_and_column(
    tmp_path: Path, kind: str, values: list[Any], told: str
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    kinds = {"float64": pyarrow.float64(), "duration": pyarrow.duration("us"), "timestamp": pyarrow.timestamp("s")}
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"id": list("ab")[: len(values)], "a": pyarrow.array(values, kinds[kind])}), path)
    with pytest.raises(ValueError, match=re.escape(f"'{path}' cannot be read as rows: {told}")):
        load_rows([str(path)])


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "rows.parquet"
    path.write_text("{}")
    with pytest.raises(ValueError, match="it is no Parquet that can be read"):
        load_rows([str(path)])


@pytest.mark.usefixtures("module")
def test_callers_choose_rows_and_see_what_is_public(tmp_path: Path, engine: TokenEngine) -> None:
    path = written(tmp_path, "rows.jsonl", ROWS)
    settings = Settings(listen=("127.0.0.1:0",), task=("my_tasks:Right",), rows=(path,))
    with serve(settings, engine=engine) as server, ChatEnv(server.target) as env:
        shown = [(row.index, row.id, row.public) for row in env.list_rows()]
        assert shown == [(0, "one", {"level": 1}), (1, "two", {}), (2, "2", {})]
        assert env.server_info().tasks == ("Right",)
        assert [(one.split, one.count) for one in env.server_info().row_counts] == [("train", 3)]
        env.reset(messages=[HI], row_id="one")
        assert env.step(said("1")).reward == 1.0
        with pytest.raises(InvalidRequestError, match="no row"):
            env.reset(messages=[HI], row=7)


@pytest.mark.usefixtures("module")
def test_a_wrong_setting_is_told_by_its_name(tmp_path: Path, engine: TokenEngine) -> None:
    path = written(tmp_path, "rows.jsonl", ROWS)
    for wrong, told in (
        ({"rows": (path,)}, "--rows .* there is none: give task"),
        ({"task": ("my_tasks:Right",), "rows": ("/no/such/file",)}, "--rows .* cannot be read"),
        ({"task": ("my_tasks:Silent",)}, "--task .* does not answer"),
    ):
        with pytest.raises(SettingError, match=told):
            serve(Settings(listen=("127.0.0.1:0",), **wrong), engine=engine)  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("row_id", [7, np.int64(7), "7"])
def test_a_row_may_be_chosen_by_a_whole_number(engine: TokenEngine, way: str, row_id: Any) -> None:
    with playing(way, engine, task=Right, rows=[{"answer": "0"}, {"id": 7, "answer": "1"}]) as player:
        player.reset(messages=[HI], row_id=row_id)
        assert player.step(said("1")).reward == 1.0


@pytest.mark.parametrize("row_id", [True, 7.0, [7]])
def test_what_is_no_id_of_a_row_is_told_with_its_keyword(engine: TokenEngine, row_id: Any) -> None:
    env = ChatEnvironment(engine, task=Right, rows=[{"id": 7, "answer": "1"}])
    with pytest.raises(InvalidRequestError, match="a row_id is a text or a whole number") as caught:
        env.reset(messages=[HI], row_id=row_id)
    assert (caught.value.reason, caught.value.field) == ("BAD_ROW", "row_id")
    with pytest.raises(TypeError, match="row_id: a row_id is a text or a whole number"):
        reset_to_proto({"row_id": row_id})


@pytest.mark.parametrize("row", ["0", True, 0.0])
def test_what_is_no_place_of_a_row_is_told_with_its_keyword(engine: TokenEngine, row: Any) -> None:
    env = ChatEnvironment(engine, task=Right, rows=[{"answer": "1"}])
    with pytest.raises(InvalidRequestError, match="row is a whole number") as caught:
        env.reset(messages=[HI], row=row)
    assert (caught.value.reason, caught.value.field) == ("BAD_ROW", "row")


@pytest.mark.parametrize("rows", [[{"answer": "1"}], [{"id": "", "answer": "1"}], [{"id": None, "answer": "1"}]])
def test_a_row_without_an_id_goes_by_its_place_also_in_forks(engine: TokenEngine, rows: list[dict[str, Any]]) -> None:
    env = ChatEnvironment(engine, task=Right, rows=rows)
    env.reset(messages=[HI], row=0)
    assert env.fork().step(said("1")).reward == 1.0
    env.reset(messages=[HI], row_id="0")
    assert env.step(said("1")).reward == 1.0
