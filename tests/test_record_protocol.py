"""tools/record_protocol.py: the whole of it on a few images, which step is kept, and that nothing is done twice."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vae_tutorial import data, evaluation, models, priors, records, training

ROOT = Path(__file__).resolve().parents[1]
SPEC = importlib.util.spec_from_file_location("record_protocol", ROOT / "tools" / "record_protocol.py")
assert SPEC is not None
assert SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
sys.modules["record_protocol"] = tool  # where dataclasses looks their module up
SPEC.loader.exec_module(tool)


def run(folder: Path) -> str:
    command = [sys.executable, "tools/record_protocol.py", "--tiny", "--device", "cpu", "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("record")
    return folder, run(folder)


def test_both_models_are_recorded_with_their_evaluations(recorded: tuple[Path, str]) -> None:
    folder, _ = recorded
    x_test = tool.bits(data.fashion_mnist("test").images)[:40]
    for name, prior in {
        "protocol_fashion_mnist": priors.StandardNormal,
        "protocol_mixture": priors.GaussianMixture,
    }.items():
        vae, (history, facts) = records.load_model(folder / f"{name}.pt")
        assert type(vae.prior) is prior
        assert facts["num_train"] == 256
        assert len(history.seconds) == len(history.test_kl)
        terms = training.average_terms(vae, x_test)
        assert abs(facts["test_kl"] - terms.kl.item()) < 0.05  # of weights before they were rounded
        record = evaluation.load_record(folder / f"{name}_evaluation.pt", vae)
        assert record["importance"]["bounds"].shape == (2, 40)
        assert record["facts"]["precision"] == "torch.bfloat16"
    assert list(facts["validation"]) == [name for steps in tool.RUNS["fashion_mnist"].values() for name in steps]


def test_nothing_is_done_twice(recorded: tuple[Path, str]) -> None:
    folder, told = recorded
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert run(folder) == told
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.fixture
def images() -> Tensor:
    return data.fashion_mnist().images[:64]


def test_a_step_goes_on_from_the_weights_and_moves_its_parts_alone(images: Tensor, tmp_path: Path) -> None:
    steps = {name: replace(step, epochs=1) for run in tool.RUNS["fashion_mnist"].values() for name, step in run.items()}
    vae, x = None, images.repeat(6, 1, 1, 1)
    for number, (name, step) in enumerate(steps.items()):
        before, vae = vae, tool.next_model(step, vae, x)
        if before is not None:
            for part in ("encoder", "decoder"):
                pairs = zip(getattr(vae, part).parameters(), getattr(before, part).parameters(), strict=True)
                assert all(torch.equal(new, old) for new, old in pairs)
        was = {key: value.clone() for key, value in vae.state_dict().items()}
        tool.take(step, vae, x, tool.bits(images), tmp_path / f"{number}.ckpt", "cpu")
        moved = {key.partition(".")[0] for key, value in vae.state_dict().items() if not torch.equal(value, was[key])}
        assert moved == set(step.parts), name
        assert isinstance(vae, models.VAE)


def test_the_mixture_begins_at_the_codes_of_training_images(images: Tensor) -> None:
    vae = tool.next_model(tool.FROM_NOTHING, None, images).eval()
    prior = tool.mixture_of_codes(vae, images)
    assert torch.equal(prior.mu, vae.encode(tool.bits(images)).mu)
    assert not prior.log_var.any()
    drawn = tool.next_model(tool.RUNS["fashion_mnist"]["protocol_mixture"]["a mixture prior alone"], vae, images).prior
    assert torch.equal(drawn.mu, prior.mu)


def test_a_step_that_gains_nothing_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second to the fourth gain nothing by the stand-in's numbers: the fifth goes on from the first."""
    values, begun = iter([5.0, 6.0, 5.5, 7.0, 4.0]), []
    monkeypatch.setattr(tool, "negative_elbo", lambda vae, x: next(values))
    monkeypatch.setattr(tool, "evaluate", lambda *arguments: None)
    following = tool.next_model

    def watched(step: object, vae: models.VAE | None, x: Tensor) -> models.VAE:
        begun.append((vae, following(step, vae, x)))
        return begun[-1][1]

    monkeypatch.setattr(tool, "next_model", watched)
    monkeypatch.setattr(sys, "argv", ["record_protocol.py", "--tiny", "--device", "cpu", "--folder", str(tmp_path)])
    tool.main()
    first = begun[0][1]
    assert [vae for vae, _ in begun] == [None, first, first, first, first]
    assert "'all, with the mixture': 4.0" in capsys.readouterr().out
    assert len(records.load_model(tmp_path / "protocol_fashion_mnist.pt")[1].history.seconds) == 1
    assert len(records.load_model(tmp_path / "protocol_mixture.pt")[1].history.seconds) == 2
