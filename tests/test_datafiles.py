"""datafiles: what is read is what was written, what cannot be read is refused in one line that names the file."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vae_tutorial import datafiles


def picture(path: Path, shape: tuple[int, ...] = (3, 5), *, value: int = 0, mode: str = "L") -> Path:
    """A picture of one level, of a height and a width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (shape[1], shape[0]), value if mode == "L" else (value,) * len(mode)).save(path)
    return path


# images


def test_pixels_arrive_where_they_were(tmp_path: Path) -> None:
    """Rows are rows, columns are columns, and the first channel is red."""
    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.fromarray(pixels[::-1]).save(tmp_path / "a.png")
    found = datafiles.read(tmp_path)
    assert found.x.dtype == torch.uint8
    assert found.labels is None
    assert torch.equal(found.x[1], torch.from_numpy(pixels).permute(2, 0, 1))
    assert torch.equal(found.x[0], torch.from_numpy(pixels[::-1].copy()).permute(2, 0, 1))  # sorted by name


def test_sub_folders_are_labels_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    for number, name in enumerate(("shoe/1.png", "shoe/deep/2.PNG", "bag/3.jpg")):
        picture(tmp_path / name, value=100 * number)
    picture(tmp_path / ".trash" / "4.png")
    picture(tmp_path / "__MACOSX" / "5.png")
    (tmp_path / ".DS_Store").write_text("x")
    picture(tmp_path / "bag" / "._3.jpg")
    (tmp_path / "notes.txt").write_text("x")
    found = datafiles.read(tmp_path)
    assert found.class_names == ("bag", "shoe")
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 1]
    assert found.x[:, 0, 0, 0].tolist() == [200, 0, 100]


def test_sizes_and_channels_are_brought_to_what_is_asked(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (10, 30))
    picture(tmp_path / "b.png", (8, 8), value=255, mode="RGB")
    found = datafiles.read(tmp_path, size=(6, 4), colour="rgb")
    assert found.x.shape == (2, 3, 6, 4)
    assert found.x[0].max() == 0
    assert found.x[1].min() == 255
    assert datafiles.read(tmp_path, size=(6, 4), colour="grey").x.shape == (2, 1, 6, 4)


def test_what_stands_over_is_cut_off_evenly(tmp_path: Path) -> None:
    """An image twice as wide as asked: its middle half is kept."""
    pixels = np.zeros((10, 20), np.uint8)
    pixels[:, 5:15] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert datafiles.read(tmp_path, size=(10, 10)).x.min() == 255


def test_a_camera_held_sideways(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 50], [100, 150], [200, 250]], np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter, clockwise, to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    assert datafiles.read(tmp_path).x[0, 0].tolist() == [[200, 100, 0], [250, 150, 50]]


