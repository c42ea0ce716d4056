"""A target for ONNX Runtime Web: one card and one exporter."""

from pathlib import Path

CARD = Path(__file__).with_name("browser.toml")
