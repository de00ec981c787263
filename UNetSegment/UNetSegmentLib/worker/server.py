"""The worker's side: reads requests, keeps predictors warm, and never outlives the program that started it."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any, BinaryIO

import numpy as np

from .. import package
from ..errors import Cancelled, InputError, UNetSegmentError
from ..package import Package
from ..predict import Predictor, Progress, Slab, forecast, gather, passes, speeds
from ..predict.sanity import check
from ..volume import Grid, Volume
from . import protocol
from .memory import SharedArray

WARM = 2
"""Models that stay ready."""
_LOG = logging.getLogger("unetsegment.worker")


class Server:
    """Serves one client until its end of the pipe closes.

    Args:
        source: Lines from the client.
        sink: Lines to the client.
        leave: Ends the process when the client is gone while something still computes, two seconds after it was told to stop.
    """

    def __init__(self, source: BinaryIO, sink: BinaryIO, leave: Callable[[int], Any] = os._exit) -> None:
        self._source, self._sink, self._leave = source, sink, leave
        self._write_lock = threading.Lock()
        self._requests: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._cancelled: set[Any] = set()
        self._gone = threading.Event()
        self._warm: OrderedDict[tuple[Any, ...], Predictor] = OrderedDict()
        self._held: dict[str, SharedArray] = {}

    def serve(self) -> None:
        """Work until the client goes or says ``shutdown``."""
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._beat, daemon=True).start()
        while (message := self._requests.get()) is not None:
            if not self._gone.is_set():
                self._handle(message)
        with contextlib.suppress(OSError):
            self._sink.close()

    def _read(self) -> None:
        try:
            for line in iter(lambda: self._source.readline(protocol.LONGEST + 2), b""):
                if not self._take(line):
                    break
        except (OSError, ValueError) as error:  # a pipe that breaks is a client that is gone
            _LOG.warning("the pipe broke: %s", error)
        self._gone.set()  # what still computes has nobody to answer to
        self._requests.put(None)
        time.sleep(2)
        self._leave(0)

    def _take(self, line: bytes) -> bool:
        """A line of the client; whether it wants more."""
        try:
            message = protocol.decode(line)
        except ValueError as error:
            _LOG.warning("a line was not understood: %s", error)
            return True
        if message.get("method") == "cancel":
            self._cancelled.add(message.get("params", {}).get("id"))
        elif message.get("method") != "shutdown":
            self._requests.put(message)
        return message.get("method") != "shutdown"

    def _beat(self) -> None:
        while not self._gone.wait(protocol.HEARTBEAT):
            self._send({"method": "alive", "params": {}})

    def _send(self, message: dict[str, Any]) -> None:
        with self._write_lock, contextlib.suppress(OSError, ValueError):  # a client that is gone is seen by _read
            self._sink.write(protocol.encode(message))
            self._sink.flush()

    def _handle(self, message: dict[str, Any]) -> None:
        number, method = message.get("id"), message.get("method")
        if method == "forget":
            self._forget(message.get("params", {}).get("names"))
            return
        try:
            call = {"hello": self._hello, "load": self._load, "predict": self._predict}.get(str(method))
            if call is None:
                raise InputError(f"The worker does not know the request '{method}'.")
            self._send({"method": "begun", "params": {"id": number}})
            self._send({"id": number, "result": call(number, message.get("params", {}))})
        except MemoryError as error:
            self._warm.clear()
            self._send({"id": number, "error": protocol.describe_error(error)})
        except Exception as error:
            if not isinstance(error, UNetSegmentError) and not self._gone.is_set():  # at the end much is missing
                _LOG.exception("request %s failed", method)
            self._send({"id": number, "error": protocol.describe_error(error)})
        finally:
            self._cancelled.discard(number)

    def _hello(self, number: Any, params: dict[str, Any]) -> dict[str, Any]:
        return {"pid": os.getpid(), "python": sys.version.split()[0]}

    def _load(self, number: Any, params: dict[str, Any]) -> dict[str, Any]:
        predictor = self._predictor(package.load(str(params["model"])), params.get("options", {}))
        return {"ran": predictor.description()}

    def _predictor(self, model: Package, options: dict[str, Any]) -> Predictor:
        """A warm predictor, the least recently used one making room."""
        known = {
            key: options[key] for key in ("device", "backend", "threads", "mode", "mirror", "folds") if key in options
        }
        key = (str(model.root), model.content_hash, *sorted(known.items()))
        if key not in self._warm:
            while len(self._warm) >= WARM:
                self._warm.popitem(last=False)
            self._warm[key] = predictor = Predictor(model, **known)
            if predictor.proof_seconds is not None:
                speeds.note_proof(model.manifest, known, predictor.description(), predictor.proof_seconds)
        self._warm.move_to_end(key)
        return self._warm[key]

    def _predict(self, number: Any, params: dict[str, Any]) -> dict[str, Any]:
        """Label shared volumes into shared memory; see :meth:`client.Worker.predict` for the parameters."""
        described = [*(entry["array"] for entry in params["volumes"]), params["labels"]]
        shared = {each["name"]: self._held.pop(each["name"], None) or SharedArray.attach(each) for each in described}
        try:
            for each in shared.values():
                each.forget_name()  # at once: nothing is left behind, however both sides end
            self._send({"method": "attached", "params": {"id": number}})
            result = self._answer(number, params, list(shared.values()))
            self._held |= shared
            shared = {}
            return result
        finally:
            for each in shared.values():
                each.close()

    def _forget(self, names: Any) -> None:
        """Let go of shared memory."""
        for name in list(names) if isinstance(names, Collection) else ():
            if isinstance(name, str) and name in self._held:
                self._held.pop(name).close()
        if not self._held:
            for predictor in self._warm.values():
                predictor.rest()

    def _answer(self, number: Any, params: dict[str, Any], shared: list[SharedArray]) -> dict[str, Any]:
        *inputs, target = (each.array.T for each in shared)
        options = params.get("options", {})
        threads = passes.count(options.get("threads"))
        began, told, given = time.monotonic(), 0.0, 0

        def cancel() -> bool:
            return number in self._cancelled or self._gone.is_set()

        def progress(report: Progress) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told >= 0.05 or report.fraction in (0.0, 1.0):
                told = now
                left = (now - began) * (1 / report.fraction - 1) if report.fraction > 0.05 else None
                words = {"stage": report.stage, "fraction": report.fraction, "message": report.message}
                self._send({"method": "progress", "params": {"id": number, **words, "seconds_left": left}})

        def on_slab(slab: Slab) -> None:
            nonlocal given
            given += slab.labels.size
            if not np.may_share_memory(target, slab.labels):
                passes.transfer(target[slab.box], slab.labels, threads, table)
            box = [[cut.start, cut.stop] for cut in slab.box]
            self._send({"method": "slab", "params": {"id": number, "box": box}})

        progress(Progress("load", 0.0, "Loading the model"))
        if cancel():
            raise Cancelled()
        model = package.load(str(params["model"]))
        predictor = self._predictor(model, options)
        ready = time.monotonic()
        volumes = [
            Volume(array[None], Grid(array.shape, np.reshape(entry["ijk_to_ras"], (4, 4))), (str(entry["name"]),))
            for array, entry in zip(inputs, params["volumes"], strict=True)
        ]
        volume = gather(volumes, model.manifest)
        warnings = check(volumes, model.manifest)
        if warnings:
            messages = [warning.to_dict() for warning in warnings]
            self._send({"method": "warnings", "params": {"id": number, "messages": messages}})
        numbering = np.asarray(params["numbering"], np.int64)
        table = np.zeros(int(numbering[:, 0].max()) + 1, target.dtype)
        table[numbering[:, 0]] = numbering[:, 1]
        kept = {key: options[key] for key in ("region", "skip_background", "crop_to_body") if key in options}
        plain = np.array_equal(table, np.arange(len(table)))
        into = target if plain else None
        result = predictor.predict(volume, progress, cancel, on_slab, warnings=warnings, into=into, **kept)
        array = result.labels.array
        later = bool(model.manifest.postprocessing)
        if array is not target and (later or table[0]):  # the slabs were not all of it
            passes.transfer(target, array, threads, table)
        counts = passes.counts(array, len(table), threads)
        if not kept.keys() - {"region"}:  # what else is left out is not known beforehand
            self._note(model, options, predictor, volume.grid, result.provenance, time.monotonic() - ready)
        voxels = {str(v): int(counts[v]) for v in numbering[:, 0]}
        return {"provenance": result.provenance, "voxels": voxels, "given": given == target.size and not later}

    def _note(
        self,
        model: Package,
        options: dict[str, Any],
        predictor: Predictor,
        grid: Grid,
        ran: dict[str, str],
        took: float,
    ) -> None:
        """Remember how fast this was, for forecasts."""
        folds, region = options.get("folds", "all"), options.get("region")
        work = forecast.work(grid, model.manifest, predictor.configuration, folds, region)
        network = float(ran["network_seconds"])
        speeds.note_run(model.manifest, options, ran, forecast.Measured(work, network, max(took - network, 0.0)))


def main() -> None:
    """Serve standard input and output; whatever libraries print goes to standard error."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    Server(os.fdopen(os.dup(0), "rb"), sink).serve()  # type: ignore[arg-type]
