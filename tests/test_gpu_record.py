"""The script that records a run on a GPU, tried on the CPU with sizes so small that its numbers mean nothing."""

import importlib
import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from vae_tutorial import annealing, data, evaluation, models, records, training

tool = importlib.import_module("gpu_record")
BOOK = Path(__file__).resolve().parents[1] / "book"
TINY = ["--tiny", "--device", "cpu", "--minutes", "10"]


def rows(text: str) -> list[list[str]]:
    """The cells of a table in Markdown."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def found(text: str, first: str) -> list[str]:
    (row,) = [row for row in rows(text) if row[0] == first]
    return row


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one call of the script leaves."""
    path = tmp_path_factory.mktemp("record") / "gpu_record"
    assert tool.main([*TINY, "--seeds", "1", "--peak-tflops", "0.5", "--output", str(path)]) == 0
    return path


# the whole script


def test_every_part_runs_and_the_table_says_what_became_of_it(folder: Path) -> None:
    text = (folder / "table.md").read_text(encoding="utf-8")
    states = {name: found(text, name)[1] for name in ("tests", "training-0", "evaluation", "fit_cuda")}
    has_gpu = torch.cuda.is_available()
    assert states.pop("tests") == ("passed" if has_gpu else "skipped")
    assert set(states.values()) == {"finished"}
    for name in ("tests", "training-0", "evaluation", "fit_cuda"):
        log = (folder / f"{name}.log").read_text(encoding="utf-8").strip()
        assert found(text, name)[3] == re.split(r"[\r\n]+", log)[-1].strip().replace("|", "/")
    assert records.facts(torch.device("cpu"))["device"] in text
    assert torch.__version__.split("+")[0] in text


def test_the_numbers_of_the_table_are_those_of_the_records(folder: Path) -> None:
    text = (folder / "table.md").read_text(encoding="utf-8")
    run = torch.load(folder / "conv_vae.pt", weights_only=True)
    facts, history = run["facts"], records.History(**run["history"])
    blocks = [torch.load(path, weights_only=True) for path in sorted(folder.glob("conv_vae_evaluation*.pt"))]
    first, by_k = blocks[0], torch.cat([block["importance"]["bounds"] for block in blocks], 1)
    annealed, made = first["annealed"]["log_w"], first["simulated"]
    gain = (annealed.logsumexp(0) - math.log(2) - first["importance"]["bounds"][1, :4]).double()
    apart = (math.log(2) - (-made["upper"]).logsumexp(0)) - (made["lower"].logsumexp(0) - math.log(2))
    assert by_k.shape == (2, 50)  # 20 as in chapter 13, then blocks of 20 and 10, each with noise of its own
    assert [block["settings"]["seed"] for block in blocks] == [0, 1, 2]
    expected = {
        "-ELBO, validation, seed 0": (64, facts["held_out_kl"] - facts["held_out_reconstruction"], None),
        "-ELBO, test, seed 0": (50, facts["test_kl"] - facts["test_reconstruction"], None),
        "-ELBO, test, weights as recorded": (50, -by_k[0].mean(), by_k[0].std() / 50**0.5),
        "-log p(x), test, K = 10, an upper bound": (50, -by_k[1].mean(), by_k[1].std() / 50**0.5),
        "log p(x), test, AIS minus K = 10": (4, gain.mean(), gain.std() / 2),
        "log p(x), simulated, upper minus lower bound": (4, apart.mean(), apart.std() / 2),
    }
    for what, (number, mean, error) in expected.items():
        _, images, nats, told = found(text, what)
        assert (int(images), float(nats)) == (number, pytest.approx(float(mean), abs=0.006))
        assert error is None or float(told) == pytest.approx(float(error), abs=0.006)
    seed, seconds, flops, images, peak, floor = rows(text.partition("## Cost")[2])[2]
    assert (seed, images, peak) == ("0", "256", "0.50")
    assert float(seconds) == pytest.approx(sum(history.seconds), rel=0.02, abs=0.006)
    assert float(floor) == pytest.approx(256 * float(flops) / 0.5e12, rel=0.01)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["Nats per image"][2]["nats"] == pytest.approx(-by_k[0].double().mean().item())


def test_the_record_holds_every_fact_that_the_chapters_read(folder: Path) -> None:
    chapters = [path.read_text(encoding="utf-8") for path in BOOK.glob("1[123]_*.ipynb")]
    read = {name for text in chapters for name in re.findall(r"[^\w]facts\[\W+(\w+)\W+\]", text)}
    assert read >= {"wall_seconds", "bundled_kl", "test_kl"}
    run = records.load_model(folder / "conv_vae.pt")[1]
    assert read <= {*run.facts}
    log = (folder / "training-0.log").read_text(encoding="utf-8")
    assert f"{run.facts}\n" in log
    record = torch.load(folder / "conv_vae_evaluation.pt", weights_only=True)
    assert f"{record['facts']} {{'importance': " in (folder / "evaluation.log").read_text(encoding="utf-8")


