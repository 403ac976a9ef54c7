"""data: the bundled sets against their published facts, every way a file can be wrong, downloads that fail, binarize."""

import dataclasses
import gzip
import hashlib
import json
import os
import struct
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vae_tutorial import data

SIZES = {"train": ("train", 12, 6), "test": ("t10k", 5, 3)}  # a published set small enough to damage in every way


# The bundled data


def test_exam_marks_have_the_published_statistics() -> None:
    marks, subjects = data.exam_marks()
    assert subjects == ("mechanics", "vectors", "algebra", "analysis", "statistics")
    assert marks.shape == (88, 5)
    assert marks.dtype == torch.float64
    assert torch.equal(marks, marks.round())
    assert marks.min() >= 0
    assert marks.max() <= 100
    means = torch.tensor([38.955, 50.591, 50.602, 46.682, 42.307], dtype=torch.float64)
    sds = torch.tensor([17.486, 13.147, 10.625, 14.845, 17.256], dtype=torch.float64)
    torch.testing.assert_close(marks.mean(0), means, rtol=0, atol=5.01e-4)
    torch.testing.assert_close(marks.std(0), sds, rtol=0, atol=5.01e-4)
    eigenvalues = torch.linalg.eigvalsh(torch.cov(marks.T))
    assert round((100 * eigenvalues[-1] / eigenvalues.sum()).item(), 1) == 61.9


def test_exam_marks_keep_the_rows_together() -> None:
    """Means survive a shuffled column; the first and the last student do not."""
    marks, _ = data.exam_marks()
    assert marks[0].tolist() == [77, 82, 67, 67, 81]
    assert marks[-1].tolist() == [0, 40, 21, 9, 14]


def test_exam_marks_are_a_fresh_tensor_each_time() -> None:
    data.exam_marks().marks.zero_()
    assert data.exam_marks().marks.sum() > 0


@pytest.mark.parametrize(
    ("split", "counts"),
    [
        ("train", [560, 643, 608, 612, 584, 594, 590, 617, 590, 602]),
        ("test", [107, 105, 111, 93, 115, 87, 97, 95, 95, 95]),
    ],
)
def test_bundled_fashion_mnist(split: str, counts: list[int]) -> None:
    images, labels, class_names = data.fashion_mnist(split)
    assert images.shape == (sum(counts), 1, 28, 28)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert (images.min().item(), images.max().item()) == (0, 255)
    assert labels.shape == (sum(counts),)
    assert labels.dtype == torch.int64
    assert labels.bincount().tolist() == counts
    assert len(class_names) == 10


def test_bundled_fashion_mnist_is_in_its_published_order() -> None:
    names = data.fashion_mnist("train").class_names
    first = [names[label] for label in data.fashion_mnist("train").labels[:4]]
    assert first == ["Ankle boot", "T-shirt/top", "T-shirt/top", "Dress"]
    first = [names[label] for label in data.fashion_mnist("test").labels[:4]]
    assert first == ["Ankle boot", "Pullover", "Trouser", "Trouser"]


def test_fashion_mnist_images_are_upright_and_belong_to_their_labels() -> None:
    """Trousers leave the gap between the legs dark at the bottom and not at the top; bags fill the middle."""
    images, labels, names = data.fashion_mnist("train")
    trouser = images[labels == names.index("Trouser")].double().mean(0)[0]  # (28, 28)
    gap, leg = trouser[20:, 13:15].mean(), trouser[20:, 9:12].mean()
    waist = trouser[1:4, 13:15].mean()
    assert gap < 0.6 * leg
    assert gap < 0.6 * waist


def test_default_split_is_the_bundled_training_set() -> None:
    assert torch.equal(data.fashion_mnist().labels, data.fashion_mnist("train", full=False).labels)


FULL = [
    (data.fashion_mnist, {"full": True}, "train", [6000] * 10),
    (data.fashion_mnist, {"full": True}, "test", [1000] * 10),
    (data.mnist, {}, "train", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]),
    (data.mnist, {}, "test", [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]),
]


def load_or_skip(load: Callable[..., data.Images], split: str, **kwargs: bool) -> data.Images:
    try:
        return load(split, download=False, **kwargs)
    except FileNotFoundError as error:
        pytest.skip(f"the full set is not on this machine, and tests download nothing: {error}")


