"""Figures: what is drawn is what was given, and it is labelled."""

import itertools
import re

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.text import Annotation

from vae_tutorial import figures

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


# --- Images, bars for each latent dimension, the network -------------------------------------------------------------


def mosaic(ax):
    return torch.as_tensor(np.asarray(ax.images[0].get_array()))


def test_images_stand_in_their_rows_and_columns():
    images = torch.rand(2, 3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    drawn = mosaic(figures.plot_images(images))
    assert drawn.shape == (2 * 4 + 2, 3 * 5 + 2 * 2)
    for row in range(2):
        for column in range(3):
            assert drawn[6 * row : 6 * row + 4, 7 * column : 7 * column + 5].equal(images[row, column, 0])
    assert (drawn[4:6] == 1).all()
    assert (drawn[:, 5:7] == 1).all()


def test_images_are_black_at_0_and_white_at_1_whatever_they_hold():
    picture = figures.plot_images(torch.full((1, 1, 1, 4, 4), 0.5)).images[0]
    assert picture.get_clim() == (0, 1)
    assert picture.get_cmap().name == "gray"
    assert picture.origin == "upper"


def test_images_accept_bits_and_half_precision_and_gradients():
    bits = torch.tensor([0, 1], dtype=torch.uint8).view(1, 2, 1, 1, 1)
    assert mosaic(figures.plot_images(bits))[0, [0, 3]].tolist() == [0, 1]
    figures.plot_images(torch.full((1, 1, 1, 2, 2), 0.5, dtype=torch.float16))
    figures.plot_images(torch.full((1, 1, 1, 2, 2), 0.5, requires_grad=True))


def test_images_carry_the_names_of_their_rows_and_columns_at_their_middles():
    ax = figures.plot_images(torch.zeros(2, 3, 1, 4, 4), row_names=["a", "b"], column_names=["c", "d", "e"])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["c", "d", "e"]
    assert ax.get_yticks().tolist() == [1.5, 7.5]  # pixel centres are whole numbers: rows 0..3 and 6..9
    assert ax.get_xticks().tolist() == [1.5, 7.5, 13.5]


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 3, 3, 4, 4), (0, 3, 1, 4, 4)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(R, C, 1, H, W\).*" + re.escape(str(shape))):
        figures.plot_images(torch.zeros(shape))


@pytest.mark.parametrize("level", [-0.1, 1.1, 255.0, float("nan")])
def test_pixels_that_are_no_grey_levels_are_refused(level):
    with pytest.raises(ValueError, match=r"\[0, 1\].*sigmoid"):
        figures.plot_images(torch.full((1, 1, 1, 2, 2), level))


@pytest.mark.parametrize("name", ["row_names", "column_names"])
def test_the_number_of_names_must_fit(name):
    with pytest.raises(ValueError, match=f"{name} must hold 2 strings, got 1"):
        figures.plot_images(torch.zeros(2, 2, 1, 4, 4), **{name: ["only one"]})


