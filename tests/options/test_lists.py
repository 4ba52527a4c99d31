import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import featcache
from featcache.cli import app
from featcache.options import (
    CompareOptions,
    ExtractOptions,
    FineTuneOptions,
    FitHeadOptions,
    NetworkOptions,
    TransformerOptions,
    command_line,
    options_of,
    subset,
    words,
)
from featcache.options.forms import CACHE, CACHES, PATH, TEXT

FUNCTIONS = {
    "extract": ("featcache.extraction.extracting.Extraction.run", ExtractOptions),
    "fit-head": ("featcache.training.fit_head", FitHeadOptions),
    "compare": ("featcache.training.compare", CompareOptions),
    "fine-tune": ("featcache.models.finetune.fine_tune", FineTuneOptions),
}
"""What each command calls, and its list of options."""

texts = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp"), exclude_characters="=,"),
    min_size=1,
    max_size=8,
)
_WORDS = ("true", "false", "none", "nan", "inf", "infinity")
words_only = texts.filter(lambda text: text.lower() not in _WORDS and not text[0].isnumeric() and text[0] not in "+-.")
values = st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | words_only
several = st.lists(values, min_size=1, max_size=3).map(tuple)
mappings = st.dictionaries(words_only, values | st.none() | several, max_size=3)
shares = st.floats(0.01, 0.4)
names = st.lists(texts, min_size=1, max_size=3, unique=True).map(tuple)
SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "base_params": mappings,
    "params": mappings,
    "image_size": st.tuples(st.integers(1, 999), st.integers(1, 999)) | st.integers(1, 999),
    "splits": st.dictionaries(st.sampled_from(["train", "validation", "test"]), names, min_size=1),
    "classes": st.lists(st.text("ab,\" '", min_size=1).map(str.strip).filter(bool), min_size=1, max_size=3).map(tuple),
    "test_from": st.tuples(st.sampled_from(["train", "validation"]), shares),
    "validation_split": shares,
    "test_split": shares,
    "engine": st.just("local"),
    "workers": st.none(),
    "scheduler": st.none(),
    "assert_accuracy": st.floats(0, 1),
    "crop": st.floats(0.1, 1),
    "fewshot": st.lists(st.integers(1, 99), min_size=1, max_size=3).map(tuple),
    "layers": names,
    "exclude": names,
    "clf": names,
    "dry_run": st.just(False),
}
"""Values of options that do not follow from their type."""


def strategy(name: str, one: dataclasses.Field[Any], about: Any) -> st.SearchStrategy[Any]:
    """Return values of an option that its command takes."""
    kind = str(one.type)
    paths = texts.map(lambda text: str(Path(text)))
    if about.form in (PATH, CACHE):
        return paths
    if about.form is CACHES:
        return st.lists(paths, min_size=1, max_size=3, unique=True).map(tuple)
    if name in SPECIAL and not (name == "clf" and about.form is TEXT):
        return SPECIAL[name]
    if kind == "bool":
        return st.booleans()
    if kind.startswith("int"):
        return st.integers(int(about.minimum or 0), int(about.maximum or 10**6))
    if kind.startswith("float"):
        return st.floats(0, 1e6)
    from featcache.options import lists

    choices = getattr(vars(lists).get(kind.split(" ")[0]), "__args__", None)
    return st.sampled_from(choices) if choices and kind.split(" ")[0] != "PathLike" else texts


def instances(kind: Any) -> st.SearchStrategy[Any]:
    """Return objects of a list with any of their options set, as Python takes them."""
    chosen = {}
    for name, (one, about) in options_of(kind).items():
        if not about.python:
            own = strategy(name, one, about)
            chosen[name] = own if one.default is dataclasses.MISSING else st.just(one.default) | own
    made = st.builds(kind, **chosen)
    if kind is not ExtractOptions:
        return made
    return made.map(lambda one: dataclasses.replace(one, augment="flip" if one.views else None))


def plain(value: Any) -> Any:
    """Return a value in the one form that differs between Python and the command line only by its type."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()} or None
    return tuple(map(plain, value)) or None if isinstance(value, list | tuple) else value


def normal(options: Any) -> dict[str, Any]:
    found = {name: plain(value) for name, value in vars(options).items() if not options_of(options)[name][1].python}
    if isinstance(found.get("image_size"), int):
        found["image_size"] = (found["image_size"],) * 2
    return found


@pytest.mark.parametrize("command", FUNCTIONS)
def test_what_is_rendered_is_parsed_to_the_same_options(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For every command and any options, the command line that is printed stands for these options."""
    called, kind = FUNCTIONS[command]
    found: list[Any] = []

    def capture(*options: Any, **keywords: Any) -> None:
        found.append(options[0] if options else kind(**keywords))
        raise KeyboardInterrupt

    monkeypatch.setattr(called, capture)

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(instances(kind))
    def check(options: Any) -> None:
        found.clear()
        ended = CliRunner().invoke(app, [command, *words(options)])
        assert found, (words(options), ended.output)
        assert normal(subset(found[0], kind)) == normal(options)

    check()


def test_a_command_line_is_quoted_for_a_shell() -> None:
    """Names with blanks and quotes are one word each; defaults are left out."""
    options = ExtractOptions(
        "my photos",
        base="b",
        layers=["it's"],
        fast_decode=True,
        classes=["a,b", "c"],
    )
    assert command_line("extract", options) == (
        """featcache extract 'my photos' --base b --fast-decode --layer 'it'"'"'s' --classes '"a,b",c'"""
    )
    assert command_line("fit-head", FitHeadOptions("-c", bundle=False)) == "featcache fit-head --no-bundle -- -c"


@pytest.mark.parametrize("name", ["extract", "fit_head", "compare", "fine_tune"])
def test_functions_have_flat_signatures_and_documents(name: str) -> None:
    """Each option is a keyword with its type and default, and its help stands in the docstring."""
    function, kind = getattr(featcache, name), FUNCTIONS[name.replace("_", "-")][1]
    parameters = inspect.signature(function).parameters
    assert list(parameters) == list(inspect.signature(kind).parameters)
    for option, (one, about) in options_of(kind).items():
        assert parameters[option].annotation == one.type
        assert one.default in (dataclasses.MISSING, parameters[option].default)
        assert " ".join(about.help.split()) in " ".join(str(function.__doc__).split())


def test_a_transformer_and_a_request_have_the_same_options() -> None:
    """What decides the pixels and the network has one list, of which extraction, transformer and request are made."""
    shared = {one.name for one in dataclasses.fields(NetworkOptions)}
    assert shared < {one.name for one in dataclasses.fields(TransformerOptions)}
    assert shared < {one.name for one in dataclasses.fields(ExtractOptions)}
    assert list(featcache.FeatureExtractor("mobilenetv2", layer="out_relu").get_params()) == sorted(
        one.name for one in dataclasses.fields(TransformerOptions)
    )


def test_options_of_every_list_have_help() -> None:
    """Each option says in a sentence what it decides."""
    for _, kind in FUNCTIONS.values():
        for name, (_, about) in options_of(kind).items():
            assert about.help[0].isupper() or about.help[0].islower(), name
            assert about.help.endswith("."), name
