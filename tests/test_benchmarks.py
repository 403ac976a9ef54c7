"""The benchmarks run, on settings so small that their numbers mean nothing."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from vae_tutorial import data, models, records, training

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


def benchmark(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_lists_every_script() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in FOLDER.glob("*.py"):
        assert f"`python benchmarks/{path.name}`" in readme


# fit_speed: three loops that train the same thing


def test_the_tutorials_loop_trains_the_same_network_on_the_same_images() -> None:
    """From one start, 543 nats, `fit` and the tight loop reach the same weights, and the tutorial's about the same bound."""
    fit_speed, reached, generator = benchmark("fit_speed"), {}, torch.Generator().manual_seed(0)
    x = data.fashion_mnist().images[:1280]
    x_test = data.binarize(data.fashion_mnist("test").images[:200], generator=generator)
    for name, epoch in fit_speed.LOOPS.items():
        torch.manual_seed(0)
        model = models.mlp_vae((1, 28, 28), num_latents=4, num_hidden=32)
        for _ in range(2):
            epoch(model, x)
        terms = training.average_terms(model, x_test)
        reached[name] = (terms.reconstruction - terms.kl).item()
    assert reached["fit"] == pytest.approx(reached["tight"], abs=1e-3)
    assert reached["fit"] > -530
    assert reached["tutorial"] == pytest.approx(reached["fit"], abs=3)


def test_the_tutorials_data_set_gives_binarized_images_one_at_a_time() -> None:
    fit_speed, images = benchmark("fit_speed"), data.fashion_mnist().images[:3]
    grey = fit_speed.to_tensor(images[1, 0].numpy().copy()[..., None])
    assert torch.equal(grey, images[1].float() / 255)
    item, _ = fit_speed.OneByOne(images)[1]
    assert item.shape == (1, 28, 28)
    assert set(item.unique().tolist()) == {0.0, 1.0}
    assert (item[images[1] == 0] == 0).all()


def test_fit_speed_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    fit_speed = benchmark("fit_speed")
    small = {"small": lambda: models.mlp_vae((1, 28, 28), num_latents=2, num_hidden=2)}
    monkeypatch.setattr(fit_speed, "NETWORKS", small)
    monkeypatch.setattr(fit_speed, "BATCH_SIZE", 16)
    fit_speed.main(2, 100)
    output = capsys.readouterr().out
    assert "96 images an epoch in batches of 16, 2 epochs each" in output
    assert output.count("fit / tight") == output.count("fit / tutorial") == 2  # wall and CPU time


# fit_cuda: as far as a CPU can tell


@pytest.mark.parametrize(
    ("intervals", "share"),
    [
        ([(0, 10)], 0.0),
        ([(0, 4), (6, 10)], 0.2),
        ([(6, 10), (0, 4)], 0.2),
        ([(0, 8), (1, 2), (9, 10)], 0.1),  # two at once
        ([(0, 5), (5, 10)], 0.0),
        ([(100, 101), (109, 110)], 0.8),
    ],
)
def test_the_share_outside_kernels(intervals: list[tuple[float, float]], share: float) -> None:
    assert benchmark("fit_cuda").share_outside(intervals) == pytest.approx(share)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_fit_cuda_ends_politely_without_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark("fit_cuda").main([])
    assert capsys.readouterr().out == "No CUDA device here: nothing measured.\n"


def test_fit_cuda_runs_on_a_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    sizes = "--images 64 --batch-size 16 --epochs 2 --channels 2 --blocks 0 --ways eager --device cpu"
    benchmark("fit_cuda").main(sizes.split(" "))
    output = capfd.readouterr().out
    assert "eager, float32" in output
    assert "eager, bfloat16" in output
    assert all(0 <= int(share) < 100 for share in re.findall(r"(\d+) %", output))
    assert output.count(" %") == 2


