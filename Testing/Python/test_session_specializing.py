"""A model of its own of what was applied: when it is offered, and what a session does with it."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer")

from harness.mrml_fixtures import run
from harness.session_harness import LONG, Desk
from PromptSegLib.errors import PromptSegError
from PromptSegLib.gui.model_list import ModelFiles, rows
from PromptSegLib.models import catalogue, folders, own
from PromptSegLib.scene import node_references
from PromptSegLib.session import applied


@pytest.fixture
def folder(workers, tmp_path, monkeypatch):
    """The folder of models, of this process and of the workers that it starts from here on."""
    workers.end()
    monkeypatch.setenv(folders.FOLDERS_VARIABLE, str(tmp_path / "models"))
    return tmp_path / "models"


def reason(desk: Desk) -> str:
    return desk.session.view().reasons["specialize"]


def applied_to_three(desk: Desk) -> Desk:
    """Results applied to the desk's volume and to two more, which are its examples."""
    session, first = desk.session, desk.volume
    others = [desk.another_volume(f"Other {number}", seed=number) for number in (5, 6)]
    for volume in (*others, first):
        session.inputs.choose_volume(volume)
        desk.segmentation = node_references.remembered(volume)
        desk.tuned()
    for volume in others:
        session.inputs.add_example(volume)
    return desk


def test_it_is_offered_where_three_volumes_were_applied_and_prompts_are_not_enough(desk, folder):
    session = desk.tuned().session
    assert "opening Other volumes" in reason(desk) and not session.view().specialize
    session.other_volumes()
    run(session)
    assert "needs 3 volumes" in reason(desk) and "here are 1" in reason(desk)
    session.specialize("mine")
    assert desk.level == "error" and "needs 3 volumes" in desk.notice
    node = applied.learned_node(desk.segmentation)
    node.SetAttribute(applied.LEARNED_COUNT, "3")
    node.SetAttribute(applied.LEARNED_AGREED, "0.93")
    assert "agree well" in reason(desk) and not session.view().specialize
    node.SetAttribute(applied.LEARNED_AGREED, "0.41")
    assert reason(desk) == "" and "agree to 41%" in session.view().specialize


@pytest.mark.training
def test_a_model_is_made_of_what_was_applied_and_listed(desk, folder):
    session = applied_to_three(desk).session
    session.other_volumes()
    run(session)
    node = applied.learned_node(desk.segmentation)
    assert (
        node.GetAttribute(applied.LEARNED_COUNT) == "3" and 0 <= float(node.GetAttribute(applied.LEARNED_AGREED)) <= 1
    )
    node.SetAttribute(applied.LEARNED_AGREED, "0.41")  # whatever tiny random networks agree to
    before = desk.state()
    session.specialize("  ")
    assert "Type a name" in desk.notice
    session.specialize("../up")
    assert "cannot be the name" in desk.notice and not session.view().busy

    session.parameters.seconds = LONG
    session.specialize("mine")
    assert session.view().doing == "Training a model of its own" and session.view().tune_text == "Cancel"
    run(session, until=lambda session: session.view().stage == "training")
    session.inputs.choose_volume(session.parameters.examples[0])  # it goes on meanwhile
    assert session.view().busy
    session.inputs.choose_volume(desk.volume)
    session.cancel()
    assert desk.notice == applied.SPECIALIZING_STOPPED
    run(session)
    assert own.unfinished("mine").is_file() and own.finished("mine") is None and desk.state() == before

    session.parameters.seconds = 0.3  # of which more than enough is spent
    session.specialize("mine")
    run(session)
    assert desk.level == "info", desk.notice
    assert "The model 'mine' is in the list of models" in desk.notice
    entry = catalogue.find_name("mine")
    assert [each["name"] for each in entry.card["data"]] == [desk.volume.GetName(), "Other 5", "Other 6"]
    assert desk.state() == before

    row = next(row for row in rows() if row.key == "mine")
    assert not row.bundled and row.installed
    session.parameters.model = "mine"
    shipped = next(row for row in session.view().prompts if row.shipped)
    other = desk.another_volume("Next patient", paint_it=False)
    session.segment(shipped.key, [other])
    run(session)
    assert "Segmented Next patient" in desk.notice
    files = ModelFiles()
    files.delete("mine")
    assert files.notice.level == "info" and not list(folder.iterdir())


def test_a_model_from_another_machine_is_put_here(desk, folder, tmp_path, monkeypatch):
    """Over ssh, the worker's folder of models is another one."""
    from PromptSegLib.worker.client import Event
    from PromptSegLib.worker.contract import Specialized

    made = Specialized("far", "0" * 64, {".safetensors": b"no weights"}, ())
    with pytest.raises(PromptSegError, match="did not arrive whole"):
        applied.take_model(Event("done", 1, *made.pack()))
    assert not list(folder.iterdir())
