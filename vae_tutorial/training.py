r"""Training: one loop, for every model and every objective.

Maximum likelihood would maximise :math:`\sum_n \log p_\theta(x_n)`. The loop maximises an objective instead, by default the
lower bound, over the decoder's parameters :math:`\theta` and the encoder's :math:`\phi` together, by stochastic gradients:
for a random batch of B data points the step follows the gradient of

.. math:: \frac1B \sum_{b=1}^B \big( \text{reconstruction}_b - \beta \, \text{kl}_b \big),

an unbiased estimate of the gradient of the mean over the data. This module is the only place in the package where a minus
sign turns a bound into a loss, because PyTorch's optimizers minimise.

The whole data set stays in memory as one tensor (bytes for images) on the training device, and a batch is an index into
it. Order, preprocessing and the noise of the latents come from one generator, whose state is part of the checkpoint: a run
that was killed and resumed ends with the very bits of a run that was not.

**Several processes** may train one model, each on a device of its own: under ``torchrun``, or wherever
:mod:`torch.distributed` is initialised, every process calls :func:`fit` with the same arguments. All hold the data and
draw the same order, the same preprocessing and the same noise for the *joint* batch of B data points; each takes its share
of both, and torch's ``DistributedDataParallel`` averages the gradients. The run is that of one process, but for the order
in which floating-point numbers are added.
"""

import copy
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from vae_tutorial import objectives, records
from vae_tutorial._processes import Processes, lost_process_named, processes
from vae_tutorial.models import ElboTerms
from vae_tutorial.objectives import Objective
from vae_tutorial.records import History

CHECKPOINT_KEYS = {"model", "average", "num_averaged", "optimizer", "random", "history", "settings"}
CHECK_EVERY = 50  # steps between two looks at the bound: each look makes a GPU wait
ELBO = objectives.elbo()


@dataclass(frozen=True)
class Optimization:
    """How :func:`fit` climbs.

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
    """

    batch_size: int = 128
    learning_rate: float = 1e-3
    schedule: Callable[[float], float] | None = None
    weight_decay: float = 0.0
    ema_decay: float | None = None
    patience: int | None = None


@dataclass(frozen=True)
class Execution:
    """Where :func:`fit` runs, and what it keeps.

    Args:
        seed: of the one generator behind order, preprocessing and latents.
        device: where to train; by default where the model is.
        precision: the networks' arithmetic: ``torch.float32``, or ``torch.bfloat16`` by autocast. The objective itself is
            always computed in the model's own precision.
        compile: compile the two networks with ``torch.compile`` while training; a string is its mode, such as
            ``"reduce-overhead"`` for captured CUDA graphs.
        checkpoint: file to write after each epoch and to resume from; of several processes only the first writes.
        progress: show a progress bar.
    """

    seed: int = 0
    device: torch.device | str | None = None
    precision: torch.dtype = torch.float32
    compile: bool | str = False
    checkpoint: str | os.PathLike[str] | None = None
    progress: bool = True


