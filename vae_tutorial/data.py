r"""Data: the exam marks, Fashion-MNIST and MNIST, as tensors with fixed splits.

Three data sets, each returned whole and in its published order, never shuffled:

- **Exam marks** (bundled): the marks of 88 students in five examinations, each out of 100.  Mardia, Kent and Bibby,
  *Multivariate Analysis* (Academic Press, 1979), Table 1.2.1.
- **Fashion-MNIST**: 60,000 training and 10,000 test images of clothes, 28 by 28 grey pixels, ten classes.  Xiao, Rasul
  and Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms* (arXiv:1708.07747,
  2017).  Copyright Zalando SE, MIT licence.  The first 6,000 training and the first 1,000 test images are bundled.
- **MNIST** (not bundled): handwritten digits in the same format.  LeCun, Bottou, Bengio and Haffner, *Gradient-Based
  Learning Applied to Document Recognition* (Proceedings of the IEEE 86, 1998).  Copyright Yann LeCun and Corinna
  Cortes, licence CC BY-SA 3.0.

**Where the full image sets are looked for**, in this order: the `folder` argument; the folder named by the environment
variable `VAE_TUTORIAL_DATA`; `/usr/share/datasets` (Debian's package `dataset-fashion-mnist`); the user's cache.  In
each of them the files may lie in `fashion-mnist/` or `mnist/`, in torchvision's `FashionMNIST/raw/` or `MNIST/raw/`, or
directly, gzip-compressed or not.  If a file is in none of them it is downloaded into the user's cache.

**Integrity** is the SHA-256 of the *decompressed* bytes, because copies of these files differ in their compression.
A download gets its final name only after it has passed, so one that breaks off leaves nothing to be taken for data.

**Grey pixels are not Bernoulli data.**  A pixel of grey level k out of 255 is neither 0 nor 1.  `binarize` draws it as
1 with probability k / 255; a Bernoulli likelihood then has data it can describe.
"""

import gzip
import hashlib
import math
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class ExamMarks(NamedTuple):
    """Marks of N = 88 students in D = 5 subjects."""

    marks: Tensor  # (88, 5) float64, each 0..100
    subjects: tuple[str, ...]  # D names, in the order of the columns


class Images(NamedTuple):
    """N grey images and their classes."""

    images: Tensor  # (N, 1, 28, 28) uint8, 0 (black) .. 255 (white)
    labels: Tensor  # (N,) int64, 0..9
    class_names: tuple[str, ...]  # 10 names, indexed by label


@dataclass(frozen=True)
class _Source:
    """Where one image data set comes from and how its files are recognised."""

    title: str
    subfolders: tuple[str, ...]  # of each folder that is searched; the first also names the cache's own
    urls: tuple[str, ...]  # a file's address is one of these and its name with .gz
    sha256: dict[str, str]  # file name without .gz -> checksum of the decompressed bytes
    class_names: tuple[str, ...]


_SPLITS = {"train": ("train", 60_000, 6_000), "test": ("t10k", 10_000, 1_000)}  # file stem, full size, bundled size

_FASHION_MNIST = _Source(
    title="Fashion-MNIST",
    subfolders=("fashion-mnist", "FashionMNIST/raw", "."),
    urls=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        "fashion-mnist-first-6000-train-images-idx3-ubyte": (
            "6dded81672539b5d148c1a85358069d1808c316dc6f6c0abfd12ba3ced5dd394"
        ),
        "fashion-mnist-first-6000-train-labels-idx1-ubyte": (
            "d7c464914ae4b919728c5c99c3cdde5a0259febf1e99ddc6927a15768731d7dc"
        ),
        "fashion-mnist-first-1000-t10k-images-idx3-ubyte": (
            "7a6d8e07ea021ec5bc73135ebd0a5770799557ec6f8242d8749c4f32a3cf4643"
        ),
        "fashion-mnist-first-1000-t10k-labels-idx1-ubyte": (
            "b40abac7ec8228f434940f579deb7cf7b6e3103b5274cb91d1545771f5ef1c8b"
        ),
    },
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
)

