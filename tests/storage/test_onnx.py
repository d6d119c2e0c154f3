"""Experts as ONNX graphs answer as they do here."""