def fit(
    model: Any,
    x: Tensor,
    *,
    num_epochs: int,
    objective: Objective = ELBO,
    x_test: Tensor | None = None,
    preprocess: Callable[..., Tensor] | None = None,
    optimization: Optimization = Optimization(),
    execution: Execution = Execution(),
) -> History:
    r"""Maximise an objective's mean over the data by stochastic gradients (Adam).

    .. math:: \theta, \phi \leftarrow \text{Adam step on }
        - \frac1B \sum_{b=1}^B \big( \text{reconstruction}_b - \beta \, \text{kl}_b \big)

    Each epoch visits the data in a new random order; the last N mod B of that order are left out. With a checkpoint, the
    state is written there after every epoch, and a later call with the same settings goes on from it: Ctrl-C, or a kill,
    costs the epoch under way and no more. A checkpoint of any other run is refused. With ``x_test`` as well, the best
    weights so far stand beside it in a record of their own (:func:`best_path`, :func:`vae_tutorial.records.load_model`).

    Args:
        model: a VAE, an autoencoder, or whatever the objective takes that has ``noise`` and ``check_data``; changed in
            place and moved to the device.
        x: training data, (N, \*D), bytes or floats; what the likelihood describes, after ``preprocess``.
        num_epochs: passes over the data.
        objective: what is maximised, such as :func:`vae_tutorial.objectives.elbo`.
        x_test: test data, (M, \*D), evaluated after each epoch exactly as given.
        preprocess: applied to every training batch as ``preprocess(batch, generator=...)``, such as
            :func:`vae_tutorial.data.binarize` for a fresh binarization each time.
        optimization: batch size, step sizes and what belongs to them.
        execution: seed, device, precision, checkpoint.

    Returns:
        The history, one entry an epoch, in nats per data point.

    Raises:
        ValueError: for settings or data that make no sense, or a checkpoint of another run, naming what differs.
        TypeError: for data that are no tensor, or an objective that is none.
        OSError: if the checkpoint could not be written.
        FloatingPointError: when the objective or a weight is not finite; the checkpoint of the last good epoch is kept.
        ConnectionError: when one of several processes is gone.

    Source: Kingma and Welling (2014), algorithm 1; Kingma and Ba (2015) for Adam; Loshchilov and Hutter (2019) for its
    weight decay; Polyak and Juditsky (1992) for averaging.

    >>> from vae_tutorial import models
    >>> vae, x = models.linear_vae((4,), num_latents=1), torch.ones(8, 4)
    >>> history = fit(vae, x, num_epochs=2, optimization=Optimization(batch_size=4))
    >>> len(history.train_elbo)
    2
    """
    together = processes()
    try:
        _check_settings(x, num_epochs, objective, x_test, optimization, execution, together)
        _check_data(model, x, x_test, preprocess, optimization.batch_size)
        run = _Run(model, x, num_epochs, objective, preprocess, optimization, execution, together)
        run.resume(x_test)
        refusal = None
    except Exception as error:  # told to the other processes before it is raised
        refusal = error
    together.agree({} if refusal else run.told(), refusal)
    with lost_process_named(), _compiled(model, execution.compile):
        run.train(x_test)
        together.wait()  # nobody reads a file that the first process has not finished
    model.load_state_dict(run.best or run.evaluated.state_dict())
    model.eval()
    return run.history


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
    model: Any,
    x: Tensor,
    *,
    objective: Objective = ELBO,
    batch_size: int = 500,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
) -> ElboTerms:
    r"""The two terms of an objective, averaged over a data set, in nats per data point.

    .. math:: \frac1N \sum_{n=1}^N \log p(x_n \mid z_n), \quad z_n \sim q(z \mid x_n), \qquad \text{and} \qquad
        \frac1N \sum_{n=1}^N \mathrm{KL}(q(z \mid x_n) \,\|\, p(z))

    for the ELBO, with as many samples a data point as the objective asks for, from a generator seeded anew in each call:
    the same noise every time, so that two calls differ by the weights and by nothing else.

    Args:
        model: a VAE or an autoencoder, on its device.
        x: data, (N, \*D), bytes or floats, on any device.
        objective: whose terms; its weight plays no part.
        batch_size: data points evaluated at once.
        seed: of the noise.
        precision: the networks' arithmetic, as in :class:`Execution`.

    Returns:
        ``ElboTerms(reconstruction, kl)``, two scalars in double precision, on the CPU.

    Raises:
        ValueError: for data that the model does not describe.

    Source: Kingma and Welling (2014), equation (7).

    >>> from vae_tutorial import models
    >>> average_terms(models.linear_vae((4,), num_latents=1), torch.ones(8, 4)).kl.shape
    torch.Size([])
    """
    model.check_data(x)
    return _average_terms(model, x, objective, batch_size, seed, precision)


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
    """Where :func:`fit` records the best weights of a run with a test set, for :func:`vae_tutorial.records.load_model`.

    Args:
        checkpoint: the run's checkpoint.

    Returns:
        The checkpoint's path, with ``.best`` before the suffix.

    >>> best_path("run.pt").name
    'run.best.pt'
    """
    path = Path(checkpoint)
    return path.with_name(f"{path.stem}.best{path.suffix}")


# The run: what its steps need, and its state between two epochs.