_MNIST = _Source(
    title="MNIST",
    subfolders=("mnist", "MNIST/raw", "."),
    urls=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    class_names=tuple("0123456789"),
)


def exam_marks() -> ExamMarks:
    """Marks of 88 students in mechanics, vectors (closed book), algebra, analysis, statistics (open book), out of 100.

    Returns:
        `marks` (88, 5) float64, one student a row; `subjects`, the five names in the order of the columns.

    Source: Mardia, Kent and Bibby (1979), Table 1.2.1.

    >>> exam_marks().marks.mean(0)
    tensor([38.9545, 50.5909, 50.6023, 46.6818, 42.3068], dtype=torch.float64)
    """
    lines = (_bundled() / "exam_marks.csv").read_text(encoding="utf-8").splitlines()
    marks = np.loadtxt(lines[1:], delimiter=",")
    return ExamMarks(torch.from_numpy(marks), tuple(lines[0].split(",")))


def fashion_mnist(
    split: str = "train", *, full: bool = False, folder: str | os.PathLike[str] | None = None, download: bool = True
) -> Images:
    """Fashion-MNIST: grey images of ten kinds of clothes.

    Args:
        split: "train" or "test".
        full: False gives the bundled images, the first 6,000 of training or the first 1,000 of test, and never needs a
            network.  True gives all 60,000 or 10,000, from the places listed at the head of the module.
        folder: with `full=True`, a folder to search first.
        download: with `full=True`, whether files found nowhere may be downloaded into the user's cache.

    Returns:
        `images` (N, 1, 28, 28) uint8, 0..255; `labels` (N,) int64, 0..9; `class_names`, ten.

    Raises:
        ValueError: an unknown split; `folder` without `full=True`; a file that is truncated, corrupt or another one.
        FileNotFoundError: `folder` or `VAE_TUTORIAL_DATA` is no folder; a file is found nowhere and not downloaded.

    Source: Xiao, Rasul and Vollgraf (2017).

    >>> fashion_mnist("test").images.shape
    torch.Size([1000, 1, 28, 28])
    """
    if full:
        return _find_images(_FASHION_MNIST, split, folder, download)
    if folder is not None:
        raise ValueError("folder is searched for the full set only: add full=True, or leave folder out")
    stem, _, count = _split(split)
    names = [f"fashion-mnist-first-{count}-{stem}-{part}" for part in ("images-idx3-ubyte", "labels-idx1-ubyte")]
    images, labels = (
        _read_idx(_bundled() / f"{name}.gz", shape, _FASHION_MNIST.sha256[name], "Install vae-tutorial again.")
        for name, shape in zip(names, [(count, 28, 28), (count,)], strict=True)
    )
    return Images(images.unsqueeze(1), labels.long(), _FASHION_MNIST.class_names)


def mnist(split: str = "train", *, folder: str | os.PathLike[str] | None = None, download: bool = True) -> Images:
    """MNIST: grey images of handwritten digits, 60,000 for training and 10,000 for test.

    Args:
        split: "train" or "test".
        folder: a folder to search first; the other places are listed at the head of the module.
        download: whether files found nowhere may be downloaded into the user's cache.

    Returns:
        `images` (N, 1, 28, 28) uint8, 0..255; `labels` (N,) int64, 0..9; `class_names`, ten.

    Raises:
        ValueError: an unknown split; a file that is truncated, corrupt or another one.
        FileNotFoundError: `folder` or `VAE_TUTORIAL_DATA` is no folder; a file is found nowhere and not downloaded.

    Source: LeCun, Bottou, Bengio and Haffner (1998).

    >>> mnist("validation")
    Traceback (most recent call last):
    ValueError: split must be "train" or "test", not 'validation'
    """
    return _find_images(_MNIST, split, folder, download)


