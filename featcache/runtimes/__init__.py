"""What executes a base: a compiled function from a batch of pixels to pooled features."""

from featcache.runtimes.tensorflow import TensorFlowRuntime

__all__ = ["TensorFlowRuntime"]
