"""Runs on the other machine: loads artefacts, gives logits, times interleaved rounds; one file, sent by ssh.

It needs the standard library, numpy and the runtime that is asked for, and imports nothing of tersa. Messages
on both pipes are one JSON line, followed by as many raw bytes as its `bytes` says. Nothing is written to the
disk. When the connection ends, or a request takes longer than it may, the process ends at once.

    -> {"do": "load", "runtime": "onnxruntime", "threads": 1, "options": {}, "precision": "fp32", "bytes": 9}
    <- {"session": 0, "version": "openvino 2026.4.1", "executed": {"fp32": 4}, "load_ms": 3.1}
    -> {"do": "run", "session": 0, "shape": [1, 3, 32, 32], "bytes": 12288}
    <- {"shape": [1, 10], "bytes": 40}
    -> {"do": "time", "sessions": [0, 1], "shapes": [...], "seconds": 1.0, ..., "bytes": 24576}
    <- {"session": 0, "round": 0, "ms": 0.31}                     one line for every round of every session
    <- {"done": [{"calls": 13, "warmup": 40}, ...]}
    <- {"error": "package", "text": "..."}                        instead of any answer
"""

# pyright: basic
# It must start on whatever Python is over there, and the runtimes have no types.

from __future__ import annotations

import gc
import json
import math
import os
import platform
import queue
import sys
import threading
import time

IDLE_SECONDS = 900.0
LONGEST_SECONDS = 3600.0

ALIKE, RECOVERY, RECOVERY_ROUNDS, OVERTIME, LEAST_ROUNDS = 1.5, 8, 2.5, 5.0, 12
LEAST_PER_START, TRIES, LONGEST_MS, WARM_SHARE = 3, 4, 100.0, 0.05
"""The rules of `tersa.targets.rounds`, which is not there; a test holds them equal."""

OPENVINO_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16", "int8": "f32"}
OPENVINO_NAMES = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8", "I8": "int8"}
OPENVINO_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "BinaryConvolution")
"""As in `tersa.targets.openvino_cpu`; held equal, too."""


class Refused(Exception):
    """What is told to the other side as an error of a kind."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


def onnxruntime_settings(onnxruntime, threads, options):
    """As `tersa.export.artefact.open_session`."""
    levels = {
        "disabled": "DISABLE_ALL",
        "basic": "ENABLE_BASIC",
        "extended": "ENABLE_EXTENDED",
        "all": "ENABLE_ALL",
    }
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    settings.log_severity_level = 4
    level = "ORT_" + levels[options.get("graph", "all")]
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return settings


def load_onnxruntime(content, threads, options, precision):
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # from 1.29 on it stores an identifier and sends data
    import onnxruntime

    settings = onnxruntime_settings(onnxruntime, threads, options)
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    spent = time.perf_counter() - start
    name = session.get_inputs()[0].name
    rewritten = rewritten_graph(onnxruntime, content, settings) if precision == "int8" else b""
    version = "onnxruntime " + onnxruntime.__version__
    return (lambda x: session.run(None, {name: x})[0]), version, rewritten, spent


def rewritten_graph(onnxruntime, content, settings):
    """The graph as this machine's runtime rewrites it, for the other side to look at; in memory, on Linux."""
    if not hasattr(os, "memfd_create"):
        return b""
    place = os.memfd_create("graph")
    try:
        settings.optimized_model_filepath = f"/proc/self/fd/{place}"
        onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        with open(f"/proc/self/fd/{place}", "rb") as file:
            return file.read()
    finally:
        os.close(place)


