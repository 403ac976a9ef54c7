r"""Training: one loop, for every model and every objective.

Maximum likelihood would maximise :math:`\sum_n \log p_\theta(x_n)`. The loop maximises an objective in its place, such as
the lower bound of :func:`vae_tutorial.objectives.elbo`, over the decoder's parameters :math:`\theta` and the encoder's
:math:`\phi` together, by stochastic gradients: for a random batch of B data points the step follows the gradient of

.. math:: \frac1B \sum_{b=1}^B \big( \text{reconstruction}_b - \beta \, \text{kl}_b \big),

an unbiased estimate of the gradient of the mean over the data. This module is the only place in the package where a
minus sign turns a bound into a loss, because PyTorch's optimizers minimise.

The loop asks a model for ``noise`` and ``check_data``, and the objective asks for the rest. The whole data set stays in
memory as one tensor (bytes for images) on the training device, and a batch is an index into it. All randomness of order,
preprocessing and latents comes from one generator, whose state is part of the checkpoint: a run that was killed and
resumed ends with the very bits of a run that was not.

**Several processes** may train one model, each on a device of its own: under ``torchrun``, or wherever
:mod:`torch.distributed` is initialised, every process calls :func:`fit` with the same arguments. All hold the data and
draw the same order, the same preprocessing and the same noise for the *joint* batch of B data points; each computes the
objective of its share, and torch's ``DistributedDataParallel`` averages the gradients. For an objective that is a mean
over data points, as all but free bits are, the run is that of one process, but for the order in which floating-point
numbers are added.
"""

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from vae_tutorial import _capture, _checkpoint, _checks, _data_check, _device, _processes, objectives, records
from vae_tutorial.models import ElboTerms
from vae_tutorial.objectives import Objective
from vae_tutorial.records import History

CHECK_EVERY = 50  # steps between two looks at the terms: each look makes a GPU wait
ELBO = objectives.elbo()


