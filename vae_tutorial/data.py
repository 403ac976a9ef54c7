r"""The data: exam marks, Fashion-MNIST and MNIST, as tensors with fixed splits.

Three data sets, each returned whole and in its published order, never shuffled:

- **Exam marks** (bundled): the marks of 88 students in five examinations, each out of 100. K. V. Mardia, J. T. Kent and
  J. M. Bibby, *Multivariate Analysis*, Academic Press, 1979, Table 1.2.1.
- **Fashion-MNIST**: 60,000 training and 10,000 test images of clothes, 28 by 28 grey pixels, ten classes. H. Xiao,
  K. Rasul and R. Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms*,
  arXiv:1708.07747, 2017. Copyright Zalando SE, MIT licence. The first 6,000 training images and the first 1,000 test
  images are bundled, with their labels.
- **MNIST** (not bundled): handwritten digits in the same format. Y. LeCun, L. Bottou, Y. Bengio and P. Haffner,
  *Gradient-Based Learning Applied to Document Recognition*, Proceedings of the IEEE 86, 1998. Copyright Yann LeCun and
  Corinna Cortes, licence CC BY-SA 3.0.

**Where the full image sets are searched**, in this order: the argument ``folder``; the folder named by the environment
variable ``VAE_TUTORIAL_DATA``; ``/usr/share/datasets`` (Debian's package ``dataset-fashion-mnist``); the user's cache. In
the first two the files may lie in ``fashion-mnist`` or ``mnist``, in torchvision's ``FashionMNIST/raw`` or ``MNIST/raw``,
or directly; everywhere they may be gzip-compressed or plain. A file found nowhere is downloaded into the user's cache.

**A file is known by the SHA-256 of its decompressed bytes**, because copies of these files differ in their compression.
A download gets its final name only after this check, so one that breaks off leaves nothing to be taken for data.

**Grey pixels are not Bernoulli data.** A pixel of level :math:`k` out of 255 is neither 0 nor 1. ``binarize`` draws it as
1 with probability :math:`k / 255`, and a Bernoulli likelihood then has data that it can describe.
"""

import gzip
import hashlib
import math
import os
import struct
import tempfile
import warnings
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

Folder = str | os.PathLike[str] | None


class ExamMarks(NamedTuple):
    """The marks of 88 students in five subjects."""

    marks: Tensor  # (88, 5) float64, 0..100
    subjects: tuple[str, ...]  # the columns


class Images(NamedTuple):
    """N grey images and their classes."""

    images: Tensor  # (N, 1, 28, 28) uint8, 0 (black) .. 255 (white)
    labels: Tensor  # (N,) int64, 0..9
    class_names: tuple[str, ...]  # indexed by label


def exam_marks() -> ExamMarks:
    """Marks of 88 students in mechanics and vectors (closed book), algebra, analysis and statistics (open book).

    Returns:
        ``marks`` (88, 5) float64, one row a student, each mark out of 100; ``subjects``, the names of the columns.

    Source: Mardia, Kent and Bibby (1979), Table 1.2.1.

    >>> exam_marks().marks.mean(0)
    tensor([38.9545, 50.5909, 50.6023, 46.6818, 42.3068], dtype=torch.float64)
    """
    lines = (_bundled() / "exam_marks.csv").read_text(encoding="utf-8").splitlines()
    marks = np.loadtxt(lines[1:], delimiter=",")
    return ExamMarks(torch.from_numpy(marks), tuple(lines[0].split(",")))


