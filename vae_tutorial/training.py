r"""Training: one loop, for every model that has ``elbo_terms``.

Maximum likelihood would maximise :math:`\sum_n \log p_\theta(x_n)`. The loop maximises its lower bound instead, over the
decoder's parameters :math:`\theta` and the encoder's :math:`\phi` together, by stochastic gradients: for a random batch
of B data points the step follows the gradient of

.. math:: \frac1B \sum_{b=1}^B \mathrm{ELBO}(x_b),

an unbiased estimate of the gradient of the mean ELBO over the data. This module is the only place in the package where
a minus sign turns a bound into a loss, because PyTorch's optimizers minimise.

The whole data set stays in memory as one tensor (bytes for images) on the training device, and a batch is an index into
it. All randomness comes from one generator, whose state is part of the checkpoint: a run that was killed and resumed
ends with the very bits of a run that was not.

**Several processes** may train one model, each on a device of its own: under ``torchrun``, or wherever
:mod:`torch.distributed` is initialised, every process calls :func:`fit` with the same arguments. All hold the data and
draw the same order, the same preprocessing and the same noise of the latents for the *joint* batch of B data points;
each computes the bound of its share, and torch's ``DistributedDataParallel`` averages the gradients. The run is that
of one process, but for the order in which floating-point numbers are added.
"""

import copy
import datetime
import math
import os
import platform
import re
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from vae_tutorial.models import ElboTerms, EncoderDecoder

RECORD_KEYS = {"model", "history", "facts"}
CHECKPOINT_KEYS = {"model", "average", "optimizer", "generator", "history", "settings"}
CHECK_EVERY = 50  # steps between two looks at the bound: each look makes a GPU wait


class History(NamedTuple):
    """What a run did, one entry an epoch: the bound's two terms in nats per data point, and seconds of training.

    The training terms are averages over the epoch, taken while the weights move; the test terms are taken at its end.
    """

    train_reconstruction: list[float]
    train_kl: list[float]
    test_reconstruction: list[float]
    test_kl: list[float]
    seconds: list[float]

    @property
    def train_elbo(self) -> list[float]:
        """The ELBO of the training batches, in nats per data point."""
        return [r - k for r, k in zip(self.train_reconstruction, self.train_kl, strict=True)]

    @property
    def test_elbo(self) -> list[float]:
        """The ELBO of the test set, in nats per data point."""
        return [r - k for r, k in zip(self.test_reconstruction, self.test_kl, strict=True)]


class Run(NamedTuple):
    """A recorded run: its history, and the facts of where, when and with what it was made."""

    history: History
    facts: dict[str, Any]


