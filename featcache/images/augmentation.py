"""Augmented views of an image, decided by its digest, the view's number and a seed alone.

The operations and their ranges are those of Keras' random layers (`RandomFlip`, `RandomRotation`,
`RandomZoom`, `RandomTranslation`, `RandomBrightness`, `RandomContrast`); geometry is one bilinear
resampling, however many operations it is made of.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from featcache.errors import OptionError
from featcache.options import Fill
from featcache.recipe import canonical_json, choices


@dataclass(frozen=True)
class Augmentation:
    """How views are drawn.

    Parameters
    ----------
    flip : bool
        Mirror left and right, every other time.
    rotation : float
        Up to this part of a full turn either way, 0…0.5: 0.2 is 72 degrees, 30 degrees are 0.0833.
    zoom : float
        Scale between 1 - zoom and 1 + zoom, 0 ≤ zoom < 1.
    shift : float
        Up to this part of height and width in any direction, 0…1.
    brightness : float
        Up to this part of the full range up or down, 0…1.
    contrast : float
        Contrast between 1 - contrast and 1 + contrast, 0…1.
    crop : float
        Cut out a window whose side is between 1 - crop and 1, 0 ≤ crop < 1, and enlarge it.
    fill : {"nearest", "reflect", "constant"}
        What appears beyond the edges; ``constant`` is black.
    seed : int
        Another seed is another draw.

    Raises
    ------
    OptionError
        If a value is out of its range, or nothing is asked for.
    """

    flip: bool = False
    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    crop: float = 0.0
    fill: Fill = "nearest"
    seed: int = 0

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Augmentation:
        """Return the augmentation that a cache's manifest keeps.

        Parameters
        ----------
        kept : mapping
            What ``dataclasses.asdict`` gave.

        Raises
        ------
        OptionError
            If it is none.
        """
        try:
            return cls(**kept)
        except TypeError as error:
            raise OptionError(f"The cache's augmentation is damaged: {error}. Run `featcache extract` again.") from None

    def __post_init__(self) -> None:
        limits = {"rotation": 0.5, "zoom": 0.99, "shift": 1, "brightness": 1, "contrast": 1, "crop": 0.99}
        for name, limit in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
                raise OptionError(f"{name} must be from 0 to {limit}. Received: {name}={value!r}.")
        if self.fill not in choices(Fill):
            raise OptionError(f"`fill` must be one of {', '.join(choices(Fill))}. Received: {self.fill!r}.")
        if not isinstance(self.flip, bool):
            raise OptionError(f"flip takes no value. Received: flip={self.flip!r}.")
        if not self.flip and not any(getattr(self, name) for name in limits):
            raise OptionError(f"The augmentation is empty. Choose at least one of: flip, {', '.join(limits)}.")

    @classmethod
    def parse(cls, text: str, *, fill: str = "nearest", seed: int = 0) -> Augmentation:
        """Return what a text such as ``flip,rotation=0.2`` means, with `fill` and `seed`.

        Parameters
        ----------
        text : str
            Names of operations, with their values.
        fill, seed
            As for the class.

        Raises
        ------
        OptionError
            If a name or value is not possible.
        """
        names = [f.name for f in dataclasses.fields(cls) if f.name not in ("fill", "seed")]
        values: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            name, equals, value = part.partition("=")
            try:
                values[name] = float(value) if equals else True
            except ValueError:
                values[name] = value
            if name not in names:
                raise OptionError(f"Unknown augmentation {part!r}. The augmentations are: {', '.join(names)}.")
        return cls(**values, fill=fill, seed=seed)  # type: ignore[arg-type]

    @property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 of the policy's canonical JSON: part of the key of views ≥ 1."""
        return hashlib.sha256(canonical_json(dataclasses.asdict(self)).encode()).hexdigest()[:16]

    def apply(self, pixels: npt.NDArray[np.float32], identity: bytes, view: int) -> npt.NDArray[np.float32]:
        """Return one view of an image.

        Parameters
        ----------
        pixels : array, shape (height, width, channels), float32
            Values in 0…255, at the base's size; left untouched.
        identity : bytes
            The image's digest.
        view : int
            1 or more.

        Returns
        -------
        array of the same shape, float32
            Values in 0…255.
        """

        def draw(purpose: str) -> float:
            """Return a number in -1…1 that depends on image, view, seed and purpose alone."""
            text = f"featcache view {view} seed {self.seed} {purpose} ".encode()
            return int.from_bytes(hashlib.sha256(text + identity).digest()[:8], "big") / 2**63 - 1

        result = pixels
        if self.flip or self.rotation or self.zoom or self.shift or self.crop:
            result = warped(result, self._matrix(pixels.shape[0], pixels.shape[1], draw), self.fill)
        if self.brightness:
            result = result + np.float32(255 * self.brightness * draw("brightness"))
        if self.contrast:
            mean = result.mean(axis=(0, 1), keepdims=True)
            result = (result - mean) * np.float32(1 + self.contrast * draw("contrast")) + mean
        return np.clip(result, 0, 255).astype(np.float32)

    def _matrix(self, height: int, width: int, draw: Any) -> npt.NDArray[np.float64]:
        """Return the 3x3 matrix from the view's pixel coordinates (x, y) to the image's."""
        centre = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
        side = 1 - self.crop * (draw("crop") + 1) / 2
        scale = side * (1 + self.zoom * draw("zoom"))
        angle = 2 * math.pi * self.rotation * draw("rotation")
        mirror = -1 if self.flip and draw("flip") < 0 else 1
        turn = scale * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        turn[:, 0] *= mirror
        move = [
            size * self.shift * draw(f"shift {axis}") + (size - 1) * (1 - side) / 2 * draw(f"crop {axis}")
            for axis, size in (("x", width), ("y", height))
        ]
        matrix = np.eye(3)
        matrix[:2, :2] = turn
        matrix[:2, 2] = move
        return np.asarray(centre @ matrix @ np.linalg.inv(centre))


def warped(pixels: npt.NDArray[np.float32], matrix: npt.NDArray[np.float64], fill: Fill) -> npt.NDArray[np.float32]:
    """Return an image (height, width, channels) resampled so that its pixel (x, y) comes from `matrix` @ (x, y, 1).

    The interpolation is bilinear, the matrix a 3x3 affine one; `fill` says what lies beyond the edges.
    """
    import tensorflow as tf

    transform = (matrix / matrix[2, 2]).reshape(1, 9)[:, :8].astype(np.float32)
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels[None],
        transforms=transform,
        output_shape=np.array(pixels.shape[:2], np.int32),
        fill_value=np.float32(0),
        interpolation="BILINEAR",
        fill_mode=fill.upper(),
    )
    image: npt.NDArray[np.float32] = result.numpy()[0]
    return image


def spec(policy: Mapping[str, Any]) -> str:
    """Return the fields of an `Augmentation` as the text that `Augmentation.parse` takes, without fill and seed."""
    parts = ["flip"] if policy.get("flip") else []
    names = [
        name
        for name, value in policy.items()
        if name not in ("flip", "fill", "seed") and isinstance(value, int | float) and value
    ]
    return ",".join([*parts, *(f"{name}={policy[name]!r}" for name in names)])