def fashion_mnist(split: str = "train", *, full: bool = False, folder: Folder = None, download: bool = True) -> Images:
    """Fashion-MNIST: grey images of ten kinds of clothes.

    Args:
        split: "train" or "test".
        full: False gives the bundled images, the first 6,000 of training or the first 1,000 of test, and never needs a
            network. True gives all 60,000 or 10,000, from the places listed at the head of this module.
        folder: with ``full=True``, a folder to search first.
        download: with ``full=True``, whether a file found nowhere may be downloaded.

    Returns:
        ``images`` (N, 1, 28, 28) uint8, 0..255; ``labels`` (N,) int64, 0..9; ``class_names``, ten of them.

    Raises:
        ValueError: an unknown split, ``folder`` without ``full=True``, or a file that is damaged or another one.
        FileNotFoundError: a folder that does not exist, or a file that is found nowhere and not downloaded.

    Source: Xiao, Rasul and Vollgraf (2017).

    >>> fashion_mnist("test").images.shape
    torch.Size([1000, 1, 28, 28])
    """
    if full:
        return _load(_FASHION_MNIST, split, folder, download)
    if folder is not None:
        raise ValueError("folder is searched for the full set only: add full=True, or leave folder out")
    stem, _, n = _split(split)
    images = _read_bundled(f"fashion-mnist-{n}-{stem}-images-idx3", (n, 28, 28))
    labels = _read_bundled(f"fashion-mnist-{n}-{stem}-labels-idx1", (n,))
    return Images(images.unsqueeze(1), labels.long(), _FASHION_MNIST.class_names)


def mnist(split: str = "train", *, folder: Folder = None, download: bool = True) -> Images:
    """MNIST: grey images of handwritten digits, 60,000 for training and 10,000 for test.

    Args:
        split: "train" or "test".
        folder: a folder to search first; the head of this module lists the others.
        download: whether a file found nowhere may be downloaded.

    Returns:
        ``images`` (N, 1, 28, 28) uint8, 0..255; ``labels`` (N,) int64, 0..9; ``class_names``, "0" to "9".

    Raises:
        ValueError: an unknown split, or a file that is damaged or another one.
        FileNotFoundError: a folder that does not exist, or a file that is found nowhere and not downloaded.

    Source: LeCun, Bottou, Bengio and Haffner (1998).

    >>> mnist("validation")
    Traceback (most recent call last):
    ValueError: split must be "train" or "test", not 'validation'
    """
    return _load(_MNIST, split, folder, download)