def test_white_shines_through_what_is_transparent(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGBA", (2, 2), (10, 20, 30, 255)).save(tmp_path / "b.png")
    found = datafiles.read(tmp_path)
    assert found.x[0].min() == 255
    assert found.x[1, :, 0, 0].tolist() == [10, 20, 30]


def test_a_palette_and_a_picture_of_two_levels(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (10, 20, 30)).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert datafiles.read(tmp_path).x[0, :, 0, 0].tolist() == [10, 20, 30]
    Image.new("1", (2, 2), 1).save(tmp_path / "a.png")
    assert datafiles.read(tmp_path).x[0, :, 0, 0].tolist() == [255]


def break_png(folder: Path) -> None:
    path = picture(folder / "broken.png", (40, 50), value=7)
    path.write_bytes(path.read_bytes()[:-30])


def write_text(folder: Path) -> None:
    (folder / "broken.png").write_text("no picture")


def deeper_levels(folder: Path) -> None:
    Image.fromarray(np.full((3, 5), 40_000, np.uint16)).save(folder / "broken.png")


REFUSED: list[tuple[Callable[[Path], object], str]] = [
    (break_png, "broken.png cannot be read as an image"),
    (write_text, "broken.png cannot be read as an image"),
    (deeper_levels, "broken.png has levels of more than 8 bits"),
    (lambda folder: picture(folder / "broken.png", (3, 6)), r"broken.png is 3 high and 6 wide and .*a.png is 3 by 5:"),
    (lambda folder: picture(folder / "broken.png", mode="RGB"), "broken.png is in colour and"),
    (lambda folder: picture(folder / "sub" / "1.png"), "a.png stands beside sub-folders"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_a_folder_with_one_bad_file_is_refused_by_its_name(
    spoil: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    picture(tmp_path / "a.png")
    spoil(tmp_path)
    with pytest.raises(ValueError, match=message) as refusal:
        datafiles.read(tmp_path, progress=False)
    assert "\n" not in str(refusal.value)


def test_folders_without_images_and_paths_without_anything(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no images"):
        datafiles.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        datafiles.read(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"a.txt is none of what can be read"):
        datafiles.read(tmp_path / "a.txt")
    picture(tmp_path / "a.png")
    with pytest.raises(ValueError, match="sub-folders are the labels"):
        datafiles.read(tmp_path, labels="kind")
    with pytest.raises(ValueError, match='colour must be "grey" or "rgb"'):
        datafiles.read(tmp_path, colour="blue")


def test_a_folder_that_may_not_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(top: Path, onerror: Callable[[OSError], None]) -> list[object]:
        onerror(PermissionError(13, "Permission denied", str(top)))
        return []

    monkeypatch.setattr(os, "walk", walk)
    with pytest.raises(OSError, match=r"cannot be read \(Permission denied\)"):
        datafiles.read(tmp_path)


def test_what_does_not_fit_in_memory_is_mapped_and_its_file_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        picture(tmp_path / "data" / f"{number}.png", value=10 * number)
    there = datafiles.read(tmp_path / "data")
    monkeypatch.setattr(datafiles, "_free_memory", lambda: 10)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    used = []
    monkeypatch.setattr(torch, "from_file", lambda *a, _real=torch.from_file, **k: used.append(a) or _real(*a, **k))
    mapped = datafiles.read(tmp_path / "data")
    assert len(used) == 1
    assert torch.equal(mapped.x, there.x)
    assert not list(tmp_path.glob("vae-tutorial-*"))
    order = torch.tensor([4, 0, 2])
    assert torch.equal(datafiles.take(mapped.x, order), there.x[order])
    assert len(used) == 2


def test_points_are_taken_block_by_block_to_the_last() -> None:
    x = torch.arange(3000.0)[:, None] * torch.ones(2)
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))[:2049]
    assert torch.equal(datafiles.take(x, order), x[order])


def test_room_is_counted_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten numbers of four bytes each are more than half of 60 bytes, and not of 80."""
    used = []
    monkeypatch.setattr(torch, "from_file", lambda *a, _real=torch.from_file, **k: used.append(a) or _real(*a, **k))
    for free in (80, 60):
        assert not used
        monkeypatch.setattr(datafiles, "_free_memory", lambda free=free: free)
        datafiles.take(torch.zeros(10, 1), torch.arange(10))
    assert len(used) == 1


# kinds and splits


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.tensor([[0, 1]], dtype=torch.uint8), "binary"),
        (torch.tensor([[0, 2]], dtype=torch.uint8), "bytes"),
        (torch.tensor([[[[0.0, 255.0]]]]), "bytes"),
        (torch.tensor([[[[0.0, 256.0]]]]), "counts"),
        (torch.tensor([[0.0, 255.0]]), "counts"),
        (torch.tensor([[-1.0, 2.0]]), "real"),
        (torch.tensor([[0.25, 1.0]]), "real"),
        (torch.cat([torch.zeros(5000, 1), torch.tensor([[0.5]])]), "real"),
    ],
)
def test_the_kind_of_values(x: torch.Tensor, expected: str) -> None:
    assert datafiles.kind(x) == expected


@pytest.mark.parametrize(("num", "share", "held_out"), [(10, 0.2, 2), (2, 0.01, 1), (2, 0.99, 1), (1000, 0.1, 100)])
def test_a_split_has_every_point_once(num: int, share: float, held_out: int) -> None:
    train, test = datafiles.split(num, share)
    assert len(test) == held_out
    assert sorted(torch.cat([train, test]).tolist()) == list(range(num))
    again, other = datafiles.split(num, share), datafiles.split(num, share, seed=1)
    assert torch.equal(again[1], test)
    assert num < 100 or not torch.equal(other[1], test)


@pytest.mark.parametrize(("num", "share"), [(1, 0.5), (10, 0.0), (10, 1.0), (10, float("nan"))])
def test_a_split_that_is_none_is_refused(num: int, share: float) -> None:
    with pytest.raises(ValueError, match=r"split|share"):
        datafiles.split(num, share)


# arrays


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (np.zeros((4, 7), np.float64), (4, 7)),
        (np.zeros((4, 6, 5), np.uint8), (4, 1, 6, 5)),
        (np.zeros((4, 6, 5, 3), np.uint8), (4, 3, 6, 5)),
        (np.zeros((4, 3, 6, 5), np.uint8), (4, 3, 6, 5)),
        (np.zeros((4, 3, 6, 3), np.uint8), (4, 3, 6, 3)),
        (np.zeros((4, 1, 6, 5), bool), (4, 1, 6, 5)),
    ],
)
def test_arrays_become_tensors_with_channels_in_front(
    array: np.ndarray, shape: tuple[int, ...], tmp_path: Path
) -> None:
    np.save(tmp_path / "a.npy", array)
    x = datafiles.read(tmp_path / "a.npy").x
    assert x.shape == shape
    assert x.dtype == (torch.float32 if array.dtype == np.float64 else torch.uint8)


def test_channels_last_are_moved_and_not_mixed(tmp_path: Path) -> None:
    array = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.save(tmp_path / "a.npy", array)
    assert torch.equal(datafiles.read(tmp_path / "a.npy").x, torch.from_numpy(array).permute(0, 3, 1, 2))


def test_a_large_array_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.arange(40, dtype=np.uint8).reshape(10, 4))
    monkeypatch.setattr(datafiles, "_free_memory", lambda: 10)
    modes = []
    monkeypatch.setattr(np, "load", lambda *a, _real=np.load, **k: modes.append(k["mmap_mode"]) or _real(*a, **k))
    assert datafiles.read(tmp_path / "a.npy").x.sum() == 780
    assert modes == ["c"]


def test_archives_with_labels(tmp_path: Path) -> None:
    path, x = tmp_path / "a.npz", np.zeros((3, 2))
    np.savez(path, x=x, labels=np.array([10, 9, 10]))
    found = datafiles.read(path)
    assert found.labels is not None
    assert (found.class_names, found.labels.tolist()) == (("9", "10"), [1, 0, 1])  # as numbers, not as text
    np.savez(path, x=x, colour=np.array(["red", "blue", "red"]), other=x)
    found = datafiles.read(path, labels="colour")
    assert found.labels is not None
    assert (found.class_names, found.labels.tolist()) == (("blue", "red"), [1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "labels", "message"),
    [
        ({"a": np.zeros((3, 2)), "b": np.zeros((3, 2))}, None, "call the array with the data x"),
        ({"x": np.zeros((3, 2))}, "kind", "holds no array 'kind', but x"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, None, "3 data points"),
        ({"x": np.array([[0.0, np.nan]])}, None, "nan in row 0, at \\(1,\\)"),
        ({"x": np.array([["a", "b"]])}, None, "numbers \\(N, ...\\) are wanted"),
        ({"x": np.zeros(3)}, None, "numbers \\(N, ...\\) are wanted"),
        ({"x": np.zeros((0, 3))}, None, "holds no data points"),
        ({"x": np.zeros((3, 1, 0, 5))}, None, "holds no numbers in its points"),
        ({"x": np.array([[1e300]])}, None, "inf in row 0"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_archives_that_cannot_be_read(
    arrays: dict[str, np.ndarray], labels: str | None, message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as refusal:
        datafiles.read(tmp_path / "a.npz", labels=labels)
    assert "a.npz" in str(refusal.value)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_damaged_arrays_are_named(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(b"no array")
    with pytest.raises(ValueError, match=f"a.{suffix} cannot be read as NumPy's"):
        datafiles.read(tmp_path / f"a.{suffix}")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects.npy cannot be read as NumPy's"):
        datafiles.read(tmp_path / "objects.npy")


# tables


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_with_names_and_labels(delimiter: str, tmp_path: Path) -> None:
    rows = ["a,kind,b", "1,red,-2.5", '3,"blue",4e2', "", "5,red,6"]
    (tmp_path / "a.csv").write_text("\ufeff" + "\n".join(rows).replace(",", delimiter), encoding="utf-8")
    found = datafiles.read(tmp_path / "a.csv", labels="kind")
    assert found.x.tolist() == [[1.0, -2.5], [3.0, 400.0], [5.0, 6.0]]
    assert found.labels is not None
    assert (found.class_names, found.labels.tolist()) == (("blue", "red"), [1, 0, 1])
    assert found.columns == ("a", "b")


def test_a_table_without_names(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    found = datafiles.read(tmp_path / "a.csv")
    assert found.x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found.columns == ("column 1", "column 2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3,nan\n", "line 3, column 'b': 'nan' is no finite number"),
        ("a,b\n1,2\n3,\n", "line 3, column 'b': 'nothing' is no finite number"),
        ("a,b\n1,x\n", "line 2, column 'b': 'x' is no finite number"),
        ("1,2\n3,inf\n", "line 2, column 'column 2': 'inf' is no finite number"),
        ("a,b\n1,2,3\n", "line 2 has 3 cells, and the first line 2"),
        ("a,b\n", "holds no data points"),
        ("", "is empty"),
        ("a,b\n1,2\n", "has no column 'kind', but a, b"),
        ('a,b\n"1,2\n', "cannot be read as a table"),
        ("kind,b,kind\n1,2,3\n", "has 2 columns 'kind'"),
        ("kind,b\n,2\n", "line 2, column 'kind': the label is missing"),
    ],
)
def test_tables_that_cannot_be_read(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message) as refusal:
        datafiles.read(tmp_path / "a.csv", labels="kind" if "kind" in message else None)
    assert "a.csv" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a.csv cannot be read as text"):
        datafiles.read(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="size and colour are for folders"):
        datafiles.read(tmp_path / "a.csv", size=(2, 2))


# writing


def test_a_grid_has_its_images_in_their_places(tmp_path: Path) -> None:
    x = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 3, 2, 4) * 50
    datafiles.write(tmp_path / "grid.png", x, num_columns=3)
    grid = datafiles.read(tmp_path).x[0]
    assert grid.shape == (3, 2 * 2 + 2, 3 * 4 + 2 * 2)
    for number in range(5):
        top, left = number // 3 * 4, number % 3 * 6
        assert (grid[:, top : top + 2, left : left + 4] == 50 * number).all()
    assert (grid[:, 2:4] == 255).all()
    assert (grid[:, 4:, 12:] == 255).all()


def test_levels_are_rounded_and_kept_within_those_there_are(tmp_path: Path) -> None:
    x = torch.tensor([-300.0, -0.4, 0.4, 99.6, 254.6, 255.4, 300.0]).view(7, 1, 1, 1)
    datafiles.write(tmp_path / "grid.png", x)
    grid = datafiles.read(tmp_path).x[0, 0]
    assert grid.shape == (7, 7)  # three rows of three, about square
    assert [grid[n // 3 * 3, n % 3 * 3].item() for n in range(7)] == [0, 0, 0, 100, 255, 255, 255]


def test_tables_and_arrays_come_back(tmp_path: Path) -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    datafiles.write(tmp_path / "a.csv", x, columns=("a", "b", "c"))
    found = datafiles.read(tmp_path / "a.csv")
    assert found.columns == ("a", "b", "c")
    assert torch.allclose(found.x, x, rtol=1e-6)
    datafiles.write(tmp_path / "a.npy", x)
    assert torch.equal(datafiles.read(tmp_path / "a.npy").x, x)


@pytest.mark.parametrize(
    ("name", "shape", "fits"),
    [
        ("a.png", (5,), ".csv or .npy"),
        ("a.csv", (1, 2, 2), ".png or .npy"),
        ("a.jpg", (7, 2, 2), ".npy"),
        ("a", (3,), ""),
    ],
)
def test_a_file_that_does_not_fit_the_data_is_refused(
    name: str, shape: tuple[int, ...], fits: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"can be written to .*{fits}"):
        datafiles.write(tmp_path / name, torch.zeros(2, *shape))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    path.write_text("before")

    def full(file: Path, array: np.ndarray) -> None:
        Path(file).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\)"):
        datafiles.write(path, torch.zeros(2, 2))
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]
