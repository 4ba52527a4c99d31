"""Names: of what systems leave behind, of splits, of kinds of files, and what a user leaves out."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

log = logging.getLogger(__name__)


def each_word(text: str) -> tuple[str, ...]:
    """Return the words of a text: a list that fits into a few lines."""
    return tuple(text.split())


LITTER = (
    *each_word(
        """.* __MACOSX Thumbs.db ehthumbs.db ehthumbs_vista.db desktop.ini $RECYCLE.BIN RECYCLER *Zone.Identifier
        @eaDir @Recycle @tmp #recycle #snapshot lost+found __pycache__"""
    ),
    *("Icon\r", "Network Trash Folder", "Temporary Items", "System Volume Information"),
)
"""Names of files and folders that systems leave behind, in any case: never images, classes or splits.

Hidden files; macOS; Windows; network storage (Synology's thumbnails are images); Linux and Python.
"""

_EXACT = frozenset(name.lower() for name in LITTER if "*" not in name)
_END = "zone.identifier"
_OF_SPLITS = {
    "train": """train training trn trainval entrenamiento entrainement apprentissage treino treinamento addestramento
        trening traning egitim trainingsdaten обучение 训练 训练集 訓練 学習 훈련""",
    "validation": """validation validate val valid dev devel development validacion validacao validierung validazione
        validatie walidacja validering dogrulama validierungsdaten валидация 验证 验证集 検証 검증""",
    "test": "test testing tst prueba pruebas teste testes testdaten тест 测试 测试集 テスト 테스트",
    "evaluation": "eval evaluation evaluate",
}
_WORDS = {word: split for split, words in _OF_SPLITS.items() for word in each_word(words)}
"""Split of a word in lower case, without accents; which split an evaluation set is depends on the others."""
SAYS_NOTHING = frozenset(
    each_word(
        """set sets data dataset datasets image images img imgs jpegimages photo photos picture pictures pic pics jpg
        jpeg png file files folder dir split splits batch part"""
    )
)
"""Words beside that of a split that do not change what it means."""
_GLUED = re.compile(rf"^({'|'.join(_WORDS)})(set|data|dataset|images|imgs|img)$")
_NOT_IMAGES = each_word(
    """.txt .xml .json .jsonl .csv .tsv .html .htm .md .yaml .yml .log .ini .cfg .py .ipynb .pdf .doc .docx .xls .xlsx
    .mat .npy .npz .h5 .pkl .pt .zip .gz .tar .mp4 .avi .mov .wav .mp3 .aae .xmp .rar .7z .tgz .mkv .webm .m4v .toml .sh
    .bat .exe .db .sqlite .bin .onnx .pth .ckpt .keras .tflite .idx .tfw .jgw .pgw .wld .dbf .shp .lnk .url .crdownload
    .pptx .ppt .tex .js .css"""
)
"""How names of files end that are certainly no images; a folder of nothing else is no class."""
IMAGE_NAME = re.compile(r"\.(jpe?g|jpe|jfif|png|gif|bmp|webp|tiff?|avif|heic|p[bgnp]m)$", re.IGNORECASE)
"""How names of images end."""
TAR_NAME = re.compile(r"\.(tar|tgz|tbz2?|txz|tzst)$|\.tar\.\w+$", re.IGNORECASE)
"""How names of tar files end, compressed ones too."""
PACKED = (".zip", ".rar", ".7z", ".gz", ".tgz", ".tar")
"""How names of files end that may have images inside."""
JSON_LINES = (".jsonl", ".ndjson")
"""How names of tables with one JSON object a line end."""
TABLES_BESIDE = (".csv", ".tsv", *JSON_LINES)
"""How names of tables end that are looked for in folders."""
TABLES = (*TABLES_BESIDE, ".txt")
"""How names of tables end."""


def is_litter(name: str) -> bool:
    """Whether a name is one of `LITTER`."""
    lower = name.lower()
    hidden = name.startswith(".") and name not in (".", "..")
    return hidden or lower in _EXACT or lower.endswith(_END)


