"""Which image files are meant, and what their results are called."""

import glob
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from saaae.data.listing import EXTENSIONS
from saaae.errors import UserError
from saaae.inference.image_output import output_ending


def find_images(images: str | Sequence[str]) -> dict[str, Path]:
    """Image files by the relative name of their result, sorted.

    Args:
        images: A file, a folder (with those below it), a pattern such as `scenes/*.tif`, or a list of these.

    Raises:
        UserError: If there is none, or two results would have one name.
    """
    found: dict[str, Path] = {}
    for text in [images] if isinstance(images, str) else images:
        for path, root in _expand(text):
            relative = path.relative_to(root)
            name = str(relative.with_name(relative.stem + output_ending(relative)))
            if found.setdefault(name, path).resolve() != path.resolve():
                raise UserError(f"images: {found[name]} and {path} would both become {name}; predict them separately")
    if not found:
        raise UserError("images=[]: expected a file, a folder, a pattern or a list of them")
    return dict(sorted(found.items()))


def _expand(text: str) -> list[tuple[Path, Path]]:
    """The files that one word means, with the folder that their names are relative to."""
    path = Path(text).expanduser()
    if path.is_dir():
        files, root = [path / name for name in glob.glob("**", root_dir=path, recursive=True)], path
    elif path.exists() or not glob.has_magic(text):
        if not path.exists():
            raise UserError(f"images={text}: no such file or folder")
        if path.suffix.lower() not in EXTENSIONS:
            raise UserError(f"{path}: not an image file; expected one ending in {', '.join(EXTENSIONS)}")
        return [(path, path.parent)]
    else:
        files = [Path(name) for name in glob.glob(str(path), recursive=True)]
        magic = next(number for number, part in enumerate(path.parts) if glob.has_magic(part))
        root = Path(*path.parts[:magic])
    found = sorted(file for file in files if file.suffix.lower() in EXTENSIONS and file.is_file())
    if not found:
        raise UserError(f"images={text}: no image matches; expected files ending in {', '.join(EXTENSIONS)}")
    return [(file, root) for file in found]


def check_folder(to: Path, images: str | Sequence[str], found: dict[str, Path]) -> None:
    """Checks that results may be written to a folder.

    Raises:
        UserError: If it is a file, cannot be written, or results would become images of the next call.
    """
    if to.exists() and not to.is_dir():
        raise UserError(f"to={to}: is a file; expected a folder")
    for text in [images] if isinstance(images, str) else images:
        folder = Path(text).expanduser()
        if folder.is_dir() and (to.resolve() == folder.resolve() or folder.resolve() in to.resolve().parents):
            raise UserError(f"to={to}: lies in images={text}; expected another folder, results would count as images")
    for name, path in found.items():
        if (to / name).resolve() == path.resolve() or to.resolve() == path.parent.resolve():
            raise UserError(f"to={to}: the folder of {path}; expected another one")
    above = to
    while not above.exists():
        above = above.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"to={to}: cannot be written; expected a folder that can")


@contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """A folder for results; one that is made here and stays empty is removed.

    Raises:
        UserError: If it cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"to={folder}: cannot be made ({error.strerror}); expected a folder that can") from None
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
