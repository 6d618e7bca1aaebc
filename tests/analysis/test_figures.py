"""Figures of what networks see: their panels, titles and files."""

import numpy as np
import pytest
from PIL import Image

from spectral_flax.analysis import figures
from spectral_flax.analysis.attention import BlockMaps
from spectral_flax.analysis.panels import matplotlib, save_figure
from spectral_flax.analysis.paths import Paths
from spectral_flax.analysis.spectra import Threshold


def uniform(*shape):
    return np.random.default_rng(0).uniform(size=shape).astype(np.float32)


def maps(*shape, position=None, names=("group 1", "group 2")):
    return BlockMaps({name: uniform(*shape) for name in names}, position, shape[1:])


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def drawn(axes):
    """Return what the last picture of a panel shows."""
    return np.asarray(axes.get_images()[-1].get_array())


def test_an_image_has_a_panel_for_each_map_and_a_legend():
    figure = figures.draw_attention(uniform(2, 24, 18, 3), {"stage3.2": maps(2, 6, 6)}, title="T")
    assert figure.get_suptitle() == "T"
    names = ["stage3.2\ngroup 1", "stage3.2\ngroup 2"]
    assert titles(figure) == ["image 1", *names, "image 2"]
    assert figure.axes[-1].get_xlabel().endswith("each map scaled to 0 … 255")
    levels = drawn(figure.axes[1])
    assert levels.min() == 0 and levels.max() == 255


def test_the_weights_of_a_query_are_multiples_of_their_mean_and_it_is_marked():
    found = {"stage2.1": maps(1, 4, 4, position=(1, 3), names=("weights",))}
    figure = figures.draw_attention(uniform(1, 24, 24, 3), found)
    assert titles(figure) == ["image", "stage2.1"]
    assert drawn(figure.axes[1]).mean() == pytest.approx(1)
    for axes in figure.axes[:2]:
        (x,), (y,) = axes.lines[-1].get_data()
        assert (y, x) == (1.5 * 6, 3.5 * 6)  # the middle of the position, in pixels


def test_a_clip_has_a_row_for_each_frame_of_the_maps():
    # The network has halved four frames to two.
    clips = uniform(1, 4, 12, 12, 3)
    figure = figures.draw_attention(clips, {"stage3.2": maps(1, 2, 6, 6)})
    assert [t for t in titles(figure) if t.startswith("frame")] == ["frame 2", "frame 4"]
    np.testing.assert_allclose(drawn(figure.axes[3]), np.round(255 * clips[0, 3]), atol=1)


@pytest.mark.parametrize(
    "images, shape, message",
    [
        ((1, 8, 8, 3), (1, 2, 4, 4), "expected .N, H, W, 3. with .N, h, w."),
        ((2, 8, 8, 3), (1, 4, 4), "images have shape .* and maps"),
        ((1, 3, 8, 8, 3), (1, 2, 4, 4), "3 frames are no multiple of the maps' 2"),
        ((1, 8, 8, 4), (1, 4, 4), r"images have shape .*; expected .N, \(T,\) H, W, 3."),
    ],
)
def test_shapes_that_do_not_belong_together_are_errors(images, shape, message):
    with pytest.raises(ValueError, match=message):
        figures.draw_attention(uniform(*images), {"block": maps(*shape)})


def test_images_that_cannot_be_drawn_are_errors():
    with pytest.raises(ValueError, match="expected floats from 0 to 1"):
        figures.draw_attention(uniform(1, 4, 4, 3) - 1, {"block": maps(1, 4, 4)})


def test_fields_have_their_circle_and_its_radius():
    field = np.zeros((9, 9))
    field[4, 4], field[4, 7] = 0.4, 0.6
    told = figures.Field("plain", field)
    groups = {"random": [told, None, told], "trained": [told._replace(centre=(4, 7))]}
    figure = figures.draw_receptive_fields(groups, image=uniform(1, 9, 9, 3))
    assert titles(figure) == ["image\n", "plain\n3 px", "plain\n3 px", "plain\n0 px"]
    x, y = figure.axes[1].lines[0].get_data()
    np.testing.assert_allclose(np.hypot(x - 4.5, y - 4.5), 3, atol=1e-6)
    assert "holds half" in figure.axes[-1].get_xlabel()


def test_paths_and_spectra_have_a_legend_for_each_kind():
    pair = Paths(uniform(1, 4, 4), uniform(1, 4, 4))
    figure = figures.draw_paths(uniform(1, 8, 8, 3), {"stage1": pair})
    assert titles(figure) == ["image", "stage1, local", "stage1, global"]
    learned = Threshold(np.zeros((4, 4)), np.zeros((4, 4)))
    gains = {"stage1.0.conv2.conv.global_to_global.fourier_unit": uniform(4, 4)}
    bases = {"stage2.1": {"rows": np.eye(4)}}
    figure = figures.draw_spectra(gains, {"stage2.1": learned}, bases)
    assert titles(figure) == ["stage1.0.conv2\nfourier_unit", "stage2.1", "stage2.1\nrows"]
    legends = [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]
    assert [text.split()[0] for text in legends] == ["gain", "threshold", "entries"]


def test_files_are_as_wide_as_a_page(tmp_path):
    figure = figures.draw_paths(uniform(1, 8, 8, 3), {"s": Paths(*uniform(2, 1, 2, 2))})
    for name, start in (("a.png", b"\x89PNG"), ("a.SVG", b"<?xml")):
        save_figure(figure, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 896  # of a page


def test_what_cannot_be_written_is_said(tmp_path, monkeypatch):
    figure = figures.draw_paths(uniform(1, 8, 8, 3), {"s": Paths(*uniform(2, 1, 2, 2))})
    with pytest.raises(ValueError, match=r"expected a name that ends in \.png or \.svg"):
        save_figure(figure, tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_figure(figure, tmp_path / "none" / "a.png")
    save_figure(figure, tmp_path / "a.png")
    with pytest.raises(FileExistsError, match="overwrite"):
        save_figure(figure, tmp_path / "a.png")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    matplotlib.cache_clear()
    with pytest.raises(ImportError, match=r'pip install "spectral-flax\[figures\]"'):
        matplotlib()