def test_the_standard_errors_are_those_of_the_recorded_model(folder: Path) -> None:
    """Of the sums over pixels and latents, image by image; the recorded weights are rounded, and one sample is noisy."""
    vae, run = records.load_model(folder / "conv_vae.pt")
    options = tool.parse(TINY)
    _, held_out, x_test = tool.images(options)
    for name, x in {"held_out": held_out, "test": x_test}.items():
        elbo = vae.elbo(x.float(), num_samples=20, generator=tool.seeded(0)).detach()
        assert run.facts[f"{name}_error"] == pytest.approx((elbo.std() / len(x) ** 0.5).item(), rel=0.3)
        terms = training.average_terms(vae, x)
        assert run.facts[f"{name}_kl"] == pytest.approx(terms.kl.item(), abs=0.01)
        assert run.facts[f"{name}_reconstruction"] == pytest.approx(terms.reconstruction.item(), abs=0.1)


def test_a_second_call_trains_no_finished_seed_again_and_a_part_that_fails_stops_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests and the benchmark are replaced, the one by a planted failure; a second seed is asked for."""
    commands = tool.commands

    def planted(options: Any, words: list[str]) -> dict[str, list[str]]:
        fails = [sys.executable, "-c", "print('on its way'); raise RuntimeError('planted | here')"]
        return {**commands(options, words), "tests": fails, "fit_cuda": [sys.executable, "-c", "print('7 passed')"]}

    names = ("conv_vae.pt", "conv_vae_checkpoint.pt", "conv_vae_evaluation.pt", "conv_vae_evaluation_00040.pt")
    before = {name: (folder / name).read_bytes() for name in names}
    monkeypatch.setattr(tool, "commands", planted)
    assert tool.main([*TINY, "--seeds", "2", "--output", str(folder)]) == 1
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert [found(text, "tests")[1], found(text, "tests")[3]] == ["failed", "RuntimeError: planted / here"]
    assert {found(text, f"training-{seed}")[1] for seed in (0, 1)} == {"finished"}
    assert found(text, "evaluation")[1] == found(text, "fit_cuda")[1] == "finished"
    assert before == {name: (folder / name).read_bytes() for name in names}
    assert "resumed: True" in found(text, "training-0")[3]
    assert "resumed: False" in found(text, "training-1")[3]
    assert found(text, "228.70")[1:] == ["not reached", "0 of 2 seeds"]
    kept, other = (records.load_model(folder / name)[0] for name in ("conv_vae.pt", "conv_vae_seed1.pt"))
    assert not torch.equal(next(kept.parameters()), next(other.parameters()))


# one part


def part(code: str, log: Path, seconds: float, name: str = "some") -> dict[str, Any]:
    return tool.run(name, [sys.executable, "-c", code], log, seconds)


def test_a_part_that_is_out_of_time_is_ended_and_told_with_its_last_line(tmp_path: Path) -> None:
    code = "import sys, time; sys.stderr.write('epoch 1\\repoch 2 | 50 %'); time.sleep(60)"
    told = part(code, tmp_path / "log", 3.0)
    assert told["status"] == "out of time"
    assert told["last line of the log"] == "epoch 2 | 50 %"
    assert 3 <= told["seconds"] < 20
    assert part(code, tmp_path / "log", -1.0)["status"].startswith("not started")


def test_what_could_not_start_in_time_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part may take its share of what is left and no more, so that the next ones have theirs."""
    shares = []

    def run(name: str, command: list[str], log: Path, seconds: float) -> dict[str, Any]:
        shares.append(seconds)
        return {"part": name, "status": "out of time", "seconds": 0.0, "last line of the log": ""}

    monkeypatch.setattr(tool, "run", run)
    assert tool.main([*TINY, "--seeds", "2", "--output", str(tmp_path)]) == 1
    assert shares == pytest.approx([600 * share for share in (1 / 14, 4 / 13, 3 / 9, 4 / 6, 1)], rel=0.01)
    assert "Nothing: see the parts." in (tmp_path / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("last", "status"),
    [("14 skipped, 3 deselected in 9s", "skipped"), ("12 passed, 2 skipped in 9s", "passed"), ("nothing", "skipped")],
)
def test_tests_that_were_skipped_have_not_passed(last: str, status: str, tmp_path: Path) -> None:
    assert part(f"print('{last}')", tmp_path / "log", 60.0, "tests")["status"] == status
    assert part(f"print('{last}'); exit(1)", tmp_path / "log", 60.0, "tests")["status"] == "failed"


# numbers


