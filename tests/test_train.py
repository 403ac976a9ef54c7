"""train: the command against a direct call of fit, its messages, Ctrl-C, and torchrun with two processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles import assert_close
from torch import distributed

from vae_tutorial import data, models, objectives, records, train, training


def words(text: str) -> list[str]:
    return text.split()


TINY = words(
    "--limit 200 --latents 3 --channels 4 --blocks 1 --hidden 6 --batch-size 32 --device cpu --threads 1 --quiet"
)
OPTIONS = words("--epochs 3 --learning-rate 0.003 --weight-decay 0.1 --ema-decay 0.9 --beta 0.5 --patience 2 --seed 5")


@pytest.fixture(autouse=True)
def _leave_no_trace() -> Iterator[None]:
    """``main`` sets the global seed and the number of threads, which are a process's own."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


def command(*options: str, program: tuple[str, ...] = ("-m", "vae_tutorial.train")) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *program, *options], capture_output=True, text=True, env=environment)


def same(first: Any, second: Any) -> bool:
    """Equal to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def state(path: Path) -> dict[str, Any]:
    """A checkpoint without its clock."""
    content = torch.load(path, weights_only=True)
    content["history"].pop("seconds")
    return content


# the same code path


def test_the_command_is_a_direct_call_of_fit_to_the_bit(tmp_path: Path) -> None:
    done = command(*TINY, *OPTIONS, "--checkpoint", str(tmp_path / "a.pt"), "--output", str(tmp_path / "record.pt"))
    assert done.returncode == 0, done.stderr
    torch.set_num_threads(1)
    images, test = data.fashion_mnist().images[:200], data.fashion_mnist("test").images
    x_test = data.binarize(test, generator=torch.Generator().manual_seed(0))[:200]
    torch.manual_seed(5)
    model = models.conv_vae((1, 28, 28), 3, 4, 1, 6)
    history = training.fit(
        model,
        images,
        x_test=x_test,
        num_epochs=3,
        objective=objectives.beta_elbo(0.5),
        preprocess=data.binarize,
        optimization=training.Optimization(
            batch_size=32,
            learning_rate=0.003,
            schedule=training.warmup_cosine,
            weight_decay=0.1,
            ema_decay=0.9,
            patience=2,
        ),
        execution=training.Execution(seed=5, checkpoint=tmp_path / "b.pt", progress=False),
    )
    assert same(state(tmp_path / "a.pt"), state(tmp_path / "b.pt"))
    for name in ("a", "b"):
        assert training.best_path(tmp_path / f"{name}.pt").exists()
    other, record = records.load_model(tmp_path / "record.pt")
    assert same(other.state_dict(), {name: value.half().float() for name, value in model.state_dict().items()})
    assert record.history.test_kl == history.test_kl
    expected = {"data": "fashion_mnist", "limit": 200, "latents": 3, "beta": 0.5, "seed": 5, "epochs": 3}
    assert expected.items() <= record.facts.items()
    assert not {"checkpoint", "output", "quiet", "folder"} & record.facts.keys()

    numbers = [
        f"{value:.2f}" for value in (history.test_elbo[-1], history.test_reconstruction[-1], history.test_kl[-1])
    ]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("held out"))
    assert line.split()[-3:] == numbers
    assert f"{max(history.test_elbo):.2f}" in done.stdout.splitlines()[-2]
    assert done.stderr == ""  # --quiet: no bar


def settings_of(options: str) -> dict[str, Any]:
    """What the command hands to fit: its arguments, with those of the two groups beside them."""
    settings = train._settings(train._parse(words(options)), torch.device("cpu"), 6000)
    groups = vars(settings.pop("optimization")) | vars(settings.pop("execution"))
    return settings | groups


def test_every_argument_of_fit_is_an_option_with_a_default_of_its_own_or_of_fits() -> None:
    """The command's own defaults: more epochs than none, a higher rate that a schedule lowers."""
    groups = {**vars(training.Optimization()), **vars(training.Execution())}
    assert train._parse(words("--prior mixture")).components == 50
    settings, own = settings_of(""), {"learning_rate": 0.002, "schedule": training.warmup_cosine}
    assert settings["num_epochs"] == 20
    assert settings["objective"] == objectives.elbo()
    assert settings.keys() == groups.keys() | {"num_epochs", "objective"}
    for name in groups.keys() - {"device", "capture"}:
        assert settings[name] == own.get(name, groups[name]), name


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ("--compile", {"compile": "default"}),
        ("--compile reduce-overhead", {"compile": "reduce-overhead"}),
        ("--kl-warmup", {"objective": objectives.beta_elbo(objectives.kl_warmup)}),
        ("--beta 4", {"objective": objectives.beta_elbo(4.0)}),
        ("--precision bfloat16", {"precision": torch.bfloat16}),
        ("--schedule constant", {"schedule": None}),
        ("--ema-decay 0.5 --patience 3", {"ema_decay": 0.5, "patience": 3}),
        ("--quiet --checkpoint x.pt", {"progress": False, "checkpoint": "x.pt"}),
    ],
)
def test_options_become_arguments(options: str, changed: dict[str, Any]) -> None:
    assert settings_of(options) == {**settings_of(""), **changed}


