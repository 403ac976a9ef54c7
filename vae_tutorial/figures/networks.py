"""Diagrams of an autoencoder and of a VAE, with the shape of every tensor."""

import itertools
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from vae_tutorial.figures._style import BLACK, BLUE, GREEN, GREY, ORANGE, new_axes


def plot_vae(data_shape: tuple[int, ...], num_latents: int, *, ax: Axes | None = None) -> Axes:
    r"""The reparameterized network: noise is an input, so the bound can be differentiated along every solid arrow.

    .. math:: z = \mu + \sigma \odot \epsilon, \qquad \sigma = e^{\frac12 \log \sigma^2}

    Shaded boxes are networks, circles are operations element by element, the dashed box is the noise. Under a name
    stands the shape of the tensor for a batch of B data points and one sample.

    Args:
        data_shape: D, the shape of one data point, such as (1, 28, 28).
        num_latents: J, the numbers in a latent.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with a text for every node and an arrow for every edge.

    Source: after Kingma and Welling (2014), section 2.4.

    >>> ax = plot_vae((1, 28, 28), num_latents=32)
    >>> sum("(B, 32)" in text.get_text() for text in ax.texts)  # mu, log_var, eps and z
    4
    """
    data, latent = f"\n(B, {', '.join(map(str, data_shape))})", f"\n(B, {num_latents})"
    texts = {
        "x": "$x$" + data,
        "eps": r"noise $\epsilon \sim N(0, I)$" + latent,
        "encoder": "encoder\n" + r"$\phi$",
        "mu": r"$\mu$" + latent,
        "log_var": r"$\log \sigma^2$" + latent,
        "times": r"$\odot$",
        "plus": "$+$",
        "z": "$z$" + latent,
        "decoder": "decoder\n" + r"$\theta$",
        "logits": r"logits $\ell$" + data,
        "reconstruction": r"$\log p_\theta(x \mid z)$" + "\n(B,)",
        "kl": r"$\mathrm{KL}(q_\phi \,\Vert\, p)$" + "\n(B,)",
        "elbo": "ELBO\nreconstruction \N{MINUS SIGN} KL",
    }
    ax = new_axes(ax, 6.8, 4.4)
    ax.set(xlim=(0, 12), ylim=(0, 7.3))
    ax.axis("off")
    _group(ax, r"$q_\phi(z \mid x)$", x=4.3, y=3.05, width=1.7, height=3.3)
    nodes = {name: _node(ax, text, *_PLACES[name], style=_LOOKS.get(name, "")) for name, text in texts.items()}
    for start, end in _ARROWS:
        _arrow(ax, nodes[start], nodes[end], dashed=start == "eps")
    ax.text(5.45, 2.22, r"$\sigma$", ha="center", va="bottom", fontsize=10)
    _arrow(ax, (4.3, 4.7), nodes["kl"])
    left = _PLACES["x"][0]  # x goes to the likelihood too, along the upper edge
    ax.plot([left, left, 11.0], [3.0, 7.0, 7.0], color=GREY, linewidth=1.2)
    _arrow(ax, (11.0, 7.0), nodes["reconstruction"])
    return ax