def test_dimensions_are_bars_in_the_given_order():
    ax = figures.plot_dimensions(torch.tensor([3.0, 0.5, 1.0]), ylabel="KL (nats)", xlabel="by KL")
    assert [bar.get_x() + bar.get_width() / 2 for bar in ax.patches] == pytest.approx([1, 2, 3])
    assert [(bar.get_y(), bar.get_height()) for bar in ax.patches] == [(0, 3.0), (0, 0.5), (0, 1.0)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("by KL", "KL (nats)")
    assert not ax.lines


def test_dimensions_start_at_the_reference():
    ax = figures.plot_dimensions(torch.tensor([3.0, 0.5]), ylabel="variance", reference=1.0, label="prior")
    assert [bar.get_y() + bar.get_height() for bar in ax.patches] == [3.0, 0.5]
    assert [bar.get_y() for bar in ax.patches] == [1.0, 1.0]
    assert ax.lines[0].get_ydata() == [1.0, 1.0]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["prior"]


def test_dimensions_must_be_a_vector():
    with pytest.raises(ValueError, match=r"\(J,\), got shape \(2, 3\)"):
        figures.plot_dimensions(torch.zeros(2, 3), ylabel="KL")


def boxes(ax):
    """The nodes of the drawing, by the first line of their text."""
    return {text.get_text().split("\n")[0]: text for text in ax.texts if text.get_bbox_patch()}


def test_the_network_shows_every_tensor_with_its_shape():
    shapes = {name: text.get_text().split("\n")[-1] for name, text in boxes(figures.plot_vae((3, 8), 5)).items()}
    assert shapes["$x$"] == shapes[r"logits $\ell$"] == "(B, 3, 8)"
    latent = [r"$\mu$", r"$\log \sigma^2$", r"noise $\epsilon \sim N(0, I)$", "$z$"]
    assert {shapes[name] for name in latent} == {"(B, 5)"}
    assert {r"$\odot$", "$+$", "encoder", "decoder", "ELBO"} < set(shapes)


def test_the_network_joins_noise_and_encoder_as_the_formula_says():
    """z = mu + sigma * eps: eps and sigma meet in the product, the product and mu in the sum; only the noise is dashed."""
    ax = figures.plot_vae((1, 28, 28), 32)
    places = {text.get_position(): name for name, text in boxes(ax).items()}
    edges = {
        (places.get(arrow.xyann), places[arrow.xy]): arrow.arrow_patch.get_linestyle()
        for arrow in ax.texts
        if isinstance(arrow, Annotation)
    }
    eps, mu, log_var = r"noise $\epsilon \sim N(0, I)$", r"$\mu$", r"$\log \sigma^2$"
    assert {start for start, end in edges if end == r"$\odot$"} == {log_var, eps}
    assert {start for start, end in edges if end == "$+$"} == {r"$\odot$", mu}
    assert {start for start, end in edges if end == "$z$"} == {"$+$"}
    assert {start for start, end in edges if end == "encoder"} == {"$x$"}  # and no noise
    assert [edge for edge, style in edges.items() if style == "--"] == [(eps, r"$\odot$")]


def test_functions_draw_on_the_axes_they_are_given():
    ax = plt.figure().subplots()
    assert figures.plot_images(torch.zeros(1, 1, 1, 2, 2), ax=ax) is ax
    assert figures.plot_dimensions(torch.zeros(2), ylabel="KL", ax=ax) is ax
    assert figures.plot_vae((1, 2, 2), 2, ax=ax) is ax


# --- Bounds, gaps, log-weights, traces, EM ---------------------------------------------------------------------------


def points(line):
    """What a line was drawn from, as (x, y) pairs."""
    return list(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


EVIDENCE, ELBO = torch.tensor([-18.0, -19.0, -20.0]), torch.tensor([-18.5, -22.0, -20.0])


def test_gaps_join_each_elbo_to_its_evidence():
    ax = figures.plot_gaps(EVIDENCE, ELBO, xlabel="student")
    segments = [segment.tolist() for segment in ax.collections[0].get_segments()]
    assert segments == [[[1, -18.5], [1, -18]], [[2, -22], [2, -19]], [[3, -20], [3, -20]]]
    assert points(ax.lines[0]) == [(1, -18), (2, -19), (3, -20)]
    assert points(ax.lines[1]) == [(1, -18.5), (2, -22), (3, -20)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("student", "nats")
    assert legend(ax) == ["gap", r"log-evidence $\log p(x_n)$", "ELBO"]


def test_a_bound_lies_below_its_evidence_and_the_gap_between_is_shaded():
    ax = figures.plot_bound(torch.tensor([0.0, 1.0, 2.0]), ELBO, -18.0, optimum=0.5, xlabel="mean of q")
    evidence, elbo, optimum = ax.lines
    assert set(evidence.get_ydata()) == {-18.0}
    assert points(elbo) == [(0, -18.5), (1, -22), (2, -20)]
    assert set(optimum.get_xdata()) == {0.5}
    corners = {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices.tolist()}
    assert {(0, -18), (2, -18), (0, -18.5), (1, -22), (2, -20)} <= corners
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("mean of q", "nats")
    assert legend(ax)[:3] == [r"log-evidence $\log p(x)$", "ELBO", "posterior's value"]
    assert "KL" in legend(ax)[3]


def test_terms_differ_in_colour_and_in_dash():
    x = torch.linspace(0, 1, 3)
    ax = figures.plot_terms(x, {name: k * x for k, name in enumerate("abcd")}, xlabel="width", ylabel="bits")
    assert [points(line) for line in ax.lines] == [[(0, 0), (0.5, k / 2), (1, k)] for k in range(4)]
    assert len({line.get_color() for line in ax.lines}) == len({line.get_linestyle() for line in ax.lines}) == 4
    assert legend(ax) == list("abcd")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "bits")


def test_more_terms_than_can_be_told_apart_are_refused():
    x = torch.zeros(3)
    with pytest.raises(ValueError, match="at most 4 terms can be told apart, got 5"):
        figures.plot_terms(x, dict.fromkeys("abcde", x), xlabel="width")


def test_agreement_is_a_curve_and_markers_for_each_name():
    x, places = torch.linspace(0, 1, 3), torch.tensor([0.25, 0.75])
    theory = {name: k * x for k, name in enumerate("abcd")}
    found = {name: k * places + 0.5 for k, name in enumerate("abcd")}
    ax = figures.plot_agreement(x, theory, places, found, xlabel="width", ylabel="bits")
    curves, markers = ax.lines[0::2], ax.lines[1::2]
    assert [points(line) for line in curves] == [[(0, 0), (0.5, k / 2), (1, k)] for k in range(4)]
    assert [points(line) for line in markers] == [[(v, k * v + 0.5) for v in (0.25, 0.75)] for k in range(4)]
    assert all(line.get_linestyle() == "None" for line in markers)
    assert [line.get_color() for line in markers] == [line.get_color() for line in curves]
    assert len({line.get_marker() for line in markers}) == len({line.get_linestyle() for line in curves}) == 4
    assert legend(ax) == list("abcd")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "bits")


@pytest.mark.parametrize("names", ["b", "abcde", "ba"])
def test_agreement_needs_one_set_of_names(names):
    x = torch.zeros(3)
    theory = dict.fromkeys("abcde" if len(names) == 5 else "ab"[: len(names)], x)
    with pytest.raises(ValueError, match="at most 4 quantities under the same names"):
        figures.plot_agreement(x, theory, x, dict.fromkeys(names, x), xlabel="", ylabel="")


def test_a_fit_is_a_line_over_its_shaded_target():
    z = torch.tensor([-1.0, 0.0, 1.0])
    ax = figures.plot_fit(
        z, torch.tensor([0.125, 0.5, 0.25]), torch.tensor([0.375, 0.5, 0.25]), names=("target", "fit")
    )
    corners = {tuple(corner) for corner in ax.collections[0].get_paths()[0].vertices.tolist()}
    assert {(-1, 0.125), (0, 0.5), (1, 0.25), (-1, 0), (1, 0)} <= corners
    assert points(ax.lines[0]) == [(-1, 0.375), (0, 0.5), (1, 0.25)]
    assert legend(ax) == ["target", "fit"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("z", "density")
    assert figures.plot_fit(z, z, z, legend=False).get_legend() is None


def test_log_weights_are_a_density_with_the_two_lines_that_were_given():
    ax = figures.plot_log_weights(
        torch.tensor([-3.0, -3.0, -3.0, -1.0]), elbo=-2.5, evidence=-1.5, bins=2, label="four"
    )
    assert [bar.get_height() * bar.get_width() for bar in ax.patches] == [0.75, 0.25]
    assert [set(line.get_xdata()) for line in ax.lines] == [{-2.5}, {-1.5}]
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
    assert legend(ax)[0] == "four"
    assert "ELBO" in legend(ax)[1]
    assert "evidence" in legend(ax)[2]
    assert "nats" in ax.get_xlabel()


def test_a_trace_runs_from_step_0_and_its_target_lies_across():
    ax = figures.plot_trace(torch.tensor([3.0, 2.0, 1.5]), 1.0, ylabel="mean of q")
    assert points(ax.lines[0]) == [(0, 3), (1, 2), (2, 1.5)]
    assert set(ax.lines[1].get_ydata()) == {1.0}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "mean of q")


def test_coordinate_ascent_climbs_by_an_m_step_to_the_next_column_and_by_an_e_step_straight_up():
    ax = figures.plot_coordinate_ascent(torch.tensor([-5.0, -3.0, -2.0]), torch.tensor([-4.0, -2.5]))
    evidence, path, after_m = ax.lines
    assert points(evidence) == [(0, -5), (1, -3), (2, -2)]
    assert points(path) == [(0, -5), (1, -4), (1, -3), (2, -2.5), (2, -2)]
    assert points(after_m) == [(1, -4), (2, -2.5)]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("iteration", "nats per student")


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_coordinate_ascent_has_one_m_step_fewer_than_evidences(steps):
    with pytest.raises(ValueError, match=rf"\(T \+ 1,\).*\(3,\), \({steps},\)"):
        figures.plot_coordinate_ascent(torch.zeros(3), torch.zeros(steps))


two, three, square = torch.zeros(2), torch.zeros(3), torch.zeros(3, 1)


def test_tangents_touch_the_curve_at_every_so_many_points_and_are_of_one_length():
    x = torch.linspace(0, 2, 5)
    ax = figures.plot_tangents(x, x.square(), 2 * x, every=2, xlabel="x", ylabel="square")
    curve, *tangents = ax.lines
    assert points(curve) == [(0, 0), (0.5, 0.25), (1, 1), (1.5, 2.25), (2, 4)]
    assert len(tangents) == 3
    lengths = []
    for line, at in zip(tangents, (0.0, 1.0, 2.0), strict=True):
        (x0, y0), (x1, y1) = points(line)
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx((at, at**2))
        assert (y1 - y0) / (x1 - x0) == pytest.approx(2 * at)
        lengths.append(((x1 - x0) / 2) ** 2 + ((y1 - y0) / 4) ** 2)  # the curve is 2 wide and 4 high
    assert lengths == pytest.approx([0.16**2] * 3)
    assert legend(ax) == ["square", "tangents"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("x", "square")


def test_tangents_at_no_points_are_refused():
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        figures.plot_tangents(three, three, three, every=0, xlabel="", ylabel="")


def test_variances_are_dots_as_measured_and_lines_by_formula_on_logarithmic_axes():
    k = torch.tensor([1.0, 2.0, 4.0])
    ax = figures.plot_variances(k, {"a": 1.5 / k, "b": 3 / k}, {"a": 1 / k, "b": 2 / k})
    assert [points(line) for line in ax.lines] == [
        [(1, factor), (2, factor / 2), (4, factor / 4)] for factor in (1.5, 1, 3, 2)
    ]
    assert [line.get_linestyle() for line in ax.lines] == ["None", "-", "None", "--"]
    assert len({line.get_marker() for line in ax.lines[::2]}) == 2
    assert legend(ax) == ["a, measured", "a, formula", "b, measured", "b, formula"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert [text.get_text() for text in ax.get_xticklabels()] == ["1", "2", "4"]


@pytest.mark.parametrize("exact", [{"b": torch.ones(3)}, {}, dict.fromkeys("abcde", torch.ones(3))])
def test_variances_need_the_same_few_names(exact):
    measured = exact if len(exact) > 4 else {"a": torch.ones(3)}
    with pytest.raises(ValueError, match="at most 4 names, the same for both"):
        figures.plot_variances(torch.ones(3), measured, exact)


def test_paths_are_one_line_for_each_sample():
    width = torch.tensor([0.0, 1.0, 2.0])
    ax = figures.plot_paths(width, width[:, None] * torch.tensor([-1.0, 3.0]), xlabel="width")
    assert [points(line) for line in ax.lines] == [[(0, 0), (1, -1), (2, -2)], [(0, 0), (1, 3), (2, 6)]]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "sample z")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: figures.plot_gaps(three, two),
        lambda: figures.plot_gaps(square, square),
        lambda: figures.plot_bound(three, two, 0.0, optimum=0.0, xlabel=""),
        lambda: figures.plot_terms(three, {"a": three, "b": square}, xlabel=""),
        lambda: figures.plot_agreement(three, {"a": square}, three, {"a": three}, xlabel="", ylabel=""),
        lambda: figures.plot_agreement(three, {"a": three}, three, {"a": square}, xlabel="", ylabel=""),
        lambda: figures.plot_fit(three, three, two),
        lambda: figures.plot_log_weights(square, 0.0, 0.0),
        lambda: figures.plot_trace(square, 0.0, ylabel=""),
        lambda: figures.plot_tangents(three, three, two, every=1, xlabel="", ylabel=""),
        lambda: figures.plot_variances(three, {"a": three}, {"a": two}),
        lambda: figures.plot_variances(three, {"a": square}, {"a": three}),
        lambda: figures.plot_paths(two, square, xlabel=""),
        lambda: figures.plot_paths(square, square, xlabel=""),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(draw):
    with pytest.raises(ValueError, match=r"\(3, 1\)|\(2,\)"):
        draw()


CALLS = {
    "plot_gaps": lambda **options: figures.plot_gaps(three, three, **options),
    "plot_sandwich": lambda **options: figures.plot_sandwich(three.abs() + 1, three, three, **options),
    "plot_bound": lambda **options: figures.plot_bound(three, three, 0.0, optimum=0.0, xlabel="", **options),
    "plot_terms": lambda **options: figures.plot_terms(three, {"a": three}, xlabel="", **options),
    "plot_agreement": lambda **options: figures.plot_agreement(
        three, {"a": three}, three, {"a": three}, xlabel="", ylabel="", **options
    ),
    "plot_fit": lambda **options: figures.plot_fit(three, three, three, **options),
    "plot_log_weights": lambda **options: figures.plot_log_weights(three, 0.0, 0.0, **options),
    "plot_trace": lambda **options: figures.plot_trace(three, 0.0, ylabel="", **options),
    "plot_coordinate_ascent": lambda **options: figures.plot_coordinate_ascent(three, two, **options),
    "plot_tangents": lambda **options: figures.plot_tangents(
        1 + two.cumsum(0), two, two, every=1, xlabel="", ylabel="", **options
    ),
    "plot_variances": lambda **options: figures.plot_variances(1 + two, {"a": 1 + two}, {"a": 1 + two}, **options),
    "plot_paths": lambda **options: figures.plot_paths(three, square, xlabel="", **options),
}


@pytest.mark.parametrize("name", CALLS)
def test_curves_go_on_the_given_axes_or_on_a_new_figure(name):
    _, ax = plt.subplots()
    assert CALLS[name](ax=ax) is ax
    assert len(plt.get_fignums()) == 1
    assert CALLS[name]().figure is not ax.figure
    assert len(plt.get_fignums()) == 2


def test_curves_accept_tensors_that_carry_gradients():
    free = three.clone().requires_grad_()
    figures.plot_gaps(free, free)
    figures.plot_trace(free, 0.0, ylabel="")
    figures.plot_coordinate_ascent(free, free[:2])


# --- Points of several groups, intervals ------------------------------------------------------------------------------


def test_scattered_points_are_those_given_and_groups_differ_in_more_than_colour():
    groups = {"real": torch.tensor([[0.0, 1.0], [2.0, 3.0]]), "sampled": torch.tensor([[4.0, 5.0]])}
    ax = figures.plot_scatter(groups, xlabel="algebra", ylabel="mechanics")
    first, second = ax.lines
    assert (list(first.get_xdata()), list(first.get_ydata())) == ([0, 2], [1, 3])
    assert (list(second.get_xdata()), list(second.get_ydata())) == ([4], [5])
    assert first.get_marker() != second.get_marker()
    assert first.get_color() != second.get_color()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["real", "sampled"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("algebra", "mechanics")


@pytest.mark.parametrize("shape", [(3,), (3, 3), (1, 3, 2)])
def test_scattered_points_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(N, 2\).*a " + re.escape(str(shape))):
        figures.plot_scatter({"a": torch.zeros(shape)}, xlabel="", ylabel="")


def test_more_groups_than_markers_are_refused():
    with pytest.raises(ValueError, match="at most 4 groups"):
        figures.plot_scatter({name: torch.zeros(1, 2) for name in "abcde"}, xlabel="", ylabel="")


def test_intervals_reach_two_standard_deviations_either_way_from_top_to_bottom():
    mean, sd, observed = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.5]), torch.tensor([0.25, 3.0])
    ax = figures.plot_intervals(["a", "b"], mean, sd, observed=observed, xlabel="correlation", observed_label="class")
    ends = [path.vertices.tolist() for path in ax.collections[0].get_paths()]
    assert ends == [[[-2, 0], [2, 0]], [[0, 1], [2, 1]]]
    assert [list(line.get_xdata()) for line in ax.lines] == [[0, 1], [0.25, 3]]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    assert ax.yaxis_inverted()
    assert "class" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_intervals_need_no_observed_values():
    assert len(figures.plot_intervals(["a"], torch.zeros(1), torch.ones(1), xlabel="").lines) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["a"]}, "names must hold 2 strings, got 1"),
        ({"sd": torch.ones(3)}, r"mean \(2,\), sd \(3,\)"),
        ({"observed": torch.ones(1)}, r"observed \(1,\)"),
        ({"sd": torch.tensor([1.0, -1.0])}, "sd must not be negative, got -1"),
        ({"sd": torch.tensor([1.0, float("nan")])}, "sd must not be negative"),
    ],
)
def test_intervals_that_do_not_fit_are_refused(change, message):
    given = {"names": ["a", "b"], "mean": torch.zeros(2), "sd": torch.ones(2)} | change
    with pytest.raises(ValueError, match=message):
        figures.plot_intervals(**given, xlabel="")


