"""The process in which an MLflow pyfunc runs: ``python -I -B pyfunc_child.py FD PARENT``.

It needs Python 3.10, NumPy, pandas and MLflow, and nothing of this platform: the interpreter may be of another
environment, with the packages that the model wants. Messages go both ways over a socket, each with its length in front:

    8 bytes   length of the rest, big-endian
    4 bytes   length of the header
    header    JSON
    payload   float64, little-endian, row by row; may be empty

    -> {"do": "load", "path", "names", "kinds"}              <- {"is": "ready", "python", "mlflow"} or "refused"
    -> {"do": "score", "count", "strings"} + numbers         <- {"is": "array", "shape", "columns"} + values
                                                                {"is": "values", "values"} (not numbers)
                                                                {"is": "failed", "problem"}
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_NAMES = {"long": "int64", "integer": "int32", "float": "float32", "double": "float64", "boolean": "bool"}
_WHOLE = ("int64", "int32", "bool")


def bind_to_parent(parent: int) -> None:
    """End with the parent even while the model hangs in C code, and before it where memory runs out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """One message; EOFError when the other side has gone."""
    (length,) = struct.unpack("!Q", _exactly(connection, 8))
    whole = _exactly(connection, length)
    (head,) = struct.unpack("!I", whole[:4])
    return json.loads(whole[4 : 4 + head]), whole[4 + head :]


def send(connection: socket.socket, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one message."""
    head = json.dumps(header).encode()
    connection.sendall(struct.pack("!QI", 4 + len(head) + len(payload), len(head)) + head + payload)


def _exactly(connection: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(min(1 << 20, count - len(parts)))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


class Model:
    """A loaded pyfunc, and how its rows are made."""

    def __init__(self, path: str, names: list[str], kinds: list[str]) -> None:
        import mlflow.pyfunc  # noqa: PLC0415 - seconds; a missing package is to be told, not to end the process

        self._model = mlflow.pyfunc.load_model(path, suppress_warnings=True)
        self._names = names
        self._kinds = kinds
        self._schema = self._model.metadata.get_input_schema() if self._model.metadata is not None else None

    def predict(self, numbers: Any, strings: list[list[str]]) -> Any:
        """Whatever the model answers to rows of the signature."""
        return self._model.predict(self._rows(numbers, strings))

    def _rows(self, numbers: Any, strings: list[list[str]]) -> Any:
        import numpy as np  # noqa: PLC0415
        import pandas as pd  # noqa: PLC0415

        columns = self._columns(numbers, strings)
        if self._schema is not None and self._schema.is_tensor_spec():
            specs = self._schema.inputs
            if len(specs) == 1:
                matrix = np.column_stack(columns).astype(specs[0].type)
                return matrix if specs[0].name is None else {specs[0].name: matrix}
            shapes = [tuple(spec.shape) for spec in specs]
            return {
                spec.name: column.astype(spec.type).reshape((-1, *shape[1:]))
                for spec, column, shape in zip(specs, columns, shapes, strict=True)
            }
        typed = [_typed(column, wanted) for column, wanted in zip(columns, self._types(), strict=True)]
        return pd.DataFrame(dict(zip(self._names, typed, strict=True)), columns=self._names)

    def _columns(self, numbers: Any, strings: list[list[str]]) -> list[Any]:
        import numpy as np  # noqa: PLC0415

        found = []
        text = number = 0
        for kind in self._kinds:
            if kind == "string":
                column = np.empty(len(numbers), dtype=object)
                column[:] = [row[text] for row in strings]
                found.append(column)
                text += 1
            else:
                found.append(numbers[:, number])
                number += 1
        return found

    def _types(self) -> list[str]:
        if self._schema is None:
            return ["bool" if kind == "boolean" else "float64" if kind != "string" else "" for kind in self._kinds]
        return [_NAMES.get(spec.type.name, "") for spec in self._schema.inputs]


def _typed(column: Any, wanted: str) -> Any:
    """The column in the type of MLflow's signature; whole numbers that miss one stay floats, as in pandas."""
    if not wanted or column.dtype == object or (wanted in _WHOLE and not (column == column).all()):  # noqa: PLR0124
        return column
    return column.astype(wanted)


def answer_of(predicted: Any) -> tuple[dict[str, Any], bytes]:
    """A message that holds whatever a pyfunc may answer with."""
    import numpy as np  # noqa: PLC0415
    import pandas as pd  # noqa: PLC0415

    if isinstance(predicted, dict):
        predicted = pd.DataFrame(predicted)
    columns = [str(name) for name in predicted.columns] if isinstance(predicted, pd.DataFrame) else None
    values = np.asarray(predicted)
    if values.dtype.kind in "biuf":
        array = np.ascontiguousarray(values, dtype="<f8")
        return {"is": "array", "shape": list(array.shape), "columns": columns}, array.tobytes()
    return {"is": "values", "values": _without_nan(values.tolist()), "columns": columns}, b""


def _without_nan(cell: Any) -> Any:
    if isinstance(cell, list):
        return [_without_nan(each) for each in cell]
    return None if isinstance(cell, float) and cell != cell else cell  # noqa: PLR0124 - NaN is no JSON


def serve(connection: socket.socket) -> None:
    """Load the model, then answer rows until the other end closes."""
    header, _ = receive(connection)
    try:
        import numpy as np  # noqa: PLC0415 - absent, perhaps; the other side must hear of it

        model = Model(header["path"], header["names"], header["kinds"])
    except BaseException as error:  # noqa: BLE001 - whatever loading raises, the other side must hear of it
        send(connection, {"is": "refused", "problem": f"{type(error).__name__}: {error}"[:1000]})
        return
    import mlflow  # noqa: PLC0415

    send(connection, {"is": "ready", "python": sys.version.split()[0], "mlflow": mlflow.__version__})
    width = sum(kind != "string" for kind in header["kinds"])
    while True:
        header, payload = receive(connection)
        numbers = np.frombuffer(payload, dtype="<f8").reshape(header["count"], width).copy()
        try:
            reply = answer_of(model.predict(numbers, header["strings"]))
            json.dumps(reply[0], allow_nan=False)  # what JSON cannot hold is the model's failure, not the end of it
        except Exception as error:  # noqa: BLE001 - a model may raise anything
            reply = {"is": "failed", "problem": f"{type(error).__name__}: {error}"[:500]}, b""
        send(connection, *reply)


def main() -> None:
    """Entry point of the process."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    bind_to_parent(parent)
    os.set_inheritable(descriptor, False)
    with socket.socket(fileno=descriptor) as connection, suppress(EOFError, BrokenPipeError, ConnectionResetError):
        serve(connection)
    sys.stdout.flush()
    os._exit(0)  # threads that the model has left behind must not keep this process


if __name__ == "__main__":
    main()