def test_the_data_are_those_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def images(split: str, **options: Any) -> data.Images:
        calls.append((split, options))
        return data.Images(torch.full((5, 1, 28, 28), 255, dtype=torch.uint8), torch.zeros(5), ())

    monkeypatch.setattr(data, "mnist", images)
    monkeypatch.setattr(data, "fashion_mnist", images)
    parts = train._load(train._parse(words("--data mnist --folder here --limit 4")))
    assert (len(parts.train.x), len(parts.test.x)) == (4, 4)
    train._load(train._parse(words("--full --folder there")))
    train._load(train._parse([]))
    assert calls[:2] == [("train", {"folder": "here"}), ("test", {"folder": "here"})]
    assert calls[2:4] == [("train", {"full": True, "folder": "there"}), ("test", {"full": True, "folder": "there"})]
    assert calls[4:] == [("train", {"full": False, "folder": None}), ("test", {"full": False, "folder": None})]


# what it says


def test_the_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(["--help"])
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for name in vars(train._parse([])):
        assert f"--{name.replace('_', '-')}" in text
    for part in ("(0.002)", "(warmup_cosine)", "(128, or all the data)", "Ctrl-C", "torchrun", "(never)"):
        assert part in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--latents 0", "--latents: '0' is not a whole number from 1 on"),
        ("--blocks -1", "--blocks: '-1' is not a whole number from 0 on"),
        ("--epochs 2.5", "--epochs: '2.5' is not a whole number from 1 on"),
        ("--seed 2147483648", "--seed: '2147483648' is not a whole number from 0 to 2147483647"),
        ("--learning-rate fast", "--learning-rate: invalid float value: 'fast'"),
        ("--likelihood normal", "--likelihood: invalid choice: 'normal'"),
        ("--size 48", "--size: expected 2 arguments"),
        ("--size 48 40", "for your own data"),
        ("--colour grey", "for your own data"),
        ("--labels kind", "for your own data"),
        ("--components 5", "--components is for --prior mixture"),
        ("--data x --full", "--full is for Fashion-MNIST"),
        ("--compile fast", "--compile: invalid choice: 'fast'"),
        ("--device toaster", "--device: Expected one of cpu, cuda"),
        ("--data mnist --full", "MNIST is always the full set"),
        ("--folder x", "add --full"),
        ("--beta 2 --kl-warmup", "give one of --beta and --kl-warmup"),
        ("--depth 3", "unrecognized arguments: --depth 3"),
    ],
)
def test_options_that_cannot_be_read_are_refused(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train.main(words(options))
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batch-size 201", "batch_size 201 is larger than the set of 200 data points"),
        ("--learning-rate -1", "learning_rate must be positive"),
        ("--ema-decay 1", "ema_decay must be at least 0 and below 1"),
        ("--learning-rate 1e39", "not finite in epoch 1"),
        ("--learning-rate 1e30", "not finite"),
        ("--output one.pt --checkpoint one.pt", "--output and --checkpoint are the same file"),
        ("--output one.best.pt --checkpoint one.pt", "--output and the best weights"),
        ("--output .", "is a folder"),
        ("--checkpoint no/such/folder/run.pt", "there is no such folder"),
        ("--output no/such/folder/run.pt", "--output: 'no/such/folder/run.pt': there is no such folder"),
        ("--data mnist --folder no/such/folder", "there is no such folder"),
        ("--data no/such/folder", "there is no file or folder no/such/folder"),
        pytest.param(
            "--device cuda",
            "torch finds no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
    ],
)
def test_a_run_that_cannot_be_made_ends_with_one_line(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main([*TINY, "--epochs", "1", *words(options)]) == 1
    output, errors = capsys.readouterr()
    assert all(line.startswith(("Data: ", "Model: ", "Networks: ")) for line in output.splitlines())
    assert message in errors
    assert len(errors.splitlines()) == 1


def test_the_checkpoint_of_another_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [*TINY, "--epochs", "1", "--checkpoint", str(tmp_path / "run.pt")]
    assert train.main(run) == 0
    assert train.main([*run, "--beta", "2"]) == 1
    assert "run.pt is the checkpoint of another run (objective" in capsys.readouterr().err


# Ctrl-C

HANGING = """
import sys, time
from vae_tutorial import data, train

calls, binarize = iter(range(10**9)), data.binarize

def hanging(images, *, generator):
    if next(calls) == int(sys.argv[1]):
        print("hanging", flush=True)
        time.sleep(600)
    return binarize(images, generator=generator)

hanging.__module__, hanging.__qualname__ = binarize.__module__, binarize.__qualname__
data.binarize = hanging
sys.exit(train.main(sys.argv[2:]))
"""


@pytest.fixture
def _listening() -> Iterator[None]:
    """A shell starts a program in the background deaf to Ctrl-C, and its children inherit that."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(call: int, *options: str, by: signal.Signals = signal.SIGINT) -> tuple[int, str]:
    """The command stopped by a signal in this call of ``binarize``: the exit status and what it said."""
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, str(call), *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        lines = iter(process.stdout.readline, "hanging\n")
        assert all(line.startswith(("Data: ", "Model: ", "Networks: ")) for line in lines), process.stderr.read()
        process.send_signal(by)
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert all(line.startswith(("Data: ", "Model: ", "Networks: ")) for line in output.splitlines())
    return process.returncode, errors


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT to another process on Windows")
@pytest.mark.usefixtures("_listening")
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    """Stopped by Ctrl-C in the third epoch, and by SIGTERM in the fourth; the best and the last checkpoint stay."""
    run = [*TINY, *OPTIONS[2:], "--epochs", "5", "--checkpoint"]
    assert command(*run, str(tmp_path / "whole.pt")).returncode == 0
    checkpoint = tmp_path / "stopped.pt"
    stops = ((2, 2 + 2 * 6 + 3, signal.SIGINT, 130), (3, 2 + 6 + 1, signal.SIGTERM, 143))
    for epochs_done, call, by, expected_status in stops:  # test set, check, 6 steps an epoch
        status, errors = interrupted(call, *run, str(checkpoint), by=by)
        assert status == expected_status
        assert errors.strip() == (
            f"Interrupted. The last finished epoch is in {checkpoint}, the best in "
            f"{training.best_path(checkpoint)}; the same command goes on from there."
        )
        assert len(state(checkpoint)["history"]["train_kl"]) == epochs_done
        assert 1 <= records.load_model(training.best_path(checkpoint))[1].facts["epochs"] <= epochs_done
    assert command(*run, str(checkpoint)).returncode == 0
    assert same(state(checkpoint), state(tmp_path / "whole.pt"))
    best, expected = (
        torch.load(training.best_path(tmp_path / name), weights_only=True)["weights"]
        for name in ("stopped.pt", "whole.pt")
    )
    assert same(best, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "Nothing was kept: with --checkpoint FILE"), (["--checkpoint", "run.pt"], "No epoch was finished")],
)
def test_an_interrupted_run_says_when_nothing_was_kept(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "fit", stop)
    assert train.main([*TINY, *options]) == 130
    assert message in capsys.readouterr().err


def test_what_another_program_left_in_the_environment_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    assert train.main([*TINY, "--epochs", "1"]) == 0


def test_two_runs_on_one_checkpoint_do_not_both_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run, with another seed, writes the checkpoint while the first is in its second epoch."""
    path, calls, binarize = tmp_path / "run.pt", [], data.binarize

    def interfering(images: torch.Tensor, *, generator: torch.Generator) -> torch.Tensor:
        calls.append(len(images))
        if len(calls) == 12:
            path.unlink()
            assert command(*TINY, "--epochs", "1", "--seed", "9", "--checkpoint", str(path)).returncode == 0
        return binarize(images, generator=generator)

    monkeypatch.setattr(data, "binarize", interfering)
    assert train.main([*TINY, "--epochs", "3", "--checkpoint", str(path)]) == 1
    assert "another run" in capsys.readouterr().err
    assert state(path)["identity"]["seed"] == 9


def test_a_full_disk_ends_a_run_with_one_line_and_keeps_the_last_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, calls, sync = tmp_path / "run.pt", [], os.fsync

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > 2:  # the first epoch's best weights and checkpoint
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert train.main([*TINY, "--epochs", "3", "--checkpoint", str(path)]) == 1
    errors = capsys.readouterr().err
    assert "No space left on device" in errors
    assert len(errors.splitlines()) == 1
    assert len(state(path)["history"]["train_kl"]) == 1


def test_the_command_lets_waiting_threads_sleep_unless_told_otherwise() -> None:
    program = "import runpy, sys, os; sys.argv = ['train', '--help']\ntry: runpy.run_module('vae_tutorial.train', run_name='__main__')\nexcept SystemExit: print(os.environ['OMP_WAIT_POLICY'])"  # noqa: E501
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | (
            {"OMP_WAIT_POLICY": given} if given else {}
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
        )
        assert done.stdout.splitlines()[-1] == expected


# torchrun


@pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this torch cannot join processes"
)
def test_torchrun_trains_the_same_model(tmp_path: Path) -> None:
    """Two processes on the CPU: up to rounding the run of one; said, shown and recorded once."""
    run = [*TINY, *OPTIONS, "--output"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vae_tutorial", "train")
    joint = command(*run, str(tmp_path / "joint.pt"), program=torchrun)
    assert joint.returncode == 0, joint.stderr
    assert joint.stdout.count("best test ELBO") == 1
    assert train.main([*run, str(tmp_path / "alone.pt")]) == 0
    runs = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("joint", "alone")]
    for term in ("train_reconstruction", "train_kl", "test_reconstruction", "test_kl"):
        values = [torch.tensor(run["history"][term], dtype=torch.float64) for run in runs]
        assert_close(values[0], values[1], 1e-3)
    for name, value in runs[1]["weights"].items():
        assert (runs[0]["weights"][name].float() - value.float()).abs().max() < 1e-3
