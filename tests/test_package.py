import subprocess
import sys

import featcache


def test_public_names() -> None:
    """The package offers exactly these names, and each can be fetched."""
    assert featcache.__all__ == [
        "extract",
        "fit_head",
        "compare",
        "fine_tune",
        "audit",
        "neighbors",
        "advise",
        "Comparison",
        "FeatureCache",
        "FeatureExtractor",
        "Head",
        "ImageClassifier",
        "export_model",
        "FeatcacheError",
    ]
    assert all(getattr(featcache, name).__name__ == name for name in featcache.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    """A name that does not exist is refused like in any module."""
    try:
        featcache.nothing  # noqa: B018
    except AttributeError as error:
        assert "nothing" in str(error)
    else:
        raise AssertionError("expected AttributeError")


def test_import_is_light() -> None:
    """Importing the package or the command line loads no library that takes long."""
    code = (
        "import sys, featcache, featcache.cli\n"
        "print([m for m in ('keras', 'tensorflow', 'sklearn', 'h5py', 'numpy', 'PIL') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
