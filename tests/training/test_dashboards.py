"""What TensorBoard is given to show."""

import io

from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mdm_lightning.training.dashboards import THUMBNAIL, TensorBoard


def test_letters_of_figures_are_larger_in_thumbnails_and_the_figure_stays_as_it_was(tmp_path):
    figure = Figure(figsize=(6, 4), dpi=100)
    board = TensorBoard(str(tmp_path))
    board.log_figure("figure", figure, 3)
    board.finalize("success")
    assert tuple(figure.get_size_inches()) == (6, 4)
    assert figure.get_dpi() == 100
    (shown,) = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload().Images("figure")
    width, height = Image.open(io.BytesIO(shown.encoded_image_string)).size
    assert (width, height) == (round(6 * THUMBNAIL * 200), round(4 * THUMBNAIL * 200))
    assert shown.step == 3