@pytest.mark.parametrize(("load", "kwargs", "split", "counts"), FULL)
def test_full_sets_have_the_published_class_counts(
    load: Callable[..., data.Images], kwargs: dict[str, bool], split: str, counts: list[int]
) -> None:
    images, labels, _ = load_or_skip(load, split, **kwargs)
    assert images.shape == (sum(counts), 1, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == counts


@pytest.mark.parametrize("split", ["train", "test"])
def test_bundled_images_are_the_first_of_the_full_set(split: str) -> None:
    full = load_or_skip(data.fashion_mnist, split, full=True)
    images, labels, class_names = data.fashion_mnist(split)
    assert torch.equal(images, full.images[: len(images)])
    assert torch.equal(labels, full.labels[: len(labels)])
    assert class_names == full.class_names


def test_importing_and_reading_bundled_data_needs_no_network_and_nothing_heavy() -> None:
    code = """
import socket, sys
def refuse(*args, **kwargs): raise AssertionError("network")
socket.socket.connect = refuse
from vae_tutorial import data
data.exam_marks(), data.fashion_mnist("test")
print(sorted({"pooch", "requests", "tqdm", "matplotlib", "pandas"} & set(sys.modules)))
"""
    lazy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=True)
    torch_alone = (
        "import torch, sys; print(sorted({'pooch', 'requests', 'tqdm', 'matplotlib', 'pandas'} & set(sys.modules)))"
    )
    base = subprocess.run([sys.executable, "-c", torch_alone], capture_output=True, text=True, timeout=300, check=True)
    assert lazy.stdout == base.stdout


# A small published set, in folders and behind a server of our own


def idx(array: Tensor) -> bytes:
    """The idx file of a uint8 array, written independently of the reader."""
    return struct.pack(f">HBB{array.dim()}I", 0, 8, array.dim(), *array.shape) + array.numpy().tobytes()


