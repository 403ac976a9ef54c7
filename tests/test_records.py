"""records: files whole or not at all, models rebuilt from them, and every kind of change told by name."""

import functools
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import assert_refused, randn
from torch import Tensor, nn

from vae_tutorial import data, models, objectives, records
from vae_tutorial.families import FullRank
from vae_tutorial.likelihoods import Categorical, ContinuousBernoulli, DiscretizedLogistic, Gaussian, NegativeBinomial
from vae_tutorial.priors import GaussianMixture
from vae_tutorial.records import History

HISTORY = History([-3.0, -2.0], [0.5, 0.6], [-3.1, -2.1], [0.4, 0.5], [1.0, 2.0])

MODELS = {
    "linear": lambda: models.linear_vae((4,), 2),
    "conv": lambda: models.conv_vae((3, 9, 5), 2, 4, 1, 6, prior=GaussianMixture(2, 3), family=FullRank),
    "fixed noise": lambda: models.mlp_vae((4,), 2, 5, likelihood=Gaussian(log_var=-1.5)),
    "counts": lambda: models.mlp_vae((2, 2), 2, 5, likelihood=NegativeBinomial()),
    "classes": lambda: models.mlp_vae((4,), 2, 5, likelihood=Categorical(3)),
    "autoencoder": lambda: models.mlp_autoencoder((4,), 2, 5, sigma=0.3, likelihood=ContinuousBernoulli()),
}


# models


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_built_again_from_its_file_alone(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = MODELS[name]().to(dtype)
    records.save_model(tmp_path / "run.pt", model, HISTORY, dtype=None, batch_size=128)
    again, run = records.load_model(tmp_path / "run.pt")
    assert type(again) is type(model)
    assert not again.training
    assert list(again.state_dict()) == list(model.state_dict())
    for ours, theirs in zip(again.state_dict().values(), model.state_dict().values(), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)
    assert records.describe(again) == records.describe(model)
    assert run.history == HISTORY
    assert run.facts["batch_size"] == 128
    assert run.facts["training_seconds"] == 3.0
    assert {"device", "date", "python", "torch"} < set(run.facts)


def test_weights_are_rounded_to_half_precision_unless_they_overflow_or_are_no_floats(tmp_path: Path) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small, self.large = nn.Parameter(torch.tensor([1 / 3])), nn.Parameter(torch.tensor([1e5]))
            self.register_buffer("steps", torch.tensor(70_001))
            self.register_buffer("few", torch.tensor(4097))
            self.register_buffer("on", torch.tensor(True))

    model = Counting()
    records.save_model(tmp_path / "run.pt", model, HISTORY)
    again = Counting()
    again.small.data.zero_(), again.large.data.zero_(), again.steps.zero_(), again.few.zero_(), again.on.fill_(False)
    records.load_weights(tmp_path / "run.pt", again)
    assert again.small.item() == torch.tensor(1 / 3).half().item() != model.small.item()
    assert again.large.item() == 1e5
    assert (again.steps.item(), again.few.item()) == (70_001, 4097)
    assert again.on.item()


def test_a_network_that_keeps_no_arguments_is_told_apart_but_not_built(tmp_path: Path) -> None:
    def model(num_hidden: int) -> models.VAE:
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, num_hidden), nn.Tanh(), nn.Linear(num_hidden, 2))
        return models.VAE(encoder, nn.Linear(1, 4), (4,), prior=models.StandardNormal(1))

    path, original = tmp_path / "run.pt", model(5)
    records.save_model(path, original, HISTORY, dtype=None)
    assert_refused(lambda: records.load_model(path), "run.pt", "Sequential", "load_weights")
    again = model(5)
    assert records.load_weights(path, again).history == HISTORY
    assert torch.equal(again.decoder.weight, original.decoder.weight)
    assert_refused(lambda: records.load_weights(path, model(6)), "run.pt", "encoder", "another model")