def binarize(images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw each pixel as 0 or 1, with its grey level as the probability of a 1.

    b ~ Bernoulli(k / 255) for uint8 levels k, b ~ Bernoulli(p) for floats p in [0, 1]; independently for each pixel.
    Levels 0 and 255 (0.0 and 1.0) are never changed.  Call it anew for every batch: each call is a new draw.

    Args:
        images: any shape; uint8 0..255, or floats in [0, 1].
        generator: source of the random numbers, on the device of `images`.

    Returns:
        The shape and device of `images`; uint8, 0 or 1.

    Raises:
        ValueError: another dtype, a float outside [0, 1] or NaN, or a generator on another device.

    Source: Salakhutdinov and Murray, *On the Quantitative Analysis of Deep Belief Networks* (ICML 2008).

    >>> binarize(torch.tensor([0, 255, 0, 255], dtype=torch.uint8))
    tensor([0, 1, 0, 1], dtype=torch.uint8)
    """
    _check_grey(images, generator)
    if images.dtype == torch.uint8:  # r uniform on 0..254, so that P(r < k) = k / 255, exactly and without floats
        r = torch.randint(255, images.shape, generator=generator, dtype=torch.uint8, device=images.device)
    else:  # half precision has too few levels for a uniform number: draw in float32 at least
        dtype = torch.promote_types(images.dtype, torch.float32)
        r = torch.rand(images.shape, generator=generator, dtype=dtype, device=images.device)
    return (r < images).to(torch.uint8)


def _check_grey(images: Tensor, generator: torch.Generator | None) -> None:
    """Refuse what `binarize` cannot read as grey levels."""
    if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a tensor of uint8 (0..255) or of floats in [0, 1], not {found}")
    if images.is_floating_point() and not ((images >= 0) & (images <= 1)).all():  # a NaN fails both comparisons
        low, high = (images.min().item(), images.max().item())
        raise ValueError(f"images of dtype {images.dtype} must lie in [0, 1]; found {low:g} to {high:g}")
    if generator is not None and generator.device.type != images.device.type:
        raise ValueError(f"generator is on {generator.device}, images are on {images.device}: use one device")


# How the files are found, fetched and read.


def _bundled() -> Traversable:
    return resources.files("vae_tutorial") / "datasets"


def _split(split: str) -> tuple[str, int, int]:
    """The stem of the split's files, its full size and its bundled size."""
    if split not in _SPLITS:
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    return _SPLITS[split]


def _find_images(source: _Source, split: str, folder: str | os.PathLike[str] | None, download: bool) -> Images:
    """The full set of one split, from the first place that has it."""
    stem, count, _ = _split(split)
    images = _find(source, f"{stem}-images-idx3-ubyte", (count, 28, 28), folder, download)
    labels = _find(source, f"{stem}-labels-idx1-ubyte", (count,), folder, download)
    return Images(images.unsqueeze(1), labels.long(), source.class_names)


def _find(
    source: _Source, name: str, shape: tuple[int, ...], folder: str | os.PathLike[str] | None, download: bool
) -> Tensor:
    """One file's array, from the first folder that has the file, else downloaded."""
    places = []
    for place in _folders(source, folder):
        for file in (place / f"{name}.gz", place / name):
            if file.is_file():
                remedy = f"Delete it, or put there the {source.title} file {source.urls[0]}{name}.gz"
                return _read_idx(file, shape, source.sha256[name], remedy)
        places.append(str(place))
    if download:
        return _download(source, name, shape)
    raise FileNotFoundError(
        f"{name}.gz of {source.title} is in none of {', '.join(places)}. "
        "Pass download=True, or the folder that has it as folder=..., or name that folder in VAE_TUTORIAL_DATA"
    )


def _folders(source: _Source, folder: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folders to search, first to last; a generator, so that pooch is imported only if it comes to the cache."""
    for setting, value in (("folder", folder), ("VAE_TUTORIAL_DATA", os.environ.get("VAE_TUTORIAL_DATA") or None)):
        if value is None:
            continue
        if not Path(value).is_dir():
            raise FileNotFoundError(
                f"{setting} names {os.fspath(value)!r}, which is not a folder: correct it or unset it"
            )
        yield from (Path(value) / subfolder for subfolder in source.subfolders)
    yield Path("/usr/share/datasets") / source.subfolders[0]
    yield _cache(source)


def _cache(source: _Source) -> Path:
    import pooch  # here, because `import vae_tutorial.data` should cost nothing

    return Path(pooch.os_cache("vae-tutorial")) / source.subfolders[0]


def _download(source: _Source, name: str, shape: tuple[int, ...]) -> Tensor:
    """Fetch one file into the user's cache: into a scratch folder first, and to its place only once it is verified."""
    cache, failures = _cache(source), []
    cache.mkdir(parents=True, exist_ok=True)
    for url in source.urls:
        with tempfile.TemporaryDirectory(dir=cache, prefix="unfinished-") as scratch:
            part = Path(scratch) / f"{name}.gz"
            try:
                _fetch(f"{url}{name}.gz", part)
                array = _read_idx(part, shape, source.sha256[name], "")
                part.replace(cache / part.name)  # same file system, so atomic
                return array
            except (OSError, ValueError) as error:
                failures.append(f"{url}{name}.gz: {error}")
    raise FileNotFoundError(
        f"{name}.gz of {source.title} could not be downloaded ({'; '.join(failures)}). "
        "Call again with a network, or fetch it by hand and pass its folder as folder=... or in VAE_TUTORIAL_DATA"
    )


def _fetch(url: str, file: Path) -> None:
    """Download `url` to `file`, with a progress bar that names it."""
    import pooch
    from tqdm.auto import tqdm

    bar = tqdm(desc=file.name, unit="B", unit_scale=True)
    pooch.HTTPDownloader(progressbar=bar)(url, file, None)


def _read_idx(file: Traversable, shape: tuple[int, ...], sha256: str, remedy: str) -> Tensor:
    """The array of bytes in an idx file, gzip-compressed or not: (*shape) uint8.

    An idx file is two zero bytes, the code of the element type (8: unsigned byte), the number of axes, each axis's
    length as a big-endian 32-bit integer, then the elements in row-major order.
    """
    try:
        content = _decompress(file.read_bytes())
        _check_idx(content, shape, sha256)
    except ValueError as error:
        raise ValueError(f"{file}: {error}. {remedy}".rstrip()) from error
    return torch.frombuffer(content, dtype=torch.uint8, offset=4 + 4 * len(shape)).view(shape)


def _decompress(raw: bytes) -> bytearray:
    """The content of a gzip file, or the bytes as they are; a bytearray, because torch wants writable memory."""
    if not raw.startswith(b"\x1f\x8b"):
        return bytearray(raw)
    try:
        return bytearray(gzip.decompress(raw))
    except EOFError as error:
        raise ValueError("truncated, the compressed data ends early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"corrupt, it does not decompress ({error})") from error


def _check_idx(content: bytearray, shape: tuple[int, ...], sha256: str) -> None:
    """Say what is wrong with an idx file, coarsest first."""
    start = 4 + 4 * len(shape)
    magic = bytes([0, 0, 8, len(shape)])
    if len(content) < start:
        raise ValueError(f"truncated, {len(content)} bytes are too few for the header of an idx file")
    if content[:4] != magic:
        raise ValueError(
            f"not an idx file of bytes with {len(shape)} axes: it begins {content[:4].hex()}, not {magic.hex()}"
        )
    found = struct.unpack(f">{len(shape)}I", content[4:start])
    if found != shape:
        raise ValueError(f"wrong shape, its header says {found}, expected {shape}")
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise ValueError(
            f"{'truncated' if len(content) < expected else 'too long'}, {len(content)} bytes of {expected}"
        )
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"not the file it should be, its decompressed bytes have SHA-256 {digest}, expected {sha256}")