@dataclass(frozen=True)
class Optimization:
    """What to optimise with: batches, Adam, and when to stop.

    Args:
        batch_size: B, at most N; of several processes together, so a multiple of their number.
        learning_rate: Adam's step size.
        schedule: factor on the learning rate as a function of the fraction of training done, such as
            :func:`warmup_cosine`; constant without it.
        weight_decay: AdamW's, on the weight matrices and kernels; biases and scalars are left alone.
        ema_decay: decay of an exponential moving average of the weights, at least 0 and below 1, such as 0.999. The
            averaged weights are what is tested, recorded as best and left in the model; without it, the last ones.
        patience: stop after so many epochs in a row without a better objective on ``x_test``, and leave the best
            weights in the model. The set then took part in the choice: report the result on another one.

    Raises:
        ValueError: for a number out of range. TypeError: for a schedule that is no function.

    Source: Kingma and Ba (2015) for Adam; Loshchilov and Hutter (2019) for its weight decay; Polyak and Juditsky (1992)
    for averaging.

    >>> Optimization(learning_rate=2e-3, schedule=warmup_cosine).batch_size
    128
    """

    batch_size: int = 128
    learning_rate: float = 1e-3
    schedule: Callable[[float], float] | None = None
    weight_decay: float = 0.0
    ema_decay: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        _checks.whole(batch_size=self.batch_size, patience=1 if self.patience is None else self.patience)
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be positive and finite, got {self.learning_rate}")
        if self.schedule is not None and not callable(self.schedule):
            raise TypeError(
                f"schedule must be a function of the fraction of training done, such as training.warmup_cosine, got "
                f"{self.schedule!r}"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")

    def rate(self, done: float) -> float:
        """The learning rate after a fraction of training.

        Args:
            done: the fraction, from 0 to 1.
        """
        return self.learning_rate * (self.schedule(done) if self.schedule else 1.0)


@dataclass(frozen=True)
class Execution:
    """Where to run, in what arithmetic, and what to keep.

    Args:
        seed: of the one generator behind order, preprocessing and latents.
        device: where to train; by default where the model is.
        precision: the networks' arithmetic: ``torch.float32``, the model's own, or ``torch.bfloat16`` by autocast. The
            objective itself is always computed in the model's own precision.
        compile: compile the networks with ``torch.compile`` for the time of the run; a string is its mode.
        capture: record the whole step as one CUDA graph, on one CUDA device. ``preprocess`` then must not wait for the
            device, as ``.item()`` does.
        checkpoint: file to write after each epoch and to resume from; of several processes only the first writes.
        progress: show a progress bar.

    Raises:
        ValueError: for a precision that training does not support.

    >>> Execution(precision=torch.float16)
    Traceback (most recent call last):
    ...
    ValueError: precision must be torch.float32 or torch.bfloat16, got torch.float16: float16 underflows without a scaled \
loss, which fit does not have
    """

    seed: int = 0
    device: torch.device | str | None = None
    precision: torch.dtype = torch.float32
    compile: bool | str = False
    capture: bool = False
    checkpoint: str | os.PathLike[str] | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.precision not in (torch.float32, torch.bfloat16):
            reason = {
                torch.float16: "float16 underflows without a scaled loss, which fit does not have",
                torch.float64: "for double precision convert the model, model.double(), and leave this alone",
            }.get(self.precision, "no other is supported")
            raise ValueError(f"precision must be torch.float32 or torch.bfloat16, got {self.precision}: {reason}")


def fit(
    model: nn.Module,
    x: Tensor,
    *,
    num_epochs: int,
    objective: Objective = ELBO,
    x_test: Tensor | None = None,
    preprocess: Callable[..., Tensor] | None = None,
    optimization: Optimization = Optimization(),
    execution: Execution = Execution(),
) -> History:
    r"""Maximise the mean of an objective by stochastic gradients (Adam).

    .. math:: \theta, \phi \leftarrow \text{Adam step on }
        - \frac1B \sum_{b=1}^B \big( \text{reconstruction}_b - \beta \, \text{kl}_b \big)

    Each epoch visits the data in a new random order; the last N mod B of that order are left out. With a checkpoint, the
    state is written there after every epoch, and a later call with the same arguments goes on from it: Ctrl-C, or a
    kill, costs the epoch under way and no more. With ``x_test`` as well, the best weights so far stand beside it in a
    record of their own (:func:`best_path`, :func:`vae_tutorial.records.load_model`).

    Args:
        model: a VAE, an autoencoder, or another model that the objective fits; changed in place and moved to the device.
        x: training data, (N, \*D), bytes or floats; what the likelihood describes, after ``preprocess``.
        num_epochs: passes over the data.
        objective: what is maximised. An autoencoder needs :func:`vae_tutorial.objectives.reconstruction`. The history
            keeps the second term without its weight; ``patience`` looks at the objective with the last weight.
        x_test: test data, (M, \*D), evaluated after each epoch exactly as given.
        preprocess: applied to every training batch as ``preprocess(batch, generator=...)``, such as
            :func:`vae_tutorial.data.binarize` for a fresh binarization each time.
        optimization: what to optimise with.
        execution: where to run and what to keep.

    Returns:
        The history, one entry an epoch, in nats per data point.

    Raises:
        ValueError: for settings or data that make no sense, or a checkpoint of another run.
        TypeError: for what is no tensor, no function or no objective.
        OSError: if a file cannot be written, or another run writes to the checkpoint; what stood there is untouched.
        FloatingPointError: when a term or a weight is not finite; the checkpoint of the last good epoch is kept.
        ConnectionError: when another of several processes has ended or does not answer.

    Source: Kingma and Welling (2014), algorithm 1.

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=1), torch.ones(8, 4)
    >>> settings = {"optimization": Optimization(batch_size=4), "execution": Execution(progress=False)}
    >>> history = fit(vae, x, num_epochs=2, **settings)
    >>> len(history.train_elbo)
    2
    """
    with _processes.together() as processes:
        with processes.agreement() as told:
            loop = _Loop(model, x, x_test, num_epochs, objective, preprocess, optimization, execution, processes)
            _prepare(loop)
            told |= {**loop.identity, "epochs done": loop.state.num_done}
        with _device.compiled(model, execution.compile), _progress_bar(loop) as bar:
            take_step = _step(loop)
            while not _is_finished(loop):
                _epoch(loop, take_step, bar)
        processes.wait()
    model.load_state_dict(loop.state.best or loop.state.evaluated.state_dict())
    model.eval()
    return loop.state.history


def train_step(
    terms_of: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    eps: Tensor,
    *,
    learning_rate: float,
    weight: float = 1.0,
) -> Tensor:
    r"""One step uphill.

    .. math:: \theta, \phi \leftarrow \text{step on } \;
        \text{weight} \cdot \overline{\text{kl}} - \overline{\text{reconstruction}}

    Args:
        terms_of: the batch means of the objective's two terms, (2,) in nats, as a function of data and noise.
        optimizer: of the parameters.
        x: a batch, (B, \*D).
        eps: its noise, (K, B, J).
        learning_rate: the step size.
        weight: of the second term; 1 for the ELBO, whose minus the loss then is.

    Returns:
        The terms before the step, (2,), without a gradient.

    Source: Kingma and Welling (2014), algorithm 1.

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=1), torch.ones(8, 4)
    >>> terms_of = lambda x, eps: torch.stack(vae.elbo_terms(x, eps=eps)).mean(-1)
    >>> train_step(terms_of, torch.optim.Adam(vae.parameters()), x, vae.noise(1, 8), learning_rate=0.1).shape
    torch.Size([2])
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    terms = terms_of(x, eps)
    loss = weight * terms[1] - terms[0]  # minus the ELBO: kl - reconstruction
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return terms.detach()


@torch.no_grad()
def average_terms(
    model: nn.Module,
    x: Tensor,
    *,
    objective: Objective = ELBO,
    batch_size: int = 500,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
) -> ElboTerms:
    r"""The two terms of an objective, averaged over a data set, in nats per data point. For the ELBO they are

    .. math:: \frac1N \sum_{n=1}^N \log p(x_n \mid z_n), \quad z_n \sim q(z \mid x_n), \qquad \text{and} \qquad
        \frac1N \sum_{n=1}^N \mathrm{KL}(q(z \mid x_n) \,\|\, p(z))

    The noise comes from a generator seeded anew in each call: the same every time, so that two calls differ by the
    weights and by nothing else.

    Args:
        model: a model that the objective fits, on its device; left in evaluation mode.
        x: data, (N, \*D), bytes or floats, on any device.
        objective: whose terms; the second is given without its weight.
        batch_size: data points evaluated at once.
        seed: of the noise.
        precision: the networks' arithmetic, as in :func:`fit`.

    Returns:
        ``ElboTerms(reconstruction, kl)``, two scalars in double precision, on the CPU.

    Raises:
        TypeError: if x is no tensor.
        ValueError: for data that the model does not describe.

    Source: Kingma and Welling (2014), equation (7).

    >>> from vae_tutorial import models
    >>> average_terms(models.linear_vae((4,), num_latents=1), torch.ones(8, 4)).kl.shape
    torch.Size([])
    """
    _data_check.check_tensor("x", x)
    with _data_check.each_warning_once(stacklevel=5):
        _data_check.check_whole("x", x, model)
    return _average_terms(model, x, _device.in_precision(objective, precision), batch_size, seed)


def warmup_cosine(done: float) -> float:
    r"""Schedule for :class:`Optimization`: a linear rise over the first 5 % of training, then half a cosine down to 0.

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


def best_path(checkpoint: str | os.PathLike[str]) -> Path:
    """Where :func:`fit` records the best weights of a run with a test set: a file for :mod:`vae_tutorial.records`.

    Args:
        checkpoint: the run's checkpoint.

    Returns:
        The checkpoint's path, with ``.best`` before the suffix.

    >>> best_path("run.pt").name
    'run.best.pt'
    """
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}.best{path.suffix}")


