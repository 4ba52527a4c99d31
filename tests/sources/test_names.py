import pytest

from featcache.sources import names as layouts


@pytest.mark.parametrize(
    ("glob", "path", "covered"),
    [
        ("drafts", "a/drafts", True),
        ("drafts/", "drafts", True),
        ("draft", "a/drafts", False),
        ("*.txt", "a/b/notes.txt", True),
        ("a/*.txt", "a/b/notes.txt", False),
        ("a/*/*.txt", "a/b/notes.txt", True),
        ("a/**/*.txt", "a/notes.txt", True),
        ("**/c.txt", "a/b/c.txt", True),
        ("/c.txt", "a/c.txt", False),
        ("/c.txt", "c.txt", True),
        ("C.txt", "c.txt", False),
        ("caf\u00e9", "x/cafe\u0301", True),
        ("[ab].jpg", "x/b.jpg", True),
        ("**", "a/b", True),
    ],
)
def test_globs(glob: str, path: str, covered: bool) -> None:
    """A glob without a slash is compared with the name, one with a slash with the whole path, case and all."""
    assert layouts.Exclusion([glob]).covers(path) == covered


@pytest.mark.parametrize("name", ["@eaDir", "icon\r", "THUMBS.DB", ".DS_Store", "a.jpg:Zone.Identifier", "lost+found"])
def test_litter(name: str) -> None:
    """Litter is known in any case; what only resembles it is not."""
    assert layouts.is_litter(name)
    assert not layouts.is_litter(f"my {name[1:]}s")