def binarize(images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Draw every pixel as 0 or 1, independently, with its grey level as the probability of a 1.

    .. math:: b_d \sim \operatorname{Bernoulli}(k_d / 255)
        \quad\text{for levels } k_d \in \{0, \dots, 255\}, \qquad
        b_d \sim \operatorname{Bernoulli}(p_d) \quad\text{for real } p_d \in [0, 1]

    Black stays 0 and white stays 1. Each call is a new draw, so call it for each batch.

    Args:
        images: any shape; uint8, 0..255, or floats in [0, 1].
        generator: the source of the random numbers, on the device of ``images``.

    Returns:
        uint8, 0 or 1; the shape and the device of ``images``.

    Raises:
        ValueError: another dtype, a float that is NaN or outside [0, 1], or a generator on another device.

    Source: R. Salakhutdinov and I. Murray, *On the Quantitative Analysis of Deep Belief Networks*, ICML 2008.

    >>> binarize(torch.tensor([0, 255, 0, 255], dtype=torch.uint8))
    tensor([0, 1, 0, 1], dtype=torch.uint8)
    """
    _check_grey(images, generator)
    if images.dtype == torch.uint8 and images.device.type == "cpu" and images.numel() and images.max() == 1:
        warnings.warn(  # on another device the look would make it wait
            "images are bytes of which none is above 1: read as levels from 0 to 255 they are almost black. If they are "
            "zeros and ones already, there is nothing to binarize",
            stacklevel=2,
        )
    if images.dtype == torch.uint8:  # r is uniform on 0..254, so P(r < k) = k / 255, without any float
        r = torch.randint(255, images.shape, generator=generator, dtype=torch.uint8, device=images.device)
    else:  # half precision has too few numbers in [0, 1) for r: draw float32 at least
        dtype = torch.promote_types(images.dtype, torch.float32)
        r = torch.rand(images.shape, generator=generator, dtype=dtype, device=images.device)
    return (r < images).to(torch.uint8)


def _check_grey(images: Tensor, generator: torch.Generator | None) -> None:
    """Refuse what ``binarize`` cannot read as grey levels."""
    if not isinstance(images, Tensor) or not (images.dtype == torch.uint8 or images.is_floating_point()):
        found = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a tensor of uint8 (0..255) or of floats in [0, 1], not {found}")
    if images.is_floating_point() and not ((images >= 0) & (images <= 1)).all():  # NaN fails both comparisons
        low, high = images.min().item(), images.max().item()
        raise ValueError(f"images of floats must lie in [0, 1], but run from {low:g} to {high:g}: divide levels by 255")
    if generator is not None and generator.device.type != images.device.type:
        raise ValueError(f"generator is on {generator.device} and images on {images.device}: put both on one device")


# The published files: their names, sizes, checksums and addresses.


@dataclass(frozen=True)
class _Source:
    """One image data set as it is published."""

    title: str
    subfolders: tuple[
        str, ...
    ]  # of a searched folder; only the first is looked at below the system's folder and the cache
    addresses: tuple[str, ...]  # of the folders on the net
    sha256: dict[str, str]  # file name -> checksum of the decompressed bytes
    class_names: tuple[str, ...]


_SPLITS = {"train": ("train", 60_000, 6_000), "test": ("t10k", 10_000, 1_000)}  # file stem, full size, bundled size

_FASHION_MNIST = _Source(
    title="Fashion-MNIST",
    subfolders=("fashion-mnist", "FashionMNIST/raw", "."),
    addresses=(
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),
    sha256={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
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
    addresses=(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    sha256={
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    class_names=tuple("0123456789"),
)

_BUNDLED_SHA256 = {
    "fashion-mnist-6000-train-images-idx3": "6dded81672539b5d148c1a85358069d1808c316dc6f6c0abfd12ba3ced5dd394",
    "fashion-mnist-6000-train-labels-idx1": "d7c464914ae4b919728c5c99c3cdde5a0259febf1e99ddc6927a15768731d7dc",
    "fashion-mnist-1000-t10k-images-idx3": "7a6d8e07ea021ec5bc73135ebd0a5770799557ec6f8242d8749c4f32a3cf4643",
    "fashion-mnist-1000-t10k-labels-idx1": "b40abac7ec8228f434940f579deb7cf7b6e3103b5274cb91d1545771f5ef1c8b",
}

_SYSTEM = Path("/usr/share/datasets")


# How a file is found, or fetched.


def _split(split: str) -> tuple[str, int, int]:
    if split not in _SPLITS:
        raise ValueError(f'split must be "train" or "test", not {split!r}')
    return _SPLITS[split]


def _bundled() -> Traversable:
    return resources.files("vae_tutorial") / "datasets"


def _read_bundled(name: str, shape: tuple[int, ...]) -> Tensor:
    return _read_idx(_bundled() / f"{name}.gz", shape, _BUNDLED_SHA256[name], "Install vae-tutorial again")


def _load(source: _Source, split: str, folder: Folder, download: bool) -> Images:
    """The full set of one split."""
    stem, n, _ = _split(split)
    images = _find(source, f"{stem}-images-idx3-ubyte", (n, 28, 28), folder, download)
    labels = _find(source, f"{stem}-labels-idx1-ubyte", (n,), folder, download)
    return Images(images.unsqueeze(1), labels.long(), source.class_names)


def _find(source: _Source, name: str, shape: tuple[int, ...], folder: Folder, download: bool) -> Tensor:
    """The content of one file, from the first folder that has it, else from the net."""
    searched = []
    for place in _places(source, folder):
        for file in (place / f"{name}.gz", place / name):
            if file.is_file():
                remedy = f"Put {source.addresses[0]}/{name}.gz in its place, or move it away to have it downloaded"
                return _read_idx(file, shape, source.sha256[name], remedy)
        searched.append(str(place))
    if download:
        return _download(source, name, shape)
    raise FileNotFoundError(
        f"{name}.gz of {source.title} is in none of {', '.join(searched)}. Allow the download (download=True), "
        "or name the folder that has it in the argument folder or in VAE_TUTORIAL_DATA"
    )


def _places(source: _Source, folder: Folder) -> Iterator[Path]:
    """The folders to search, in order. The cache comes last, so that pooch is imported only when it is needed."""
    for name, root in (("folder", folder), ("VAE_TUTORIAL_DATA", os.environ.get("VAE_TUTORIAL_DATA") or None)):
        if root is None:
            continue
        if not Path(root).is_dir():
            raise FileNotFoundError(
                f"{name} is {os.fspath(root)!r}, and there is no such folder: correct it or unset it"
            )
        yield from (Path(root) / subfolder for subfolder in source.subfolders)
    yield _SYSTEM / source.subfolders[0]
    yield _cache() / source.subfolders[0]


def _cache() -> Path:
    import pooch

    return Path(pooch.os_cache("vae-tutorial"))


def _download(source: _Source, name: str, shape: tuple[int, ...]) -> Tensor:
    """Fetch a file into the user's cache: into a scratch folder first, to its place when it has been read and verified."""
    cache, failures = _cache() / source.subfolders[0], []
    cache.mkdir(parents=True, exist_ok=True)
    for url in (f"{address}/{name}.gz" for address in source.addresses):
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=cache) as scratch:
            part = Path(scratch) / f"{name}.gz"
            try:
                _fetch(url, part)
                content = _read_idx(part, shape, source.sha256[name], "")
                part.replace(cache / part.name)  # within one file system: atomic
                return content
            except (OSError, ValueError) as error:
                failures.append(f"{url}: {error}")
    raise FileNotFoundError(
        f"{name}.gz of {source.title} is not on this machine and could not be downloaded. {'; '.join(failures)}. Call again "
        "with a network, or name a folder that has the file in the argument folder or in VAE_TUTORIAL_DATA"
    )