# The run.


@dataclass
class _Loop:
    """What was asked for, and what is made of it by ``_prepare``."""

    model: Any
    x: Tensor
    x_test: Tensor | None
    num_epochs: int
    objective: Objective
    preprocess: Callable[..., Tensor] | None
    optimization: Optimization
    execution: Execution
    processes: _processes.Processes
    identity: dict[str, Any] = dataclasses.field(default_factory=dict)
    state: _checkpoint.State = dataclasses.field(init=False)

    @property
    def num_steps(self) -> int:
        return len(self.x) // self.optimization.batch_size

    @property
    def checkpoint(self) -> Path | None:
        return None if self.execution.checkpoint is None else Path(self.execution.checkpoint)


def _prepare(loop: _Loop) -> None:
    """Check all that was asked for, then make the state of the run, or take it from the checkpoint."""
    _check_types(loop)
    model, optimization, execution = loop.model, loop.optimization, loop.execution
    device = torch.device(execution.device) if execution.device is not None else next(model.parameters()).device
    _check_settings(loop, device)
    if loop.checkpoint is not None or loop.processes.number > 1:
        loop.identity = _identity(loop)
    model.to(device)
    loop.x = _device.place(loop.x, device)
    _data_check.check_data(model, loop.objective, loop.x, loop.x_test, loop.preprocess)
    rate, capture = optimization.learning_rate, execution.capture
    loop.state = _checkpoint.State(
        model=model,
        average=None if optimization.ema_decay is None else copy.deepcopy(model),
        optimizer=torch.optim.AdamW(
            _checkpoint.parameter_groups(model, optimization.weight_decay),
            torch.tensor(rate, device=device) if capture else rate,
            fused=True,
            capturable=capture,
        ),
        generator=torch.Generator(device).manual_seed(execution.seed),
        history=History([], [], [], [], []),
    )
    if loop.checkpoint is not None and loop.checkpoint.exists():
        _checkpoint.resume(loop.checkpoint, loop.state, loop.identity, loop.num_epochs, execution.seed)