@dataclass
class _Run:
    model: Any
    x: Tensor
    num_epochs: int
    objective: Objective
    preprocess: Callable[..., Tensor] | None
    optimization: Optimization
    execution: Execution
    together: Processes
    history: History = field(default_factory=lambda: History([], [], [], [], []))
    best: dict[str, Tensor] | None = None  # weights, where patience asks for them
    stamp: tuple[int, int] | None = None  # of the checkpoint as this run left it

    def __post_init__(self) -> None:
        chosen = self.execution.device
        device = torch.device(chosen) if chosen is not None else next(self.model.parameters()).device
        self.model.to(device)
        self.x = self.x.to(device)
        self.average = None if self.optimization.ema_decay is None else copy.deepcopy(self.model)
        self.num_averaged = 0
        groups = _parameter_groups(self.model, self.optimization.weight_decay)
        self.optimizer = torch.optim.AdamW(groups, self.optimization.learning_rate, fused=True)
        self.generator = torch.Generator(device).manual_seed(self.execution.seed)
        self.path = None if self.execution.checkpoint is None else Path(self.execution.checkpoint)
        self.num_steps = len(self.x) // self.optimization.batch_size
        terms_of = _MeanTerms(self.model, self.objective)
        self.terms_of = terms_of if self.together.number == 1 else DistributedDataParallel(terms_of)

    @property
    def evaluated(self) -> Any:
        """The model that counts: the averaged one, where weights are averaged."""
        return self.model if self.average is None else self.average

    def learning_rate(self, done: float) -> float:
        """After so many epochs."""
        schedule = self.optimization.schedule
        return self.optimization.learning_rate * (schedule(done / self.num_epochs) if schedule else 1.0)

    def weight(self, done: float) -> float:
        """Of the KL, after so many epochs."""
        return self.objective.weight_at(done / self.num_epochs)

    def train(self, x_test: Tensor | None) -> None:
        """The epochs that are left."""
        with self._progress_bar() as bar:
            while len(self.history.seconds) < self.num_epochs and not self._is_stalled():
                start = time.perf_counter()
                terms = self._epoch(bar)
                seconds = time.perf_counter() - start
                test = None if x_test is None else self._test(x_test)
                _append(self.history, terms, test, seconds)
                if test is not None and self._epochs_since_best() == 0:
                    self._keep_best()
                self._save()

    def _epoch(self, bar: "tqdm[Any]") -> Tensor:
        """One pass over the data: the objective's two terms at every step, (num_steps, 2), on the CPU."""
        self.model.train()
        epoch, device = len(self.history.seconds), self.x.device
        order = torch.randperm(len(self.x), generator=self.generator, device=device)
        batches = order[: self.num_steps * self.optimization.batch_size].split(self.optimization.batch_size)
        looked_at, since = [], []
        for step, index in enumerate(batches):
            since.append(self._step(self.x[index], epoch + step / self.num_steps))
            if len(since) == CHECK_EVERY or step + 1 == self.num_steps:
                latest = self.together.average(torch.stack(since)).cpu().double()
                self._check_finite(latest, epoch, step + 1 - len(since))
                bar.set_postfix_str("reconstruction {:.1f}, kl {:.1f}".format(*latest.mean(0).tolist()), refresh=False)
                bar.update(len(since))
                looked_at.append(latest)
                since = []
        if not all(
            tensor.isfinite().all() for tensor in self.evaluated.state_dict().values()
        ):  # ruined by the last step
            raise self._not_finite("a weight", epoch, self.num_steps - 1)
        return torch.cat(looked_at)

    def _step(self, x: Tensor, done: float) -> Tensor:
        """One step on the joint batch x, of which this process takes its share."""
        if self.preprocess is not None:
            x = self.preprocess(x, generator=self.generator)
        eps = self.model.noise(self.objective.num_samples, len(x), generator=self.generator)
        x = x.to(eps.dtype)
        x, eps = self.together.share(x), self.together.share(eps, axis=1)
        rates = {"learning_rate": self.learning_rate(done), "weight": self.weight(done)}
        with _arithmetic(self.model, self.execution.precision):
            terms = train_step(self.terms_of, self.optimizer, x, eps, **rates)
        self._update_average()
        return terms

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential moving average. After n steps the decay is at most (1 + n) / (10 + n): young averages forget."""
        if self.average is None or self.optimization.ema_decay is None:
            return
        n, averaged, current = self.num_averaged, list(self.average.parameters()), list(self.model.parameters())
        share = 1.0 if n == 0 else 1 - min(self.optimization.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, share)
        for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            kept.copy_(buffer)  # running means and the like are averages already
        self.num_averaged += 1

    def _test(self, x_test: Tensor) -> ElboTerms:
        """The terms on the test set. Every process computes them all; early stopping must be decided alike everywhere."""
        terms = _average_terms(self.evaluated, x_test, self.objective, precision=self.execution.precision)
        values = torch.stack(terms)
        if self.together.number > 1:
            values = self.together.average(values.to(self.x.device, torch.float32)).cpu().double()
        if not values.isfinite().all():
            raise self._not_finite("the objective on the test set", len(self.history.seconds), self.num_steps - 1)
        return ElboTerms(*values)

    def _check_finite(self, terms: Tensor, epoch: int, first_step: int) -> None:
        finite = terms.isfinite().all(-1)
        if not finite.all():
            raise self._not_finite("the objective", epoch, first_step + int(finite.int().argmin()))

    def _not_finite(self, what: str, epoch: int, step: int) -> FloatingPointError:
        kept = "" if self.path is None else f". {self.path} still holds the last good epoch, if there was one"
        return FloatingPointError(
            f"{what} is not finite in epoch {epoch + 1}, step {step + 1} of {self.num_steps}, at learning rate "
            f"{self.learning_rate(epoch + step / self.num_steps):g}: try a lower one{kept}"
        )

    def _epochs_since_best(self) -> int:
        """Epochs since the best objective on the test set, 0 if the last one is the best; the history is not empty."""
        beta = self.weight(self.num_epochs)
        pairs = zip(self.history.test_reconstruction, self.history.test_kl, strict=True)
        values = [reconstruction - beta * kl for reconstruction, kl in pairs]
        return len(values) - 1 - values.index(max(values))

    def _is_stalled(self) -> bool:
        patience = self.optimization.patience
        return patience is not None and bool(self.history.seconds) and self._epochs_since_best() >= patience

    def _progress_bar(self) -> "tqdm[Any]":
        # Without a word on `disable`, tqdm obeys the environment variable TQDM_DISABLE.
        options = {} if self.execution.progress and self.together.is_first else {"disable": True}
        done = len(self.history.seconds) * self.num_steps
        return tqdm(total=self.num_epochs * self.num_steps, initial=done, unit="step", **options)

    # Its files.

    def identity(self, x_test: Tensor | None) -> dict[str, Any]:
        """What a checkpoint must agree in, for a resumed run to be the same run."""
        optimization, moving = self.optimization, self.optimization.schedule or callable(self.objective.weight)
        return {
            "model": records.describe(self.model),
            "objective": records.describe(self.objective),
            "data": records.fingerprint(self.x),
            "test data": None if x_test is None else records.fingerprint(x_test),
            "preprocess": None if self.preprocess is None else records.describe(self.preprocess),
            "num_epochs": self.num_epochs if moving else None,
            "precision": str(self.execution.precision),
            "seed": self.execution.seed,
            **{name: records.describe(value) for name, value in vars(optimization).items()},
        }

    def told(self) -> dict[str, Any]:
        """What several processes must agree in."""
        return {**self.settings, "epochs done": len(self.history.seconds)}

    def resume(self, x_test: Tensor | None) -> None:
        """Take up the run of the checkpoint, if there is one."""
        needed = self.path is not None or self.together.number > 1
        self.settings = self.identity(x_test) if needed else {}
        if self.path is None:
            return
        records.check_writable(self.path)
        if self.path.exists():
            state = records.read(self.path, CHECKPOINT_KEYS)
            self._check_same(state)
            try:
                self._restore(state)
            except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise ValueError(
                    f"{self.path} does not hold the state of this run ({error}): name another file"
                ) from error
            self.stamp = _stamp(self.path)

    def _check_same(self, state: dict[str, Any]) -> None:
        different = records.differences(state["settings"], self.settings)
        epochs = [line for line in different if line.startswith("num_epochs ")]
        if epochs and len(different) == 1:
            raise ValueError(
                f"{self.path}: {epochs[0]}, and the schedule runs over all epochs, so that a longer run is another one from "
                "its first step on. To train on, load the finished weights (best_path) and name another checkpoint"
            )
        if different:
            raise ValueError(
                f"{self.path} is the checkpoint of another run ({'; '.join(different)}): name another file"
            )
        done = len(state["history"]["seconds"])
        if done > self.num_epochs:
            raise ValueError(f"{self.path} has {done} epochs done, more than num_epochs {self.num_epochs}")

    def _restore(self, state: dict[str, Any]) -> None:
        self.history = History(**state["history"])
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.num_averaged = state["num_averaged"]
        self.optimizer.load_state_dict(state["optimizer"])
        random = state["random"]
        if random["device"] == self.x.device.type:
            self.generator.set_state(random["generator"])
            torch.set_rng_state(random["global"])
            if self.x.device.type == "cuda" and "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self.x.device)
        else:
            self.generator.manual_seed(self.execution.seed + len(self.history.seconds))
            warnings.warn(
                f"{self.path} was written on {random['device']}, and the state of its random numbers means nothing on "
                f"{self.x.device.type}: the run goes on with fresh ones, and not with the very bits it would have had",
                stacklevel=4,
            )
        if self.optimization.patience is not None and self.history.seconds:
            self.best = self._recorded_best()

    def _recorded_best(self) -> dict[str, Tensor]:
        """The best weights of a run that is taken up again, from the record beside its checkpoint."""
        path, done = best_path(self.execution.checkpoint or ""), self.history.test_kl
        record = records.read(path, records.RECORD_KEYS)
        recorded = record["history"]["test_kl"]
        ahead = recorded[:-1] == done  # stopped between writing the two: the next epoch makes this very record again
        if not ahead and recorded != done[: len(done) - self._epochs_since_best()]:
            raise ValueError(f"{path} is not the best of the run in {self.path}: delete both, or name another file")
        return record["weights"]

    def _keep_best(self) -> None:
        if self.optimization.patience is not None:
            self.best = copy.deepcopy(self.evaluated.state_dict())
        if self.path is not None and self.together.is_first:
            epochs = len(self.history.seconds)
            records.save_model(best_path(self.path), self.evaluated, self.history, dtype=None, epochs=epochs)

    def _save(self) -> None:
        if self.path is None or not self.together.is_first:
            return
        if _stamp(self.path) != self.stamp:
            raise OSError(f"{self.path} was written by another run meanwhile: give each run a checkpoint of its own")
        random = {
            "device": self.x.device.type,
            "generator": self.generator.get_state(),
            "global": torch.get_rng_state(),
        }
        if self.x.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.x.device)
        state = {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "num_averaged": self.num_averaged,
            "optimizer": self.optimizer.state_dict(),
            "random": random,
            "history": self.history._asdict(),
            "settings": self.settings,
        }
        records.write(self.path, state)
        self.stamp = _stamp(self.path)


class _MeanTerms(nn.Module):
    """The batch means of an objective's two terms, (2,): a module, because DistributedDataParallel wraps one."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, x: Tensor, eps: Tensor) -> Tensor:
        return torch.stack(self.objective.terms(self.model, x, eps)).mean(-1)


