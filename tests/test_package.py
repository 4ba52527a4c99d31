import inspect
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
        "report",
        "plot_confusion",
        "plot_map",
        "load",
        "verify",
        "gc",
        "export_cache",
        "list_bases",
        "list_caches",
        "list_layers",
        "Augmentation",
        "Comparison",
        "FeatureCache",
        "FeatureExtractor",
        "Head",
        "ImageClassifier",
        "export_model",
        "FeatcacheError",
        "BaseError",
        "CacheBusyError",
        "CacheDamagedError",
        "CacheError",
        "ExportError",
        "GateError",
        "HeadError",
        "HungError",
        "ImageError",
        "OptionError",
        "SourceError",
        "WeightsError",
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


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield every public function, class and method by its name."""
    for name in featcache.__all__:
        found = getattr(featcache, name)
        yield name, found
        for member, value in vars(found).items() if inspect.isclass(found) else ():
            method = getattr(value, "__func__", value)
            if not member.startswith("_") and inspect.isfunction(method):
                yield f"{name}.{member}", method


@pytest.mark.parametrize(("name", "found"), [pytest.param(*one, id=one[0]) for one in public()])
def test_docstrings_say_what_goes_in_what_comes_out_and_what_is_raised(name: str, found: Callable[..., Any]) -> None:
    """A public name's docstring has its parameters, its result and its errors, or says whose they are."""
    text = inspect.getdoc(found) or ""
    assert text
    if "Parameters are those of `" in text or (inspect.isclass(found) and issubclass(found, Exception)):
        return
    parameters = [p for p in inspect.signature(found).parameters if p not in ("self", "cls", "args", "kwargs")]
    missing = [p for p in parameters if not re.search(rf"^([\w, ]+, )?{p}\b.*|`{p}`", text, re.M)]
    assert missing == []
    if inspect.isclass(found):
        return
    if inspect.signature(found).return_annotation not in ("None", inspect.Signature.empty):
        assert re.search(r"^Returns$|^Yields$", text, re.M) or text.startswith("Return "), "what is returned"
    if re.search(r"^ +raise \w+Error", inspect.getsource(found), re.M):
        assert re.search(r"^Raises$", text, re.M), "what is raised"


def test_every_file_of_tests_has_a_name_of_its_own() -> None:
    """Folders of tests are no packages, so pytest cannot tell two files of one name apart."""
    here = Path(__file__).parent
    names = [file.name for folder in (here, here.parent / "benchmarks") for file in folder.rglob("*.py")]
    assert [name for name, count in Counter(names).items() if count > 1] == []