def history(elbo: list[float], seconds: list[float]) -> records.History:
    kl = [20.0] * len(elbo)
    return records.History([], [], [value + 20 for value in elbo], kl, seconds)


def test_the_time_to_nats() -> None:
    falls = history([-240.0, -228.5, -229.0, -227.4], [5.0, 1.0, 2.0, 4.0])
    assert [tool.seconds_to(nats, falls) for nats in (300, 228.7, 228.5, 227.4, 227.3)] == [5, 6, 6, 12, math.inf]
    runs = {seed: records.Run(history([-228.0], [seconds]), {}) for seed, seconds in enumerate((9.0, 1.0, 2.0))}
    options = tool.parse(TINY)
    easy, hard = tool.time_rows(options, runs)
    assert list(easy.values()) == [228.7, 2.0, "3 of 3 seeds"]
    assert list(hard.values()) == [227.4, "not reached", "0 of 3 seeds"]
    runs[1] = records.Run(history([-230.0], [1.0]), {})
    assert list(tool.time_rows(options, runs)[0].values()) == [228.7, 9.0, "2 of 3 seeds"]


def test_the_operations_of_a_training_image_against_a_count_by_hand() -> None:
    """A product of n by m numbers costs 2 n m forward, and twice that backward, once where no gradient goes further."""
    linear = models.linear_vae((5,), num_latents=3)  # its variances are a constant: 5 numbers to 3, and 3 to 5
    assert tool.training_flops(linear) == 2 * (5 * 3 * 2 + 3 * 5 * 3)
    conv = models.conv_vae(num_latents=2, num_channels=3, num_blocks=0)  # 49 places of 16 pixels on both sides
    first, dense = 49 * 16 * 3 * 2, (147 * 4 + 2 * 147) * 3
    last = 49 * conv.decoder[-2].weight.numel() * 3
    assert tool.training_flops(conv) == 2 * (first + dense + last)


# the protocol


def test_the_defaults_are_those_of_the_chapters() -> None:
    cells = {n: nbformat.read(path, as_version=4).cells for n in (11, 13) for path in BOOK.glob(f"{n}_*.ipynb")}
    names: dict[str, Any] = {"training": training, "torch": torch, "data": data, "few": 50}
    for number, start in ((11, "shape = {"), (11, "num_epochs, device = "), (13, "settings = {")):
        (source,) = [c.source for c in cells[number] if re.search(f"^ *{re.escape(start)}", c.source, re.M)]
        source = source if start.startswith("num") else re.search(f"^ *({re.escape(start)}.*)", source, re.M)[1]
        exec(source, names)
    options = tool.parse(["--device", "cpu", "--validation", "0"])
    told = tool.settings(options, 0)
    assert told["optimization"] == names["optimization"]
    assert told["execution"].precision == names["execution"].precision
    assert told["preprocess"] is data.binarize
    assert (options.epochs, options.sizes["shape"]) == (names["num_epochs"], names["shape"])
    annealed = {key: value for key, value in names["settings"].items() if key.startswith("num")}
    assert options.sizes["annealing"] == annealed
    assert options.sizes["importance"]["num_samples"] == evaluation.evaluate.__kwdefaults__["num_samples"]
    assert annealing.temperatures(annealed["num_steps"]).shape == (61,)


def test_options_reach_fit_and_the_average_reaches_back_over_as_many_images() -> None:
    words = ["--device", "cpu", "--batch-size", "1024", "--learning-rate", "0.004", "--epochs", "7"]
    options = tool.parse(words)
    told = tool.settings(options, 3)
    assert (told["optimization"].batch_size, told["optimization"].learning_rate) == (1024, 0.004)
    assert 1024 / -math.log(told["optimization"].ema_decay) == pytest.approx(128 / -math.log(0.999))
    assert (told["execution"].seed, told["execution"].capture, options.epochs) == (3, False, 7)


def test_the_last_training_images_are_held_out_and_the_test_bits_are_those_of_seed_0() -> None:
    train, test = (data.fashion_mnist(split).images for split in ("train", "test"))
    x, held_out, x_test = tool.images(tool.parse(TINY))
    assert torch.equal(x, train[:256])
    assert ((train[256:320] == 0) <= (held_out == 0)).all()  # what is black has no bits
    assert ((train[256:320] == 255) <= (held_out == 1)).all()
    assert torch.equal(x_test, data.binarize(test[:50], generator=tool.seeded(0)))
    x, held_out, again = tool.images(tool.parse([*TINY, "--validation", "0"]))
    assert torch.equal(x, train[:320])
    assert torch.equal(held_out, x_test)
    assert torch.equal(again, x_test)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_how_to_try_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main([])
    assert "there is no CUDA device here; --tiny --device cpu tries the script" in capsys.readouterr().err