@torch.no_grad()
def _average_terms(
    model: Any,
    x: Tensor,
    objective: Objective,
    batch_size: int = 500,
    seed: int = 0,
    precision: torch.dtype = torch.float32,
) -> ElboTerms:
    model.eval()
    parameter = next(model.parameters())
    generator = torch.Generator(parameter.device).manual_seed(seed)
    total = torch.zeros(2, dtype=torch.float64)
    for batch in x.split(batch_size):
        batch = batch.to(parameter.device, parameter.dtype)
        eps = model.noise(objective.num_samples, len(batch), generator=generator)
        with _arithmetic(model, precision):
            terms = objective.terms(model, batch, eps)
        total += torch.stack(terms).cpu().double().sum(-1)  # not every device has double precision
    return ElboTerms(*(total / len(x)))


def _append(history: History, train: Tensor, test: ElboTerms | None, seconds: float) -> None:
    reconstruction, kl = train.mean(0).tolist()
    history.train_reconstruction.append(reconstruction)
    history.train_kl.append(kl)
    history.seconds.append(seconds)
    if test is not None:
        history.test_reconstruction.append(test.reconstruction.item())
        history.test_kl.append(test.kl.item())


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights that decay, and those that do not: to pull a bias or a noise variance towards 0 is no regularisation."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _stamp(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path: every writing makes a new one."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns


@contextmanager
def _compiled(model: Any, how: bool | str) -> Iterator[None]:
    """The two networks compiled in place, and as they were afterwards."""
    networks = [model.encoder, model.decoder] if how else []
    before = [network._compiled_call_impl for network in networks]
    for network in networks:
        network.compile(mode=how if isinstance(how, str) else None)
    try:
        yield
    finally:
        for network, was in zip(networks, before, strict=True):
            network._compiled_call_impl = was


def _arithmetic(model: Any, precision: torch.dtype) -> torch.autocast:
    """In what precision a step's networks compute; captured graphs learn that they may overwrite the last step's tensors."""
    if getattr(getattr(model, "encoder", None), "_compiled_call_impl", None) is not None:
        torch.compiler.cudagraph_mark_step_begin()
    return torch.autocast(next(model.parameters()).device.type, dtype=precision, enabled=precision != torch.float32)


# What is refused before anything is computed.


def _check_settings(
    x: Any, num_epochs: int, objective: Any, x_test: Any, optimization: Any, execution: Any, together: Processes
) -> None:
    """Refuse settings that would fail late or, worse, not at all."""
    for name, value in {"x": x, "x_test": x_test}.items():
        if not isinstance(value, Tensor) and not (name == "x_test" and value is None):
            raise TypeError(f"{name} must be a tensor (N, *D), got {_kind(value)}")
    if not isinstance(objective, Objective):
        raise TypeError(f"objective must be an Objective, got {_kind(objective)}: call it, as in objectives.elbo()")
    for given, wanted in ((optimization, Optimization), (execution, Execution)):
        if not isinstance(given, wanted):
            name = wanted.__name__
            raise TypeError(f"{name.lower()} must be a training.{name}, got {_kind(given)}: training.{name}(...)")
    _check_optimization(num_epochs, optimization, x_test is not None)
    if execution.precision not in (torch.float32, torch.bfloat16):
        raise ValueError(
            f"precision must be torch.float32 or torch.bfloat16, got {execution.precision}: half precision would need its "
            "losses scaled, and a model in double precision computes in it as it is"
        )
    if optimization.batch_size > len(x):
        raise ValueError(f"batch_size {optimization.batch_size} is larger than the set of {len(x)} data points")
    if optimization.batch_size % together.number:
        raise ValueError(
            f"batch_size {optimization.batch_size} cannot be shared by {together.number} processes: take a multiple of it"
        )