def _identity(loop: _Loop) -> dict[str, Any]:
    """What a run is, as far as its result depends on it: a checkpoint must agree in all of it."""
    x_test, preprocess, execution = loop.x_test, loop.preprocess, loop.execution
    return {
        "model": records.describe(loop.model),
        "objective": records.describe(loop.objective),
        "data": records.fingerprint(loop.x),
        "test data": None if x_test is None else records.fingerprint(x_test),
        "preprocess": None if preprocess is None else records.describe(preprocess),
        **records.describe(vars(loop.optimization)),
        "seed": execution.seed,
        "precision": str(execution.precision),
    }


def _step(loop: _Loop) -> Callable[[Tensor, float, float], Tensor]:
    """What takes one step, given the batch's index, the learning rate and the second term's weight: the terms, (2,)."""
    generator, dtype, processes = loop.state.generator, next(loop.model.parameters()).dtype, loop.processes
    objective = _device.in_precision(loop.objective, loop.execution.precision, loop.execution.compile)
    terms_of = processes.averaging(_MeanTerms(loop.model, objective))

    def take(index: Tensor, learning_rate: Any, weight: Any) -> Tensor:  # numbers, or tensors for a captured step
        x = loop.x[index]
        if loop.preprocess is not None:
            x = loop.preprocess(x, generator=generator)
        eps = loop.model.noise(objective.num_samples, len(x), generator=generator)
        x, eps = processes.share(x.to(dtype)), processes.share(eps, axis=1)
        return train_step(terms_of, loop.state.optimizer, x, eps, learning_rate=learning_rate, weight=weight)

    return _capture.CapturedStep(take, generator, loop.optimization.batch_size) if loop.execution.capture else take


