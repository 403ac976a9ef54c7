"""Data of one's own: a folder of images, an .npy or .npz file, a table in a .csv file, as one tensor.

It needs no other module of the package; pictures are read and written with Pillow.

What is read is checked as it is read, and a refusal is one line that names the file: a broken picture, sizes or channels
that differ, an empty folder, a value that is missing. Nothing is guessed about what the values mean but their kind,
:func:`kind`, by which a likelihood can be chosen.

Shapes: images are (N, C, H, W) bytes, C = 1 for grey and 3 for colour; a table is (N, D).
"""

import csv
import io
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")  # of pictures
GREY, COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB")  # Pillow's modes
DATA_NAMES, LABEL_NAMES = ("x", "images", "data", "arr_0"), ("labels", "y", "label")  # of arrays in an .npz file
MEMORY_SHARE = 0.5  # of the memory that is free: larger sets are kept in a file and mapped

PathLike = str | os.PathLike[str]


class Data(NamedTuple):
    """What was read. Labels, names of classes and names of columns are there where the file has them."""

    x: Tensor  # (N, *D): bytes, or floats
    labels: Tensor | None = None  # (N,) int64, indices of class_names
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()  # of a table: one for each of the D numbers


def read(
    path: PathLike,
    *,
    labels: str | None = None,
    size: tuple[int, int] | None = None,
    colour: str | None = None,
    progress: bool = True,
) -> Data:
    """Read data by what the path is: a folder of images, an .npy, .npz or .csv file.

    Args:
        path: the folder or file.
        labels: for a table the column, for an .npz file the array that holds the labels. A folder's labels are its
            sub-folders.
        size: for a folder, (height, width) to bring every image to; without it all must have one size.
        colour: for a folder, "grey" or "rgb" to bring every image to; without it all must be the one or the other.
        progress: show a progress bar.

    Returns:
        ``Data(x, labels, class_names, columns)``.

    Raises:
        ValueError: for what cannot be read, naming the file.
        OSError: if there is no such path, or it may not be read.

    >>> path = Path(tempfile.mkdtemp()) / "two.csv"
    >>> _ = path.write_text("height,width\\n1.5,2\\n2.5,4\\n")
    >>> read(path).x
    tensor([[1.5000, 2.0000],
            [2.5000, 4.0000]])
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {os.fspath(path)}")
    if path.is_dir():
        if labels is not None:
            raise ValueError(f"{path} is a folder: its sub-folders are the labels, so give no name")
        return read_images(path, size=size, colour=colour, progress=progress)
    if size is not None or colour is not None:
        raise ValueError(f"{path} is a file: size and colour are for folders of images")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is none of what can be read: a folder of images, .npy, .npz or .csv")
    found = reader(path, labels)
    if found.x.numel() == 0:
        raise ValueError(
            f"{path} holds no data points" if len(found.x) == 0 else f"{path} holds no numbers in its points"
        )
    return found


def kind(x: Tensor) -> str:
    """What the values are, by which a likelihood can be chosen.

    Args:
        x: data, (N, \\*D).

    Returns:
        "binary" if all are 0 or 1; "bytes" if they are whole numbers from 0 to 255, stored as bytes or shaped like
        images; "counts" if they are other whole numbers from 0 on; else "real".

    >>> kind(torch.tensor([[0.0, 1.0]])), kind(torch.tensor([[0.0, 7.0]])), kind(torch.tensor([[0.5, 7.0]]))
    ('binary', 'counts', 'real')
    """
    low, high = x.min().item(), x.max().item()
    if low < 0 or any((part != part.round()).any() for part in x.split(4096) if x.is_floating_point()):
        return "real"
    if high <= 1:
        return "binary"
    return "bytes" if high <= 255 and (x.dtype == torch.uint8 or x.dim() > 2) else "counts"


def split(num_data: int, share: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of a training set and of a held-out set: all data points, each in one of them, in random order.

    Args:
        num_data: N, at least 2.
        share: of the held-out set, above 0 and below 1; at least one point is held out, and at least one is not.
        seed: of the order.

    Returns:
        Two tensors of indices; together the numbers 0 to N - 1.

    Raises:
        ValueError: for fewer than two data points, or a share that is none.

    >>> train, held_out = split(10, 0.2)
    >>> len(train), len(held_out), sorted(torch.cat([train, held_out]).tolist()) == list(range(10))
    (8, 2, True)
    """
    if num_data < 2:
        raise ValueError(f"{num_data} data point(s) cannot be split into a training and a held-out set")
    if not 0 < share < 1:
        raise ValueError(f"the held-out share must be above 0 and below 1, got {share}")
    order = torch.randperm(num_data, generator=torch.Generator().manual_seed(seed))
    num_held_out = min(max(round(share * num_data), 1), num_data - 1)
    return order[num_held_out:], order[:num_held_out]


