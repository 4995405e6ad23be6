"""Write `run.py` beside an artefact: a few lines that classify images with onnxruntime and numpy alone.

The script asks the file itself for class names and image shape, so it is the same for every artefact but
for the name. It is a template for the reader's own program, which is why it stays short.
"""

from __future__ import annotations

from pathlib import Path

from tersa.records import write_atomic

SCRIPT = '''\
"""Classify images with {name}: python {script} IMAGE... (.npy, .pgm, .ppm; with Pillow installed, any)."""

import json, os, pathlib, re, sys
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read on import: from 1.29 on it sends usage data
import numpy as np, onnxruntime

def read(path, channels):
    if path.endswith(".npy"):
        return np.load(path)
    if path.endswith((".pgm", ".ppm")):
        data = pathlib.Path(path).read_bytes()
        header = re.match(rb"P[56](?:\\s+#.*)*\\s+(\\d+)\\s+(\\d+)\\s+255\\s", data)
        return np.frombuffer(data[header.end():], np.uint8).reshape(int(header[2]), int(header[1]), -1)
    from PIL import Image
    return np.asarray(Image.open(path).convert("L" if channels == 1 else "RGB"))

session = onnxruntime.InferenceSession(pathlib.Path(__file__).with_name({name!r}))
about = session.get_modelmeta().custom_metadata_map
classes, (c, h, w) = json.loads(about["classes"]), json.loads(about["input_shape"])
for path in sys.argv[1:] or sys.exit(__doc__):
    image = read(path, c)
    if image.reshape(image.shape[0], image.shape[1], -1).shape != (h, w, c):
        sys.exit(f"{{path}} is {{image.shape}}; rows, columns, channels must be {{(h, w, c)}}")
    pixels = (image / 255 if image.dtype == np.uint8 else image).reshape(1, h, w, c).transpose(0, 3, 1, 2)
    logits = session.run(None, {{"pixels": pixels.astype(np.float32)}})[0][0]
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    print(f"{{path}}: {{classes[logits.argmax()]}} ({{share.max():.1%}})")
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