class _MeanTerms(nn.Module):
    """The batch means of an objective's two terms, (2,): a module, because DistributedDataParallel wraps one."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, eps: Tensor) -> Tensor:
        return torch.stack(self.objective.terms(self.model, x, eps)).mean(-1)


def _epoch(loop: _Loop, take_step: Callable[[Tensor, float, float], Tensor], bar: "tqdm[Any]") -> None:
    """One pass over the data, the test after it, and what is kept of both: nothing of an epoch that went wrong."""
    state, path = loop.state, loop.checkpoint if loop.processes.this == 0 else None  # the first process writes
    start = time.perf_counter()
    train = _train(loop, take_step, bar)
    seconds = time.perf_counter() - start
    test = None if loop.x_test is None else _test(loop, loop.x_test)
    _append(state.history, train, test, seconds)
    if test is not None and _epochs_since_best(loop) == 0:
        if loop.optimization.patience is not None:
            state.best = copy.deepcopy(state.evaluated.state_dict())
        if path is not None:
            records.save_model(best_path(path), state.evaluated, state.history, dtype=None, epochs=state.num_done)
    if path is not None:
        _checkpoint.save(path, state, loop.identity, loop.num_epochs)


def _train(loop: _Loop, take_step: Callable[[Tensor, float, float], Tensor], bar: "tqdm[Any]") -> Tensor:
    """The steps of one epoch: the objective's two terms at each, (num_steps, 2), in double precision on the CPU."""
    epoch, num_steps, batch_size = loop.state.num_done, loop.num_steps, loop.optimization.batch_size
    parameter = next(loop.model.parameters())
    loop.model.train()
    terms = torch.zeros(num_steps, 2, dtype=parameter.dtype, device=parameter.device)
    order = torch.randperm(len(loop.x), generator=loop.state.generator, device=parameter.device)
    looked_at: list[Tensor] = []
    first = 0  # step that nobody has looked at yet
    for step, index in enumerate(order[: num_steps * batch_size].split(batch_size)):
        done = (epoch + step / num_steps) / loop.num_epochs
        terms[step] = take_step(index, loop.optimization.rate(done), loop.objective.weight_at(done))
        if loop.optimization.ema_decay is not None:
            loop.state.update_average(loop.optimization.ema_decay, epoch * num_steps + step)
        if step + 1 - first == CHECK_EVERY or step + 1 == num_steps:
            latest = loop.processes.mean(terms[first : step + 1].cpu().double(), parameter.device)
            _check_finite(loop, latest, first)
            bar.set_postfix_str("reconstruction {:.1f}, kl {:.1f}".format(*latest.mean(0).tolist()), refresh=False)
            bar.update(len(latest))
            looked_at.append(latest)
            first = step + 1
    if not _is_finite(loop.model.state_dict().values()):  # ruined by the last step
        raise _not_finite(loop, "a weight", num_steps - 1)
    return torch.cat(looked_at)


def _test(loop: _Loop, x_test: Tensor) -> ElboTerms:
    """The terms on the test set. Every process computes them all; early stopping must be decided alike everywhere."""
    objective = _device.in_precision(loop.objective, loop.execution.precision, loop.execution.compile)
    terms = torch.stack(_average_terms(loop.state.evaluated, x_test, objective))
    terms = loop.processes.mean(terms, next(loop.model.parameters()).device)
    if not terms.isfinite().all():
        raise _not_finite(loop, "the objective on x_test", loop.num_steps - 1)
    return ElboTerms(*terms)


@torch.no_grad()
def _average_terms(model: Any, x: Tensor, objective: Objective, batch_size: int = 500, seed: int = 0) -> ElboTerms:
    parameter = next(model.parameters())
    model.eval()
    generator = torch.Generator(parameter.device).manual_seed(seed)
    terms = []
    for batch in x.split(batch_size):
        batch = _device.place(batch, parameter.device).to(parameter.dtype)
        eps = model.noise(objective.num_samples, len(batch), generator=generator)
        terms.append(torch.stack(objective.terms(model, batch, eps)))
    total = sum((part.cpu().double().sum(-1) for part in terms), torch.zeros(2, dtype=torch.float64))
    return ElboTerms(*total / len(x))


def _append(history: History, train: Tensor, test: ElboTerms | None, seconds: float) -> None:
    reconstruction, kl = train.mean(0).tolist()
    history.train_reconstruction.append(reconstruction)
    history.train_kl.append(kl)
    history.seconds.append(seconds)
    if test is not None:
        history.test_reconstruction.append(test.reconstruction.item())
        history.test_kl.append(test.kl.item())