def take(x: Tensor, index: Tensor) -> Tensor:
    """Some of the data points, in the given order: in memory, or, where they would take too much of it, in a mapped file.

    Args:
        x: data, (N, \\*D).
        index: numbers of data points, (M,).

    Returns:
        The data points, (M, \\*D), of the same type.

    >>> take(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([2, 0]))
    tensor([[3.],
            [1.]])
    """
    taken = _room((len(index), *x.shape[1:]), x.dtype)
    for start in range(0, len(index), 1024):
        taken[start : start + 1024] = x[index[start : start + 1024]]
    return taken


# Images.


def read_images(
    folder: PathLike, *, size: tuple[int, int] | None = None, colour: str | None = None, progress: bool = True
) -> Data:
    """Read a folder of images into one tensor of bytes; sub-folders, if there are any, are the labels.

    An image is turned as its camera says. With a ``size``, it is scaled until it fills that size, and what stands over is
    cut off evenly. Where it is transparent, white shines through. A set larger than half of the free memory is written to a
    temporary file, which the tensor maps.

    Args:
        folder: with .png, .jpg, .jpeg, .bmp or .webp files; others, and hidden ones, are passed over.
        size: (height, width) to bring every image to; without it all must have one size.
        colour: "grey" or "rgb" to bring every image to; without it all must be the one or the other.
        progress: show a progress bar.

    Returns:
        ``Data`` with x (N, C, H, W) bytes in the order of the sorted paths.

    Raises:
        ValueError: for an empty folder, a file that is no image or is damaged, sizes or channels that differ, and images
            both beside sub-folders and in them: the message names the file.
        OSError: for a folder that cannot be read.

    >>> from PIL import Image
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("a", "b"):
    ...     Image.new("L", (5, 3), 255).save(folder / f"{name}.png")
    >>> read_images(folder).x.shape
    torch.Size([2, 1, 3, 5])
    """
    folder = Path(folder)
    if colour not in (None, "grey", "rgb"):
        raise ValueError(f'colour must be "grey" or "rgb", got {colour!r}')
    paths, labels, class_names = _list_images(folder)
    options: dict[str, Any] = {} if progress else {"disable": True}
    shape = _read_image(paths[0], size, colour).shape
    x = _room((len(paths), *shape))
    for number, path in enumerate(tqdm(paths, unit="image", **options)):
        pixels = _read_image(path, size, colour)
        if pixels.shape != shape:
            raise ValueError(_differs(paths[0], tuple(shape), path, tuple(pixels.shape)))
        x[number] = pixels
    return Data(x, labels, class_names)


def _list_images(folder: Path) -> tuple[list[Path], Tensor | None, tuple[str, ...]]:
    """The sorted paths, and their labels where there are sub-folders."""
    paths = sorted(path for path in _visible(folder) if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(SUFFIXES)})")
    inside = [path.relative_to(folder).parts for path in paths]
    if all(len(parts) == 1 for parts in inside):
        return paths, None, ()
    for path, parts in zip(paths, inside, strict=True):
        if len(parts) == 1:
            raise ValueError(f"{path} stands beside sub-folders with images, so it has no label: move it into one")
    class_names = sorted({parts[0] for parts in inside})
    return paths, torch.tensor([class_names.index(parts[0]) for parts in inside]), tuple(class_names)


def _visible(folder: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones; one that may not be read is an error, not a gap."""

    def refuse(error: OSError) -> None:
        raise OSError(f"{error.filename} cannot be read ({error.strerror})") from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        yield from (Path(place) / name for name in names if not name.startswith("."))


def _read_image(path: Path, size: tuple[int, int] | None, colour: str | None) -> Tensor:
    """The pixels, (C, H, W) bytes."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            opened.load()
            image: Image.Image = ImageOps.exif_transpose(opened)
    except Exception as error:  # what damaged files make Pillow raise is not foreseeable
        raise ValueError(f"{path} cannot be read as an image ({str(error) or type(error).__name__})") from error
    if image.mode not in (*GREY, *COLOUR):
        raise ValueError(f"{path} has levels of more than 8 bits (mode {image.mode}): convert it to 8 bits a channel")
    is_grey = image.mode in GREY if colour is None else colour == "grey"
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    image = image.convert("L" if is_grey else "RGB")
    if size is not None:
        image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(image))  # (H, W) or (H, W, 3)
    return pixels.unsqueeze(0) if is_grey else pixels.permute(2, 0, 1)


