import inspect

from featcache import errors


def test_every_error_is_a_featcache_error() -> None:
    """Whatever featcache raises on purpose can be caught with one class."""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
    assert len(classes) >= 10
    assert all(issubclass(c, errors.FeatcacheError) for c in classes)


def test_tree_in_the_docstring_is_complete() -> None:
    """The tree that opens the module names every error."""
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, Exception):
            assert name in (errors.__doc__ or "")


def test_nearest_ignores_case() -> None:
    """A name in another case finds the right one first."""
    assert errors.nearest("vgg19", ["ResNet50", "VGG19"]).startswith("nearest: VGG19")


def test_nearest_lists_the_first_when_nothing_is_near() -> None:
    """Without a near name the message shows what there is, and how much more."""
    assert errors.nearest("zzz", [f"block{i}" for i in range(9)]).endswith("… (9 in all)")
