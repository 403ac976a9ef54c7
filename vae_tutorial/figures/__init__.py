r"""Figures: every function draws the tensors it is given on matplotlib axes and returns the axes.

It needs no other module of the package.

Nothing here trains a model or computes a statistic: what a figure shows was computed, and can be checked, by the cell
above it. Colours are from the palette of Okabe and Ito, which readers with colour-blindness can tell apart, and no line
is told from another by colour alone.

Without ``ax`` a function makes a new figure, wide enough for a page and legible on a telephone.

The rooms: ``curves``, ``evidence``, ``plane`` (two latent dimensions), ``images``, ``networks``.
"""

from vae_tutorial.figures._style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, STYLES
from vae_tutorial.figures.curves import (
    plot_agreement,
    plot_courses,
    plot_fit,
    plot_intervals,
    plot_scatter,
    plot_tangents,
    plot_terms,
    plot_trace,
    plot_variances,
)
from vae_tutorial.figures.evidence import (
    plot_bound,
    plot_coordinate_ascent,
    plot_dimensions,
    plot_gaps,
    plot_log_weights,
    plot_sandwich,
    plot_stack,
)
from vae_tutorial.figures.images import plot_images
from vae_tutorial.figures.networks import plot_autoencoder, plot_vae
from vae_tutorial.figures.plane import (
    plot_density,
    plot_ellipses,
    plot_map,
    plot_neighbourhoods,
    plot_paths,
    plot_plane,
)

__all__ = [
    "BLACK",
    "BLUE",
    "GREEN",
    "GREY",
    "ORANGE",
    "PURPLE",
    "STYLES",
    "plot_agreement",
    "plot_autoencoder",
    "plot_bound",
    "plot_coordinate_ascent",
    "plot_courses",
    "plot_density",
    "plot_dimensions",
    "plot_ellipses",
    "plot_fit",
    "plot_gaps",
    "plot_images",
    "plot_intervals",
    "plot_log_weights",
    "plot_map",
    "plot_neighbourhoods",
    "plot_paths",
    "plot_plane",
    "plot_sandwich",
    "plot_scatter",
    "plot_stack",
    "plot_tangents",
    "plot_terms",
    "plot_trace",
    "plot_vae",
    "plot_variances",
]
