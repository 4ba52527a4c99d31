"""The most similar images of a cache to one image, and a picture of them."""

from __future__ import annotations

import io
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featcache.bases.finding import find_base
from featcache.cache import FeatureCache
from featcache.errors import FeatcacheError, ImageError, OptionError
from featcache.extraction.extractor import Extractor
from featcache.extraction.originals import Originals
from featcache.files.publishing import publish
from featcache.heads import Rows
from featcache.images.decoding import PixelSpec, load
from featcache.insight.similarity import Floats, most_similar
from featcache.recipe import Request
from featcache.saved import base as base_folder
from featcache.sources import digest
from featcache.sources.files import read_file
from featcache.sources.folders.folders import files_source
from featcache.system.startup import import_tensorflow

log = logging.getLogger(__name__)

TILE, CAPTION, COLUMNS = 160, 44, 5
"""Pixels of a picture's side and of the text below it; pictures in a row of the contact sheet."""


@dataclass(frozen=True)
class Neighbor:
    """A similar image.

    Attributes
    ----------
    path : str
        As the cache has it.
    label, split : str or None
        As the cache has them.
    similarity : float
        Cosine of its features with the query's, in -1…1.
    """

    path: str
    label: str | None
    split: str | None
    similarity: float


@dataclass(frozen=True)
class Neighbors:
    """The images of a cache that are most similar to one.

    Attributes
    ----------
    cache : Path
        Where they were sought.
    layer : str
        Whose features were compared.
    image : str
        The one they are similar to, as it was given.
    inside : bool
        Whether it is an image of the cache, which is left out then.
    neighbors : tuple of Neighbor
        The most similar first.
    """

    cache: Path
    layer: str
    image: str
    inside: bool
    neighbors: tuple[Neighbor, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: ``cache``, ``layer``, ``image``, ``inside`` and ``neighbors``."""
        return {**asdict(self), "cache": str(self.cache), "neighbors": [asdict(one) for one in self.neighbors]}


def neighbors(
    cache: FeatureCache | str | os.PathLike[str],
    image: str | os.PathLike[str],
    *,
    top_k: int = 10,
    layer: str | None = None,
) -> Neighbors:
    """Find the most similar images by the cosine of their features.

    Parameters
    ----------
    cache : FeatureCache or path
        Where to look, a block of rows at a time.
    image : path
        An image of the cache, as it has its path; or any file. Only a file whose content the cache does not have
        needs its base.
    top_k : int
        How many, 1 or more.
    layer : str, optional
        Whose features; default: the deepest.

    Returns
    -------
    Neighbors
        The most similar first.

    Raises
    ------
    OptionError
        If there is no such image or layer, or the cache's base cannot be loaded as its features are from elsewhere.
    ImageError
        If the file cannot be decoded.
    """
    cache = cache if isinstance(cache, FeatureCache) else FeatureCache(cache)
    layer, name = cache.layer_name(layer), os.fspath(image)
    if top_k < 1:
        raise OptionError(f"`top_k` must be 1 or more. Received: top_k={top_k}.")
    numbers = cache.numbers(order="storage")[0]
    rows = Rows(cache.features(layer=layer, order="storage"))
    place = {cache.usable[i].path: row for row, i in enumerate(numbers.tolist())}
    own = place.get(name)
    if own is not None and _is_another_file(Path(name), cache.usable[int(numbers[own])].digest):
        log.warning(
            "%r is an image of the cache and also a file here with other content; the cache's image is taken. Name the "
            "file as %r to take that",
            name,
            str(Path(name).absolute()),
        )
    query = rows[np.array([own])][0] if own is not None else _features(cache, rows, Path(name), layer)
    best, cosines = most_similar(rows, query, top_k + 1)
    found = []
    for row, cosine in zip(best.tolist(), cosines.tolist(), strict=True):
        if row != own:
            entry = cache.usable[int(numbers[row])]
            found.append(Neighbor(entry.path, entry.label, entry.split, cosine))
    return Neighbors(cache.path, layer, name, own is not None, tuple(found[:top_k]))


def _is_another_file(file: Path, known: bytes | None) -> bool:
    """Whether there is a file of this name whose content is not that of the cache's image."""
    try:
        return file.is_file() and digest(read_file(file)) != known
    except ImageError:
        return True


def _features(cache: FeatureCache, rows: Rows, file: Path, layer: str) -> Floats:
    """Return the features (d,) of a file: those of its content, if the cache has them, or from the base."""
    if not file.is_file():
        raise OptionError(
            f"{str(file)!r} is neither an image of {str(cache.path)!r}, by its path there, nor a file. "
            "`featcache export-cache` shows the paths."
        )
    content = read_file(file)
    digests = cache.digests(order="storage")
    if (identity := digest(content)) in digests:
        same: Floats = rows[np.array([digests.index(identity)])][0]
        return same
    described, kept = cache.description.get("request"), cache.path / base_folder.NAME
    if cache.recipe.spec is not None or (described is None and not kept.is_dir()):
        raise OptionError(
            f"{str(file)!r} is not an image of {str(cache.path)!r}, and other images cannot be compared, because "
            "its base cannot be loaded from files. Name one of its images."
        )
    advice = "Put its files back, or name an image of the cache."
    base = find_base(cache.recipe, None if described is None else Request.from_dict(described), [kept], advice=advice)
    extractor = Extractor(base.request, base.base, base.file)
    if extractor.recipe != cache.recipe:
        raise OptionError(
            f"The base is not the one that {str(cache.path)!r} was extracted with: "
            f"{'; '.join(cache.recipe.differences(extractor.recipe))}. Put its files back, or extract again."
        )
    source = files_source([file])
    (extracted,) = extractor.stream(source, source.items)
    if extracted.reason is not None:
        raise ImageError(f"{str(file)!r} cannot be used: {extracted.reason}. Name another image.")
    values: Floats = np.asarray(extracted.views[0][layer], np.float32).reshape(-1)
    return values


def contact_sheet(cache: FeatureCache | str | os.PathLike[str], found: Neighbors, out: Path) -> None:
    """Write a PNG of the query, first, and its neighbors with path, label and similarity below each.

    An image that cannot be read is a grey square that says so. The picture is (160 · 5) pixels wide.

    Raises
    ------
    OptionError
        If `out` does not end in ``.png``.
    """
    from PIL import Image, ImageDraw

    if out.suffix.lower() != ".png":
        raise OptionError(f"The picture must be a .png file. Received: {str(out)!r}.")
    import_tensorflow()
    originals = Originals(cache if isinstance(cache, FeatureCache) else FeatureCache(cache))
    tiles = [(found.image, "query", "")]
    tiles += [(one.path, f"{one.similarity:.3f}  {one.split or ''}", one.label or "") for one in found.neighbors]
    lines = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * TILE, lines * (TILE + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    entries = {entry.path: entry for entry in originals.entries}
    for number, (path, what, label) in enumerate(tiles):
        x, y = number % COLUMNS * TILE, number // COLUMNS * (TILE + CAPTION)
        try:
            inside = path in entries and (number > 0 or found.inside)
            content = originals.content(entries[path]) if inside else read_file(Path(path))
            pixels = load(content, PixelSpec(TILE - 8, TILE - 8, 3, "pad", "area"))
            sheet.paste(Image.fromarray(pixels.round().astype(np.uint8)), (x + 4, y + 4))
        except FeatcacheError:
            draw.rectangle((x + 4, y + 4, x + TILE - 5, y + TILE - 5), fill="#cccccc")
            draw.text((x + 12, y + TILE // 2), "cannot be read", fill="black")
        for line, text in enumerate([what, label, path]):
            shown = "".join(c if c.isprintable() else "?" for c in text)
            draw.text((x + 6, y + TILE - 2 + line * 14), shown if len(shown) < 25 else f"…{shown[-23:]}", fill="black")
    file = io.BytesIO()
    sheet.save(file, "PNG")
    out.parent.mkdir(parents=True, exist_ok=True)
    publish(out, file.getvalue())