def openvino_settings(threads, options, precision):
    """As `openvino_cpu.settings`."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": options.get("hint", "latency").upper(),
        "INFERENCE_PRECISION_HINT": OPENVINO_HINTS[precision],
        "ENABLE_CPU_PINNING": False,
    }


def load_openvino(content, threads, options, precision):
    sys.modules.setdefault("openvino_telemetry", None)  # pyright: ignore - it writes an identifier to the home folder
    import numpy
    import openvino  # pyright: ignore - optional

    start = time.perf_counter()
    core = openvino.Core()
    compiled = core.compile_model(
        core.read_model(content), "CPU", openvino_settings(threads, options, precision)
    )
    spent = time.perf_counter() - start
    found = {}
    for one in compiled.get_runtime_model().get_ops():
        about = one.get_rt_info()
        if "layerType" in about and about["layerType"].astype(str) in OPENVINO_LAYERS:
            kind = str(about["runtimePrecision"].astype(str))
            name = OPENVINO_NAMES.get(kind, kind)
            found[name] = found.get(name, 0) + 1
    request = compiled.create_infer_request()
    tensor, free = request.get_input_tensor(), compiled.input().partial_shape[0].is_dynamic

    def run(x):
        """As `openvino_cpu.BySize`."""
        if free and tensor.shape != x.shape:
            tensor.shape = x.shape
        if tensor.data.shape != x.shape:
            raise ValueError(f"the file takes {tensor.data.shape}, not {x.shape}")
        tensor.data[...] = x
        request.infer()
        return numpy.array(request.get_output_tensor().data)

    return run, "openvino " + openvino.__version__.split("-")[0], found, spent


def load_litert(content, threads, options, precision):
    import importlib.metadata

    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore - optional

    start = time.perf_counter()
    model = Interpreter(model_content=content, num_threads=threads)
    model.allocate_tensors()
    spent = time.perf_counter() - start
    source: dict = model.get_input_details()[0]
    target: dict = model.get_output_details()[0]
    state = [int(source["shape"][0])]

    def run(x):
        if len(x) != state[0]:
            state[0] = len(x)
            model.resize_tensor_input(source["index"], x.shape)
            model.allocate_tensors()
        model.set_tensor(source["index"], x)
        model.invoke()
        return model.get_tensor(target["index"])

    return run, "ai-edge-litert " + importlib.metadata.version("ai-edge-litert"), b"", spent


LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino, "litert": load_litert}
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert"}


def load(message, content, sessions):
    name = message["runtime"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if message["threads"] > cores:
        raise Refused("threads", str(cores))
    try:
        import numpy  # noqa: F401  # pyright: ignore[reportUnusedImport]

        found = LOADERS[name](content, message["threads"], message["options"], message["precision"])
    except ImportError as error:
        missing = "numpy" if error.name == "numpy" else PACKAGES[name]
        raise Refused("package", missing) from None
    except Exception as error:  # noqa: BLE001 - whatever a runtime raises
        raise Refused("model", (str(error).strip().splitlines() or [type(error).__name__])[-1]) from None
    run, version, executed, spent = found
    sessions.append(run)
    told = {"session": len(sessions) - 1, "version": version, "load_ms": 1e3 * spent}
    return (told, executed) if isinstance(executed, bytes) else (dict(told, executed=executed), b"")


def images(shape, content):
    import numpy

    return numpy.frombuffer(content, "<f4").reshape(shape).copy()


def per_call(run, x, count):
    start = time.perf_counter_ns()
    for _ in range(count):
        run(x)
    return (time.perf_counter_ns() - start) / count / 1e6


def interruptions():
    """As `worker._interruptions`: of any thread of this process; 0 where they are not counted."""
    if sys.platform != "linux":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def warm_up(run, x, seconds, round_ms):
    """As `rounds._warm_up`: until three rounds agree or the time is over, which one call may fill."""
    made, count, recent, end = 1, 1, [], time.perf_counter_ns() + 1e9 * seconds
    run(x)  # what is made once is no part of a call's time
    while True:
        recent = [*recent[-2:], max(per_call(run, x, count), 1e-6)]
        made += count
        count = max(1, math.ceil(round_ms / recent[-1]))
        last = sorted(recent)
        steady = len(recent) == 3 and last[2] - last[0] < WARM_SHARE * last[1]
        over = time.perf_counter_ns() > end and (len(recent) == 3 or recent[-1] > seconds * 1e3)
        if steady or over:
            return made, last[len(last) // 2]


def untimed(ms, round_ms):
    """As `rounds.untimed_calls`."""
    return 0 if ms > LONGEST_MS else max(1, min(RECOVERY, int(RECOVERY_ROUNDS * round_ms / ms)))


def calls_of(times, round_ms):
    """As `rounds.calls_of`."""
    alone = [max(1, math.ceil(round_ms / each)) for each in times]
    pairs = list(zip(alone, times, strict=True))
    return [max(n for n, other in pairs if each / ALIKE <= other <= each * ALIKE) for each in times]


def one_round(run, x, calls, first, interrupted):
    """As `rounds.Here.round`: one that the system interrupted is made again with half the calls."""
    found = math.inf
    for _ in range(TRIES):
        for _ in range(first):
            run(x)
        before = interrupted()
        ms = per_call(run, x, calls)
        if interrupted() == before:
            return ms
        found = min(found, ms)
        if calls * ms > LONGEST_MS:
            break
        calls = max(1, calls // 2)
    return found


def time_rounds(message, content, sessions, tell, interrupted=interruptions):
    """As `rounds.time_sides` with one start: every round of every session is told as it is measured."""
    inputs, start = [], 0
    for shape in message["shapes"]:
        size = 4 * math.prod(shape)
        inputs.append(images(shape, content[start : start + size]))
        start += size
    runs = [sessions[index] for index in message["sessions"]]
    seconds, round_ms = message["seconds"], message["round_ms"]
    warm = [warm_up(run, x, message["warmup_seconds"], round_ms) for run, x in zip(runs, inputs, strict=True)]
    times = [each for _, each in warm]
    calls, first = calls_of(times, round_ms), [untimed(each, round_ms) for each in times]
    longest = max(count * each for count, each in zip(calls, times, strict=True))
    rounds = max(LEAST_PER_START, min(message["rounds"], int(seconds * 1000.0 / longest)))
    end = time.monotonic() + OVERTIME * seconds * len(runs)
    gc.collect()
    gc.disable()
    for turn in range(rounds):
        order = range(len(runs)) if turn % 2 == 0 else range(len(runs) - 1, -1, -1)
        found = []
        for index in order:
            ms = one_round(runs[index], inputs[index], calls[index], first[index], interrupted)
            found.append((index, ms))
        for index, ms in found:
            tell({"session": index, "round": turn, "ms": ms})
        if turn + 1 >= LEAST_ROUNDS and time.monotonic() > end:
            break
    gc.enable()
    return {"done": [{"calls": count, "warmup": made} for count, (made, _) in zip(calls, warm, strict=True)]}


def answer(message, content, sessions, tell):
    if message["do"] == "load":
        tell(*load(message, content, sessions))
    elif message["do"] == "run":
        found = sessions[message["session"]](images(message["shape"], content))
        tell({"shape": list(found.shape)}, found.astype("<f4").tobytes())
    elif message["do"] == "time":
        tell(time_rounds(message, content, sessions, tell))


def hardware(text=None):
    """As `tersa.export.processor.processor_name` and `environment.cores`: what the times here are of."""
    if text is None:
        try:
            with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
                text = file.read()
        except OSError:
            text = ""
    name, sockets, physical = "", "", set()
    for line in text.splitlines():
        key, _, value = (part.strip() for part in line.partition(":"))
        if key in ("model name", "Model", "Hardware") and value:
            name = name or value
        elif key == "physical id":
            sockets = value
        elif key == "core id":
            physical.add((sockets, value))
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = name or platform.processor() or platform.machine() or "unknown"
    return {"processor": name, "cores": min(len(physical) or logical, logical)}


def read(pipe, inbox):
    """Messages into a queue; the end of the connection ends the process, whatever it is doing."""
    try:
        while True:
            line = pipe.readline()
            if not line:
                break
            message = json.loads(line)
            size = message.get("bytes", 0)
            content = pipe.read(size)
            if len(content) < size:
                break
            inbox.put((message, content))
    finally:
        os._exit(0)


def main(source, sink):
    def tell(message, content=b""):
        head = dict(message, bytes=len(content)) if content else message
        sink.write(json.dumps(head).encode() + b"\n" + content)
        sink.flush()

    inbox, sessions = queue.Queue(), []
    threading.Thread(target=read, args=(source, inbox), daemon=True).start()
    tell(dict(hardware(), ready=sys.version.split()[0], pid=os.getpid()))
    while True:
        try:
            message, content = inbox.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            os._exit(0)
        watch = threading.Timer(min(message.get("limit", LONGEST_SECONDS), LONGEST_SECONDS), os._exit, (3,))
        watch.daemon = True
        watch.start()
        try:
            answer(message, content, sessions, tell)
        except Refused as error:
            tell({"error": error.kind, "text": str(error)})
        except OSError:
            os._exit(0)
        except Exception as error:  # noqa: BLE001 - it is told, and the runner goes on
            tell({"error": "runner", "text": f"{type(error).__name__}: {error}"})
        watch.cancel()


if __name__ == "__main__":
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a runtime prints must not come between the messages
    main(sys.stdin.buffer, output)