def fit(
    model: EncoderDecoder,
    x: Tensor,
    *,
    num_epochs: int,
    x_test: Tensor | None = None,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    schedule: Callable[[float], float] | None = None,
    seed: int = 0,
    preprocess: Callable[..., Tensor] | None = None,
    device: torch.device | str | None = None,
    precision: torch.dtype = torch.float32,
    compile: bool | str = False,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    beta: float | Callable[[float], float] = 1.0,
    weight_decay: float = 0.0,
    ema_decay: float | None = None,
    patience: int | None = None,
) -> History:
    r"""Maximise the mean ELBO by stochastic gradients (Adam).

    .. math:: \theta, \phi \leftarrow \text{Adam step on } - \frac1B \sum_{b=1}^B \mathrm{ELBO}(x_b)

    Each epoch visits the data in a new random order; the last N mod B of that order are left out. With ``checkpoint``,
    the state is written there after every epoch, and a later call with the same settings goes on from it: Ctrl-C, or a
    kill, costs the epoch under way and no more. With ``x_test`` as well, the best weights so far stand beside it in
    a record of their own (:func:`best_path`, :func:`load_run`).

    Args:
        model: a VAE or an autoencoder, changed in place and moved to ``device``.
        x: training data, (N, \*D), bytes or floats; what the likelihood describes, after ``preprocess``.
        num_epochs: passes over the data.
        x_test: test data, (M, \*D), evaluated after each epoch exactly as given.
        batch_size: B, at most N; of several processes together, so a multiple of their number.
        learning_rate: Adam's step size.
        schedule: factor on the learning rate as a function of the fraction of training done, such as
            :func:`warmup_cosine`; constant without it.
        seed: of the one generator behind order, preprocessing and latents.
        preprocess: applied to every training batch as ``preprocess(batch, generator=...)``, such as
            :func:`vae_tutorial.data.binarize` for a fresh binarization each time.
        device: where to train; by default where the model is.
        precision: the networks' arithmetic: ``torch.float32``, or ``torch.bfloat16`` by autocast. The bound itself is
            always computed in the model's own precision.
        compile: compile the two networks with ``torch.compile``; a string is its mode, such as ``"reduce-overhead"``
            for captured CUDA graphs.
        checkpoint: file to write after each epoch and to resume from; of several processes only the first writes.
        progress: show a progress bar.
        beta: weight of the KL, or a function of the fraction of training done that gives it, such as
            :func:`kl_warmup`. With any other than 1 what is maximised, reconstruction - beta kl, is not the ELBO. The
            history keeps the KL itself; ``patience`` looks at the objective with the last beta.
        weight_decay: AdamW's, on the weight matrices and kernels; biases and scalars are left alone.
        ema_decay: decay of an exponential moving average of the weights, at least 0 and below 1, such as 0.999. The
            averaged weights are what is tested, recorded as best and left in the model; without it, the last ones.
        patience: stop after so many epochs in a row without a better objective on ``x_test``, and leave the best
            weights in the model. The set then took part in the choice: report the result on another one.

    Returns:
        The history, one entry an epoch, in nats per data point.

    Raises:
        ValueError: for settings or data that make no sense, or a checkpoint of another run.
        FileNotFoundError: if the checkpoint's folder does not exist.
        FloatingPointError: when the bound or a weight is not finite; the checkpoint of the last good epoch is kept.

    Source: Kingma and Welling (2014), algorithm 1; Kingma and Ba (2015) for Adam; Loshchilov and Hutter (2019) for its
    weight decay; Polyak and Juditsky (1992) for averaging; Higgins et al. (2017) for beta.

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=1), torch.ones(8, 4)
    >>> history = fit(vae, x, num_epochs=2, batch_size=4, progress=False)
    >>> len(history.train_elbo)
    2
    """
    if compile:
        mode = compile if isinstance(compile, str) else None
        model.encoder.compile(mode=mode)
        model.decoder.compile(mode=mode)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    loop = _Loop(
        model=model.to(device),
        objective=_objective(model),
        average=None if ema_decay is None else AveragedModel(model, multi_avg_fn=_ema(ema_decay)),
        x=x.to(device),
        optimizer=torch.optim.AdamW(_parameter_groups(model, weight_decay), learning_rate, fused=True),
        generator=torch.Generator(device).manual_seed(seed),
        rate=lambda done: learning_rate * (schedule(done / num_epochs) if schedule else 1.0),
        batch_size=batch_size,
        preprocess=preprocess,
        precision=precision,
        kl_weight=lambda done: beta(done / num_epochs) if callable(beta) else beta,
    )
    last_beta = loop.kl_weight(num_epochs)
    settings = {
        **_settings(loop, num_epochs, learning_rate, schedule, seed, beta),
        "weight_decay": weight_decay,
        "ema_decay": ema_decay,
        "patience": patience,
    }
    path = None if checkpoint is None else Path(checkpoint)
    _check_fit(loop, x_test, num_epochs, learning_rate, path, settings)
    history = History([], [], [], [], [])
    if path is not None and path.exists():
        history = _resume(loop, settings, x_test, num_epochs, path)
    _check_agreement(settings, history)
    best = _best_weights(path, history, last_beta) if patience is not None else None
    with _progress_bar(loop, num_epochs, len(history.seconds), progress) as bar:
        while len(history.seconds) < num_epochs and not _is_stalled(history, last_beta, patience):
            start = time.perf_counter()
            train = _train_epoch(loop, len(history.seconds), bar)
            seconds = time.perf_counter() - start
            test = None if x_test is None else _test(loop, x_test)
            _append(history, train, test, seconds)
            if test is not None and _epochs_since_best(history, last_beta) == 0:
                best = copy.deepcopy(loop.evaluated.state_dict()) if patience is not None else None
                if path is not None and _processes().this == 0:
                    save_run(best_path(path), loop.evaluated, history, dtype=None, epochs=len(history.seconds))
            if path is not None and _processes().this == 0:
                _save_checkpoint(loop, settings, history, path)
    if _processes().number > 1:  # nobody reads a file that the first process has not finished
        distributed.barrier()
    model.load_state_dict(best or loop.evaluated.state_dict())
    model.eval()
    return history


