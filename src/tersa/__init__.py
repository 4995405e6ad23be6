"""tersa: make a small neural network fit a machine."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
"""Before anything imports onnxruntime: from 1.29 on it stores an identifier and sends usage data otherwise."""