def _epochs_since_best(loop: _Loop) -> int:
    """Epochs since the best objective on the test set, 0 if the last one is the best; the history is not empty."""
    history, weight = loop.state.history, loop.objective.weight_at(1.0)
    objective = [r - weight * k for r, k in zip(history.test_reconstruction, history.test_kl, strict=True)]
    return len(objective) - 1 - objective.index(max(objective))


def _is_finished(loop: _Loop) -> bool:
    num_done, patience = loop.state.num_done, loop.optimization.patience
    is_stalled = patience is not None and num_done > 0 and _epochs_since_best(loop) >= patience
    return num_done >= loop.num_epochs or is_stalled


def _progress_bar(loop: _Loop) -> "tqdm[Any]":
    # Without a word on `disable`, tqdm obeys the environment variable TQDM_DISABLE.
    options = {} if loop.execution.progress and loop.processes.this == 0 else {"disable": True}
    total, initial = loop.num_epochs * loop.num_steps, loop.state.num_done * loop.num_steps
    return tqdm(total=total, initial=initial, unit="step", **options)


# What is refused.


def _is_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all values are; their sums tell it at once, unless one overflows."""
    tensors = list(tensors)
    sums = torch.stack([tensor.sum().float() for tensor in tensors])  # one wait for the device
    return bool(sums.isfinite().all()) or all(bool(tensor.isfinite().all()) for tensor in tensors)


def _check_finite(loop: _Loop, terms: Tensor, first_step: int) -> None:
    finite = terms.isfinite().all(-1)
    if not finite.all():
        raise _not_finite(loop, "the objective", first_step + int(finite.int().argmin()))


def _not_finite(loop: _Loop, what: str, step: int) -> FloatingPointError:
    epoch = loop.state.num_done
    rate = loop.optimization.rate((epoch + step / loop.num_steps) / loop.num_epochs)
    return FloatingPointError(
        f"{what} is not finite in epoch {epoch + 1}, step {step + 1} of {loop.num_steps}, at learning rate "
        f"{rate:g}: try a lower one. A checkpoint, if asked for, still holds the last good epoch"
    )


def _check_types(loop: _Loop) -> None:
    """Refuse what is of another type than what was asked for, and say how to make it."""
    _data_check.check_tensor("x", loop.x)
    if loop.x_test is not None:
        _data_check.check_tensor("x_test", loop.x_test)
    if not isinstance(loop.objective, Objective):
        raise TypeError(f"objective must be one of vae_tutorial.objectives, such as elbo(), got {loop.objective!r}")
    for given, wanted in ((loop.optimization, Optimization), (loop.execution, Execution)):
        if not isinstance(given, wanted):
            name = wanted.__name__
            raise TypeError(f"{name.lower()} must be a training.{name}, got {given!r}: write training.{name}(...)")


def _check_settings(loop: _Loop, device: torch.device) -> None:
    """Refuse settings that do not fit together, before anything is computed or written."""
    optimization, execution, number = loop.optimization, loop.execution, loop.processes.number
    _checks.whole(num_epochs=loop.num_epochs)
    if optimization.patience is not None and loop.x_test is None:
        raise ValueError(f"patience {optimization.patience} needs an x_test to be patient about")
    if optimization.batch_size > len(loop.x) > 0:
        raise ValueError(
            f"batch_size {optimization.batch_size} is larger than the set of {len(loop.x)} data points: take at most that"
        )
    if optimization.batch_size % number:
        raise ValueError(
            f"batch_size {optimization.batch_size} cannot be shared by {number} processes: take a multiple of it"
        )
    if execution.capture and (device.type != "cuda" or number > 1):
        raise ValueError(
            f"capture records a CUDA graph, on one device: here the device is {str(device)!r}, of {number} process(es); "
            "leave it out"
        )
    if loop.checkpoint is not None:
        records.check_writable(loop.checkpoint)