@dataclasses.dataclass
class Small:
    """What the small set contains, and where the test's machine keeps things."""

    files: dict[str, bytes]  # name -> decompressed content
    images: dict[str, Tensor]  # split -> (N, 28, 28)
    labels: dict[str, Tensor]
    cache: Path
    system: Path

    def write(self, folder: Path, *, compress: bool = True) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.files.items():
            if compress:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content))
            else:
                (folder / name).write_bytes(content)
        return folder


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    """Both image sets replaced by one of 12 + 5 images; an empty cache, an empty system folder, and no network."""
    generator = torch.Generator().manual_seed(0)
    files, images, labels = {}, {}, {}
    for split, (stem, n, _) in SIZES.items():
        images[split] = torch.randint(256, (n, 28, 28), generator=generator, dtype=torch.uint8)
        labels[split] = torch.randint(10, (n,), generator=generator, dtype=torch.uint8)
        files[f"{stem}-images-idx3-ubyte"] = idx(images[split])
        files[f"{stem}-labels-idx1-ubyte"] = idx(labels[split])
    sha256 = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    nowhere = ("http://127.0.0.1:9/nothing",)  # the discard port: refused at once
    for source in ("_MNIST", "_FASHION_MNIST"):
        replaced = dataclasses.replace(getattr(data, source), sha256=sha256, addresses=nowhere)
        monkeypatch.setattr(data, source, replaced)
    monkeypatch.setattr(data, "_SPLITS", SIZES)
    monkeypatch.setattr(data, "_SYSTEM", tmp_path / "system")
    monkeypatch.setattr(data, "_cache", lambda: tmp_path / "cache")
    monkeypatch.delenv("VAE_TUTORIAL_DATA", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Small(files, images, labels, tmp_path / "cache", tmp_path / "system")


def assert_is(found: data.Images, small: Small, split: str) -> None:
    assert torch.equal(found.images[:, 0], small.images[split])
    assert torch.equal(found.labels, small.labels[split].long())
    assert found.images.shape == (SIZES[split][1], 1, 28, 28)
    assert (found.images.dtype, found.labels.dtype) == (torch.uint8, torch.int64)
    assert len(found.class_names) == 10


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("subfolder", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_folder_is_read_in_every_layout(
    small: Small, tmp_path: Path, split: str, subfolder: str, compress: bool
) -> None:
    small.write(tmp_path / "mine" / subfolder, compress=compress)
    assert_is(data.mnist(split, folder=tmp_path / "mine", download=False), small, split)
    assert_is(data.mnist(split, folder=str(tmp_path / "mine"), download=False), small, split)


@pytest.mark.parametrize("subfolder", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_in_full_is_read_from_a_folder(small: Small, tmp_path: Path, subfolder: str) -> None:
    small.write(tmp_path / "mine" / subfolder)
    assert_is(data.fashion_mnist("test", full=True, folder=tmp_path / "mine", download=False), small, "test")


def test_the_places_are_searched_in_the_promised_order(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place holds a damaged file with its own mark; whichever is read first complains. Remove it, ask again."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "env").mkdir()
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path / "env"))
    places = [tmp_path / "mine", tmp_path / "env", small.system / "mnist", small.cache / "mnist"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        (place / "train-images-idx3-ubyte.gz").write_bytes(b"damaged")
    for place in places:
        file = place / "train-images-idx3-ubyte.gz"
        with pytest.raises(ValueError, match="magic") as caught:
            data.mnist(folder=tmp_path / "mine")
        assert str(caught.value).startswith(str(file))
        file.unlink()
    with pytest.raises(FileNotFoundError):
        data.mnist(folder=tmp_path / "mine")


def test_the_two_sets_do_not_mix_below_one_folder(small: Small, tmp_path: Path) -> None:
    """Their files have the same names, so each set is found in its own subfolder first."""
    small.write(tmp_path / "both" / "mnist")
    with pytest.raises(FileNotFoundError):
        data.fashion_mnist(full=True, folder=tmp_path / "both", download=False)
    (tmp_path / "both" / "train-images-idx3-ubyte.gz").write_bytes(b"of another set")
    assert_is(data.mnist(folder=tmp_path / "both", download=False), small, "train")


@pytest.mark.skipif(not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="needs the full Fashion-MNIST files")
def test_fashion_mnist_is_not_taken_for_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same names, same sizes, same format: only the checksum tells them apart."""
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz has other content than it should"):
        data.mnist("test", folder="/usr/share/datasets/fashion-mnist", download=False)


# Bad arguments and missing files


@pytest.mark.parametrize("split", ["validation", "Train", "", None, 0])
@pytest.mark.parametrize(
    "load",
    [data.fashion_mnist, lambda split: data.fashion_mnist(split, full=True), data.mnist],
    ids=["part", "full", "mnist"],
)
def test_unknown_split_is_refused(load: Callable[[object], data.Images], split: object) -> None:
    with pytest.raises(ValueError, match=f'split must be "train" or "test", not {split!r}'):
        load(split)


def test_folder_without_full_is_refused(tmp_path: Path) -> None:
    """Silence would hand the reader 6,000 images where 60,000 were meant."""
    with pytest.raises(ValueError, match="full=True"):
        data.fashion_mnist(folder=tmp_path)


def test_missing_folder_is_named(small: Small, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^folder is .*nowhere.*no such folder"):
        data.mnist(folder=tmp_path / "nowhere")


def test_missing_environment_folder_is_named(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small.write(small.cache / "mnist")  # a typing error must not go unnoticed because the cache has the files
    monkeypatch.setenv("VAE_TUTORIAL_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"^VAE_TUTORIAL_DATA is .*nowhere.*no such folder"):
        data.mnist()


def test_empty_environment_variable_counts_as_unset(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not as the current folder, which an empty path would mean."""
    small.write(tmp_path / "current")
    monkeypatch.chdir(tmp_path / "current")
    monkeypatch.setenv("VAE_TUTORIAL_DATA", "")
    with pytest.raises(FileNotFoundError, match="is in none of"):
        data.mnist(download=False)


@pytest.mark.parametrize("missing", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
def test_missing_file_names_itself_and_the_places(small: Small, tmp_path: Path, missing: str) -> None:
    folder = small.write(tmp_path / "mine")
    (folder / f"{missing}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"{missing}.gz of MNIST") as caught:
        data.mnist(folder=folder, download=False)
    for place in (folder, folder / "mnist", small.system / "mnist", small.cache / "mnist"):
        assert str(place) in str(caught.value)
    for advice in ("download=True", "argument folder", "VAE_TUTORIAL_DATA"):
        assert advice in str(caught.value)


# Damaged files

PIXELS = idx(torch.zeros(12, 28, 28, dtype=torch.uint8))
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda raw: b"", "is truncated: it has 0 bytes"),
    "header only in part": (lambda raw: raw[:10], "is truncated: it has 10 bytes, fewer than its header's 16"),
    "last byte missing": (lambda raw: raw[:-1], "is truncated: 1 bytes are missing"),
    "one byte more": (lambda raw: raw + b"\0", "has 1 bytes too many"),
    "a web page": (lambda raw: b"<!DOCTYPE html><html>not found</html>", "wrong magic number: it begins with 3c21444f"),
    "floats": (
        lambda raw: raw[:2] + b"\x0d" + raw[3:],
        "wrong magic number: it begins with 00000d03 instead of 00000803",
    ),
    "labels": (lambda raw: idx(torch.zeros(12, dtype=torch.uint8)), "wrong magic number: it begins with 00000801"),
    "fewer images": (
        lambda raw: idx(torch.zeros(11, 28, 28, dtype=torch.uint8)),
        r"wrong size: .*\(11, 28, 28\) instead",
    ),
    "other sides": (
        lambda raw: idx(torch.zeros(12, 32, 32, dtype=torch.uint8)),
        r"wrong size: .*\(12, 32, 32\) instead",
    ),
    "little-endian": (lambda raw: raw[:4] + struct.pack("<3I", 12, 28, 28) + raw[16:], "wrong size"),
    "other pixels": (lambda raw: PIXELS, "has other content than it should: SHA-256"),
    "one bit flipped": (lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]), "has other content than it should: SHA-256"),
}


@pytest.mark.parametrize("compress", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_refused_with_its_name_and_a_remedy(
    small: Small, tmp_path: Path, damage: str, compress: bool
) -> None:
    folder = small.write(tmp_path / "mine", compress=compress)
    spoil, message = DAMAGE[damage]
    name = "train-images-idx3-ubyte"
    file = folder / (f"{name}.gz" if compress else name)
    raw = spoil(small.files[name])
    file.write_bytes(gzip.compress(raw) if compress else raw)
    with pytest.raises(ValueError, match=message) as caught:
        data.mnist(folder=folder)
    assert str(caught.value).startswith(str(file))
    assert f"{data._MNIST.addresses[0]}/{name}.gz" in str(caught.value)
    assert_is(data.mnist("test", folder=folder), small, "test")  # the other split's files are whole


def test_gzip_that_ends_early_is_refused_wherever_it_ends(small: Small, tmp_path: Path) -> None:
    folder = small.write(tmp_path / "mine")
    file = folder / "train-labels-idx1-ubyte.gz"
    whole = file.read_bytes()
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"labels-idx1-ubyte\.gz (is truncated|has the wrong magic)"):
            data.mnist(folder=folder)
    file.write_bytes(whole)
    assert_is(data.mnist(folder=folder), small, "train")


def test_gzip_with_a_changed_byte_is_refused_or_harmless(small: Small, tmp_path: Path) -> None:
    """Some bytes of a gzip header (its time stamp) do not matter; every other change must be noticed."""
    folder = small.write(tmp_path / "mine")
    file = folder / "train-labels-idx1-ubyte.gz"
    whole = file.read_bytes()
    harmless = 0
    for i in range(len(whole)):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 0x55]) + whole[i + 1 :])
        try:
            found = data.mnist(folder=folder)
        except ValueError as error:
            assert str(error).startswith(str(file))  # noqa: PT017  (whether it raises depends on the byte)
        else:
            harmless += 1
            assert_is(found, small, "train")
    assert harmless <= 6  # time stamp (4), extra flags, operating system


