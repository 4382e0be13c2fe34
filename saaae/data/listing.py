"""Finding image files, and the classes that their folders stand for. Importing it imports no torch."""

import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from saaae.errors import UserError, nearest

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".npy", ".png", ".tif", ".tiff", ".webp")
UNREAD = (".avif", ".dcm", ".exr", ".gif", ".heic", ".heif", ".j2k", ".jfif", ".jp2", ".jxl", ".npz", ".pgm", ".ppm",
          ".tga")  # fmt: skip
"""Endings of image files that are counted and left out."""
FOLDERS = "folders"
"""The value of data.labels that takes the classes from the sub-folders."""
SHOWN = 10
"""Classes that a message lists."""


def list_images(root: Path, key: str = "data.root") -> list[Path]:
    """Image files in `root` and below, sorted, hidden files left out; links to folders are not followed.

    Args:
        root: The folder.
        key: The setting that named it.

    Raises:
        UserError: If the folder is missing or holds no image, or one below it cannot be read.
    """
    _check_is_folder(root, key)
    found = sorted(path for folder, _, names in _walk(root) for path in _images_in(folder, names))
    if not found:
        raise UserError(f"{key}={root}: no image in it; expected files ending in {', '.join(EXTENSIONS)}")
    return found


def images_below(root: Path, without: Path | None, key: str = "data.root") -> dict[str, Path]:
    """Image files by their names relative to `root`, but for those in another folder.

    Raises:
        UserError: If nothing is left, naming `key`.
    """
    paths = list_images(root, key)
    if without is not None:
        paths = [path for path in paths if not path.resolve().is_relative_to(without.resolve())]
        if not paths:
            raise UserError(f"data.root={root}: no image in it but those in {without}; expected others")
    return {path.relative_to(root).as_posix(): path for path in paths}


def unread_images(root: Path) -> dict[str, int]:
    """Number of image files of unsupported kinds in `root` and below, by kind."""
    names = (name for _, _, names in os.walk(root) for name in names if not name.startswith("."))
    endings = Counter(ending for name in names if (ending := Path(name).suffix.lower()) in UNREAD)
    return {f"{ending} files, a kind of image that is not read": count for ending, count in sorted(endings.items())}


def _check_is_folder(root: Path, key: str) -> None:
    if not root.is_dir():
        raise UserError(f"{key}={root}: no such folder; point data.root, data_dir or SAAAE_DATA_DIR at the images")


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders from `root` on, with the names of their folders and files."""

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); expected a readable folder")

    return os.walk(root, onerror=refuse)


def _images_in(folder: str, names: list[str]) -> Iterator[Path]:
    paths = (Path(folder, name) for name in names if not name.startswith("."))
    return (path for path in paths if path.suffix.lower() in EXTENSIONS and _may_be_file(path))


def _may_be_file(path: Path) -> bool:
    """False for a pipe, for example. A file without permissions counts; reading it reports the error."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return True


def folder_classes(root: Path, test_root: Path | None) -> list[str]:
    """Names of the sub-folders of `root` that hold images, directly or below, sorted: one class each.

    Args:
        root: The folder.
        test_root: A folder whose images are not meant; it may be inside `root`.

    Raises:
        UserError: If an image is in no sub-folder, a sub-folder holds none, or there are fewer than two.
    """
    _check_is_folder(root, "data.root")
    _, folders, names = next(_walk(root))
    for path in sorted(_images_in(str(root), names)):
        class_of(path.name, path)
    apart = None if test_root is None else test_root.resolve()
    shown = sorted(name for name in folders if not name.startswith("."))
    classes = [name for name in shown if _holds_image(root / name, apart)]
    for name in shown:
        is_for_tests = apart is not None and apart.is_relative_to((root / name).resolve())
        if name not in classes and not is_for_tests:
            alternative = f", or data.labels=[{','.join(classes)}]" if len(classes) > 1 else ""
            raise UserError(
                f"data.labels={FOLDERS}: no image in {root / name} (links to folders are not followed); expected "
                f"images in each sub-folder{alternative}"
            )
    check_classes(classes, f"data.labels={FOLDERS}: data.root={root}")
    return classes


def _holds_image(folder: Path, apart: Path | None) -> bool:
    """Whether there is an image in a folder or below, but for those in another folder."""
    if folder.is_symlink():
        return False
    found = (path for inner, _, names in _walk(folder) for path in _images_in(inner, names))
    return any(apart is None or not path.resolve().is_relative_to(apart) for path in found)


def check_classes(classes: Sequence[str], owner: str) -> None:
    """Checks names of classes.

    Raises:
        UserError: If there are fewer than two, or one is there twice or cannot be stored, beginning with `owner`.
    """
    if len(classes) < 2:
        found = f"only one sub-folder of images, {classes[0]}" if classes else "no class"
        raise UserError(f"{owner}: {found}; expected at least two, one for each class")
    if twice := [name for number, name in enumerate(classes) if name in classes[:number]]:
        raise UserError(f"{owner}: {twice[0]} is there twice; expected each class once")
    if odd := [name for name in classes if "${" in name or name == "???"]:
        raise UserError(f"{owner}: a class cannot be called {odd[0]}; expected another name")


def class_of(name: str, path: Path) -> str:
    """The first folder in the name of an image relative to its root.

    Raises:
        UserError: If it is in no folder.
    """
    first, slash, _ = name.partition("/")
    if not slash:
        raise UserError(f"data.labels: {path} is in no sub-folder; expected each image in the sub-folder of its class")
    return first


def class_number(label: int | str, num_classes: int, names: Sequence[str] | None, key: str = "label") -> int:
    """Number of a class that is given by its number or its name.

    Args:
        label: Number or name.
        num_classes: Number of classes.
        names: Names of the classes; None where they have none.
        key: What the label was given for.

    Raises:
        UserError: If there is no such class.
    """
    if isinstance(label, str):
        if label in (names or ()):
            return list(names or ()).index(label)
    elif label == int(label) and 0 <= label < num_classes and not isinstance(label, bool):
        return int(label)
    hint = nearest(label, names or ()) if isinstance(label, str) else ""
    raise UserError(f"{key}={label}: expected {known_classes(num_classes, names)}{hint}")


def known_classes(num_classes: int, names: Sequence[str] | None) -> str:
    """The classes for a message: `0 to 9`, or `cats, dogs or 0 to 1`."""
    numbers = f"0 to {num_classes - 1}"
    return f"{listed(names)} or {numbers}" if names else numbers


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join([*names[:SHOWN], "..."] if len(names) > SHOWN else names)
