"""Files of a run: written whole or not at all, and enough to know what the run was and to build its model again.

A file holds plain values and tensors, and is read with ``weights_only=True``: opening it runs no code of its own. What a
model is, is *described*: the names of its classes and the arguments of their constructors, down to the networks' layers.
Two descriptions can be compared leaf by leaf, so that a refusal says what differs, and a model can be built from one.

What the data are is told by a *fingerprint*, a hash of their bytes.
"""

import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib
import io
import os
import platform
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from vae_tutorial._recipe import keeps_arguments

__all__ = [
    "History",
    "Run",
    "build",
    "check_writable",
    "describe",
    "differences",
    "facts",
    "fingerprint",
    "keeps_arguments",
    "load_model",
    "load_weights",
    "read",
    "save_model",
    "write",
]

RECORD_KEYS = {"model", "weights", "dtype", "history", "facts"}
PLAIN = (bool, int, float, str, type(None), Tensor, torch.dtype)


class History(NamedTuple):
    """What a run did, one entry an epoch: the objective's two terms in nats per data point, and seconds of training.

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


# Models.


def save_model(
    path: str | os.PathLike[str],
    model: nn.Module,
    history: History,
    *,
    dtype: torch.dtype | None = torch.float16,
    **more: Any,
) -> None:
    """Record a trained model in one small file: what it is, its weights, its history, and where it was made.

    Args:
        path: the file to write.
        model: the trained model.
        history: what :func:`vae_tutorial.training.fit` returned, in nats.
        dtype: type to which floating-point weights, of any shape, are rounded, unless a value overflows in it; ``None``
            leaves each as it is. Whole numbers and truth values are never touched.
        more: further facts worth recording: numbers and strings.

    Raises:
        OSError: if the file cannot be written; what stood there before is untouched.
        TypeError: for a fact that could not be read back.

    >>> from vae_tutorial import models
    >>> import tempfile
    >>> path, vae = Path(tempfile.mkdtemp()) / "run.pt", models.linear_vae((4,), num_latents=1)
    >>> save_model(path, vae, History([], [], [], [], []), batch_size=128)
    >>> again, run = load_model(path)
    >>> type(again).__name__, run.facts["batch_size"]
    ('VAE', 128)
    """
    parameter = next(model.parameters())
    content = {
        "model": describe(model),
        "weights": {name: _rounded(tensor.detach().cpu(), dtype) for name, tensor in model.state_dict().items()},
        "dtype": parameter.dtype,
        "history": history._asdict(),
        "facts": {**facts(parameter.device), "training_seconds": sum(history.seconds), **more},
    }
    write(path, content)


def load_model(path: str | os.PathLike[str]) -> tuple[Any, Run]:
    """Build a recorded model from its file alone.

    Args:
        path: a file written by :func:`save_model`.

    Returns:
        The model, on the CPU and in evaluation mode, and ``Run(history, facts)``; the history in nats.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no record, or a class in it keeps no arguments or is not at hand.

    >>> load_model("nowhere.pt")
    Traceback (most recent call last):
    ...
    FileNotFoundError: there is no file nowhere.pt
    """
    record = read(path, RECORD_KEYS)
    try:
        model = build(record["model"])
    except ValueError as error:
        raise ValueError(f"{path} cannot be built: {error}. Build the model, and load_weights(path, model)") from error
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} describes no model ({error}): it is damaged, or of another version") from error
    return model.eval(), _load(path, record, model)


def load_weights(path: str | os.PathLike[str], model: nn.Module) -> Run:
    """Load a record's weights into a model that was built by hand.

    Args:
        path: a file written by :func:`save_model`.
        model: a model of the recorded kind, changed in place.

    Returns:
        ``Run(history, facts)``; the history in nats, lists of shape (number of epochs,).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file holds no record, or that of another model: the message says where they differ.

    >>> from vae_tutorial import models
    >>> import tempfile
    >>> path, vae = Path(tempfile.mkdtemp()) / "run.pt", models.linear_vae((4,), num_latents=1)
    >>> save_model(path, vae, History([], [], [], [], []))
    >>> load_weights(path, models.linear_vae((4,), num_latents=2))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: ... holds another model (encoder.num_latents was 1, is 2; ...
    """
    record = read(path, RECORD_KEYS)
    if different := differences(record["model"], describe(model)):
        raise ValueError(f"{path} holds another model ({'; '.join(different)})")
    return _load(path, record, model)


def _load(path: str | os.PathLike[str], record: dict[str, Any], model: nn.Module) -> Run:
    try:
        model.to(record["dtype"]).load_state_dict(record["weights"])
        return Run(History(**record["history"]), dict(record["facts"]))
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is not a record of this model: {_first_line(error)}") from error


def _rounded(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor
    rounded = tensor.to(dtype)
    return rounded if torch.equal(rounded.isfinite(), tensor.isfinite()) else tensor


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)][:200] if lines else type(error).__name__


# What something is.


def describe(value: Any) -> Any:
    """What a model, a function or a setting is, in plain values that a file can hold and :func:`differences` compares.

    Args:
        value: a module whose class :func:`keeps_arguments`, any other module, a class, a function, a tensor, a dataclass,
            or a collection of such.

    Returns:
        Nested dictionaries, lists and plain values. A module that keeps no arguments is described by the layers it prints,
        which cannot be built again. A function without a name of its own, such as a lambda, is told by its code too.

    >>> from vae_tutorial import likelihoods
    >>> describe(likelihoods.Gaussian(log_var=0.5))
    {'class': 'vae_tutorial.likelihoods:Gaussian', 'arguments': {'log_var': 0.5}}
    """
    if isinstance(value, Tensor):
        return {"tensor": fingerprint(value)}
    if isinstance(value, nn.Module):
        name = _name(type(value))
        arguments = getattr(value, "arguments", None)
        return {"class": name, "layers": repr(value)} if arguments is None else _with_arguments(name, arguments)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _with_arguments(_name(type(value)), vars(value))
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PLAIN):
        return str(value) if isinstance(value, torch.dtype) else value
    if isinstance(value, type):
        return {"type": _name(value)}
    return _describe_function(value)


def build(description: dict[str, Any]) -> Any:
    """Build a module from what :func:`describe` said of it.

    Only classes of this package, and classes of modules that are already imported, are called, and only if they
    :func:`keeps_arguments`: a file cannot call anything else.

    Args:
        description: a module's.

    Returns:
        The module, with fresh weights.

    Raises:
        ValueError: naming the class that keeps no arguments or is not at hand.

    >>> from vae_tutorial import priors
    >>> build(describe(priors.StandardNormal(3))).num_latents
    3
    """
    if "class" in description:
        if "arguments" not in description:
            raise ValueError(f"{description['class']} keeps no arguments (decorate it with records.keeps_arguments)")
        made = _find(description["class"])
        return made(**{name: _built(value) for name, value in description["arguments"].items()})
    raise ValueError(f"this describes no module: {str(description)[:100]}")


def differences(was: Any, now: Any, name: str = "") -> list[str]:
    """Where two descriptions differ, leaf by leaf.

    Args:
        was: the one, as from a file.
        now: the other.
        name: of the whole.

    Returns:
        A line for each difference; empty where there is none.

    >>> differences({"seed": 0, "batch_size": 8}, {"seed": 1, "batch_size": 8})
    ['seed was 0, is 1']
    """
    if isinstance(was, dict) and isinstance(now, dict) and was.get("class") == now.get("class"):
        inner = []
        for key in {**was, **now}:
            path = name if key == "arguments" else f"{name}.{key}" if name else str(key)
            inner += differences(was.get(key), now.get(key), path)
        return inner
    same = type(was) is type(now) and was == now
    return [] if same or (was != was and now != now) else [f"{name} was {_short(was)}, is {_short(now)}"]


def fingerprint(*tensors: Tensor) -> str:
    """A hash of tensors' types, shapes and bytes: the same on every device and for any number of threads.

    Args:
        tensors: of any shape and type; read a few thousand rows at a time.

    Returns:
        Sixteen hexadecimal digits.

    >>> fingerprint(torch.zeros(3)) == fingerprint(torch.zeros(3)), fingerprint(torch.zeros(3)) == fingerprint(torch.ones(3))
    (True, False)
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in tensor.detach().split(4096) if tensor.dim() else [tensor.detach()]:
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def facts(device: torch.device) -> dict[str, Any]:
    """Where, when and with what something is computed.

    Args:
        device: the one it is computed on.

    Returns:
        Names and versions: ``device``, ``date``, ``python``, ``torch``.

    >>> sorted(facts(torch.device("cpu")))
    ['date', 'device', 'python', 'torch']
    """
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type.upper()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "device": name,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__.split("+")[0],
    }