def test_corrupt_gzip_says_corrupt(small: Small, tmp_path: Path) -> None:
    folder = small.write(tmp_path / "mine")
    file = folder / "t10k-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + b"\0" * 20 + whole[middle + 20 :])
    with pytest.raises(ValueError, match="is corrupt: it does not decompress"):
        data.mnist("test", folder=folder)


def test_damaged_bundled_file_says_to_install_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (Path(data.__file__).parent / "datasets").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:400])
    monkeypatch.setattr(data, "_bundled", lambda: tmp_path)
    with pytest.raises(
        ValueError, match=r"fashion-mnist-1000-t10k-images-idx3\.gz is truncated.* Install vae-tutorial again"
    ):
        data.fashion_mnist("test")


# Downloads, from a server on this machine


class Server(ThreadingHTTPServer):
    """Serves files; `mode` says how well."""

    files: dict[str, bytes]
    mode: str = "good"
    requests: list[str]
    stalled: threading.Event
    release: threading.Event


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.requests.append(name)
        body = gzip.compress(self.server.files[name.removesuffix(".gz")])
        mode = self.server.mode
        if mode == "absent":
            self.send_error(404)
            return
        if mode == "other content":
            body = gzip.compress(PIXELS)
        if mode == "web page":
            body = b"<html>Please log in to this network</html>"
        self.send_response(200)
        if mode != "silent end":  # without a length the client cannot know that the end came early
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if mode in ("early end", "silent end", "stall"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
        else:
            self.wfile.write(body)
        if mode == "stall":
            self.server.stalled.set()
            self.server.release.wait(300)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(small: Small, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.files, server.requests = small.files, []
    server.stalled, server.release = threading.Event(), threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for source in ("_MNIST", "_FASHION_MNIST"):
        address = f"http://127.0.0.1:{server.server_port}/{source}"
        monkeypatch.setattr(data, source, dataclasses.replace(getattr(data, source), addresses=(address,)))
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_download_fills_the_cache_once(small: Small, server: Server) -> None:
    assert_is(data.mnist("train"), small, "train")
    names = {"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"}
    assert files_below(small.cache) == {f"mnist/{name}" for name in names}
    assert_is(data.mnist("train"), small, "train")
    assert_is(data.mnist("train", download=False), small, "train")
    assert sorted(server.requests) == sorted(names)
    assert_is(data.fashion_mnist("test", full=True), small, "test")
    assert len(files_below(small.cache / "fashion-mnist")) == 2


def child_output(small: Small, **environment: str) -> tuple[str, str]:
    """Load the set in a process of its own, because tqdm reads its switch when it is imported."""
    kept = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    child = [sys.executable, "-c", CHILD, child_settings(small)]
    run = subprocess.run(child, capture_output=True, text=True, timeout=300, check=True, env=kept | environment)
    return run.stdout, run.stderr


def test_download_shows_a_bar_for_each_file(small: Small, server: Server) -> None:
    printed, bars = child_output(small)
    assert printed == "read 12 images\n"
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        assert f"{name}: 100%" in bars


def test_download_works_where_bars_are_switched_off(small: Small, server: Server) -> None:
    assert child_output(small, TQDM_DISABLE="1") == ("read 12 images\n", "")


@pytest.mark.parametrize("mode", ["early end", "silent end", "other content", "web page", "absent"])
def test_failed_download_says_why_and_leaves_nothing(small: Small, server: Server, mode: str) -> None:
    server.mode = mode
    with pytest.raises(
        FileNotFoundError, match=r"train-images-idx3-ubyte\.gz of MNIST .*could not be downloaded"
    ) as caught:
        data.mnist()
    reason = {
        "early end": "(?i)incomplete|broken",
        "silent end": "truncated",
        "other content": "SHA-256",
        "web page": "magic",
        "absent": "404",
    }[mode]
    assert caught.match(reason)
    assert caught.match("VAE_TUTORIAL_DATA")
    assert data._MNIST.addresses[0] in str(caught.value)
    assert files_below(small.cache) == set()
    with pytest.raises(FileNotFoundError):
        data.mnist(download=False)
    server.mode = "good"
    assert_is(data.mnist(), small, "train")


def test_no_network_says_so(small: Small) -> None:
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*Call again with a network"):
        data.mnist()
    assert files_below(small.cache) == set()


def test_second_address_is_tried_when_the_first_fails(
    small: Small, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = ("http://127.0.0.1:9/nothing", *data._MNIST.addresses)
    monkeypatch.setattr(data, "_MNIST", dataclasses.replace(data._MNIST, addresses=addresses))
    assert_is(data.mnist(), small, "train")


def test_download_is_not_tried_when_forbidden_or_not_needed(small: Small, server: Server, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        data.mnist(download=False)
    data.mnist(folder=small.write(tmp_path / "mine"))
    assert server.requests == []


def test_download_stopped_from_the_keyboard_leaves_nothing(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(url: str, file: Path) -> None:
        file.write_bytes(gzip.compress(small.files["train-images-idx3-ubyte"])[:500])
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "_fetch", stop)
    with pytest.raises(KeyboardInterrupt):
        data.mnist()
    assert files_below(small.cache) == set()


CHILD = """
import dataclasses, json, pathlib, sys
from vae_tutorial import data
settings = json.loads(sys.argv[1])
data._MNIST = dataclasses.replace(data._MNIST, sha256=settings["sha256"], addresses=tuple(settings["addresses"]))
data._SPLITS = settings["sizes"]
data._SYSTEM = pathlib.Path(settings["system"])
data._cache = lambda: pathlib.Path(settings["cache"])
print("read", len(data.mnist().images), "images")
"""


def child_settings(small: Small) -> str:
    return json.dumps(
        {
            "sha256": data._MNIST.sha256,
            "addresses": data._MNIST.addresses,
            "sizes": SIZES,
            "system": str(small.system),
            "cache": str(small.cache),
        }
    )


def test_download_in_a_killed_process_leaves_nothing_that_is_taken_for_data(small: Small, server: Server) -> None:
    server.mode = "stall"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, child_settings(small)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert server.stalled.wait(300), "the child did not begin to download"
    finally:
        child.kill()
        child.communicate(timeout=60)
    assert child.returncode != 0
    with pytest.raises(FileNotFoundError):
        data.mnist(download=False)
    server.mode = "good"
    assert_is(data.mnist(), small, "train")


def test_cache_is_the_users() -> None:
    import pooch

    assert data._cache() == Path(pooch.os_cache("vae-tutorial"))


# binarize


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square(draws: Tensor, p: Tensor) -> float:
    """Sum over levels of the squared error of the mean in standard errors; draws (n, levels), 0 < p < 1."""
    n = len(draws)
    return (n * (draws.double().mean(0) - p).square() / (p * (1 - p))).sum().item()


def test_binarize_draws_every_level_with_its_own_probability() -> None:
    """254 levels, 20,000 draws: chi-square has mean 254 and standard deviation 22.5, and the bound is 5 of these above.

    k / 256 in place of k / 255 would add about 430, and a threshold shifted by one level as much.
    """
    levels = torch.arange(256, dtype=torch.uint8).expand(20_000, 256)
    draws = data.binarize(levels, generator=seeded(0))
    p = torch.arange(256, dtype=torch.float64) / 255
    assert draws[:, 0].sum() == 0
    assert draws[:, 255].all()
    assert chi_square(draws[:, 1:255], p[1:255]) < 254 + 5 * 22.5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_binarize_draws_floats_with_their_own_probability(dtype: torch.dtype) -> None:
    """As above for 99 probabilities. Also 2^-12, which numbers drawn in bfloat16 would raise to 2^-8: 781 hits, not 49."""
    p = (torch.arange(1, 100) / 100).to(dtype)
    draws = data.binarize(p.expand(20_000, 99), generator=seeded(1))
    assert chi_square(draws, p.double()) < 99 + 5 * (2 * 99) ** 0.5
    rare = data.binarize(torch.full((200_000,), 2.0**-12, dtype=dtype), generator=seeded(2))
    assert abs(rare.sum().item() - 200_000 / 4096) < 5 * 7


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_binarize_keeps_black_and_white_exactly(dtype: torch.dtype) -> None:
    white = 255 if dtype == torch.uint8 else 1
    image = torch.tensor([0, white], dtype=dtype).repeat(1_000_000)
    assert torch.equal(data.binarize(image, generator=seeded(3)), (image > 0).to(torch.uint8))


def test_binarize_draws_pixels_independently() -> None:
    """Uniform grey: the mean of an image varies by p(1-p)/D and neighbours are uncorrelated, along every axis.

    Correlations of n = 156,800 pixels have standard error 1/sqrt(n) = 0.0025; a shared draw would make them 1.
    """
    centred = (
        data.binarize(torch.full((200, 1, 28, 28), 128, dtype=torch.uint8), generator=seeded(4)).double() - 128 / 255
    )
    variance = 128 / 255 * (1 - 128 / 255)
    for axis in (0, 2, 3):
        correlation = (centred * centred.roll(1, axis)).mean() / variance
        assert abs(correlation) < 5 * 200**-0.5 / 28


@pytest.mark.parametrize("scale", [1, 255], ids=["levels", "floats"])
def test_binarize_is_repeated_by_a_seed_and_by_nothing_else(scale: int) -> None:
    images = data.fashion_mnist("test").images
    images = images if scale == 1 else images / scale
    generator = seeded(5)
    first, second = data.binarize(images, generator=generator), data.binarize(images, generator=generator)
    assert torch.equal(first, data.binarize(images, generator=seeded(5)))
    assert not torch.equal(first, second)
    assert not torch.equal(first, data.binarize(images, generator=seeded(6)))
    state = torch.get_rng_state()
    data.binarize(images, generator=generator)
    assert torch.equal(state, torch.get_rng_state())  # a given generator is the only source
    with torch.random.fork_rng():
        torch.manual_seed(7)
        third = data.binarize(images)
        torch.manual_seed(7)
        assert torch.equal(third, data.binarize(images))


def test_binarize_keeps_shape_and_input() -> None:
    images = data.fashion_mnist("test").images[:7]
    before = images.clone()
    for x in (images, images.transpose(2, 3), images[:, :, ::2], images[0, 0, 0, 0], images[:0], images / 255):
        drawn = data.binarize(x)
        assert drawn.shape == x.shape
        assert drawn.dtype == torch.uint8
        assert drawn.max().item() <= 1 if x.numel() else True
    assert torch.equal(images, before)


def test_binarize_of_levels_and_of_their_fractions_have_one_mean() -> None:
    """Both estimate the mean grey level; over N = 784,000 pixels each is within 0.5/sqrt(N) = 0.0006 of it."""
    images = data.fashion_mnist("test").images
    grey = images.double().mean().item() / 255
    for x in (images, images / 255):
        assert abs(data.binarize(x, generator=seeded(8)).double().mean().item() - grey) < 5 * 0.0006


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.int16, torch.int32, torch.int64, torch.complex64])
def test_binarize_refuses_other_dtypes(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"images must be a tensor of uint8 .* not {dtype}"):
        data.binarize(torch.zeros(3, dtype=dtype))


def test_binarize_refuses_what_is_no_tensor() -> None:
    with pytest.raises(ValueError, match=r"images must be a tensor of uint8 .* not ndarray"):
        data.binarize(torch.zeros(3, dtype=torch.uint8).numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1e-6, 1 + 1e-6, 255.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binarize_refuses_floats_outside_the_unit_interval(dtype: torch.dtype, value: float) -> None:
    images = torch.full((2, 3), 0.5, dtype=dtype)
    images[1, 2] = value
    with pytest.raises(ValueError, match=r"images of floats must lie in \[0, 1\]"):
        data.binarize(images)


def test_binarize_refuses_a_generator_on_another_device() -> None:
    with pytest.raises(ValueError, match="generator is on cpu and images on meta"):
        data.binarize(torch.zeros(3, dtype=torch.uint8, device="meta"), generator=seeded(0))


@pytest.mark.cuda
def test_binarize_on_cuda() -> None:
    levels = torch.arange(256, dtype=torch.uint8, device="cuda").expand(20_000, 256)
    generator = torch.Generator("cuda").manual_seed(0)
    draws = data.binarize(levels, generator=generator)
    assert draws.device.type == "cuda"
    assert draws[:, 0].sum() == 0
    assert draws[:, 255].all()
    p = torch.arange(256, dtype=torch.float64) / 255
    assert chi_square(draws[:, 1:255].cpu(), p[1:255]) < 254 + 5 * 22.5
    assert torch.equal(draws, data.binarize(levels, generator=generator.manual_seed(0)))
    with pytest.raises(ValueError, match="generator is on cpu and images on cuda"):
        data.binarize(levels, generator=seeded(0))


def test_bytes_that_are_zeros_and_ones_already_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="zeros and ones already"):
        data.binarize(torch.tensor([0, 1, 1, 0], dtype=torch.uint8))


def test_levels_are_not_warned_of_and_a_device_is_not_made_to_wait() -> None:
    """The tensors on "meta" hold no values: whoever looks at one gets an error."""
    binary = torch.tensor([0, 1, 1, 0], dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for images in (0 * binary, 2 * binary, 255 * binary, binary.float(), binary[:0], binary.to("meta")):
            data.binarize(images)
