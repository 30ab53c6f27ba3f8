"""The drawing of RoIs: frames where green pools, landmarks by their predicted visibility, nothing else."""

import numpy as np

from fashionjax.reports import fashionnet


def test_frames_and_landmarks_of_what_is_shown():
    image = np.full((100, 100, 3), 128, np.uint8)
    roi = np.asarray([[0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]])
    landmark = np.asarray([[0.25, 0.25], [0.75, 0.75]])
    shown = np.asarray([True, False])
    drawn = fashionnet.rois(image, roi, shown, landmark, np.asarray([True, True]))
    changed = (drawn != image).any(axis=-1)
    assert changed[10:41, 10].all() and changed[25, 25]  # left side of the frame, and the landmark in it
    assert not changed[50:].any() and not changed[30, 18]
    hollow = fashionnet.rois(image, roi, shown, landmark, np.asarray([False, True]))
    assert not (hollow[25, 25] == drawn[25, 25]).all()  # a ring, the image shows through