@records.keeps_arguments
class OwnEncoder(nn.Module):
    """A reader's own network."""

    def __init__(self, num_hidden: int, *, num_outputs: int = 4) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(4, num_hidden), nn.ReLU(), nn.Linear(num_hidden, num_outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def test_a_readers_own_network_that_keeps_its_arguments_is_built_again(tmp_path: Path) -> None:
    vae = models.VAE(OwnEncoder(7), models.MLPDecoder((4,), 2, 5), (4,), prior=models.StandardNormal(2))
    records.save_model(tmp_path / "run.pt", vae, HISTORY, dtype=None)
    again, _ = records.load_model(tmp_path / "run.pt")
    x = torch.ones(3, 4)
    assert torch.equal(again.encode(x)[0], vae.encode(x)[0])


@pytest.mark.parametrize("name", ["os:system", "torch.nn:Linear", "vae_tutorial.data:binarize", "nowhere:Class"])
def test_a_file_builds_nothing_but_modules_that_keep_their_arguments(name: str) -> None:
    assert_refused(lambda: records.build({"class": name, "arguments": {"command": "true"}}), name)


CHANGES: dict[str, Any] = {
    "likelihood": lambda: models.mlp_vae((4,), 2, 5, likelihood=DiscretizedLogistic()),
    "likelihood.log_var": lambda: models.mlp_vae((4,), 2, 5, likelihood=Gaussian(log_var=0.5)),
    "prior": lambda: models.mlp_vae((4,), 2, 5, likelihood=Gaussian(), prior=GaussianMixture(2, 3)),
    "family": lambda: models.mlp_vae((4,), 2, 5, likelihood=Gaussian(), family=FullRank),
    "encoder": lambda: models.linear_vae((4,), 2, likelihood=Gaussian()),
    "encoder.num_hidden": lambda: models.mlp_vae((4,), 2, 6, likelihood=Gaussian()),
    "prior.num_latents": lambda: models.mlp_vae((4,), 3, 5, likelihood=Gaussian()),
    "data_shape": lambda: models.mlp_vae((2, 2), 2, 5, likelihood=Gaussian()),
}


@pytest.mark.parametrize("changed", CHANGES)
def test_another_model_is_refused_by_name_in_one_line(changed: str, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    records.save_model(path, models.mlp_vae((4,), 2, 5, likelihood=Gaussian()), HISTORY)
    with pytest.raises(ValueError, match=rf"another model.*{changed}") as error:
        records.load_weights(path, CHANGES[changed]())
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


# what something is


def test_functions_are_told_apart_by_name_and_where_they_have_none_by_what_they_do() -> None:
    def scaled(factor: float) -> Any:
        return lambda x, generator=None: factor * x

    describe = records.describe
    assert describe(data.binarize) == {"function": "vae_tutorial.data:binarize"}
    first, same, other = scaled(2.0), scaled(2.0), scaled(3.0)
    assert describe(first) == describe(same) != describe(other)
    assert describe(lambda x: x + 1) != describe(lambda x: x + 2)
    assert describe(lambda x: x.sin()) != describe(lambda x: x.cos())
    assert describe(functools.partial(data.binarize, generator=None)) != describe(data.binarize)
    assert describe(functools.partial(max, 1)) != describe(functools.partial(max, 2))
    assert describe(functools.partial(max, 1)) == describe(functools.partial(max, 1))
    assert describe(objectives.iwae(5)) == describe(objectives.iwae(5)) != describe(objectives.iwae(6))
    assert describe(objectives.free_bits(0.1)) != describe(objectives.free_bits(0.2))
    assert describe(objectives.elbo()) != describe(objectives.beta_elbo(1.0))


def test_a_description_is_plain_and_survives_a_file(tmp_path: Path) -> None:
    described = records.describe({"model": MODELS["conv"](), "objective": objectives.iwae(3), "x": torch.ones(2)})
    records.write(tmp_path / "file.pt", described)
    assert records.read(tmp_path / "file.pt", {"model", "objective", "x"}) == described


def test_differences_name_the_leaves() -> None:
    was, now = {"a": 1, "b": {"class": "m:A", "arguments": {"c": [1, 2], "d": None}}}, {"a": 1.0, "b": {"class": "m:B"}}
    assert records.differences(was, was) == []
    assert records.differences(was, now) == ["a was 1, is 1.0", "b was A, is B"]
    now = {"a": 1, "b": {"class": "m:A", "arguments": {"c": [1, 3], "d": 0}}, "e": True}
    assert records.differences(was, now) == ["b.c was [1, 2], is [1, 3]", "b.d was None, is 0", "e was None, is True"]


def test_a_fingerprint_sees_every_kind_of_change_and_no_other() -> None:
    x = randn(9000, 3, seed=0, dtype=torch.float32)
    same = records.fingerprint(x)
    assert records.fingerprint(x.clone()) == records.fingerprint(x.mT.contiguous().mT) == same  # whatever the strides
    for other in (
        -x,
        x.flip(0),
        x[:-1],
        x.double(),
        x.view(3, 9000),
        x.index_put((torch.tensor(8999),), torch.tensor(0.0)),
    ):
        assert records.fingerprint(other) != same
    assert records.fingerprint(x, x) != same
    for dtype in (torch.bool, torch.uint8, torch.bfloat16, torch.float16, torch.int64):
        assert records.fingerprint(torch.ones(3).to(dtype)) != records.fingerprint(torch.zeros(3).to(dtype))
    assert records.fingerprint(torch.tensor(1.0)) != records.fingerprint(torch.tensor(2.0))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert records.fingerprint(x) == same
    torch.set_num_threads(before)


# files


def test_a_failed_write_leaves_what_was_there_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.pt"
    records.write(path, {"a": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"file\.pt.*No space left on device.*untouched"):
        records.write(path, {"a": 2})
    assert records.read(path, {"a"}) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["file.pt"]


def test_whoever_reads_a_file_meanwhile_reads_the_old_one_to_its_end(tmp_path: Path) -> None:
    records.write(tmp_path / "file.pt", {"a": 1})
    old = (tmp_path / "file.pt").read_bytes()
    with (tmp_path / "file.pt").open("rb") as reader:
        records.write(tmp_path / "file.pt", {"a": 2})
        assert reader.read() == old


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(OSError, match=r"file\.pt.*Permission denied"):
        records.check_writable(tmp_path / "file.pt")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        records.check_writable(tmp_path / "no" / "file.pt")
    with pytest.raises(OSError, match="is a folder"):
        records.check_writable(tmp_path)


def test_a_file_that_could_be_written_is_left_alone(tmp_path: Path) -> None:
    records.check_writable(tmp_path / "file.pt")
    assert list(tmp_path.iterdir()) == []
    records.write(tmp_path / "file.pt", {"a": 1})
    before = (tmp_path / "file.pt").stat().st_mtime_ns
    records.check_writable(tmp_path / "file.pt")
    assert (tmp_path / "file.pt").stat().st_mtime_ns == before


def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "file.pt", tmp_path / "link.pt"
    link.symlink_to(target)
    for number in (1, 2):
        records.write(link, {"a": number})
    assert link.is_symlink()
    assert records.read(target, {"a"}) == {"a": 2}


def test_leftovers_of_dead_processes_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    dead, living = tmp_path / f".file.pt.{int(gone.stdout)}.part", tmp_path / f".file.pt.{os.getppid()}.part"
    dead.touch(), living.touch()
    records.write(tmp_path / "file.pt", {"a": 1})
    assert not dead.exists()
    assert living.exists()


def test_numpy_numbers_are_stored_as_numbers_and_what_cannot_be_read_back_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    records.write(path, {"a": [np.float64(0.5), np.int32(3)], "b": (np.bool_(True),)})
    assert records.read(path, {"a", "b"}) == {"a": [0.5, 3], "b": (True,)}
    with pytest.raises(TypeError, match=r"content\['a'\]\[1\] is a Path|content\['a'\]\[1\] is a PosixPath"):
        records.write(path, {"a": [1, path], "b": 2})
    with pytest.raises(TypeError, match="ndarray"):
        records.write(path, {"a": np.zeros(3), "b": 2})
    assert records.read(path, {"a", "b"}) == {"a": [0.5, 3], "b": (True,)}


def test_files_that_are_damaged_or_hold_other_things_are_refused(tmp_path: Path) -> None:
    path, number = tmp_path / "file.pt", torch.tensor([3.25, 1.5])
    records.write(path, {"a": number})
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[good.index(number.numpy().tobytes())] ^= 1
    for content in (bytes(flipped), good[: len(good) // 2], b"", b"no archive at all"):
        path.write_bytes(content)
        assert_refused(lambda: records.read(path, {"a"}), "file.pt", "cannot be read")
    path.write_bytes(good)
    assert_refused(lambda: records.read(path, {"b"}), "file.pt", "other file")
    records.write(path, {"a": 1, "b": 2})
    assert_refused(lambda: records.read(path, {"a"}), "file.pt", "other file")
    torch.save([1], path)
    assert_refused(lambda: records.read(path, {"a"}), "file.pt", "other file")
    torch.save({"a": subprocess.Popen}, path)
    assert_refused(lambda: records.read(path, {"a"}), "file.pt", "cannot be read")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        records.read(tmp_path / "nowhere.pt", {"a"})


def test_the_right_keys_with_wrong_contents_name_the_file(tmp_path: Path) -> None:
    path, model = tmp_path / "run.pt", models.linear_vae((4,), 2)
    records.save_model(path, model, HISTORY)
    good = records.read(path, records.RECORD_KEYS)
    wrong = (
        {"weights": {}},
        {"weights": 3},
        {"history": {}},
        {"history": [1]},
        {"facts": 5},
        {"model": 7},
        {"dtype": "x"},
    )
    for change in wrong:
        records.write(path, {**good, **change})
        assert_refused(lambda: records.load_model(path), "run.pt")


def test_a_file_has_the_permissions_that_the_reader_gives_new_files(tmp_path: Path) -> None:
    records.write(tmp_path / "file.pt", {"a": 1})
    (tmp_path / "plain").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_history_tells_the_elbo() -> None:
    assert HISTORY.train_elbo == [-3.5, -2.6]
    assert HISTORY.test_elbo == [-3.5, -2.6]


def test_facts_are_plain(tmp_path: Path) -> None:
    found = records.facts(torch.device("cpu"))
    assert all(isinstance(value, str) for value in found.values())
    assert found["device"].startswith("CPU, ")
    records.write(tmp_path / "facts.pt", found)
