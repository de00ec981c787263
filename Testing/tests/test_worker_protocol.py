"""What client and worker say, whatever it is: no line breaks either side."""

import json
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic.processes import wait_until
from UNetSegmentLib import errors
from UNetSegmentLib.errors import Cancelled, PackageError, WorkerError
from UNetSegmentLib.predict.backends import is_installed
from UNetSegmentLib.worker import Job, Worker, protocol, server
from UNetSegmentLib.worker.memory import SharedArray

needs_engine = pytest.mark.skipif(
    not (is_installed("openvino") and is_installed("onnx")), reason="openvino or onnx is not installed"
)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_line_is_a_message_or_a_value_error(line):
    try:
        message = protocol.decode(line)
    except ValueError:
        return
    assert message["jsonrpc"] == "2.0"


@given(json_values)
def test_any_described_error_is_an_error_for_the_user(described):
    assert isinstance(protocol.restore_error(described), errors.UNetSegmentError)


@pytest.mark.parametrize(
    "error", [Cancelled(), PackageError("a"), errors.InputError("b"), MemoryError("big"), KeyError("x")]
)
def test_errors_survive_the_pipe(error):
    described = json.loads(json.dumps(protocol.describe_error(error)))
    restored = protocol.restore_error(described)
    if isinstance(error, errors.UNetSegmentError):
        assert type(restored) is type(error) and str(restored) == str(error)
    elif isinstance(error, MemoryError):
        assert "not enough memory" in str(restored) and "region of interest" in str(restored)
    else:
        assert isinstance(restored, WorkerError)


methods = st.sampled_from(["progress", "slab", "attached", "alive", "other"])


messages = st.fixed_dictionaries(
    {},
    optional={
        "method": methods,
        "id": st.integers(0, 3) | json_values,
        "result": json_values,
        "error": json_values,
        "params": st.dictionaries(
            st.sampled_from(["id", "box", "stage", "fraction", "message"]), json_values, max_size=5
        )
        | st.just({"id": 1}),
    },
)


@settings(max_examples=200, deadline=None)
@given(st.lists(messages, max_size=6))
def test_whatever_a_worker_says_each_job_ends_once_and_nothing_breaks(said):
    """The client alone, fed with what a broken worker might send."""

    class Dead:
        exit_code = worker_pid = None

        def send(self, line=b""):
            pass

        end = send

    ends = []
    fed = Worker()
    fed._process = Dead()
    fed._met = lambda result: None
    nothing = dict.fromkeys(("on_progress", "on_answer", "on_grown"), lambda *_: None)
    job = Job(on_done=ends.append, on_error=ends.append, on_slab=lambda box, array: array[box], **nothing)
    fed._enter(job)
    job.shared.append(SharedArray.create((2, 2, 2), np.uint8))
    for message in said:
        fed._read(fed._process, protocol.encode(message))
    fed.poll()
    fed.stop()
    fed.poll()
    assert len(ends) == 1 and job.finished and not job.shared


@needs_engine
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.binary(max_size=60).filter(lambda b: b"\n" not in b) | messages.map(lambda m: json.dumps(m).encode()),
        max_size=5,
    )
)
def test_whatever_a_client_says_the_server_answers_the_next_request(lines):
    """The server alone, over real pipes, in this process."""
    down_read, down_write = os.pipe()
    up_read, up_write = os.pipe()
    source, sink = os.fdopen(down_read, "rb"), os.fdopen(up_write, "wb")
    served = server.Server(source, sink, leave=lambda code: None)
    thread = threading.Thread(target=served.serve, daemon=True)
    thread.start()
    with os.fdopen(down_write, "wb") as pipe, os.fdopen(up_read, "rb") as answers:
        for line in lines:
            pipe.write(line + b"\n")
        pipe.write(protocol.encode({"id": "last", "method": "hello"}))
        pipe.flush()
        for line in answers:
            message = protocol.decode(line)
            if message.get("id") == "last":
                assert message["result"]["pid"] == os.getpid()
                break
        pipe.write(protocol.encode({"method": "shutdown"}))
        pipe.flush()
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_a_server_whose_pipe_breaks_ends():
    class Broken:
        def readline(self, most):
            raise OSError(5, "Input/output error")

    left, (up_read, up_write) = [], os.pipe()
    with os.fdopen(up_read, "rb"):
        served = server.Server(Broken(), os.fdopen(up_write, "wb"), leave=left.append)
        served.serve()
        assert wait_until(lambda: left == [0], 5)