# --- Ellipses, stacked bars --------------------------------------------------------------------------------------------


def test_ellipses_lie_one_and_two_standard_deviations_from_the_mean():
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.6], [0.6, 0.5]])
    ax = figures.plot_ellipses({"p": (torch.zeros(2), torch.eye(2)), "q": (mean, covariance)}, xlabel="a", ylabel="b")
    assert len(ax.lines) == 4
    for line, radius in zip(ax.lines[2:], (1, 2), strict=True):
        offset = torch.tensor(line.get_xydata()) - mean
        distance = (offset @ torch.linalg.inv(covariance.double()) * offset).sum(1)
        torch.testing.assert_close(distance, torch.full_like(distance, radius**2))
        assert max(offset[:, 0].tolist()) == pytest.approx(radius * 2**0.5, rel=1e-3)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["p", "q"]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_aspect()) == ("a", "b", 1)
    assert ax.lines[0].get_linestyle() != ax.lines[2].get_linestyle()


def test_contours_have_the_first_coordinate_across():
    across, up = torch.linspace(0, 4, 41), torch.linspace(0, 1, 31)
    values = torch.exp(-(across[:, None] - 3).square() - 20 * (up - 0.5).square())  # highest at (3, 0.5)
    gaussians = {"q": (torch.zeros(2), torch.eye(2))}
    ax = figures.plot_ellipses(gaussians, density=(across, up, values), xlabel="", ylabel="")
    top = [path.vertices.mean(0) for path in ax.collections[0].get_paths() if len(path.vertices)][-1]
    assert top[0] == pytest.approx(3, abs=0.1)
    assert top[1] == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gaussians": {"q": (torch.zeros(3), torch.eye(2))}}, r"'q': \(\(3,\), \(2, 2\)\)"),
        ({"gaussians": dict.fromkeys("abcde", (torch.zeros(2), torch.eye(2)))}, "at most 4"),
        ({"density": (torch.zeros(3), torch.zeros(2), torch.zeros(2, 3))}, r"\(P, Q\)"),
    ],
)
def test_ellipses_that_do_not_fit_are_refused(change, message):
    given = {"gaussians": {"q": (torch.zeros(2), torch.eye(2))}} | change
    with pytest.raises(ValueError, match=message):
        figures.plot_ellipses(**given, xlabel="", ylabel="")