def plot_autoencoder(data_shape: tuple[int, ...], num_latents: int, *, ax: Axes | None = None) -> Axes:
    r"""The autoencoder: through a narrow code and back, and a comparison of what comes out with what went in.

    .. math:: z = \mathrm{enc}_\phi(x), \qquad \hat x = \mathrm{dec}_\theta(z)

    Shaded boxes are networks. Under a name stands the shape of the tensor for a batch of B data points.

    Args:
        data_shape: D, the shape of one data point, such as (1, 28, 28).
        num_latents: J, the numbers in a latent.
        ax: axes to draw on; a new figure without it.

    Returns:
        The axes, with a text for every node and an arrow for every edge.

    Source: after Hinton and Salakhutdinov (2006), figure 1.

    >>> ax = plot_autoencoder((1, 28, 28), num_latents=2)
    >>> sum("(B, 2)" in text.get_text() for text in ax.texts)  # the code alone
    1
    """
    data = f"\n(B, {', '.join(map(str, data_shape))})"
    texts = {
        "x": ("$x$" + data, 1.0, 1.2, "input"),
        "encoder": ("encoder\n" + r"$\phi$", 3.3, 1.2, "network"),
        "z": (f"code $z$\n(B, {num_latents})", 5.3, 1.2, ""),
        "decoder": ("decoder\n" + r"$\theta$", 7.3, 1.2, "network"),
        "x_hat": (r"$\hat x$" + data, 9.6, 1.2, ""),
        "objective": ("reconstruction\n" + r"how well $\hat x$ describes $x$", 5.3, 3.1, "term"),
    }
    ax = new_axes(ax, 6.4, 2.4)
    ax.set(xlim=(0, 10.6), ylim=(0.4, 3.8))
    ax.axis("off")
    nodes = {name: _node(ax, text, x, y, style=style) for name, (text, x, y, style) in texts.items()}
    for start, end in itertools.pairwise(["x", "encoder", "z", "decoder", "x_hat"]):
        _arrow(ax, nodes[start], nodes[end])
    for start in ("x", "x_hat"):
        _arrow(ax, nodes[start], nodes["objective"])
    return ax


_PLACES = {
    "x": (0.95, 3.0), "encoder": (2.6, 3.0), "mu": (4.3, 3.95), "log_var": (4.3, 2.15), "times": (6.0, 2.15),
    "eps": (6.0, 0.5), "plus": (6.0, 3.95), "z": (7.4, 3.95), "decoder": (9.0, 3.95), "logits": (11.0, 3.95),
    "reconstruction": (11.0, 5.9), "kl": (4.3, 5.9), "elbo": (7.6, 5.9),
}  # fmt: skip


_LOOKS = {
    "x": "input", "eps": "noise", "encoder": "network", "decoder": "network", "times": "operation", "plus": "operation",
    "reconstruction": "term", "kl": "term", "elbo": "term",
}  # fmt: skip


_ARROWS = [
    ("x", "encoder"), ("encoder", "mu"), ("encoder", "log_var"), ("log_var", "times"), ("eps", "times"),
    ("times", "plus"), ("mu", "plus"), ("plus", "z"), ("z", "decoder"), ("decoder", "logits"),
    ("logits", "reconstruction"), ("reconstruction", "elbo"), ("kl", "elbo"),
]  # fmt: skip


def _node(ax: Axes, text: str, x: float, y: float, *, style: str) -> Text:
    """A text in a box whose look says what kind of node it is."""
    box: dict[str, Any] = {"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": BLACK, "linewidth": 1.2}
    box |= {
        "": {},
        "input": {"facecolor": "#E3E3E3"},
        "noise": {"facecolor": "#FBE9DD", "edgecolor": ORANGE, "linestyle": "--"},
        "network": {"facecolor": "#D6E8F5", "edgecolor": BLUE},
        "operation": {"boxstyle": "circle,pad=0.2"},
        "term": {"facecolor": "#DDF1EA", "edgecolor": GREEN},
    }[style]
    return ax.text(x, y, text, ha="center", va="center", fontsize=9.5, linespacing=1.3, bbox=box, zorder=3)


def _arrow(ax: Axes, start: Text | tuple[float, float], end: Text, *, dashed: bool = False) -> None:
    """An arrow between two nodes, or from a point to a node, that ends at their boxes."""
    boxes = {"patchA": start.get_bbox_patch()} if isinstance(start, Text) else {}
    place = start.get_position() if isinstance(start, Text) else start
    look = {"arrowstyle": "-|>", "color": ORANGE if dashed else GREY, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    look |= {"linestyle": "--" if dashed else "-", "patchB": end.get_bbox_patch()}
    # Above the boxes in the drawing order, because a box knows where it is only once it has been drawn.
    ax.annotate("", end.get_position(), place, arrowprops=look | boxes, zorder=4)


def _group(ax: Axes, name: str, *, x: float, y: float, width: float, height: float) -> None:
    """A faint frame around nodes that belong together, with its name inside, at the lower edge."""
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(Rectangle(corner, width, height, facecolor="none", edgecolor=GREY, linestyle=":", linewidth=1.2))
    ax.text(x, corner[1] + 0.1, name, ha="center", va="bottom", fontsize=9, color=GREY)
