"""One recorded run on a CUDA device, within a number of minutes: the tests, the full VAE, its evaluation, the speed of fit.

    python tools/gpu_record.py --minutes 60
    python tools/gpu_record.py --minutes 60 --batch-size 1024 --learning-rate 4e-3 --peak-tflops P
    python tools/gpu_record.py --tiny --device cpu --output a_trial

The parts: `pytest -m cuda`; the convolutional VAE of chapter 11, trained from seed 0; its evaluation as in chapter 13, then
importance weighting of further test images while the time lasts; the same training from further seeds;
`benchmarks/fit_cuda.py`. Each is a process of its own with a log of its own, and has its share of the time that is left. One
that fails or is out of time is reported as such, and the others go on. The same command goes on where it was: no finished
training is repeated.

50,000 images are for training. The last 10,000 of the training images are for validation, and every choice belongs there.
The bits of the test images are drawn once, from the seed 0. `--validation 0` is the protocol of chapter 11 instead: all
60,000 for training, and the test images in place of the validation images after each epoch, where nothing is chosen.
"""

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import vae_tutorial
from vae_tutorial import bounds, data, evaluation, models, records, training

ROOT = Path(__file__).resolve().parent.parent
NATS = (228.7, 227.4)  # per image; chapter 11 says whose numbers these are
SHARES = {"tests": 1, "training": 4, "evaluation": 3, "fit_cuda": 2}  # of the time that is left
GOOD = ("finished", "passed", "skipped")
DEFAULTS = ("epochs", "batch_size", "learning_rate", "validation")  # options whose defaults follow the size
FULL = {  # chapters 11 and 13
    "shape": {"num_latents": 32, "num_channels": 64, "num_blocks": 2, "num_hidden": 768},
    "defaults": {"epochs": 100, "batch_size": 128, "learning_rate": 2e-3, "validation": 10_000},
    "annealing": {"num_annealed": 50, "num_steps": 60, "num_chains": 4, "num_leapfrog": 4},
    "importance": {"num_samples": (1, 10, 100, 1000, 5000), "batch_size": 100},
    "block": 500,  # test images in one file
    "fit_cuda": [],
}
TINY = {
    "shape": {"num_latents": 4, "num_channels": 4, "num_blocks": 1, "num_hidden": 8},
    "defaults": {"epochs": 1, "batch_size": 32, "learning_rate": 2e-3, "validation": 64},
    "annealing": {"num_annealed": 4, "num_steps": 4, "num_chains": 2, "num_leapfrog": 2},
    "importance": {"num_samples": (1, 10), "batch_size": 10},
    "block": 20,
    "fit_cuda": ["--images=64", "--batch-size=16", "--epochs=2", "--channels=2", "--blocks=0", "--ways=eager"],
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# What the parts do, each in a process of its own.


def images(options: argparse.Namespace) -> tuple[Tensor, Tensor, Tensor]:
    """Grey training images, and the bits of the held-out and of the test images."""
    full = {} if options.tiny else {"full": True, "folder": options.data}
    x, test = (data.fashion_mnist(split, **full).images for split in ("train", "test"))
    x, test = (x[:320], test[:50]) if options.tiny else (x, test)
    x_test = data.binarize(test, generator=seeded(0))
    if not options.validation:
        return x, x_test, x_test
    held_out = data.binarize(x[-options.validation :], generator=seeded(1))
    return x[: -options.validation], held_out, x_test


def settings(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What ``fit`` is told: for the defaults, what chapter 11 tells it, and on CUDA to capture its steps."""
    optimization = training.Optimization(
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        schedule=training.warmup_cosine,
        weight_decay=0.05,
        ema_decay=0.999 ** (options.batch_size / 128),  # reaches back over as many images for every batch size
    )
    execution = training.Execution(
        seed=seed,
        precision=torch.bfloat16,
        capture=options.device.startswith("cuda"),
        checkpoint=record_file(options, seed, "_checkpoint"),
    )
    return {"optimization": optimization, "execution": execution, "preprocess": data.binarize}


def record_file(options: argparse.Namespace, seed: int, kind: str = "") -> Path:
    return options.output / f"conv_vae{f'_seed{seed}' if seed else ''}{kind}.pt"


def train(options: argparse.Namespace, seed: int) -> None:
    """Train from a seed, or go on from the checkpoint; record what is finished."""
    x, held_out, x_test = (part.to(options.device) for part in images(options))
    file, shape, told = record_file(options, seed), options.sizes["shape"], settings(options, seed)
    torch.manual_seed(seed)
    vae = models.conv_vae(**shape).to(options.device, memory_format=torch.channels_last)
    resumed, start = record_file(options, seed, "_checkpoint").exists(), time.perf_counter()
    history = training.fit(vae, x, num_epochs=options.epochs, x_test=held_out, **told)
    if not (file.exists() and records.load_model(file)[1].history == history):
        wall = max(time.perf_counter() - start, sum(history.seconds))  # the first is of this call alone
        facts = {**shape, "precision": str(told["execution"].precision), "wall_seconds": wall, "resumed": resumed}
        facts |= {"seed": seed, "num_train": len(x), **{name: getattr(options, name) for name in DEFAULTS}}
        bundled = data.binarize(data.fashion_mnist("test").images, generator=seeded(0))
        for name, bits in {"test": x_test, "held_out": held_out, "bundled": bundled}.items():
            facts |= {f"{name}_{term}": v.item() for term, v in training.average_terms(vae, bits)._asdict().items()}
            noise = torch.Generator(options.device).manual_seed(0)
            elbo = evaluation.log_likelihood(vae, bits, num_samples=1, batch_size=500, generator=noise)
            facts |= {f"{name}_number": len(bits), f"{name}_error": mean_and_error(elbo)[1]}
        records.save_model(file, vae, history, **facts)
    print(records.load_model(file)[1].facts)
    print(f"{len(history.seconds)} epochs, {sum(history.seconds):.1f} s of training, resumed: {resumed}")


def evaluate(options: argparse.Namespace) -> None:
    """The evaluation of chapter 13; then importance weighting of further test images, in blocks, while time is left."""
    end, sizes = time.monotonic() + 60 * options.minutes, options.sizes
    vae = records.load_model(record_file(options, 0))[0].requires_grad_(False)
    x_test, block, few = images(options)[2], sizes["block"], sizes["annealing"]["num_annealed"]
    z = torch.randn(100, vae.num_latents, generator=seeded(1))
    x = vae.likelihood.sample(vae.decode(z), generator=seeded(2))
    vae.to(options.device)
    whole = {**sizes["importance"], **sizes["annealing"], "simulated": (x[:few], z[:few])}
    record = evaluation.evaluate(vae, x_test[:block], record_file(options, 0, "_evaluation"), **whole)
    print(record["facts"], {part: round(seconds) for part, seconds in record["seconds"].items()})
    further = {**sizes["importance"], "num_annealed": 0, "simulated": (x[:0], z[:0])}
    done, longest = block, record["seconds"]["importance"]
    while done < len(x_test) and (start := time.monotonic()) + longest < end:
        part, file = x_test[done : done + block], record_file(options, 0, f"_evaluation_{done:05d}")
        evaluation.evaluate(vae, part, file, seed=done // block, **further)  # each block has noise of its own
        done, longest = done + len(part), max(longest, time.monotonic() - start)
    print(f"importance weighting of {done:,} of {len(x_test):,} test images")


# What is made of the records.


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean, and its standard error."""
    values = values.double()
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


def seconds_to(nats: float, history: records.History) -> float:
    """Seconds of training until -ELBO on the held-out images was first at most so many nats; infinite if it never was."""
    spent = 0.0
    for elbo, seconds in zip(history.test_elbo, history.seconds, strict=True):
        spent += seconds
        if -elbo <= nats:
            return spent
    return math.inf


def training_flops(vae: models.VAE, batch_size: int = 8) -> float:
    """Floating-point operations of matrix products and convolutions, forward and backward, for one training image."""

    def mean_terms(x: Tensor, eps: Tensor) -> Tensor:
        return torch.stack(vae.elbo_terms(x, eps=eps)).mean(-1)

    x, eps, adam = (
        torch.zeros(batch_size, *vae.data_shape),
        vae.noise(1, batch_size),
        torch.optim.Adam(vae.parameters()),
    )
    with FlopCounterMode(display=False) as counter:
        training.train_step(mean_terms, adam, x, eps, learning_rate=0.0)
    return counter.get_total_flops() / batch_size


def row(what: str, number: int, nats: float, error: float) -> dict[str, Any]:
    return {"what": what, "images": number, "nats": nats, "standard error": error}


def training_rows(options: argparse.Namespace, runs: dict[int, records.Run]) -> list[dict[str, Any]]:
    """What the recorded trainings say of the averaged weights at their end."""
    rows, sets = [], {"held_out": "validation", "test": "test"} if options.validation else {"test": "test"}
    for seed, (_, facts) in runs.items():
        for key, name in sets.items():
            value = facts[f"{key}_kl"] - facts[f"{key}_reconstruction"]
            rows += [row(f"-ELBO, {name}, seed {seed}", facts[f"{key}_number"], value, facts[f"{key}_error"])]
    return rows


def evaluation_rows(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What the files of the evaluation say, of as many test images as they hold."""
    vae, found = records.load_model(record_file(options, 0))[0], []
    for path in sorted(options.output.glob("conv_vae_evaluation*.pt")):
        with contextlib.suppress(ValueError):  # of another model: evaluate has refused it
            found.append(evaluation.load_record(path, vae))
    values = [record["importance"]["bounds"] for record in found if record["importance"]]
    if not values:
        return []
    by_k, most = torch.cat(values, -1), f"K = {found[0]['settings']['num_samples'][-1]:,}"
    told = {"-ELBO, test, weights as recorded": -by_k[0], f"-log p(x), test, {most}, an upper bound": -by_k[-1]}
    if annealed := found[0]["annealed"]:
        log_p = bounds.iwae(annealed["log_w"])
        told[f"log p(x), test, AIS minus {most}"] = log_p - by_k[-1][: len(log_p)]
    if made := found[0]["simulated"]:
        told["log p(x), simulated, upper minus lower bound"] = -bounds.iwae(-made["upper"]) - bounds.iwae(made["lower"])
    return [row(what, len(each), *mean_and_error(each)) for what, each in told.items()]


def time_rows(options: argparse.Namespace, runs: dict[int, records.Run]) -> list[dict[str, Any]]:
    """Time to nats, the median over seeds: infinite, so not reached, where half of them do not reach it."""
    rows, of = [], "validation" if options.validation else "test"
    for nats in NATS if runs else ():
        times = [seconds_to(nats, run.history) for run in runs.values()]
        median, reached = statistics.median(times), f"{sum(time < math.inf for time in times)} of {len(times)} seeds"
        told = median if median < math.inf else "not reached"
        rows += [{f"-ELBO, {of}, at most": nats, "seconds of training, median": told, "reached by": reached}]
    return rows


def cost_rows(options: argparse.Namespace, runs: dict[int, records.Run]) -> list[dict[str, Any]]:
    """Seconds of training, and with a peak the seconds that its arithmetic alone would take there."""
    rows = [{"seed": seed, "seconds of training": run.facts["training_seconds"]} for seed, run in runs.items()]
    for each, run in zip(rows, runs.values(), strict=True) if options.peak_tflops else ():
        each["FLOPs an image"] = training_flops(models.conv_vae(**options.sizes["shape"]))
        each["images"] = run.facts["num_train"] // options.batch_size * options.batch_size * options.epochs
        each["peak TFLOP/s"] = options.peak_tflops
        each["floor, seconds"] = each["FLOPs an image"] * each["images"] / (options.peak_tflops * 1e12)
    return rows


def speed_rows(log: Path) -> list[dict[str, Any]]:
    """What `benchmarks/fit_cuda.py` printed."""
    columns = ("way", "precision", "images/s", "of eager float32", "outside kernels")
    lines = [re.fullmatch(r"(.+), (\w+) +(\d+) +([\d.]+) +(\d+ %)", line) for line in log_lines(log)]
    return [dict(zip(columns, line.groups(), strict=True)) for line in lines if line]


def summary(options: argparse.Namespace, parts: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Every table, from the records of the parts that are finished."""
    good = [part["part"] for part in parts if part["status"] in GOOD]
    done = [seed for seed in range(options.seeds) if f"training-{seed}" in good]
    runs = {seed: records.load_model(record_file(options, seed))[1] for seed in done}
    measured = parts[-1]["part"] == "fit_cuda" and parts[-1]["seconds"] > 0
    versions = {"CUDA": str(torch.version.cuda), "vae_tutorial": vae_tutorial.__version__}
    return {
        "Where and when": [{**records.facts(torch.device(options.device)), **versions}],
        "Settings": [{name: getattr(options, name) for name in DEFAULTS}],
        "Parts": parts,
        "Nats per image": training_rows(options, runs) + (evaluation_rows(options) if runs.get(0) else []),
        "Time to nats": time_rows(options, runs),
        "Cost": cost_rows(options, runs),
        "Speed of fit": speed_rows(options.output / "fit_cuda.log") if measured else [],
    }


def cell(value: Any) -> str:
    """A value as the table shows it."""
    if isinstance(value, float):
        return f"{value:.2f}" if 0.1 < abs(value) < 1e5 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value.replace("|", "/")


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """The summary for a reader, in Markdown."""
    lines = ["# A recorded run"]
    for title, rows in found.items():
        lines += ["", f"## {title}", ""]
        cells = [list(rows[0]), ["---"] * len(rows[0])] if rows else []
        cells += [[cell(value) for value in row.values()] for row in rows]
        lines += [f"| {' | '.join(line)} |" for line in cells] or ["Nothing: see the parts."]
    return "\n".join([*lines, ""])


# How the parts are run.


def commands(options: argparse.Namespace, words: list[str]) -> dict[str, list[str]]:
    """The parts in their order, and the command of each."""
    python, here = [sys.executable], [sys.executable, str(Path(__file__).resolve()), *words, "--part"]
    pytest = ["-m", "pytest", "-m", "cuda", "-q", "--color=no", "-p", "no:cacheprovider", str(ROOT / "tests")]
    fit_cuda = [str(ROOT / "benchmarks" / "fit_cuda.py"), "--device", options.device, *options.sizes["fit_cuda"]]
    names = ["training-0", "evaluation", *(f"training-{seed}" for seed in range(1, options.seeds))]
    return {"tests": python + pytest, **{name: [*here, name] for name in names}, "fit_cuda": python + fit_cuda}


def log_lines(log: Path) -> list[str]:
    """The lines of a log, and of a progress bar every state; one that is empty where there are none."""
    lines = re.split(r"[\r\n]+", log.read_text(encoding="utf-8", errors="replace"))
    return [line.strip() for line in lines if line.strip()] or [""]


def run(name: str, command: list[str], log: Path, seconds: float) -> dict[str, Any]:
    """One part: what became of it, its seconds, and the last line of its log."""
    if seconds <= 0:
        return {"part": name, "status": "not started: out of time", "seconds": 0.0, "last line of the log": ""}
    start, environment = time.monotonic(), {"TQDM_MININTERVAL": "5", "PYTHONUNBUFFERED": "1", **os.environ}
    with log.open("w", encoding="utf-8") as file, tqdm(total=round(seconds), desc=name, unit="s") as bar:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            while process.poll() is None and (left := start + seconds - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=min(1.0, left))
                bar.set_postfix_str(log_lines(log)[-1][:60], refresh=False)
                bar.update(round(time.monotonic() - start) - bar.n)
        finally:
            ended = process.poll()
            process.kill()
            process.wait()
    last = log_lines(log)[-1]
    status = "out of time" if ended is None else "failed" if ended else "finished"
    if name == "tests" and status == "finished":
        status = "passed" if re.search(r"\d+ passed", last) else "skipped"
    return {"part": name, "status": status, "seconds": time.monotonic() - start, "last line of the log": last}


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--minutes", type=float, default=60, help="for all parts together (60)")
    add("--output", type=Path, default=Path("gpu_record"), help="folder for records, logs and table (gpu_record)")
    add("--device", default="cuda", help="where to run (cuda)")
    add("--data", type=Path, help="folder of the full Fashion-MNIST (the places that vae_tutorial.data searches)")
    add("--seeds", type=int, default=3, help="runs for the time to nats; seed 0 is the record (3)")
    add("--epochs", type=int, help="passes over the data (100, as in chapter 11)")
    add("--batch-size", type=int, help="images a step; the averaging follows it (128, as in chapter 11)")
    add("--learning-rate", type=float, help="at its highest (0.002, as in chapter 11)")
    add("--validation", type=int, help="how many of the last training images are for validation (10000)")
    add("--peak-tflops", type=float, help="what the device can do at best in bfloat16, for the arithmetic floor")
    add("--tiny", action="store_true", help="a trial of the script in seconds; its numbers mean nothing")
    add("--part", help="run only this part, here: evaluation, or training-0 for the seed 0")
    options = parser.parse_args(words)
    options.sizes = TINY if options.tiny else FULL
    for name, value in options.sizes["defaults"].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --tiny --device cpu tries the script")
    if options.seeds < 1 or options.minutes <= 0:
        parser.error("at least one seed and a positive number of minutes are needed")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every part; 0 if all of them finished."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    options = parse(words)
    options.output.mkdir(parents=True, exist_ok=True)
    if options.part:
        evaluate(options) if options.part == "evaluation" else train(options, int(options.part.split("-")[1]))
        return 0
    end, parts, wanted = time.monotonic() + 60 * options.minutes, [], commands(options, words)
    shares = {name: SHARES[name.split("-")[0]] for name in wanted}
    for name, command in wanted.items():
        seconds = (end - time.monotonic()) * shares[name] / sum(list(shares.values())[len(parts) :])
        limit = ["--minutes", str(seconds / 60)] if name == "evaluation" else []
        parts += [run(name, [*command, *limit], options.output / f"{name}.log", seconds)]
        found = summary(options, parts)
        (options.output / "summary.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        (options.output / "table.md").write_text(table(found), encoding="utf-8")
    print(table(found))
    return 0 if all(part["status"] in GOOD for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())