def test_stacked_bars_stand_on_one_another():
    parts = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.5, 0.25]), "c": torch.tensor([1.0, 1.0])}
    ax = figures.plot_stack(parts, xlabel="student", ylabel="nats")
    assert [(bar.get_y(), bar.get_height()) for bar in ax.patches] == [
        (0, 1), (0, 2), (1, 0.5), (2, 0.25), (1.5, 1), (2.25, 1),
    ]  # fmt: skip
    assert len({bar.get_hatch() for bar in ax.patches}) == 3
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "c"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("student", "nats")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"a": torch.ones(2), "b": torch.ones(3)}, r"a \(2,\), b \(3,\)"),
        ({"a": torch.tensor([1.0, -1.0])}, "none of them negative"),
        (dict.fromkeys("abcde", torch.ones(2)), "at most 4"),
    ],
)
def test_bars_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        figures.plot_stack(parts, xlabel="", ylabel="")


# --- Autoencoders ----------------------------------------------------------------------------------------------------


def edges_between_boxes(ax):
    places = {text.get_position(): name for name, text in boxes(ax).items()}
    return {(places[arrow.xyann], places[arrow.xy]) for arrow in ax.texts if isinstance(arrow, Annotation)}


def test_the_autoencoder_leads_through_the_code_and_compares_both_ends():
    ax = figures.plot_autoencoder((3, 8), 5)
    shapes = {name: text.get_text().split("\n")[-1] for name, text in boxes(ax).items()}
    assert shapes["$x$"] == shapes[r"$\hat x$"] == "(B, 3, 8)"
    assert shapes["code $z$"] == "(B, 5)"
    path = ["$x$", "encoder", "code $z$", "decoder", r"$\hat x$"]
    assert edges_between_boxes(ax) == {
        *itertools.pairwise(path),
        ("$x$", "reconstruction"),
        (r"$\hat x$", "reconstruction"),
    }


