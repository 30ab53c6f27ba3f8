import numpy as np
import pytest

from fashionjax.data import photo
from fashionjax.reports import draw

GRAY = np.full((200, 100, 3), 128, np.uint8)


def pixels(image, colour, tolerance=3):
    """(y, x) of the pixels in this colour."""
    return np.argwhere(np.abs(image.astype(int) - colour).max(-1) <= tolerance)


def centre(image, colour):
    return pixels(image, colour).mean(0)


def test_display_keeps_the_aspect():
    assert photo.display(np.zeros((96, 48, 3), np.uint8), 320).shape == (320, 160, 3)
    assert photo.display(np.zeros((900, 1200, 3), np.uint8), 320).shape == (240, 320, 3)
    assert photo.display(np.zeros((1, 5000, 3), np.uint8), 320).shape == (1, 320, 3)
    same = np.zeros((320, 10, 3), np.uint8)
    assert photo.display(same, 320) is same


def test_landmarks_stand_where_they_belong():
    truth, prediction = np.array([[0.25, 0.25]]), np.array([[0.75, 0.5]])
    picture = draw.landmarks(GRAY, prediction, np.array([True]), truth, np.array([True]))
    assert picture.shape == GRAY.shape and picture.dtype == np.uint8
    np.testing.assert_allclose(centre(picture, draw.TRUTH), [50, 25], atol=1)
    np.testing.assert_allclose(centre(picture, draw.PREDICTION), [100, 75], atol=1)
    assert len(pixels(picture[60:90, 35:65], draw.INK, 60)) > 5, "the error line between them"
    assert (GRAY == 128).all(), "the input is left alone"


def test_left_is_round_and_right_is_square():
    points = np.array([[0.3, 0.5], [0.7, 0.5]])
    picture = draw.landmarks(GRAY, points)
    for half, filled in ((picture[:, :50], (0.65, 0.9)), (picture[:, 50:], (0.93, 1.0))):
        found = pixels(half, draw.PREDICTION)
        height, width = np.ptp(found, axis=0) + 1
        assert filled[0] <= len(found) / (height * width) <= filled[1]


def test_invisible_predictions_are_hollow():
    points = np.array([[0.5, 0.5]])
    solid = draw.landmarks(GRAY, points, np.array([True]))
    hollow = draw.landmarks(GRAY, points, np.array([False]))
    assert (solid[100, 50] == draw.PREDICTION).all()
    assert (hollow[100, 50] == 128).all() and len(pixels(hollow, draw.PREDICTION, 40)) > 4


def test_slots_without_visible_truth_or_with_nan_are_not_drawn():
    points = np.array([[0.2, 0.5], [0.8, 0.5], [np.nan, 0.5]])
    picture = draw.landmarks(GRAY, points, None, np.full((3, 2), 0.4), np.array([1, 0, 1]))
    assert len(pixels(picture[:, 65:], draw.PREDICTION)) == 0
    assert len(pixels(picture[:, :35], draw.PREDICTION)) > 0
    with pytest.raises(ValueError, match="neither prediction nor truth"):
        draw.landmarks(GRAY)


def test_points_outside_are_held_at_the_border():
    picture = draw.landmarks(GRAY, np.array([[1.7, -0.4]]))
    assert len(pixels(picture[:8, -8:], draw.PREDICTION)) > 0


def test_boxes_follow_their_edges():
    picture = draw.boxes(GRAY, np.array([[20, 40, 80, 160], [5, 5, 5, 5], [60, -50, 500, 30]]))
    found = pixels(picture, draw.PALETTE[0])
    np.testing.assert_allclose([found.min(0), found.max(0)], [[40, 20], [160, 80]], atol=2)
    assert (picture[100, 50] == 128).all(), "the inside is left free"
    assert len(pixels(picture, draw.PALETTE[2])) > 0, "a box beyond the frame is clipped"
    labelled = draw.boxes(GRAY, np.array([[20, 40, 80, 160]]), ["Skirt 0.9"])
    assert len(pixels(labelled, draw.PALETTE[0])) > len(found)


def test_labels_are_whole_and_apart():
    """Inside the image wherever their box is, below each other where two boxes share a corner."""

    def letters(corners):
        labels = ["Coat 0.9"] * len(corners)
        return len(pixels(draw.boxes(GRAY, np.array(corners), labels, [draw.PREDICTION]), draw.INK, 60))

    one = letters([[5, 40, 95, 160]])
    assert letters([[90, 40, 99, 160]]) == pytest.approx(one, rel=0.2)
    assert letters([[5, 190, 95, 199]]) == pytest.approx(one, rel=0.2)
    assert letters([[5, 40, 95, 160]] * 3) == pytest.approx(3 * one, rel=0.2)
    long = draw.boxes(GRAY, np.array([[5, 40, 95, 160]]), ["long sleeve outwear 0.9"])
    assert len(pixels(long[:, :8], draw.PALETTE[0])) and not len(pixels(long[:, -2:], draw.INK, 60))


def test_caption_bars_are_proportional_to_scores():
    picture = draw.caption(GRAY, ["Tee", "Skirt", "no score"], [1.0, 0.5, None])
    assert picture.shape[1] == 100 and picture.shape[0] > 230
    strip = picture[200:]
    np.testing.assert_array_equal(picture[:200], GRAY)
    bar = (np.abs(strip.astype(int) - (255, 219, 173)).max(-1) <= 3).any(0)
    widths = [
        np.ptp(np.flatnonzero((strip[y].astype(int) == (255, 219, 173)).all(-1))) + 1
        for y in range(strip.shape[0])
        if (strip[y].astype(int) == (255, 219, 173)).all(-1).any()
    ]
    assert bar.any() and max(widths) >= 90 and 40 <= min(widths) <= 52


def test_long_text_is_shortened_to_its_room():
    face = draw.font(12)
    short = draw.shorten("a very long attribute name", face, 60)
    assert short.endswith("…") and face.getlength(short) <= 60
    assert draw.shorten("Tee", face, 60) == "Tee"


def test_contact_sheet_frames_right_and_wrong():
    pictures = [np.full((30, 60, 3), 200, np.uint8), GRAY, GRAY[:5]]
    sheet = draw.contact_sheet(GRAY, pictures, [True, False, None], side=64)
    assert sheet.shape[1] == 4 * 64 + 8
    cells = [sheet[:, 72 + 64 * i : 136 + 64 * i] for i in range(3)]
    for colour, expected in ((draw.RIGHT, [True, False, False]), (draw.WRONG, [False, True, False])):
        assert [len(pixels(cell, colour, 0)) > 100 for cell in cells] == expected
    with pytest.raises(ValueError):
        draw.contact_sheet(GRAY, pictures, [True, False])
