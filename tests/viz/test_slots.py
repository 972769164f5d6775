import numpy as np

from asesjax.viz import slots


def test_slots_are_drawn_role_by_role(tmp_path, monkeypatch):
    steps = [("es", [0, 1]), ("as", [1, -1]), ("es", [0, 7])]
    cells, roles = slots._picture(steps)
    assert roles == ["es", "as"]
    assert cells.tolist() == [[0, -1, 0], [1, -1, 7], [-1, 1, -1], [-1, -1, -1]]

    drawn = []
    monkeypatch.setattr(slots, "save_figure", lambda figure, path: drawn.append(figure) or path)
    slots.slot_pictures({"two": steps, "one": [("main", [3])]}, tmp_path / "x.png")
    first, second = drawn[0].axes
    assert first.get_title() == "two: 3 steps, slots busy 83%"
    assert second.get_title() == "one: 1 steps, slots busy 100%"
    assert first.get_xlim() == (-0.5, 2.5)  # as long as the longest run
    picture = first.images[0].get_array()
    assert np.ma.getmaskarray(picture).tolist() == (cells < 0).tolist()
    assert picture[1, 0] == 1 and picture[1, 2] == 7 % 6