def test_the_map_shows_each_class_with_its_own_look_and_its_number_on_one_of_its_codes():
    codes = torch.tensor([[0.0, 0.0], [5.0, 1.0], [1.0, 1.0], [0.0, 9.0], [2.0, 2.0]])
    labels = torch.tensor([0, 1, 0, 2, 0])
    ax = figures.plot_map(codes, labels, ["shoe", "coat", "bag"])
    assert [line.get_xydata().tolist() for line in ax.lines] == [codes[labels == k].tolist() for k in range(3)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0 shoe", "1 coat", "2 bag"]
    assert {text.get_text(): text.get_position() for text in ax.texts} == {"0": (1, 1), "1": (5, 1), "2": (0, 9)}


def test_ten_classes_differ_in_colour_or_marker():
    ax = figures.plot_map(torch.zeros(10, 2), torch.arange(10), list("abcdefghij"))
    assert len({(line.get_color(), line.get_marker()) for line in ax.lines}) == 10


@pytest.mark.parametrize(
    ("codes", "labels", "names"),
    [((3, 3), [0, 0, 0], 1), ((3, 2), [0, 0], 1), ((2, 2), [0, 1], 1), ((2, 2), [0, -1], 2), ((2, 2), [0, 1], 11)],
)
def test_maps_that_do_not_fit_are_refused(codes, labels, names):
    with pytest.raises(ValueError, match=r"codes must be \(N, 2\)|class_names"):
        figures.plot_map(torch.zeros(codes), torch.tensor(labels), ["name"] * names)


def test_the_plane_has_every_image_at_its_coordinates():
    """Pixels are looked up by coordinate: image (r, c) covers the cell around (z1[c], z2[r]), and z2 rises upwards."""
    images, z1, z2 = torch.rand(2, 3, 1, 4, 5), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([10.0, 12.0])
    ax = figures.plot_plane(images, z1, z2)
    assert ax.images[0].get_extent() == [-0.5, 2.5, 9.0, 13.0] == [*ax.get_xlim(), *ax.get_ylim()]
    drawn = mosaic(ax)
    assert ax.images[0].origin == "upper"
    assert drawn.shape == (8, 15)
    for row in range(2):
        for column in range(3):
            top = 4 * (1 - row)  # the first row of images has the smaller z2: it stands below
            assert drawn[top : top + 4, 5 * column : 5 * column + 5].equal(images[row, column, 0])


def test_the_plane_shows_the_codes_it_is_given():
    codes = torch.tensor([[0.5, 11.0], [1.5, 12.0]])
    images, z1, z2 = torch.zeros(2, 3, 1, 4, 4), torch.tensor([0.0, 1.0, 2.0]), torch.tensor([10.0, 12.0])
    assert figures.plot_plane(images, z1, z2, codes=codes).lines[0].get_xydata().tolist() == codes.tolist()
    assert not figures.plot_plane(images, z1, z2).lines


@pytest.mark.parametrize(
    ("shape", "level", "z1", "message"),
    [
        ((2, 2, 1, 4, 4), 0.0, [0.0, 1.0, 2.0], "R, C, 1, H, W"),
        ((2, 3, 4, 4), 0.0, [0.0, 1.0, 2.0], "R, C, 1, H, W"),
        ((2, 3, 1, 4, 4), 1.5, [0.0, 1.0, 2.0], "sigmoid"),
        ((2, 3, 1, 4, 4), 0.0, [0.0, 1.0, 3.0], "z1 .* equal steps"),
        ((2, 3, 1, 4, 4), 0.0, [2.0, 1.0, 0.0], "z1 .* equal steps"),
        ((2, 1, 1, 4, 4), 0.0, [2.0], "z1 .* equal steps"),
    ],
)
def test_planes_that_do_not_fit_are_refused(shape, level, z1, message):
    with pytest.raises(ValueError, match=message):
        figures.plot_plane(torch.full(shape, level), torch.tensor(z1), torch.tensor([10.0, 12.0]))


def test_neighbourhoods_are_discs_about_the_codes_and_an_image_for_every_point():
    codes, between = torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([[1.0, 0.5]])
    images, decoded = torch.rand(2, 1, 4, 4), torch.rand(1, 1, 4, 4)
    ax = figures.plot_neighbourhoods(codes, images, between, decoded, radius=0.25)
    assert [(disc.center, disc.radius) for disc in ax.patches] == [((0, 0), 0.25), ((2, 1), 0.25)]
    assert [line.get_xydata().tolist() for line in ax.lines] == [codes.tolist(), between.tolist()]
    assert [box.xy for box in ax.artists] == [(0, 0), (2, 1), (1, 0.5)]
    pictures = [torch.as_tensor(np.asarray(box.offsetbox.get_data())) for box in ax.artists]
    assert all(drawn.equal(given[0]) for drawn, given in zip(pictures, [*images, *decoded], strict=True))
    assert [box.patch.get_linestyle() for box in ax.artists] == ["-", "-", "--"]
    assert [box.xybox[0] > 0 for box in ax.artists] == [True, True, False]  # the images of the data to the right
    assert ax.get_aspect() == 1  # discs look round


def test_neighbourhoods_that_do_not_fit_are_refused():
    image, place = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2)
    with pytest.raises(ValueError, match=r"\(N, 2\).*\(2, 2\) and \(1, 1, 4, 4\)"):
        figures.plot_neighbourhoods(torch.zeros(2, 2), image, place, image, radius=1)
    with pytest.raises(ValueError, match=r"\(N, 2\).*\(1, 3\)"):
        figures.plot_neighbourhoods(place, image, torch.zeros(1, 3), image, radius=1)


