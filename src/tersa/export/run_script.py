"""Write `run.py` beside an artefact: a few lines that classify images with onnxruntime and numpy alone.

The script asks the file itself for class names and image shape, so it is the same for every artefact but
for the name. It is a template for the reader's own program, which is why it stays short: a netpbm file is
known by its first bytes, and what is neither that nor .npy (a PGM in text or of 16 bits too) goes to Pillow.
The largest softmax probability is

    max_k exp(l_k) / sum_j exp(l_j) = 1 / sum_j exp(l_j - max_k l_k)
"""

from __future__ import annotations

from pathlib import Path

from tersa.files import write_atomic

SCRIPT = '''\
"""Classify images with {name}: python {script} IMAGE... (.npy, .pgm, .ppm; with Pillow installed, any)."""

import importlib, json, os, re, sys
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: from 1.29 on it sends usage data
import numpy as np, onnxruntime

session = onnxruntime.InferenceSession(os.path.join(os.path.dirname(__file__), {name!r}))
about = session.get_modelmeta().custom_metadata_map
classes, (c, h, w) = json.loads(about["classes"]), json.loads(about["input_shape"])
for path in sys.argv[1:] or sys.exit(__doc__):
    netpbm = re.match(rb"P[56](?:\\s+#.*)*\\s+(\\d+)\\s+(\\d+)\\s+255\\s", np.fromfile(path, np.uint8))
    if netpbm: image = netpbm.string[netpbm.end():].reshape(int(netpbm[2]), int(netpbm[1]), -1)
    elif path.endswith(".npy"): image = np.load(path)
    else: image = np.asarray(importlib.import_module("PIL.Image").open(path).convert({{1: "L", 3: "RGB"}}[c]))
    if np.atleast_3d(image).shape != (h, w, c):
        sys.exit(f"{{path}} is {{image.shape}}; rows, columns, channels must be {{(h, w, c)}}")
    pixels = np.float32(image / 255 if image.dtype == np.uint8 else image).reshape(1, h, w, c)
    logits = session.run(None, {{"pixels": pixels.transpose(0, 3, 1, 2)}})[0][0]  # next: the largest softmax
    print(f"{{path}}: {{classes[logits.argmax()]}} ({{1 / np.exp(logits - logits.max()).sum():.1%}})")
'''


def write_run_script(path: Path, artefact_name: str) -> Path:
    """Write the script.

    Args:
        path: of the script, in the folder of the artefact.
        artefact_name: file name of the artefact, without folder.
    """
    assert Path(artefact_name).name == artefact_name, "the script looks beside itself"
    write_atomic(path, SCRIPT.format(name=artefact_name, script=path.name))
    return path
