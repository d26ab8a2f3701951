"""A small model server for tests: both protocols on one port, and every bad day that a remote model may have."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pandas as pd

Predict = Callable[[pd.DataFrame], Any]

BAD_DAYS = ("hang", "drip", "error", "away", "not json", "wrong shape", "impossible", "no outputs", "huge", "closed")


class RemoteModel:
    """Scores frames by a function, and misbehaves when told to.

    Attributes
    ----------
    day
        ``well``, one of ``BAD_DAYS``, ``nan`` (every score), or ``refuses`` (400 for rows whose first number is 13).
    asked
        Rows of each request that it has looked at.
    calls
        Number of requests.
    """

    def __init__(self, predict: Predict) -> None:
        self._predict = predict
        self.day = "well"
        self.asked: list[int] = []
        self.calls = 0
        self.connections = 0
        self._released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.model = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[RemoteModel]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield self
        finally:
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def wait_released(self, seconds: float) -> bool:
        return self._released.wait(seconds)

    def answer(self, path: str, body: Any) -> tuple[int, bytes]:
        v2 = path.endswith("/infer")
        frame = _v2_frame(body) if v2 else pd.DataFrame(**body["dataframe_split"])
        self.asked.append(len(frame))
        if self.day == "refuses" and (frame.select_dtypes("number").iloc[:, 0] == 13).any():
            return 400, b'{"error": "13 is not for me"}'
        scores = np.asarray(self._predict(frame), dtype=float)
        if self.day == "nan":
            scores = np.full_like(scores, np.nan)
        if self.day == "wrong shape":
            scores = scores[:, :, None].repeat(2, axis=2) if scores.ndim == 2 else scores[: len(scores) // 2]
        if self.day == "impossible":
            scores = scores + 7
        if self.day == "no outputs":
            return 200, b'{"model_name": "churn"}'
        if v2:
            data = scores.ravel().tolist()
            outputs = [
                {"name": "predict", "shape": [len(scores)], "datatype": "INT64", "data": [0] * len(scores)},
                {"name": "predict_proba", "shape": list(scores.shape), "datatype": "FP64", "data": data},
            ]
            return 200, json.dumps({"model_name": "churn", "outputs": outputs}).encode()
        return 200, json.dumps({"predictions": scores.tolist()}).encode()


def _v2_frame(body: Any) -> pd.DataFrame:
    assert body["parameters"]["content_type"] == "pd"
    columns = {}
    for given in body["inputs"]:
        rows, one = given["shape"]
        assert (one, rows) == (1, len(given["data"]))
        dtype = {"FP64": float, "INT64": "int64", "BOOL": bool, "BYTES": object}[given["datatype"]]
        columns[given["name"]] = pd.Series(given["data"], dtype=dtype)
    return pd.DataFrame(columns)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    model: RemoteModel

    def handle_error(self, *_: Any) -> None:
        """A client that has given up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for an acknowledgement
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.server.model.connections += 1

    def do_POST(self) -> None:
        model = self.server.model
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        day = model.day
        model.calls += 1
        if day == "hang":
            model.wait_released(30)
            self.close_connection = True
            return
        if day == "closed":
            self.close_connection = True
            return
        if day == "drip":
            self._drip()
            return
        if day == "error":
            self._send(500, b"Traceback: no such column")
        elif day == "away":
            self._send(503, b"")
        elif day == "not json":
            self._send(200, b"<html>It works!</html>")
        elif day == "huge":
            self._send(200, b'{"predictions": [' + b" " * (20 << 20) + b"]}")
        else:
            try:
                status, content = model.answer(self.path, body)
            except ValueError as error:  # of the model, on these rows
                status, content = 400, json.dumps({"error": str(error)}).encode()
            self._send(status, content)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _drip(self) -> None:
        """A byte now and then: each read of the client succeeds, and the answer never ends."""
        self.close_connection = True
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.server.model.wait_released(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Tests print what they want printed."""