def test_drawings_of_autoencoders_go_on_the_axes_they_are_given():
    ax, image, place = plt.figure().subplots(), torch.zeros(1, 1, 4, 4), torch.zeros(1, 2)
    assert figures.plot_autoencoder((1, 2, 2), 2, ax=ax) is ax
    assert figures.plot_map(place, torch.tensor([0]), ["a"], ax=ax) is ax
    assert figures.plot_plane(torch.zeros(2, 2, 1, 4, 4), torch.arange(2.0), torch.arange(2.0), ax=ax) is ax
    assert figures.plot_neighbourhoods(place, image, place, image, radius=1, ax=ax) is ax


# --- Courses over training, a density in the plane -------------------------------------------------------------------


def test_courses_have_a_line_for_each_run_in_the_look_of_its_setting():
    steps, runs = torch.tensor([1, 10, 40]), torch.tensor([[1.0, 0.1, 0.01], [2.0, 0.2, 0.02]])
    ax = figures.plot_courses(steps, {"a": runs, "b": runs[:1] * 3}, xlabel="epoch", ylabel="median")
    assert [line.get_xdata().tolist() for line in map(_as_arrays, ax.lines)] == [[1, 10, 40]] * 3
    drawn = torch.tensor([line.get_ydata().tolist() for line in map(_as_arrays, ax.lines)])
    torch.testing.assert_close(drawn, torch.cat([runs, runs[:1] * 3]))
    looks = [(line.get_color(), line.get_linestyle()) for line in ax.lines]
    assert looks[0] == looks[1] != looks[2]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert (ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "epoch", "median")


