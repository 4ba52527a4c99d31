"""A classifier for those who have no featcache: as a Keras model, a SavedModel, for TFLite or as ONNX."""

from featcache.models.export.exporting import ExportReport, export_model

__all__ = ["ExportReport", "export_model"]
