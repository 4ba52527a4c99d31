"""Frozen bases: found by name or file, cut at named layers, loaded with weights, digested.

Words: an *address* names a layer, ``outer/inner`` inside a nested model. A *canonical* name has
Keras' automatic number counted from the start of its own model (``conv2d_7`` → ``conv2d``), so that
building the same base twice gives the same recipe.
"""

from featcache.bases.cutting import canonical_names, custom_layers
from featcache.bases.keras_applications import applications, find_application, list_bases
from featcache.bases.loading import Base, copied, layers_of, list_layers, load_base
from featcache.bases.weights import fresh_weights

__all__ = [
    "Base",
    "applications",
    "canonical_names",
    "copied",
    "custom_layers",
    "find_application",
    "fresh_weights",
    "layers_of",
    "list_bases",
    "list_layers",
    "load_base",
]