def _as_arrays(line):
    line.set_data(*map(np.asarray, line.get_data()))
    return line


@pytest.mark.parametrize("shape", [(3,), (2, 4), (1, 2, 3)])
def test_courses_of_another_length_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(S, T\).*\(3,\).*" + re.escape(str(shape))):
        figures.plot_courses(torch.ones(3), {"a": torch.ones(shape)}, xlabel="epoch", ylabel="y")
    with pytest.raises(ValueError, match="at most 4"):
        figures.plot_courses(torch.ones(3), dict.fromkeys("abcde", torch.ones(1, 3)), xlabel="epoch", ylabel="y")


def test_a_density_lies_where_its_coordinates_say():
    first, second = torch.linspace(-2, 2, 5), torch.linspace(0, 1, 3)
    density = torch.zeros(5, 3)
    density[4, 0] = 9.0  # at z = (2, 0)
    ax = figures.plot_density(first, second, density, radii=[1.5], title="q")
    image = np.asarray(ax.images[0].get_array())
    assert image.shape == (3, 5)  # rows are the second coordinate
    assert image[0, 4] == 3.0
    assert image.sum() == 3.0
    assert ax.images[0].origin == "lower"
    assert ax.images[0].get_extent() == [-2.5, 2.5, -0.25, 1.25]
    assert ax.get_aspect() == 1.0
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("$z_1$", "$z_2$", "q")
    (circle,) = ax.lines
    assert np.hypot(*map(np.asarray, circle.get_data())) == pytest.approx(1.5)