def test_fit_cuda_hands_its_settings_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be compiled and captured on a GPU, without compiling here. Only the last epoch's steps are profiled."""
    fit_cuda, calls, recorded = benchmark("fit_cuda"), [], []

    def fit(model: Any, x: torch.Tensor, **settings: Any) -> records.History:
        calls.append(settings)
        for step in range(settings["num_epochs"] * (len(x) // settings["optimization"].batch_size)):
            assert settings["objective"].weight_at(0.5) == 1
            torch.ones(step).erfinv()
        return records.History([], [], [], [], [9.0, 2.0, 2.0, 7.0])

    def share_outside(intervals: Any) -> float:
        recorded.append(len(list(intervals)))
        return 0.5

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(fit_cuda, "share_outside", share_outside)
    x, settings = data.fashion_mnist().images[:40], {"device": "cpu", "num_epochs": 3, "batch_size": 10}
    for way in fit_cuda.WAYS.values():
        rate, outside = fit_cuda.measure(None, x, precision=torch.bfloat16, **way, **settings)
        assert (rate, outside) == (20.0, 0.5)  # 4 steps of 10 images in 2 seconds; the first and last epoch left out
    assert [call["execution"].compile for call in calls] == [False, True, "reduce-overhead", False, True]
    assert [call["execution"].capture for call in calls] == [False, False, False, True, True]
    assert {call["execution"].precision for call in calls} == {torch.bfloat16}
    assert {call["num_epochs"] for call in calls} == {4}
    assert min(recorded) > 0


@pytest.mark.parametrize("wrong", [["--epochs", "1"], ["--images", "200"], ["--ways", "fast"]])
def test_fit_cuda_refuses_what_it_cannot_measure(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark("fit_cuda").main(wrong)
    assert capsys.readouterr().err


# beside_others: other projects' loops; neither is installed here, so that two stand-ins take their place


def test_beside_others_has_the_example_s_network_and_trains_on_grey_pixels() -> None:
    beside, x = benchmark("beside_others"), data.fashion_mnist().images[:256]
    assert torch.equal(beside.grey(x, torch.Generator()), x.float() / 255)
    with pytest.warns(UserWarning, match="zeros and ones"):
        history = beside.fitted(400, 20, x, x.float() / 255, batch_size=128, learning_rate=1e-3)()
    assert len(history.test_elbo) == 1


def test_beside_others_prints_the_ratio_of_paired_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, calls = benchmark("beside_others"), []
    times = iter([(9.0, 9.0), (1.0, 1.0), (6.0, 4.0), (2.0, 1.0), (8.0, 6.0), (2.0, 2.0), (9.0, 9.0), (1.0, 3.0)])
    monkeypatch.setattr(beside, "seconds", lambda epoch: (epoch(), next(times))[1])
    assert beside.compare("pythae", lambda: calls.append("theirs"), lambda: calls.append("ours"), 3) == 4.0
    assert calls == ["theirs", "ours"] * 4
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "pythae, wall: 8.00 s an epoch, fit 2.00 s, 4.00 times (target 2.0)"
    assert told[1] == "pythae, CPU: 6.00 s an epoch, fit 2.00 s, 3.00 times (target 2.0)"


# log_likelihood: the package's function and two loops over the samples


def test_log_likelihood_compares_what_agrees(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = benchmark("log_likelihood")
    monkeypatch.setattr(beside, "peak_elsewhere", lambda num_samples, chunk_size: f"{num_samples}/{chunk_size}")
    beside.main(num_images=2, num_samples=200)
    told = capsys.readouterr().out
    means = [float(mean) for mean in re.findall(r"mean estimate (-[\d.]+)", told)]
    assert len(means) == 3
    assert max(means) - min(means) < 3  # untrained networks, near -543 nats
    assert "one chunk: K = 50: 50/50 MiB, K = 20: 20/20 MiB, K = 200: 200/200 MiB" in told
    assert beside.peak(10, 5) > 0