def best_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Where :func:`fit` records the best weights of a run with a test set: a file for :func:`load_run`.

    Args:
        checkpoint: the run's checkpoint.

    Returns:
        The checkpoint's path, with ``.best`` before the suffix.

    >>> best_path("run.pt").name
    'run.best.pt'
    """
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}.best{path.suffix}")


@torch.no_grad()
def average_terms(
    model: EncoderDecoder, x: Tensor, *, batch_size: int = 500, seed: int = 0, precision: torch.dtype = torch.float32
) -> ElboTerms:
    r"""The two terms of the ELBO, averaged over a data set, in nats per data point.

    .. math:: \frac1N \sum_{n=1}^N \log p(x_n \mid z_n), \quad z_n \sim q(z \mid x_n), \qquad \text{and} \qquad
        \frac1N \sum_{n=1}^N \mathrm{KL}(q(z \mid x_n) \,\|\, p(z))

    One sample a data point, from a generator seeded anew in each call: the same noise every time, so that two calls
    differ by the weights and by nothing else.

    Args:
        model: a VAE or an autoencoder, on its device.
        x: data, (N, \*D), bytes or floats, on any device.
        batch_size: data points evaluated at once.
        seed: of the noise.
        precision: the networks' arithmetic, as in :func:`fit`.

    Returns:
        ``ElboTerms(reconstruction, kl)``, two scalars in double precision.

    Raises:
        ValueError: for data that the model does not describe.

    Source: Kingma and Welling (2014), equation (7).

    >>> from vae_tutorial import models
    >>> average_terms(models.linear_vae((4,), num_latents=1), torch.ones(8, 4)).kl.shape
    torch.Size([])
    """
    parameter = next(model.parameters())
    model.check_data(x)
    model.eval()
    generator = torch.Generator(parameter.device).manual_seed(seed)
    total = torch.zeros(2, dtype=torch.float64, device=parameter.device)
    for batch in x.split(batch_size):
        batch = batch.to(parameter.device, parameter.dtype)
        with _arithmetic(model, precision):
            terms = model.elbo_terms(batch, generator=generator)
        total += torch.stack(terms).double().sum(-1)
    return ElboTerms(*(total / len(x)).cpu())


def warmup_cosine(done: float) -> float:
    r"""Schedule for :func:`fit`: a linear rise over the first 5 % of training, then half a cosine down to 0.

    .. math:: f(t) = \begin{cases} t / 0.05 & t < 0.05 \\
        \tfrac12 \big( 1 + \cos \pi \frac{t - 0.05}{0.95} \big) & t \ge 0.05 \end{cases}

    Args:
        done: fraction t of training done, from 0 to 1.

    Returns:
        The factor on the learning rate, from 0 to 1.

    Source: Loshchilov and Hutter (2017) for the cosine.

    >>> warmup_cosine(0.0), warmup_cosine(0.05), warmup_cosine(1.0)
    (0.0, 1.0, 0.0)
    """
    warmup = 0.05
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def kl_warmup(done: float) -> float:
    r"""Weight of the KL for :func:`fit`: a linear rise from 0 to 1 over the first 10 % of training, then 1.

    .. math:: \beta(t) = \min(1, \, t / 0.1)

    While the decoder still makes nothing of z, the KL alone moves a latent dimension, and moves it to the prior, from
    where few come back. A small weight at first leaves the dimensions time to become useful.

    Args:
        done: fraction t of training done, from 0 to 1.

    Returns:
        The weight, from 0 to 1.

    Source: Bowman et al. (2016); Sønderby et al. (2016).

    >>> kl_warmup(0.0), kl_warmup(0.05), kl_warmup(0.5)
    (0.0, 0.5, 1.0)
    """
    return min(1.0, done / 0.1)


def save_run(
    path: str | os.PathLike[str],
    model: EncoderDecoder,
    history: History,
    *,
    dtype: torch.dtype | None = torch.float16,
    **facts: Any,
) -> None:
    """Record a finished run in one small file: the weights, rounded to ``dtype``, the history, and where it was made.

    Args:
        path: the file to write.
        model: the trained model.
        history: what :func:`fit` returned, in nats.
        dtype: type in which the weights, of any shape, are stored; ``None`` leaves each as it is.
        facts: anything else worth recording: numbers and strings.

    >>> from vae_tutorial import models
    >>> import tempfile
    >>> path, vae = Path(tempfile.mkdtemp()) / "run.pt", models.linear_vae((4,), num_latents=1)
    >>> save_run(path, vae, History([], [], [], [], []), batch_size=128)
    >>> load_run(path, vae).facts["batch_size"]
    128
    """
    parameter = next(model.parameters())
    facts = {
        "device": _device_name(parameter.device),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
        "training_seconds": sum(history.seconds),
        **facts,
    }
    state = {name: tensor.cpu().to(dtype or tensor.dtype) for name, tensor in model.state_dict().items()}
    _write(Path(path), {"model": state, "history": history._asdict(), "facts": facts})


def load_run(path: str | os.PathLike[str], model: EncoderDecoder) -> Run:
    """Load a recorded run: its weights into ``model``, its history and facts as a result.

    Args:
        path: a file written by :func:`save_run`.
        model: a model of the recorded shape, changed in place.

    Returns:
        ``Run(history, facts)``; the history in nats, lists of shape (number of epochs,).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is no recorded run, or one of another model.

    >>> load_run("nowhere.pt", None)
    Traceback (most recent call last):
    ...
    FileNotFoundError: no recorded run at nowhere.pt: train the model and save it there first
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no recorded run at {path}: train the model and save it there first")
    record = _read(Path(path), RECORD_KEYS)
    _load_weights(model, record["model"], Path(path))
    return Run(History(**record["history"]), record["facts"])


