"""The graphs Keras builds with and without ``weights="imagenet"``: where they differ, a weights file needs the former.

Nothing is downloaded and no weights are drawn. The script fails if featcache builds another graph than Keras does for
a file of ImageNet weights.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from keeping import RESULTS, keep


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Build networks without values: no download, and no variable is initialised."""
    import keras
    from keras.src.utils import file_utils

    with (
        mock.patch.object(file_utils, "get_file", return_value="nothing"),
        mock.patch.object(keras.Model, "load_weights"),
        keras.StatelessScope(initialize_variables=False),
    ):
        yield


def compared(name: str, *, top: bool = False) -> dict[str, Any]:
    """Return how the two graphs of an application differ, and whether featcache's for a weights file is Keras'."""
    from featcache.bases import find_application
    from featcache.bases.digests import architecture_digest
    from featcache.bases.keras_applications import as_for_imagenet

    application = find_application(name)
    settings = {"include_top": top, "input_shape": (application.image_size, application.image_size, 3)}
    with without_weights():
        plain, imagenet = (application.build(weights=weights, **settings) for weights in (None, "imagenet"))
        ours = as_for_imagenet(plain)
    kinds = [[type(layer).__name__ for layer in model.layers] for model in (plain, imagenet)]
    return {
        "application": application.name,
        "include_top": top,
        "layers": [len(plain.layers), len(imagenet.layers)],
        "added": [kind for kind in sorted(set(kinds[1])) for _ in range(kinds[1].count(kind) - kinds[0].count(kind))],
        "same": architecture_digest(plain) == architecture_digest(imagenet),
        "ours_as_keras": architecture_digest(ours) == architecture_digest(imagenet),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare all applications, print a line for each, and keep the result."""
    from featcache.bases import applications

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bases", nargs="+", default=list(applications()))
    parser.add_argument("--to", type=Path, default=RESULTS / "imagenet-graphs.json")
    options = parser.parse_args(arguments)
    graphs = []
    for name in options.bases:
        for top in (False, True):
            found = compared(name, top=top)
            graphs.append(found)
            without, wanted = found["layers"]
            difference = "same" if found["same"] else f"adds {', '.join(found['added'])}"
            print(f"{found['application']:20} top={top!s:5} {without:4} {wanted:4}  {difference}", flush=True)
    keep(options.to, {"graphs": graphs}, "keras", "tensorflow")
    wrong = sorted({found["application"] for found in graphs if not found["ours_as_keras"]})
    if wrong:
        raise SystemExit(f"featcache builds another graph than Keras: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