def test_a_density_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(P, Q\); got \[\(5,\), \(3,\), \(3, 5\)\]"):
        figures.plot_density(torch.ones(5), torch.ones(3), torch.ones(3, 5))


# --- The sandwich ----------------------------------------------------------------------------------------------------


def test_a_sandwich_has_its_two_bounds_their_errors_and_the_truth_between_them():
    steps, lower, upper = torch.tensor([1, 10]), torch.tensor([-3.0, -1.0]), torch.tensor([2.0, 0.5])
    errors = torch.tensor([0.5, 0.25]), torch.tensor([1.0, 0.125])
    ax = figures.plot_sandwich(steps, lower, upper, 0.25, errors=errors, xlabel="steps")
    assert [line.get_label() for line in ax.lines] == ["lower bound", "upper bound", "log-evidence"]
    assert [list(line.get_ydata()) for line in ax.lines] == [[-3, -1], [2, 0.5], [0.25, 0.25]]
    assert list(ax.lines[0].get_xdata()) == [1, 10]
    bars = [[segment[:, 1].tolist() for segment in lines.get_segments()] for lines in ax.collections]
    assert bars == [[[-4, -2], [-1.5, -0.5]], [[0, 4], [0.25, 0.75]]]
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "10"]
    assert len(figures.plot_sandwich(steps, lower, upper).lines) == 2
    with pytest.raises(ValueError, match=r"\(3,\)"):
        figures.plot_sandwich(torch.arange(3), lower, upper)
    with pytest.raises(ValueError, match=r"\(1,\)"):
        figures.plot_sandwich(steps, lower, upper, errors=(lower, lower[:1]))