@dataclass(frozen=True)
class _Loop:
    """What one training step needs, from the model to the precision."""

    model: EncoderDecoder
    objective: nn.Module
    average: AveragedModel | None
    x: Tensor
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    rate: Callable[[float], float]  # learning rate after so many epochs
    batch_size: int
    preprocess: Callable[..., Tensor] | None
    precision: torch.dtype
    kl_weight: Callable[[float], float]  # beta after so many epochs

    @property
    def num_steps(self) -> int:
        return len(self.x) // self.batch_size

    @property
    def evaluated(self) -> EncoderDecoder:
        """The model that counts: the averaged one, where weights are averaged."""
        return self.model if self.average is None else cast(EncoderDecoder, self.average.module)


class _Objective(nn.Module):
    """The batch means of the bound's two terms, (2,), as what a module returns: DistributedDataParallel wraps a module."""

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return torch.stack(self.model.elbo_terms(x, generator=generator)).mean(-1)


class _ShareOfObjective(_Objective):
    """The objective of this process's share of the joint batch x: its mean over the processes is the joint objective."""

    def forward(self, x: Tensor, generator: torch.Generator) -> Tensor:
        number, this = _processes()
        with _ShareOfNoise():
            return super().forward(x.chunk(number)[this], generator)


class _ShareOfNoise(TorchFunctionMode):
    """``torch.randn`` draws noise (K, B, J) for the joint batch and returns the share that goes with this process's data."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is not torch.randn:
            return function(*args, **(kwargs or {}))
        num_samples, num_data, *rest = args
        number, this = _processes()
        return torch.randn(num_samples, num_data * number, *rest, **kwargs).chunk(number, 1)[this]


class _Processes(NamedTuple):
    number: int  # how many train together
    this: int  # which of them this one is


def _processes() -> _Processes:
    if not (distributed.is_available() and distributed.is_initialized()):
        return _Processes(1, 0)
    return _Processes(distributed.get_world_size(), distributed.get_rank())


def _objective(model: EncoderDecoder) -> nn.Module:
    return _Objective(model) if _processes().number == 1 else DistributedDataParallel(_ShareOfObjective(model))


def _average_over_processes(values: Tensor) -> Tensor:
    """The mean over the processes, in place: the same bits in each of them."""
    number, _ = _processes()
    if number > 1:
        distributed.all_reduce(values.div_(number))
    return values


def _train_epoch(loop: _Loop, epoch: int, bar: "tqdm[Any]") -> Tensor:
    """One pass over the data: the bound's two terms at every step, (num_steps, 2)."""
    loop.model.train()
    terms = torch.zeros(loop.num_steps, 2, dtype=torch.float64, device=loop.x.device)
    order = torch.randperm(len(loop.x), generator=loop.generator, device=loop.x.device)
    checked = 0
    for step, index in enumerate(order[: loop.num_steps * loop.batch_size].split(loop.batch_size)):
        terms[step] = _train_step(loop, _batch(loop, loop.x[index]), epoch + step / loop.num_steps)
        if step + 1 - checked == CHECK_EVERY or step + 1 == loop.num_steps:
            latest = _average_over_processes(terms[checked : step + 1])
            _check_finite(latest, epoch, checked, loop)
            bar.set_postfix_str("reconstruction {:.1f}, kl {:.1f}".format(*latest.mean(0).tolist()), refresh=False)
            bar.update(len(latest))
            checked = step + 1
    if not all(parameter.isfinite().all() for parameter in loop.model.parameters()):  # ruined by the last step
        raise _not_finite("a weight", epoch, loop.num_steps - 1, loop)
    return terms