def _check_optimization(num_epochs: int, optimization: Optimization, has_test: bool) -> None:
    rate, decay, ema = optimization.learning_rate, optimization.weight_decay, optimization.ema_decay
    for name, value in {"num_epochs": num_epochs, "batch_size": optimization.batch_size}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {value}")
    if not 0 < rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {rate}")
    if optimization.schedule is not None and not callable(optimization.schedule):
        raise ValueError(f"schedule must be a function, such as training.warmup_cosine, got {optimization.schedule!r}")
    if not 0 <= decay < math.inf:
        raise ValueError(f"weight_decay must be at least 0 and finite, got {decay}")
    if ema is not None and not 0 <= ema < 1:
        raise ValueError(f"ema_decay must be at least 0 and below 1, got {ema}")
    if optimization.patience is not None and (optimization.patience < 1 or not has_test):
        raise ValueError(
            f"patience {optimization.patience} must be at least 1, and needs an x_test to be patient about"
        )


def _kind(value: Any) -> str:
    """What was given instead, and what to give."""
    name = type(value).__name__
    if isinstance(value, torch.utils.data.DataLoader | torch.utils.data.Dataset):
        return f"a {name}: fit makes its own batches, so give the whole set as one tensor"
    if hasattr(value, "images"):
        return f"{name}: give its .images"
    if hasattr(value, "__array__"):
        return f"a {type(value).__module__.partition('.')[0]} {name}: torch.as_tensor(x) makes a tensor of it"
    return f"a {name}"


def _check_data(
    model: Any, x: Tensor, x_test: Tensor | None, preprocess: Callable[..., Tensor] | None, batch_size: int
) -> None:
    """Every value as it is given, and behind a preprocessing a sample that holds the extremes."""
    if x_test is not None:
        model.check_data(x_test)
    if preprocess is None:
        model.check_data(x)
        return
    if len(x) == 0:
        raise ValueError("x is empty: it holds no data points")
    if row := _first_bad_row(x):
        raise ValueError(f"x contains NaN or infinity, first in row {row[0]}: remove or fill in such rows")
    flat = x.flatten(1) if x.dim() > 1 else x.unsqueeze(1)
    low, high = (torch.cat([extreme(part) for part in flat.split(4096)]) for extreme in (_row_min, _row_max))
    spread = torch.linspace(0, len(x) - 1, min(len(x), batch_size)).long()
    rows = torch.cat([torch.stack([low.argmin(), high.argmax()]).cpu(), spread])
    sample = x[rows.to(x.device)]
    # On a generator of its own, or a check would change the run.
    model.check_data(preprocess(sample, generator=torch.Generator(sample.device).manual_seed(0)))


def _row_min(part: Tensor) -> Tensor:
    return part.amin(1)


def _row_max(part: Tensor) -> Tensor:
    return part.amax(1)


def _first_bad_row(x: Tensor) -> tuple[int] | None:
    if not x.is_floating_point():
        return None
    for number, part in enumerate(x.split(4096)):
        bad = ~part.flatten(1).isfinite().all(1) if part.dim() > 1 else ~part.isfinite()
        if bad.any():
            return (4096 * number + int(bad.int().argmax()),)
    return None