def _with_arguments(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"class": name, "arguments": {key: describe(item) for key, item in arguments.items()}}


def _describe_function(function: Any) -> dict[str, Any]:
    """A function by its name; one without a name that others could call, by its code and what it closes over as well."""
    if isinstance(function, functools.partial):
        return {
            "function": "functools:partial",
            "of": describe(function.func),
            "given": [describe(function.args), describe(function.keywords)],
        }
    name = _name(function) if hasattr(function, "__qualname__") else re.sub(r" at 0x[0-9a-f]+", "", repr(function))
    code = getattr(function, "__code__", None)
    if code is None or "<" not in name:
        return {"function": name}
    cells = [describe(cell.cell_contents) for cell in function.__closure__ or ()]
    held = repr((_code(code), cells, describe(function.__defaults__), describe(function.__kwdefaults__)))
    return {"function": name, "code": hashlib.sha256(held.encode()).hexdigest()[:16]}


def _code(code: Any) -> tuple[Any, ...]:
    """What a function does, without where it is written: its bytes, names and constants, inner functions included."""
    constants = [_code(c) if hasattr(c, "co_code") else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, constants


def _name(thing: Any) -> str:
    return f"{thing.__module__}:{thing.__qualname__}"


def _find(name: str) -> Callable[..., Any]:
    module_name, _, qualified = name.partition(":")
    if module_name.partition(".")[0] == __name__.partition(".")[0]:
        with contextlib.suppress(ImportError):
            importlib.import_module(module_name)
    made = getattr(sys.modules.get(module_name), qualified, None)
    keeps = isinstance(made, type) and hasattr(vars(made).get("__init__"), "__wrapped__")
    if not (keeps and issubclass(cast(type, made), nn.Module)):
        raise ValueError(
            f"{name} is no class at hand that keeps its arguments: import the module that defines it first"
        )
    return cast(Callable[..., Any], made)


def _built(value: Any) -> Any:
    if isinstance(value, dict) and "class" in value:
        return build(value)
    if isinstance(value, dict) and "type" in value:
        module_name, _, qualified = value["type"].partition(":")
        found = getattr(sys.modules.get(module_name), qualified, None)
        if not (isinstance(found, type) and hasattr(found, "from_outputs")):
            raise ValueError(f"{value['type']} is no family at hand: import the module that defines it first")
        return found
    if isinstance(value, dict):
        raise ValueError(f"{str(value)[:100]} cannot be built")
    return tuple(_built(item) for item in value) if isinstance(value, list) else value


def _short(value: Any) -> str:
    """A description as a reader wants to see it: the class alone, a function by its name."""
    if isinstance(value, dict):
        told = value.get("class") or value.get("type") or value.get("function") or value.get("tensor") or "something"
        return str(told).rpartition(":")[2]
    return str(value)[:80]


# Files.


def write(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write a file whole or not at all: to a temporary name first, then renamed, which no reader sees halfway.

    Args:
        path: the file to write; behind a symbolic link, the file it points to.
        content: tensors, numbers, strings and collections of them.

    Raises:
        OSError: if it cannot be written; what stood there before is untouched.
        TypeError: for a value that could not be read back, naming its place.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "two.pt"
    >>> write(path, {"two": np.float64(2)})
    >>> read(path, {"two"})
    {'two': 2.0}
    """
    target, buffer = Path(path).resolve(), io.BytesIO()
    torch.save(_plain(content, ""), buffer)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _drop_leftovers(target)
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        message = f"{os.fspath(path)!r} could not be written ({error.strerror}); what stood there before is untouched"
        raise OSError(message) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def read(path: str | os.PathLike[str], keys: set[str]) -> dict[str, Any]:
    """Read a file that :func:`write` wrote, and check that it is whole.

    Args:
        path: the file.
        keys: what it must hold, and nothing else.

    Returns:
        The content, its tensors on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds other things.

    >>> read("nowhere.pt", {"two"})
    Traceback (most recent call last):
    ...
    FileNotFoundError: there is no file nowhere.pt
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"there is no file {os.fspath(path)}")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch.load does not compare checksums
                raise ValueError(f"the checksum of {damaged} is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes the unpickler raise is not foreseeable
        told = str(error).partition("\n")[0][:200]
        raise ValueError(f"{path} cannot be read ({told}): delete it, or name another file") from error
    if not isinstance(content, dict) or set(content) != keys:
        raise ValueError(f"{path} does not hold {', '.join(sorted(keys))}: it is some other file")
    return content


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path that could not be written, before the work whose result is to be written there.

    Args:
        path: the file to be written later.

    Raises:
        FileNotFoundError: if its folder does not exist.
        OSError: if it is a folder, or no file can be made beside it.

    >>> check_writable("no/such/folder/run.pt")
    Traceback (most recent call last):
    ...
    FileNotFoundError: 'no/such/folder/run.pt': there is no such folder, make it first
    """
    target = Path(path).resolve()
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{os.fspath(path)!r}: there is no such folder, make it first")
    if target.is_dir():
        raise OSError(f"{os.fspath(path)!r} is a folder: name a file in it")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise OSError(f"{os.fspath(path)!r} could not be written ({error.strerror}): name another file") from error


def _drop_leftovers(target: Path) -> None:
    """Temporary files of processes that no longer live."""
    for leftover in target.parent.glob(f".{target.name}.*.part"):
        number = leftover.name.split(".")[-2]
        if number.isdecimal() and not _lives(int(number)):
            leftover.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _plain(value: Any, place: str) -> Any:
    """The same value with NumPy's numbers as Python's, if it can be read back."""
    if isinstance(value, dict):
        return {key: _plain(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{place}[{number}]") for number, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, PLAIN):
        raise TypeError(
            f"content{place} is a {type(value).__name__}, which could not be read back: give numbers or strings"
        )
    return value