def _train_step(loop: _Loop, x: Tensor, done: float) -> Tensor:
    """One step uphill, after so many epochs: the batch means of the bound's two terms, (2,), without a gradient."""
    for group in loop.optimizer.param_groups:
        group["lr"] = loop.rate(done)
    with _arithmetic(loop.model, loop.precision):
        terms = loop.objective(x, loop.generator)
    loss = loop.kl_weight(done) * terms[1] - terms[0]  # minus the ELBO where beta is 1: kl - reconstruction
    loop.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    loop.optimizer.step()
    if loop.average is not None:
        loop.average.update_parameters(loop.model)
    return terms.detach()


def _batch(loop: _Loop, x: Tensor) -> Tensor:
    """A batch as the model wants it: preprocessed, in the parameters' type."""
    if loop.preprocess is not None:
        x = loop.preprocess(x, generator=loop.generator)
    return x.to(next(loop.model.parameters()).dtype)


def _test(loop: _Loop, x_test: Tensor) -> ElboTerms:
    """The terms on the test set. Every process computes them all; early stopping must be decided alike everywhere."""
    terms = average_terms(loop.evaluated, x_test, precision=loop.precision)
    return ElboTerms(*_average_over_processes(torch.stack(terms).to(loop.x.device)).cpu())


def _append(history: History, train: Tensor, test: ElboTerms | None, seconds: float) -> None:
    reconstruction, kl = train.mean(0).tolist()
    history.train_reconstruction.append(reconstruction)
    history.train_kl.append(kl)
    history.seconds.append(seconds)
    if test is not None:
        history.test_reconstruction.append(test.reconstruction.item())
        history.test_kl.append(test.kl.item())