def _fetch(url: str, file: Path) -> None:
    """Download with a progress bar."""
    import pooch
    from tqdm import tqdm

    # pooch takes a bar without a total for no bar; it replaces this one by the true number of bytes.
    with tqdm(desc=file.name, total=1, unit="B", unit_scale=True) as bar:
        pooch.HTTPDownloader(progressbar=bar)(url, file, None)


# How a file is read.


def _read_idx(file: Traversable, shape: tuple[int, ...], sha256: str, remedy: str) -> Tensor:
    """The array in an idx file of bytes, compressed or plain: uint8 of the given shape."""
    try:
        content = _decompress(file.read_bytes())
        _check_idx(content, shape, sha256)
    except ValueError as error:
        raise ValueError(f"{file} {error}. {remedy}".rstrip(". ")) from error
    return torch.frombuffer(content, dtype=torch.uint8, offset=_header_size(shape)).view(shape)


def _decompress(raw: bytes) -> bytearray:
    """What a gzip file holds, or the bytes as they are. A bytearray, because torch wants memory it may write to."""
    if not raw.startswith(b"\x1f\x8b"):
        return bytearray(raw)
    try:
        return bytearray(gzip.decompress(raw))
    except EOFError as error:
        raise ValueError("is truncated: the compressed data end early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"is corrupt: it does not decompress ({error})") from error


def _header_size(shape: tuple[int, ...]) -> int:
    return 4 + 4 * len(shape)


def _check_idx(content: bytearray, shape: tuple[int, ...], sha256: str) -> None:
    """Compare an idx file with what it should be, coarsest first, so that the message says the most.

    The format: two zero bytes, the code of the element type (8 for bytes), the number of axes; the length of each axis,
    a big-endian 32-bit integer; the elements, last axis fastest.
    """
    start, magic = _header_size(shape), bytes([0, 0, 8, len(shape)])
    if content[:4] != magic[: len(content)]:
        raise ValueError(f"has the wrong magic number: it begins with {content[:4].hex()} instead of {magic.hex()}")
    if len(content) < start:
        raise ValueError(f"is truncated: it has {len(content)} bytes, fewer than its header's {start}")
    if (found := struct.unpack(f">{len(shape)}I", content[4:start])) != shape:
        raise ValueError(f"has the wrong size: its header says {found} instead of {shape}")
    if (missing := start + math.prod(shape) - len(content)) != 0:
        raise ValueError(
            f"is truncated: {missing} bytes are missing" if missing > 0 else f"has {-missing} bytes too many"
        )
    if (digest := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"has other content than it should: SHA-256 (decompressed) {digest} instead of {sha256}")