def may_be_image(name: str) -> bool:
    """Whether a file is not certainly something else."""
    return not name.lower().endswith(_NOT_IMAGES)


def known_splits(names: Iterable[str]) -> dict[str, str]:
    """Return the split that each of some names means (folders, cells of a column, beginnings of tar files).

    Any case; with words that say nothing, or numbers (``train_images``, ``val2017``); with anything that another
    split's name has at the same place (``seg_train`` beside ``seg_test``): what a name means may depend on the others.
    ``eval`` and ``evaluation`` mean test beside a validation set, and validation otherwise.
    """
    every = list(dict.fromkeys(names))
    alone: dict[str, str] = {}
    shared: dict[tuple[str, ...], dict[str, str]] = {}
    for name in every:
        words = list(map(_unaccented, words_of(name)))
        places = [place for place, word in enumerate(words) if word in _WORDS]
        if len(places) != 1:
            continue
        split, rest = _WORDS[words[places[0]]], [*words[: places[0]], "*", *words[places[0] + 1 :]]
        if all(word == "*" or word in SAYS_NOTHING or word.isdecimal() for word in rest):
            alone[name] = split
        else:
            shared.setdefault(tuple(rest), {})[name] = split
    found = alone | {n: s for group in shared.values() if len(set(group.values())) > 1 for n, s in group.items()}
    if any("invalid" in words_of(name) for name in every):  # its opposite is a class, too
        found = {name: split for name, split in found.items() if "valid" not in words_of(name)}
    late = "test" if "validation" in found.values() else "validation"
    return {name: late if split == "evaluation" else split for name, split in found.items()}


def words_of(name: str) -> list[str]:
    """Return the words and numbers of a name in lower case: ``trainImages_2`` is train, images, 2."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    words = re.findall(r"[^\W\d_]+|\d+", text.lower())
    glued = [(word, _GLUED.match(word)) for word in words]
    return [part for word, match in glued for part in (match.groups() if match else (word,))]


def _unaccented(word: str) -> str:
    """Return a word of Latin letters without its accents."""
    letters = unicodedata.normalize("NFD", word)
    return "".join(c for c in letters if not 0x300 <= ord(c) < 0x370) if letters[:1].isascii() else word


class Exclusion:
    """The files and folders that a user leaves out.

    Without a slash, a glob is compared with each name, at any depth (``*.txt``, ``predictions``). With a slash, it is
    compared with the path relative to the source (``train/drafts``, ``*/drafts``, ``/drafts`` for the top folder
    alone); ``**`` stands for any number of folders. What lies in a folder that is left out is left out. Case counts;
    the Unicode form does not.
    """

    def __init__(self, globs: Sequence[str]) -> None:
        self._globs = [(glob, "/" in glob.rstrip("/"), _nfc(glob).strip("/").split("/")) for glob in globs]
        self._unused = set(globs)

    def covers(self, path: str) -> bool:
        """Whether a file or folder is left out, given its path in the source; that of what it lies in is not asked."""
        if not self._globs:
            return False
        names = _nfc(path).split("/")
        hits = [glob for glob, whole, parts in self._globs if _matches(parts, names if whole else names[-1:])]
        self._unused.difference_update(hits)
        return bool(hits)

    def covers_any(self, path: str) -> bool:
        """Whether a file or one of the folders it lies in is left out."""
        if not self._globs:
            return False
        names = path.split("/")
        return any(self.covers("/".join(names[:end])) for end in range(1, len(names) + 1))

    def warn(self, where: str) -> None:
        """Say which globs left nothing out, once everything was asked about."""
        if self._unused:
            log.warning("%s: nothing is left out by --exclude %s", where, ", ".join(sorted(self._unused)))


def _matches(parts: list[str], names: list[str]) -> bool:
    if not parts or not names:
        return not names and all(part == "**" for part in parts)
    if parts[0] == "**":
        return _matches(parts[1:], names) or _matches(parts, names[1:])
    return fnmatchcase(names[0], parts[0]) and _matches(parts[1:], names[1:])


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