def _parameter_groups(model: EncoderDecoder, weight_decay: float) -> list[dict[str, Any]]:
    """Weights that decay, and those that do not: to pull a bias or a noise variance towards 0 is no regularisation."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _ema(decay: float) -> Callable[..., None]:
    """Moving average for ``AveragedModel``. After n steps the decay is at most (1 + n) / (10 + n): young averages forget."""

    def update(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor) -> None:
        n = float(num_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


def _epochs_since_best(history: History, beta: float) -> int:
    """Epochs since the best objective on the test set, 0 if the last one is the best; the history is not empty."""
    objective = [r - beta * k for r, k in zip(history.test_reconstruction, history.test_kl, strict=True)]
    return len(objective) - 1 - objective.index(max(objective))


def _is_stalled(history: History, beta: float, patience: int | None) -> bool:
    return patience is not None and len(history.seconds) > 0 and _epochs_since_best(history, beta) >= patience


def _best_weights(path: Path | None, history: History, beta: float) -> dict[str, Tensor] | None:
    """The best weights of a run that is taken up again, from the record beside its checkpoint."""
    if path is None or not history.seconds:
        return None
    record = _read(best_path(path), RECORD_KEYS)
    recorded, done = record["history"]["test_kl"], history.test_kl
    ahead = recorded[:-1] == done  # stopped between writing the two: the next epoch makes this very record again
    if not ahead and recorded != done[: len(done) - _epochs_since_best(history, beta)]:
        raise ValueError(f"{best_path(path)} is not the best of the run in {path}: delete both, or name another file")
    return record["model"]


def _check_finite(terms: Tensor, epoch: int, first_step: int, loop: _Loop) -> None:
    finite = terms.isfinite().all(-1)
    if not finite.all():
        raise _not_finite("the bound", epoch, first_step + int(finite.int().argmin()), loop)


def _not_finite(what: str, epoch: int, step: int, loop: _Loop) -> FloatingPointError:
    rate = loop.rate(epoch + step / loop.num_steps)
    return FloatingPointError(
        f"{what} is not finite in epoch {epoch + 1}, step {step + 1} of {loop.num_steps}, at learning rate "
        f"{rate:g}: try a lower one. A checkpoint, if asked for, still holds the last good epoch"
    )


def _check_fit(
    loop: _Loop,
    x_test: Tensor | None,
    num_epochs: int,
    learning_rate: float,
    checkpoint: Path | None,
    settings: dict[str, Any],
) -> None:
    """Refuse settings and data that would fail late or, worse, not at all."""
    if num_epochs < 1 or loop.batch_size < 1 or not 0 < learning_rate < math.inf:
        given = f"num_epochs {num_epochs}, batch_size {loop.batch_size}, learning_rate {learning_rate}"
        raise ValueError(f"num_epochs and batch_size must be at least 1, learning_rate positive and finite: {given}")
    weight_decay, ema_decay, patience = settings["weight_decay"], settings["ema_decay"], settings["patience"]
    betas = loop.kl_weight(0), loop.kl_weight(num_epochs)
    if not (all(0 <= beta < math.inf for beta in betas) and 0 <= weight_decay < math.inf):
        raise ValueError(f"beta {betas[-1]} and weight_decay {weight_decay} must be at least 0 and finite")
    if ema_decay is not None and not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must be at least 0 and below 1, got {ema_decay}")
    if patience is not None and (patience < 1 or x_test is None):
        raise ValueError(f"patience {patience} must be at least 1, and needs an x_test to be patient about")
    first = loop.x[: loop.batch_size]
    if loop.preprocess is not None and len(first):  # on a generator of its own, or a check would change the run
        first = loop.preprocess(first, generator=torch.Generator(first.device).manual_seed(0))
    loop.model.check_data(loop.x if loop.preprocess is None else first)
    if x_test is not None:
        loop.model.check_data(x_test)
    if loop.batch_size > len(loop.x):
        raise ValueError(f"batch_size {loop.batch_size} is larger than the set of {len(loop.x)} data points")
    if loop.batch_size % _processes().number:
        number = _processes().number
        raise ValueError(f"batch_size {loop.batch_size} cannot be shared by {number} processes: take a multiple of it")
    if checkpoint is not None and not checkpoint.parent.is_dir():
        raise FileNotFoundError(f"checkpoint is {os.fspath(checkpoint)!r}, and there is no such folder: make it first")


def _settings(
    loop: _Loop,
    num_epochs: int,
    learning_rate: float,
    schedule: Callable[[float], float] | None,
    seed: int,
    beta: float | Callable[[float], float],
) -> dict[str, Any]:
    """What a checkpoint must agree in, for a resumed run to be the same run."""

    def name(function: Callable[..., Any] | None) -> str:  # the same in every process, so without an address
        return getattr(function, "__qualname__", re.sub(r" at 0x[0-9a-f]+", "", repr(function)))

    return {
        "data points": len(loop.x),
        "batch_size": loop.batch_size,
        "learning_rate": learning_rate,
        "schedule": f"{name(schedule)} over {num_epochs} epochs" if schedule else "constant",
        "seed": seed,
        "preprocess": name(loop.preprocess),
        "precision": str(loop.precision),
        "beta": f"{name(beta)} over {num_epochs} epochs" if callable(beta) else beta,
    }


def _check_agreement(settings: dict[str, Any], history: History) -> None:
    """Refuse processes that are not at one point of one run: they would wait for each other without end."""
    number, _ = _processes()
    if number == 1:
        return
    mine: dict[str, Any] = {**settings, "epochs done": len(history.seconds)}
    told: list[dict[str, Any]] = [{} for _ in range(number)]
    distributed.all_gather_object(told, mine)
    differences = [
        f"{key}: {[theirs[key] for theirs in told]}" for key in mine if any(t[key] != mine[key] for t in told)
    ]
    if differences:
        raise ValueError(f"the processes were asked for different runs ({'; '.join(differences)})")


def _save_checkpoint(loop: _Loop, settings: dict[str, Any], history: History, path: Path) -> None:
    state = {
        "model": loop.model.state_dict(),
        "average": None if loop.average is None else loop.average.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "generator": loop.generator.get_state(),
        "history": history._asdict(),
        "settings": settings,
    }
    _write(path, state)


def _resume(loop: _Loop, settings: dict[str, Any], x_test: Tensor | None, num_epochs: int, path: Path) -> History:
    state = _read(path, CHECKPOINT_KEYS)
    history = History(**state["history"])
    was = {**state["settings"], "test set": bool(history.test_kl), "num_epochs": max(num_epochs, len(history.seconds))}
    now = {**settings, "test set": x_test is not None, "num_epochs": num_epochs}
    differences = [f"{key} was {was.get(key)}, is {now[key]}" for key in now if was.get(key) != now[key]]
    if differences:
        raise ValueError(f"{path} is the checkpoint of another run ({'; '.join(differences)}): name another file")
    _load_weights(loop.model, state["model"], path)
    if loop.average is not None:
        loop.average.load_state_dict(state["average"])
    loop.optimizer.load_state_dict(state["optimizer"])
    loop.generator.set_state(state["generator"])
    return history


def _load_weights(model: EncoderDecoder, weights: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} holds the weights of another model: {error}") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file whole or not at all: to a temporary name first, then renamed, which no reader sees halfway."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, keys: set[str]) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load does not compare checksums
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes the unpickler raise is not foreseeable
        raise ValueError(f"{path} cannot be read ({error}): delete it, or name another file") from error
    if not isinstance(content, dict) or set(content) != keys:
        raise ValueError(f"{path} does not hold {', '.join(sorted(keys))}: it is some other file")
    return content


def _progress_bar(loop: _Loop, num_epochs: int, done: int, progress: bool) -> "tqdm[Any]":
    # Without a word on `disable`, tqdm obeys the environment variable TQDM_DISABLE.
    options = {} if progress and _processes().this == 0 else {"disable": True}
    return tqdm(total=num_epochs * loop.num_steps, initial=done * loop.num_steps, unit="step", **options)


def _arithmetic(model: EncoderDecoder, precision: torch.dtype) -> torch.autocast:
    """In what precision a step's networks compute; captured graphs learn that they may overwrite the last step's tensors."""
    if model.encoder._compiled_call_impl is not None:
        torch.compiler.cudagraph_mark_step_begin()
    return torch.autocast(next(model.parameters()).device.type, dtype=precision, enabled=precision != torch.float32)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