def _differs(first: Path, shape: tuple[int, ...], path: Path, other: tuple[int, ...]) -> str:
    if other[0] != shape[0]:
        told = {1: "grey", 3: "in colour"}
        return f"{path} is {told[other[0]]} and {first} is {told[shape[0]]}: say which all should be (grey or rgb)"
    (height, width), (other_height, other_width) = shape[1:], other[1:]
    return (
        f"{path} is {other_height} high and {other_width} wide and {first} is {height} by {width}: give a size, height and "
        "width, to bring all to"
    )


def _room(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> Tensor:
    """Room in memory, or, where it would take too much of that, in a temporary file that the tensor maps."""
    num_values = math.prod(shape)
    if num_values * dtype.itemsize <= MEMORY_SHARE * _free_memory():
        return torch.empty(shape, dtype=dtype)
    with tempfile.NamedTemporaryFile(prefix="vae-tutorial-", delete=os.name != "nt") as file:
        # The mapping outlives the name.
        return torch.from_file(file.name, shared=True, size=num_values, dtype=dtype).view(shape)


def _free_memory() -> float:
    """Bytes of memory that nothing uses; without bound where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    if "SC_AVPHYS_PAGES" not in names:
        return math.inf
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# Arrays and tables.


def _read_npy(path: Path, label: str | None) -> Data:
    if label is not None:
        raise ValueError(f"{path} holds one array and no labels: save both with numpy.savez")
    return Data(_tensor(path, "", _loaded(path)))


def _read_npz(path: Path, label: str | None) -> Data:
    archive = _loaded(path)
    names = archive.files
    label = label or next((name for name in LABEL_NAMES if name in names), None)
    if label is not None and label not in names:
        raise ValueError(f"{path} holds no array {label!r}, but {', '.join(names)}")
    others = [name for name in names if name != label]
    name = others[0] if len(others) == 1 else next((name for name in DATA_NAMES if name in others), None)
    if name is None:
        raise ValueError(f"{path} holds {', '.join(names) or 'nothing'}: call the array with the data x")
    x = _tensor(path, name, _member(path, archive, name))
    if label is None:
        return Data(x)
    values = _member(path, archive, label)
    if values.shape != (len(x),):
        raise ValueError(f"{path}: {label} has the shape {values.shape}, and {name} {len(x)} data points")
    return Data(x, *_numbered([str(value) for value in values.tolist()]))


def _loaded(path: Path) -> Any:
    """An array or an archive; an array too large for the memory is mapped."""
    is_large = path.suffix.lower() == ".npy" and path.stat().st_size > MEMORY_SHARE * _free_memory()
    try:
        return np.load(path, allow_pickle=False, mmap_mode="c" if is_large else None)
    except Exception as error:  # of a damaged file
        raise ValueError(f"{path} cannot be read as NumPy's ({str(error) or type(error).__name__})") from error


def _member(path: Path, archive: Any, name: str) -> np.ndarray:
    try:
        return archive[name]
    except Exception as error:
        raise ValueError(f"{path}: {name} cannot be read ({str(error) or type(error).__name__})") from error


def _tensor(path: Path, name: str, array: np.ndarray) -> Tensor:
    """Bytes as they are, anything else as float32; images with their channels in front."""
    what = f"{path}: {name}" if name else str(path)
    if array.ndim < 2 or array.dtype.kind not in "buif":
        raise ValueError(
            f"{what} is {array.dtype} of shape {array.shape}: numbers (N, ...) are wanted, a row a data point"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[1] not in (1, 3) and array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.dtype == np.uint8 or array.dtype == bool:
        return torch.from_numpy(np.ascontiguousarray(array).view(np.uint8))
    x = torch.from_numpy(array.astype(np.float32))
    if not x.isfinite().all():
        row, *place = (~x.isfinite()).nonzero()[0].tolist()
        value = x[(row, *place)].item()
        raise ValueError(f"{what} holds {value} in row {row}, at {tuple(place)}: remove or fill in such rows")
    return x


def _read_csv(path: Path, label: str | None) -> Data:
    """Numbers, a line a data point; the first line may name the columns."""
    rows = _rows(path)
    columns = (
        rows[0] if any(not _is_number(cell) for cell in rows[0]) else [f"column {n + 1}" for n in range(len(rows[0]))]
    )
    body = rows[1:] if columns is rows[0] else rows
    first = len(rows) - len(body) + 1  # the line of the first data point
    for line, row in enumerate(body, first):
        if len(row) != len(columns):
            raise ValueError(f"{path}: line {line} has {len(row)} cells, and the first line {len(columns)}")
    if label is not None and label not in columns:
        raise ValueError(f"{path} has no column {label!r}, but {', '.join(columns)}")
    if label is not None and columns.count(label) > 1:
        raise ValueError(
            f"{path} has {columns.count(label)} columns {label!r}: give the one of the labels another name"
        )
    kept = [n for n, name in enumerate(columns) if name != label]
    x = _numbers(path, [[row[n] for n in kept] for row in body], [columns[n] for n in kept], first)
    found = Data(x, columns=tuple(columns[n] for n in kept))
    if label is None:
        return found
    values = [row[columns.index(label)].strip() for row in body]
    if "" in values:
        raise ValueError(f"{path}: line {first + values.index('')}, column {label!r}: the label is missing")
    return Data(x, *_numbered(values), found.columns)


def _rows(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as text ({error})") from error
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table ({error})") from error
    if not rows:
        raise ValueError(f"{path} is empty")
    return [[cell.strip() for cell in row] for row in rows]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == ""  # a missing value, not a name
    return True


def _numbers(path: Path, cells: Sequence[Sequence[str]], columns: Sequence[str], first: int) -> Tensor:
    try:
        x = torch.from_numpy(np.array(cells, dtype=np.float64).reshape(len(cells), len(columns)).astype(np.float32))
        bad = ~x.isfinite()
    except ValueError:
        bad = torch.tensor([[cell == "" or not _is_number(cell) for cell in row] for row in cells])
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        place = f"line {first + row}, column {columns[column]!r}"
        raise ValueError(
            f"{path}: {place}: {cells[row][column] or 'nothing'!r} is no finite number: remove such lines, or fill them in"
        )
    return x


def _numbered(values: Sequence[str]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels as numbers, and the names they stand for: whole numbers in their order, others in the alphabet's."""
    names = sorted(set(values), key=lambda name: (0, int(name), name) if name.isdecimal() else (1, 0, name))
    number = {name: n for n, name in enumerate(names)}
    return torch.tensor([number[value] for value in values]), tuple(names)


# Writing.


def write(path: PathLike, x: Tensor, *, columns: Sequence[str] = (), num_columns: int | None = None) -> None:
    """Write data as the path's suffix says: .png a grid of images, .csv a table, .npy an array.

    Args:
        path: the file to write; it appears whole or not at all.
        x: data, (N, \\*D); for a grid (N, C, H, W) with C = 1 or 3, levels from 0 to 255; for a table (N, D).
        columns: names of a table's columns, D of them.
        num_columns: images in a row of the grid; without it, as many as make it about square.

    Raises:
        ValueError: for another suffix, or data that do not fit it.
        OSError: if the file cannot be written.

    >>> path = Path(tempfile.mkdtemp()) / "grid.png"
    >>> write(path, torch.zeros(6, 1, 4, 4))
    >>> read_images(path.parent).x.shape  # two rows of three images of 4 x 4, two pixels apart
    torch.Size([1, 1, 10, 16])
    """
    path = Path(path)
    check_suffix(path, x.shape[1:])
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        if path.suffix.lower() == ".png":
            _grid(x, num_columns).save(temporary, format="png")
        elif path.suffix.lower() == ".npy":
            np.save(temporary, x.cpu().numpy())
        else:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerows([columns] if columns else [])
                writer.writerows([f"{value:.7g}" for value in row] for row in x.tolist())
        temporary.replace(path)
    except OSError as error:
        raise OSError(f"{os.fspath(path)!r} could not be written ({error.strerror})") from error
    finally:
        temporary.unlink(missing_ok=True)


def check_suffix(path: PathLike, data_shape: Sequence[int]) -> None:
    """Refuse a file to write whose suffix does not fit the data.

    Args:
        path: the file to be written.
        data_shape: D, the shape of one data point.

    Raises:
        ValueError: naming the suffixes that fit.

    >>> check_suffix("grid.png", (3,))
    Traceback (most recent call last):
    ...
    ValueError: 'grid.png': data of shape (3,) can be written to .csv or .npy
    """
    is_image, is_row = len(data_shape) == 3 and data_shape[0] in (1, 3), len(data_shape) == 1
    fits = [".png"] * is_image + [".csv"] * is_row + [".npy"]
    if Path(path).suffix.lower() not in fits:
        raise ValueError(
            f"{os.fspath(path)!r}: data of shape {tuple(data_shape)} can be written to {' or '.join(fits)}"
        )


def _grid(x: Tensor, num_columns: int | None) -> Any:
    """Images beside and above each other, two white pixels apart."""
    from PIL import Image

    channels, height, width = x.shape[1:]
    columns = num_columns or math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    grid = torch.full((channels, rows * (height + 2) - 2, columns * (width + 2) - 2), 255, dtype=torch.uint8)
    for number, image in enumerate(x.round().clamp(0, 255).to(torch.uint8)):
        top, left = number // columns * (height + 2), number % columns * (width + 2)
        grid[:, top : top + height, left : left + width] = image
    return Image.fromarray(grid.permute(1, 2, 0).squeeze(-1).numpy())
