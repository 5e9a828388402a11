"""Where to look next: on the body, and at which class."""

from __future__ import annotations

import numpy as np

from PromptSegLib.imaging.geometry import Grid
from PromptSegLib.inference.class_margins import Probabilities
from PromptSegLib.inference.uncertainty import body_of, classes_at, places_to_look

GRID = Grid((60, 50, 24), (2.0, 2.0, 3.0), (5.0, -7.0, 11.0))


def scan() -> tuple[np.ndarray, np.ndarray]:
    """A body with a lung, on a table, in air; and where it is. Normalized as a CT is."""
    z, y, x = np.ogrid[:24, :50, :60]
    body = np.broadcast_to(((y - 24) / 17.0) ** 2 + ((x - 30) / 22.0) ** 2 < 1, (24, 50, 60)).copy()
    lung = np.broadcast_to(((y - 24) / 7.0) ** 2 + ((x - 22) / 6.0) ** 2 < 1, body.shape)
    array = np.where(body & ~lung, 0.1, -1.0).astype(np.float32)
    array[:, 46:48, 20:40] = -0.3  # the table
    return array, body


def test_the_body_holds_its_lungs_but_not_the_table():
    array, body = scan()
    assert np.array_equal(body_of(array), body)
    assert body_of(np.full((3, 4, 5), -1.0)).all()  # nothing but air: everywhere
    assert body_of(np.full((3, 4, 5), 0.2)).all()


def test_doubt_in_the_air_is_not_looked_at():
    array, body = scan()
    unsure = np.zeros(array.shape, np.float32)
    unsure[:, 47, 22:38] = unsure[:, 2:5, 2:30] = 1.0  # table and air, more than anywhere else
    unsure[5, 20, 30:36] = unsure[18, 24, 22] = 0.6
    nothing = np.zeros(array.shape, bool)
    free = places_to_look(unsure, nothing, GRID)
    places = places_to_look(unsure, nothing, GRID, body_of(array))
    assert len(free) > 2 and len(places) == 2
    for x, y, z in GRID.indices(np.array(places)).round().astype(int).tolist():
        assert body[z, y, x]
    assert {round(z) for *_xy, z in GRID.indices(np.array(places)).tolist()} == {5, 18}


def test_a_place_is_about_the_class_that_is_likeliest_beside_background():
    scores = np.full((2, *GRID.shape), -3.0, np.float16)
    scores[1, 5, 20, 30] = -0.1
    scores[0, 18, 24, 22] = 0.2
    points = GRID.points(np.array([[30, 20, 5], [22, 24, 18]])).tolist()
    assert classes_at(Probabilities(scores), points, GRID, ["liver", "spleen"]) == ("spleen", "liver")
    assert classes_at(Probabilities(scores), [], GRID, ["liver", "spleen"]) == ()
