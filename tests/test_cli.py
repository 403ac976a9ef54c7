"""cli: a stranger's data go through all four verbs; what is printed is what the package computes; refusals in one line."""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles import assert_close
from PIL import Image

from vae_tutorial import (
    _command,
    _sources,
    bounds,
    cli,
    data,
    datafiles,
    evaluation,
    families,
    likelihoods,
    models,
    networks,
    priors,
    records,
    train,
)
from vae_tutorial.datafiles import Data


def words(text: str) -> list[str]:
    return text.split()


TINY = words("--latents 3 --epochs 2 --batch-size 8 --device cpu --quiet")
CONV = [*TINY, *words("--channels 4 --blocks 1")]


@pytest.fixture(autouse=True)
def _leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test works in a folder of its own, and leaves the global noise as it was."""
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        yield


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The command's output; it must succeed and complain of nothing."""
    assert cli.main(list(arguments)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that could not do its work."""
    assert cli.main(list(arguments)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def pictures(folder: Path, *, num: int = 24, shape: tuple[int, int] = (48, 40)) -> None:
    """A stranger's folder: colour pictures of two kinds, in sub-folders."""
    noise = np.random.default_rng(0)
    for kind in ("bright", "dark"):
        (folder / kind).mkdir(parents=True)
        for number in range(num // 2):
            level = noise.integers(150, 250, 3) if kind == "bright" else noise.integers(0, 60, 3)
            pixels = np.clip(level + noise.normal(0, 5, (*shape, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"{number}.png")


def table(path: Path, *, num: int = 60) -> None:
    """Three columns on scales of their own, and a kind."""
    noise = np.random.default_rng(1)
    z = noise.normal(size=num)
    columns = np.stack([100 + 10 * z, 0.01 * z + 0.001 * noise.normal(size=num), noise.normal(size=num)], 1)
    lines = [f"{a},{b},{c},{'ab'[n % 2]}" for n, (a, b, c) in enumerate(columns)]
    path.write_text("\n".join(["weight,length,rest,kind", *lines]))


# all four verbs


def test_a_strangers_folder_goes_through_all_four_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    pictures(Path("pictures"))
    told = run(capsys, "train", "--data", "pictures", *CONV, "--output", "m.pt")
    assert "pictures, split with seed 0: 22 to train on and 2 held out, each 3 x 48 x 40" in told
    assert "discretized_logistic likelihood, standard_normal prior, mean_field q" in told
    assert "Networks: convolutional, num_latents 3, num_channels 4, num_blocks 1, patch_size 4" in told
    assert "Recorded in m.pt" in told
    assert "5 samples in grid.png" in run(capsys, "sample", "m.pt", "--num", "5", "--output", "grid.png")
    assert np.asarray(Image.open("grid.png")).shape == (2 * 48 + 2, 3 * 40 + 4, 3)
    told = run(
        capsys, "reconstruct", "m.pt", "--data", "pictures", "--part", "all", "--output", "pairs.png", "--num", "4"
    )
    assert told.startswith("4 reconstructions in pairs.png")
    pairs = np.asarray(Image.open("pairs.png")).astype(float)
    assert pairs.shape == (2 * 48 + 2, 4 * 40 + 6, 3)
    first = datafiles.read("pictures", progress=False).x[0]
    assert np.array_equal(pairs[:48, :40].transpose(2, 0, 1), first.numpy())  # the first of all, above
    told = run(capsys, "evaluate", "m.pt", "--data", "pictures", "--samples", "20", "--quiet")
    for part in ("2 data points; mean and standard error", "K = 20", "bits per dimension, at most"):
        assert part in told


def test_the_numbers_of_evaluate_are_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    pictures(Path("pictures"))
    run(capsys, "train", "--data", "pictures", *CONV, "--output", "m.pt")
    told = run(capsys, "evaluate", "m.pt", "--samples", "20", "--quiet", "--part", "train", "--record", "e.pt")
    model, _ = records.load_model("m.pt")
    x = _sources.load("pictures", progress=False).train.x
    record = evaluation.load_record("e.pt", model)
    values = record["importance"]["bounds"]
    with torch.no_grad():
        again = torch.stack([bounds.iwae(model.log_weights(x, 100)) for _ in range(2)])
    assert (again.mean(1) - values[1].mean()).abs().max() < 0.1 * values[1].mean().abs()
    lines = told.splitlines()
    mean, error = values[1].double().mean(), values[1].double().std() / 22**0.5
    assert lines[2].split()[-3:] == [f"{mean:.2f}", "+-", f"{error:.2f}"]
    per_dim = likelihoods.bits_per_dim(values[1].double(), 3 * 48 * 40).mean()
    assert lines[-1].split()[-3] == f"{per_dim:.4f}"


def test_annealed_numbers_stand_beside_those_of_the_same_points(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", (np.random.default_rng(0).random((40, 6)) < 0.5).astype(np.uint8))
    run(capsys, "train", "--data", "x.npy", *TINY, "--hidden", "8", "--output", "m.pt")
    told = run(
        capsys,
        *words("evaluate m.pt --samples 50 --ais --annealed 3 --steps 20 --quiet --part all --record e.pt"),
    )
    record = evaluation.load_record("e.pt", records.load_model("m.pt")[0])
    annealed = record["annealed"]["log_w"].double()
    value = (annealed.logsumexp(0) - np.log(len(annealed))).mean()
    (line,) = (line for line in told.splitlines() if "annealed" in line)
    assert line.startswith("the same 3 points")
    assert line.split()[-3] == f"{value:.2f}"
    (line,) = (line for line in told.splitlines() if "importance" in line)
    assert line.split()[-3] == f"{record['importance']['bounds'][1, :3].double().mean():.2f}"
    lower, upper = (record["simulated"][name].double() for name in ("lower", "upper"))
    gap = -((-upper).exp().mean(0).log()) - lower.exp().mean(0).log()
    (line,) = (line for line in told.splitlines() if "gap" in line)
    assert line.split()[-3] == f"{gap.mean():.2f}"


def test_an_interrupted_evaluation_goes_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("x.npy", (np.random.default_rng(0).random((60, 6)) < 0.5).astype(np.uint8))
    run(capsys, "train", "--data", "x.npy", *TINY, "--hidden", "8", "--output", "m.pt")
    command = words("evaluate m.pt --samples 10 --part all --quiet --record e.pt")
    calls, summarize = [], evaluation.summarize

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return summarize(*arguments, **options)

    monkeypatch.setattr(evaluation, "summarize", stopping)
    assert cli.main(command) == 130
    assert "What is done is in e.pt; the same command goes on from there." in capsys.readouterr().err
    told = run(capsys, *command)
    assert len(calls) == 2 + 2  # three batches of twenty, the first of which was done
    Path("e.pt").unlink()
    assert run(capsys, *command) == told


def test_a_mean_is_a_probability_and_a_sample_a_bit(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", (np.random.default_rng(0).random((40, 6)) < 0.5).astype(np.uint8))
    run(capsys, "train", "--data", "x.npy", *TINY, "--output", "m.pt")
    run(capsys, *words("sample m.pt --num 5 --output s.npy"))
    run(capsys, *words("sample m.pt --num 5 --mean --output mean.npy"))
    run(capsys, *words("sample m.pt --num 5 --seed 1 --output other.npy"))
    samples, means, others = (datafiles.read(name).x for name in ("s.npy", "mean.npy", "other.npy"))
    assert set(samples.unique().tolist()) == {0.0, 1.0}
    assert ((means > 0) & (means < 1)).all()
    assert not torch.equal(samples, others)


def test_many_points_go_through_the_networks_some_at_a_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save("x.npy", np.random.default_rng(0).normal(size=(30, 4)))
    run(capsys, "train", "--data", "x.npy", *TINY, "--output", "m.pt")
    commands = [
        words("sample m.pt --num 7 --mean --output s.npy"),
        words("reconstruct m.pt --part all --num 7 --output r.npy"),
    ]
    found = {}
    for size in (500, 3):
        monkeypatch.setattr(cli, "BATCH_SIZE", size)
        for command in commands:
            run(capsys, *command)
        found[size] = [datafiles.read(name).x for name in ("s.npy", "r.npy")]
    for whole, parts in zip(found[500], found[3], strict=True):
        assert len(whole) == 7
        assert torch.allclose(whole, parts, atol=1e-5)


# scales: what comes out is on the scale of what went in


def test_a_table_comes_back_on_its_own_scales(capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("t.csv"))
    Path("t.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in Path("t.csv").read_text().splitlines()))
    told = run(
        capsys, "train", "--data", "t.csv", *TINY, "--epochs", "30", "--learning-rate", "0.01", "--output", "m.pt"
    )
    assert "gaussian likelihood of standardised values" in told
    run(capsys, "sample", "m.pt", "--num", "400", "--output", "s.csv")
    samples, own = datafiles.read("s.csv"), datafiles.read("t.csv")
    assert samples.columns == own.columns == ("weight", "length", "rest")
    assert ((samples.x.mean(0) - own.x.mean(0)).abs() < own.x.std(0)).all()
    assert (samples.x.std(0) / own.x.std(0) - 1).abs().max() < 0.5
    told = run(capsys, "reconstruct", "m.pt", "--num", "6", "--output", "r.csv", "--part", "train")
    rebuilt, first = datafiles.read("r.csv").x, _sources.load("t.csv").train.x[:6]
    assert float(told.split()[-1]) == pytest.approx((rebuilt - first).square().mean().sqrt().item(), rel=1e-3)


def test_a_density_is_told_on_the_scale_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The same table in other units: log p changes by the logarithm of the units, and by nothing else."""
    table(Path("t.csv"))
    rows = [line.split(",") for line in Path("t.csv").read_text().splitlines()]
    Path("a.csv").write_text("\n".join(",".join(row[:3]) for row in rows))
    Path("b.csv").write_text(
        "\n".join([",".join(rows[0][:3]), *(f"{float(r[0]) * 1000},{r[1]},{r[2]}" for r in rows[1:])])
    )
    values = []
    for name in ("a", "b"):
        run(capsys, "train", "--data", f"{name}.csv", *TINY, "--output", f"{name}.pt")
        told = run(capsys, "evaluate", f"{name}.pt", "--samples", "50", "--quiet")
        assert "a density on the scale of the file" in told
        assert "bits per dimension" not in told
        values.append(float(told.splitlines()[2].split()[-3]))
    assert values[0] - values[1] == pytest.approx(np.log(1000), abs=0.03)


def test_the_scale_of_a_density_counts_once_for_each_number() -> None:
    """One scale for all pixels of an image, one for each column of a table; none for a probability."""
    assert _sources.log_scale(_sources.Preparation("gaussian", scale=(10.0,)), 6) == pytest.approx(6 * np.log(10))
    assert _sources.log_scale(_sources.Preparation("gaussian", scale=(10.0, 5.0)), 2) == pytest.approx(np.log(50))
    assert _sources.log_scale(_sources.Preparation("bernoulli", scale=(255.0,)), 6) == 0
    images = _sources.preparation(Data(torch.randn(5, 1, 8, 8)), None)
    assert len(images.scale) == 1


def test_the_trained_density_of_standardised_data_is_right_against_a_known_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One Gaussian column of standard deviation 50: no model can find more than its entropy on average."""
    x = 7 + 50 * torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    datafiles.write("x.csv", x, columns=("x",))
    run(capsys, "train", "--data", "x.csv", *TINY, *words("--epochs 8 --batch-size 100 --output m.pt"))
    told = run(capsys, "evaluate", "m.pt", "--samples", "100", "--quiet", "--part", "all")
    entropy = 0.5 * np.log(2 * np.pi * np.e * 50**2)
    assert float(told.splitlines()[2].split()[-3]) == pytest.approx(-entropy, abs=0.05)


def test_every_line_of_evaluate_is_on_the_scale_of_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty points of standard deviation 1000: what is annealed agrees with what is not; one sample will do."""
    datafiles.write("x.csv", 1000 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    run(capsys, "train", "--data", "x.csv", *TINY, *words("--hidden 8 --epochs 4 --output m.pt"))
    told = run(capsys, *words("evaluate m.pt --samples 200 --ais --steps 50 --quiet --record e.pt --seed 3"))
    assert torch.load("e.pt", weights_only=True)["settings"]["seed"] == 3
    lines = {line[:42].strip(): float(line[42:].split()[0]) for line in told.splitlines()[1:]}
    annealed, importance = (lines[f"the same 20 points: {name}"] for name in ("annealed", "importance"))
    assert annealed == pytest.approx(importance, abs=0.1)
    assert importance == lines["log p(x), at least (K = 200)"]
    expected = -np.log(2 * np.pi * np.e * 1000**2)
    assert lines["ELBO"] <= importance + 0.05
    assert importance == pytest.approx(expected, abs=1)
    assert abs(lines["gap of the bounds on data from the model"]) < 0.5
    assert "K = 1)" in run(capsys, *words("evaluate m.pt --samples 1 --quiet"))


@pytest.mark.parametrize(("likelihood", "shift"), [("gaussian", 6 * np.log(10)), ("poisson", 0.0)])
def test_a_report_has_means_and_standard_errors_on_the_scale_of_the_file(
    likelihood: str, shift: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four images of six numbers; three of the four are annealed, with one temperature path each."""
    bounds_, log_w = torch.tensor([[-9.0, -7.0, -5.0, -3.0], [-6.0, -4.0, -2.0, 0.0]]), torch.full((2, 3), -4.0)
    ends = {"lower": torch.full((2, 3), -5.0), "upper": torch.full((2, 3), -2.0)}
    record = {"importance": {"bounds": bounds_}, "annealed": {"log_w": log_w}, "simulated": ends}
    record["settings"] = {"num_samples": [1, 7000]}
    how = _sources.Preparation(likelihood, scale=(10.0,))
    cli._report(record, how, models.mlp_vae((1, 2, 3), 2, 4), 4)
    lines = {line[:42].strip(): line[42:].split() for line in capsys.readouterr().out.splitlines()[1:]}
    error = f"{(20 / 3) ** 0.5 / 2:.2f}"
    expected = {
        "ELBO": [f"{-6 - shift:.2f}", "+-", error],
        "log p(x), at least (K = 7,000)": [f"{-3 - shift:.2f}", "+-", error],
        "the same 3 points: importance": [f"{-4 - shift:.2f}", "+-", f"{2 / 3**0.5:.2f}"],
        "the same 3 points: annealed": [f"{-4 - shift:.2f}", "+-", "0.00"],
        "gap of the bounds on data from the model": ["3.00", "+-", "0.00"],
    }
    if likelihood == "poisson":
        scale = 6 * np.log(2)
        expected["bits per dimension, at most"] = [f"{3 / scale:.4f}", "+-", f"{(20 / 3) ** 0.5 / 2 / scale:.4f}"]
    assert lines == expected


def test_a_column_that_never_varies_is_divided_by_one() -> None:
    how = _sources.preparation(Data(torch.tensor([[0.5, 5.0], [4.5, 5.0]])), None)
    assert (how.shift, how.scale) == ((2.5, 5.0), (2.0, 1.0))


@pytest.mark.parametrize(
    ("likelihood", "binarized", "scale", "high"),
    [
        (likelihoods.Bernoulli(), True, 255.0, 255.0),
        (likelihoods.ContinuousBernoulli(), False, 255.0, 255.0),
        (likelihoods.DiscretizedLogistic(), False, 1.0, 255.0),
        (likelihoods.Poisson(), False, 1.0, 1.0),
    ],
)
def test_a_model_recorded_without_a_preparation_is_given_what_its_likelihood_calls_for(
    likelihood: Any, binarized: bool, scale: float, high: float
) -> None:
    how = _sources.from_facts({}, models.mlp_vae((3,), 2, 4, likelihood=likelihood))
    assert (how.binarized, how.scale, how.high) == (binarized, (scale,), high)


@pytest.mark.parametrize(
    ("array", "likelihood", "expected"),
    [
        ("bits", None, "bernoulli likelihood,"),
        ("bytes", None, "discretized_logistic likelihood,"),
        ("bytes", "bernoulli", "bernoulli likelihood of bits drawn from the values,"),
        ("bytes", "continuous_bernoulli", "continuous_bernoulli likelihood of values divided by 255,"),
        ("bytes", "gaussian", "gaussian likelihood of standardised values,"),
        ("counts", None, "negative_binomial likelihood,"),
        ("counts", "poisson", "poisson likelihood,"),
        ("real", None, "gaussian likelihood of standardised values,"),
    ],
)
def test_the_likelihood_suits_the_values_and_samples_are_like_the_data(
    array: str, likelihood: str | None, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0)
    x = {
        "bits": (noise.random((40, 6)) < 0.5).astype(np.uint8),
        "bytes": noise.integers(0, 256, (40, 8, 9)).astype(np.uint8),
        "counts": noise.poisson(20.0, (40, 6)),
        "real": noise.normal(5.0, 3.0, (40, 6)),
    }[array]
    np.save("x.npy", x)
    options = CONV if array == "bytes" else TINY
    chosen = [] if likelihood is None else ["--likelihood", likelihood]
    assert expected in run(capsys, "train", "--data", "x.npy", *options, *chosen, "--output", "m.pt")
    run(capsys, "sample", "m.pt", "--num", "30", "--output", "s.npy")
    samples = datafiles.read("s.npy").x
    assert samples.shape[1:] == datafiles.read("x.npy").x.shape[1:]
    if array == "bytes":
        assert samples.max() > 50
        assert samples.min() >= 0 or likelihood == "gaussian"
        run(capsys, "sample", "m.pt", "--num", "30", "--output", "s.png")
    elif array == "counts":
        assert datafiles.kind(samples) in ("binary", "counts")
    run(capsys, "evaluate", "m.pt", "--samples", "5", "--quiet")


def test_options_choose_the_parts_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("x.npy", np.random.default_rng(0).normal(size=(30, 5)))
    parts = words("--prior mixture --components 3 --family full_rank --hidden 9")
    told = run(capsys, "train", "--data", "x.npy", *TINY, *parts, "--output", "m.pt")
    assert "mixture prior, full_rank q\nNetworks: mlp, num_latents 3, num_hidden 9" in told
    model, _ = records.load_model("m.pt")
    assert isinstance(model.prior, priors.GaussianMixture)
    assert model.prior.mu.shape == (3, 3)
    assert model.family is families.FullRank
    assert model.decoder.arguments["num_hidden"] == 9
    run(capsys, "train", "--data", "x.npy", "--network", "linear", *TINY[2:], "--output", "m.pt")
    model, _ = records.load_model("m.pt")
    assert type(model.decoder) is networks.LinearDecoder
    assert model.num_latents == 2  # half of five


@pytest.mark.parametrize(("side", "patch"), [(28, 4), (64, 4), (65, 8), (128, 8), (129, 16), (256, 16), (257, 32)])
def test_larger_images_get_larger_patches(side: int, patch: int) -> None:
    """So that the grid, and the linear layer on it, stay small."""
    options = train._parse(words("--data x --channels 1 --blocks 0 --latents 1"))
    _, sizes = train._model(options, _sources.Preparation("bernoulli"), (1, 8, side))
    assert sizes["patch_size"] == patch


@pytest.mark.parametrize(
    ("shape", "network", "num_latents"),
    [
        ((1,), "mlp", 1),
        ((7,), "mlp", 3),
        ((100,), "mlp", 32),
        ((1, 7, 30), "mlp", 32),
        ((1, 30, 7), "mlp", 32),
        ((3, 8, 8), "convolutional", 32),
    ],
)
def test_the_network_and_the_latent_suit_the_shape(shape: tuple[int, ...], network: str, num_latents: int) -> None:
    options = train._parse(words("--data x --channels 1 --blocks 0"))
    model, sizes = train._model(options, _sources.Preparation("gaussian"), shape)
    assert (sizes["network"], sizes["num_latents"]) == (network, num_latents)
    assert sizes["num_hidden"] == (256 if network == "mlp" else None)
    assert model.data_shape == shape


def test_pictures_of_real_numbers_are_shown_from_their_least_to_their_greatest() -> None:
    x = torch.linspace(-3, 5, 64).view(1, 1, 8, 8)
    how = _sources.preparation(Data(x), None)
    assert how.likelihood == "gaussian"
    levels = _sources.picture(how, _sources.restore(how, _sources.prepare(how, Data(x))))
    assert_close(levels.double(), torch.linspace(0, 255, 64).view(1, 1, 8, 8).double(), 1e-3)


def test_levels_beyond_black_and_white_are_black_and_white() -> None:
    how = _sources.Preparation("gaussian", low=1.0, high=3.0)
    assert _sources.picture(how, torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0])).tolist() == [0.0, 0.0, 127.5, 255.0, 255.0]


def test_pairs_fill_their_last_two_rows_with_white() -> None:
    above = torch.arange(5.0).view(5, 1, 1, 1)
    pairs = cli._in_pairs(above, above + 100, 3).flatten().tolist()
    assert pairs == [0, 1, 2, 100, 101, 102, 3, 4, 255, 103, 104, 255]


# labels


def test_a_conditional_model_draws_what_the_label_says(capsys: pytest.CaptureFixture[str]) -> None:
    pictures(Path("pictures"), shape=(12, 8))
    options = [*CONV, "--epochs", "40", "--learning-rate", "0.01", "--batch-size", "4", "--output", "m.pt"]
    told = run(capsys, "train", "--data", "pictures", "--labels", *options)
    assert "given one of 2 labels" in told
    means = {}
    for label in ("bright", "DARK"):
        run(capsys, "sample", "m.pt", "--label", label, "--num", "9", "--mean", "--output", "s.npy")
        means[label] = datafiles.read("s.npy").x.mean().item()
    assert means["bright"] > 120 > means["DARK"]
    run(capsys, "sample", "m.pt", "--num", "4", "--mean", "--output", "s.npy")
    assert (datafiles.read("s.npy").x.mean((1, 2, 3)) > 120).tolist() == [True, False, True, False]
    run(capsys, "reconstruct", "m.pt", "--output", "pairs.png")
    told = run(capsys, *words("evaluate m.pt --samples 5 --ais --annealed 2 --steps 5 --quiet"))
    assert "the same 2 points: annealed" in told
    assert "log p(x given y), at least (K = 5)" in told
    assert "no label 'blue' among bright, dark" in refusal(
        capsys, "sample", "m.pt", "--label", "blue", "--output", "s.npy"
    )


def test_bits_are_drawn_beside_the_label_and_not_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.cat([torch.full((5, 1), 7), torch.full((5, 4), 255)], 1).byte()
    assert _sources.binarize_beside_label(x).tolist() == [[7, 1, 1, 1, 1]] * 5
    told = run(capsys, *words("train --data fashion_mnist --labels --limit 64 --output m.pt"), *CONV)
    assert "bernoulli likelihood of bits drawn from the values given one of 10 labels" in told
    run(capsys, *words("sample m.pt --label shirt --num 2 --output s.png"))
    model, record = records.load_model("m.pt")
    assert isinstance(model, models.ConditionalVAE)
    assert record.facts["preparation"]["class_names"][6] == "Shirt"


def test_labels_of_a_table_and_of_new_data(capsys: pytest.CaptureFixture[str]) -> None:
    table(Path("t.csv"))
    run(capsys, "train", "--data", "t.csv", "--labels", "kind", *TINY, "--output", "m.pt")
    Path("new.csv").write_text("weight,length,rest,kind\n100,0,0,b\n110,0.01,1,b\n")
    assert "2 data points" in run(capsys, *words("evaluate m.pt --data new.csv --samples 5 --quiet"))
    assert "1 data points" in run(capsys, *words("evaluate m.pt --data new.csv --samples 5 --quiet --limit 1"))
    assert "1 recon" in run(capsys, *words("reconstruct m.pt --data new.csv --num 1 --output r.csv"))
    Path("new.csv").write_text("weight,length,rest,kind\n100,0,0,z\n110,0.01,1,b\n")
    assert "the label 'z' is none of the model's" in refusal(capsys, *words("evaluate m.pt --data new.csv --samples 5"))
    Path("new.csv").write_text("weight,breadth,rest,kind\n100,0,0,a\n110,0.01,1,b\n")
    assert "the columns are weight, breadth, rest" in refusal(
        capsys, *words("evaluate m.pt --data new.csv --samples 5")
    )


def test_labels_are_numbered_as_the_model_numbers_them() -> None:
    """New data may hold fewer labels than the model knows, in another order."""
    how = _sources.Preparation("gaussian", class_names=("a", "b", "c"))
    found = Data(torch.zeros(3, 2), torch.tensor([0, 1, 0]), ("c", "b"))
    assert _sources.attach(how, found.x, found)[:, 0].tolist() == [2.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="trained with labels, and these data have none"):
        _sources.attach(how, found.x, Data(found.x))


def test_labels_stay_with_their_points_in_both_parts() -> None:
    x = np.arange(20)
    np.savez("x.npz", x=x[:, None] / 7, labels=x % 3)
    parts = _sources.load("x.npz", labels=True, holdout=0.4, limit=5)
    for part in parts[:2]:
        assert len(part.x) == 5
        assert part.labels is not None
        assert (part.x[:, 0] * 7).round().remainder(3).tolist() == part.labels.tolist()


def test_data_drawn_from_a_conditional_model_are_of_all_its_labels_in_turn() -> None:
    model = models.conditional(models.mlp_vae, (4,), 2, 3, num_hidden=4)
    trained = cli._Trained(model, _sources.Preparation("bernoulli"), {}, torch.Generator().manual_seed(0))
    x, z = cli._simulated(trained, 5)
    assert x[:, 0].tolist() == [0, 1, 2, 0, 1]
    assert (x.shape, z.shape) == ((5, 5), (5, 2))


# which part of which data


def test_the_held_out_part_is_the_one_training_did_not_see(capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.save("x.npy", x)
    run(capsys, "train", "--data", "x.npy", "--holdout", "0.2", *TINY, "--output", "m.pt")
    facts = records.load_model("m.pt")[1].facts
    assert (facts["num_train"], facts["num_test"], facts["holdout"]) == (40, 10, 0.2)
    for part, number in (("test", 10), ("train", 40), ("all", 50)):
        assert f"{number} data points" in run(capsys, *f"evaluate m.pt --samples 5 --quiet --part {part}".split())
    assert "10 data points" in run(capsys, *words("evaluate m.pt --samples 5 --quiet"))
    x[-1, -1] += 1  # one number makes them other data
    np.save("y.npy", x)
    assert "50 data points" in run(capsys, *words("evaluate m.pt --data y.npy --samples 5 --quiet"))
    told = refusal(capsys, *words("evaluate m.pt --data y.npy --samples 5 --part test"))
    assert "was not trained on y.npy" in told
    assert "3 data points" in run(capsys, *words("evaluate m.pt --samples 5 --quiet --limit 3"))


def test_the_split_is_that_of_datafiles_with_the_seed_that_is_said() -> None:
    np.save("x.npy", np.arange(40.0).reshape(20, 2) / 7)
    parts, x = _sources.load("x.npy", holdout=0.25), datafiles.read("x.npy").x
    train, held_out = datafiles.split(20, 0.25, seed=0)
    assert "split with seed 0" in parts.told
    assert torch.equal(parts.train.x, x[train])
    assert torch.equal(parts.test.x, x[held_out])


def test_other_data_are_taken_whole_and_in_their_order(capsys: pytest.CaptureFixture[str]) -> None:
    """Reconstructions stand in the rows of what was given, were it one point; what ``sample`` wrote can be given."""
    x = np.random.default_rng(0).normal([0, 100], [1, 10], size=(50, 2))
    datafiles.write("x.csv", torch.from_numpy(x), columns=("a", "b"))
    run(capsys, "train", "--data", "x.csv", *TINY, *words("--latents 2 --epochs 60 --learning-rate 0.01 --output m.pt"))
    rising = torch.stack([torch.linspace(-1, 1, 30), torch.linspace(80, 120, 30)], 1)
    datafiles.write("y.npy", rising)  # without names for its columns
    run(capsys, *words("reconstruct m.pt --data y.npy --num 100 --output r.csv"))
    rebuilt = datafiles.read("r.csv").x
    assert torch.corrcoef(torch.stack([rising[:, 1], rebuilt[:, 1]]))[0, 1] > 0.8
    datafiles.write("one.csv", rising[:1], columns=("a", "b"))
    told = run(capsys, *words("reconstruct m.pt --data one.csv --output r.csv"))
    assert told.startswith("1 reconstructions in r.csv")
    assert "1 data points" in run(capsys, *words("evaluate m.pt --data one.csv --samples 2 --quiet"))
    for name in ("s.csv", "s.npy"):
        run(capsys, *words(f"sample m.pt --num 7 --output {name}"))
        assert "7 data points" in run(capsys, *words(f"evaluate m.pt --data {name} --samples 2 --quiet"))
    run(capsys, "train", "--data", "y.npy", *TINY, "--output", "n.pt")
    assert "7 data points" in run(capsys, *words("evaluate n.pt --data s.csv --samples 2 --quiet"))


def test_size_and_colour_of_the_training_are_for_folders(capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of any size are brought to that of the training, 12 high and 8 wide; an array has it, or is refused."""
    pictures(Path("my pictures"), num=8, shape=(20, 30))
    Image.new("L", (9, 31)).save("my pictures/dark/grey, small.png")
    options = [*CONV, *words("--batch-size 4 --size 12 8 --colour rgb --output m.pt")]
    assert "each 3 x 12 x 8" in run(capsys, "train", "--data", "my pictures/", *options)
    assert "1 data points" in run(capsys, *words("evaluate m.pt --samples 2 --quiet"))  # known by its content
    Path("new").mkdir()
    Image.new("L", (40, 31)).save("new/1.png")
    assert run(capsys, *words("reconstruct m.pt --data new --output r.png")).startswith("1 reconstructions")
    run(capsys, *words("sample m.pt --num 3 --output s.npy"))
    assert "3 data points" in run(capsys, *words("evaluate m.pt --data s.npy --samples 2 --quiet"))
    np.save("s.npy", np.zeros((3, 3, 8, 12), np.uint8))
    assert "the data points are of shape 3 x 8 x 12, and the model's 3 x 12 x 8" in refusal(
        capsys, *words("reconstruct m.pt --data s.npy --output r.png")
    )


def test_all_of_a_named_set_is_both_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a folder has that name; its path with a point in front is the folder."""

    def images(split: str, **options: Any) -> data.Images:
        level = 10 if split == "train" else 20
        return data.Images(torch.full((2, 1, 28, 28), level, dtype=torch.uint8), torch.tensor([level, level]), ())

    monkeypatch.setattr(data, "mnist", images)
    pictures(Path("mnist"), num=4)
    how = _sources.Preparation("bernoulli", binarized=True)
    trained = cli._Trained(models.conv_vae((1, 28, 28), 2, 4, 1), how, {}, torch.Generator())
    options = argparse.Namespace(data="mnist", full=False, folder=None, part=None, limit=None, model="m.pt")
    for part, levels in ((None, [20, 20]), ("test", [20, 20]), ("train", [10, 10]), ("all", [10, 10, 20, 20])):
        options.part = part
        found = cli._data(options, trained)
        assert found.x[:, 0, 0, 0].tolist() == levels
        assert found.labels is not None
        assert found.labels.tolist() == levels
    options.limit = 3
    found = cli._data(options, trained)
    assert (len(found.x), found.labels.tolist() if found.labels is not None else None) == (3, [10, 10, 20])
    assert "./mnist, split" in _sources.load("./mnist", progress=False).told


def test_labels_of_a_named_set_stay_with_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.arange(5, dtype=torch.uint8)
    both = data.Images(numbers.view(5, 1, 1, 1).expand(5, 1, 28, 28), numbers.long(), ())
    monkeypatch.setattr(data, "mnist", lambda split, folder: both)
    train_part, test_part, *_ = _sources.load("mnist", limit=2)
    for part in (train_part, test_part):
        assert part.labels is not None
        assert part.x[:, 0, 0, 0].tolist() == part.labels.tolist() == [0, 1]


def test_full_sets_and_their_folder_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def images(split: str, **options: Any) -> data.Images:
        calls.append(options)
        return data.Images(torch.full((2, 1, 28, 28), 255, dtype=torch.uint8), torch.zeros(2), ())

    monkeypatch.setattr(data, "fashion_mnist", images)
    for named, full, trained_full, expected in (
        (None, False, True, True),
        (None, False, False, False),
        (None, True, False, True),
        ("fashion_mnist", False, True, False),
    ):
        options = argparse.Namespace(data=named, full=full, folder="here", part="test", limit=None, model="m.pt")
        how, facts = _sources.Preparation("bernoulli"), {"data": "fashion_mnist", "full": trained_full}
        cli._data(options, cli._Trained(models.conv_vae((1, 28, 28), 2, 4, 1), how, facts, torch.Generator()))
        assert calls[-1] == {"full": expected, "folder": "here"}


def test_a_record_without_a_preparation_works_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The book's own record, and what fit and save_model leave."""
    model = models.conv_vae((1, 28, 28), 2, 4, 1)
    records.save_model("m.pt", model, records.History([], [], [], [], []))
    run(capsys, *words("sample m.pt --num 4 --mean --output s.png"))
    assert np.asarray(Image.open("s.png")).mean() > 50  # probabilities of about a half, as levels
    told = run(
        capsys,
        *words("evaluate m.pt --data fashion_mnist --limit 10 --samples 5 --quiet --record e.pt"),
    )
    assert "of bits drawn once from the values" in told
    x = data.binarize(data.fashion_mnist("test").images, generator=torch.Generator().manual_seed(0))[:10]
    settings = torch.load("e.pt", weights_only=True)["settings"]
    assert settings["data"] == records.fingerprint(x)
    assert "does not say what it was trained on" in refusal(capsys, *words("evaluate m.pt --samples 5"))


# what is refused, and what is left behind


def spoil_picture(folder: Path) -> None:
    (folder / "dark" / "0.png").write_bytes(b"no picture")


def spoil_size(folder: Path) -> None:
    Image.new("RGB", (41, 48)).save(folder / "dark" / "0.png")


def spoil_channels(folder: Path) -> None:
    Image.new("L", (40, 48)).save(folder / "dark" / "0.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_picture, "dark/0.png cannot be read as an image"),
        (spoil_size, "0.png is 48 high and 41 wide"),
        (spoil_channels, "0.png is grey"),
    ],
)
def test_a_spoilt_folder_is_refused_and_nothing_is_written(
    spoil: Any, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(Path("pictures"), num=4)
    spoil(Path("pictures"))
    line = refusal(capsys, "train", "--data", "pictures", *CONV, "--output", "m.pt", "--checkpoint", "c.pt")
    assert message in line
    assert [path.name for path in Path().iterdir()] == ["pictures"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sample nowhere.pt --output s.png", "there is no file nowhere.pt"),
        ("sample m.pt --output s.jpg", "can be written to .csv or .npy"),
        ("sample m.pt --output no/such/s.csv", "there is no such folder"),
        ("sample m.pt --output s.csv --label a", "was trained without labels"),
        ("reconstruct m.pt --output s.png", "can be written to .csv or .npy"),
        ("reconstruct m.pt --output s.png --data no/where", "can be written to .csv or .npy"),
        (
            "sample autoencoder.pt --output s.csv",
            "autoencoder.pt holds a model of the class Autoencoder, not a VAE",
        ),
        ("evaluate counts.pt --data plain.csv", "whole numbers 0, 1, 2"),
        ("reconstruct m.pt --output s.csv --data no/where", "there is no file or folder no/where"),
        ("evaluate m.pt --data empty", "empty holds no images"),
        ("evaluate m.pt --data nan.csv", "line 2, column 'weight': 'nan' is no finite number"),
        ("evaluate m.pt --record no/such/e.pt", "there is no such folder"),
        ("evaluate m.pt --data short.csv", "the columns are a, b"),
        ("evaluate m.pt --data short.npy", "the data points are of shape 2, and the model's 3"),
        ("reconstruct m.pt --data fashion_mnist --output s.csv", "the data points are of shape 1 x 28 x 28, and"),
        ("sample m.pt --output s.csv --device meta", "--device is meta, which torch cannot use here ("),
        ("train --data plain.csv --device meta", "--device is meta, which torch cannot use here ("),
        ("train --data t.csv --labels", "for an .npz or a .csv name the array or column"),
        ("train --data empty.npy", "empty.npy holds no numbers"),
        ("train --data t.csv", "column 'kind': 'a' is no finite number"),
        ("train --data one.csv", "1 data point(s) cannot be split"),
        ("train --data t.csv --labels kind --holdout 2", "the held-out share must be above 0"),
        ("train --data t.csv --labels kind --likelihood poisson", "Poisson likelihood"),
        ("train --data t.csv --labels kind --network convolutional", "needs data of shape"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table(Path("t.csv"))
    Path("plain.csv").write_text("\n".join(line.rsplit(",", 1)[0] for line in Path("t.csv").read_text().splitlines()))
    run(capsys, "train", "--data", "plain.csv", *TINY, "--output", "m.pt")
    nothing = records.History([], [], [], [], [])
    records.save_model("autoencoder.pt", models.mlp_autoencoder((3,), 2, 4), nothing)
    records.save_model("counts.pt", models.mlp_vae((3,), 2, 4, likelihood=likelihoods.Poisson()), nothing)
    Path("empty").mkdir()
    Path("nan.csv").write_text("weight,length,rest\nnan,1,2\n1,2,3\n")
    Path("short.csv").write_text("a,b\n1,2\n3,4\n")
    np.save("short.npy", np.zeros((4, 2)))
    np.save("empty.npy", np.zeros((4, 0)))
    Path("one.csv").write_text("1,2\n")
    before = sorted(Path().iterdir())
    line = refusal(capsys, *arguments.split())
    assert message in line
    assert line.startswith(f"python -m vae_tutorial {arguments.split()[0]}: error: ")
    assert sorted(Path().iterdir()) == before


def test_an_error_is_one_line_and_the_signal_is_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    def work(error: BaseException) -> None:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    for error, line in (
        (ValueError("two\n  lines"), "name: error: two lines"),
        (ValueError(), "name: error: ValueError"),
        (OSError("no"), "name: error: no"),
        (FloatingPointError("not finite"), "name: error: not finite"),
    ):
        assert _command.command("name", lambda error=error: work(error), str) == 1
        assert capsys.readouterr().err.splitlines() == [line]
    assert _command.command("name", lambda: work(KeyboardInterrupt()), lambda: "Go on.") == 130
    assert _command.command("name", lambda: signal.raise_signal(signal.SIGTERM), lambda: "Go on.") == 143
    assert capsys.readouterr().err.split() == ["Interrupted.", "Go", "on."] * 2
    assert _command.command("name", lambda: None, str) == 0
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_verb_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 2
    for arguments in (["--help"], *([verb, "--help"] for verb in ("train", "sample", "reconstruct", "evaluate"))):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 0
    text = capsys.readouterr().out
    for part in ("VERB", "--checkpoint", "--label", "--ais", "--part", "the reconstructions alone"):
        assert part in text


# as a program


def program(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vae_tutorial", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.skipif(os.name == "nt", reason="no SIGTERM on Windows")
def test_a_scheduler_may_take_the_machine_away() -> None:
    """SIGTERM in mid-run: status 143, the last epoch kept, and the same command ends with the same bits."""
    command = [
        *words("train --limit 400 --checkpoint c.pt --output m.pt --epochs 60"),
        *CONV[:2],
        *CONV[4:],
    ]
    process = program(*command)
    while process.poll() is None and not Path("c.pt").exists():
        pass
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert "the same command goes on from there" in errors
    done = len(torch.load("c.pt", weights_only=True)["history"]["train_kl"])
    assert 1 <= done < 60
    assert not Path("m.pt").exists()
    for name, options in (("m.pt", command), ("whole.pt", [word.replace("m.pt", "whole.pt") for word in command])):
        if name == "whole.pt":
            Path("c.pt").unlink()
        process = program(*options)
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    first, second = (records.load_model(name)[0].state_dict() for name in ("m.pt", "whole.pt"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
