"""What was not saved when the application was killed: kept, offered once, and put back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer")

from harness import mrml_segments
from harness.mrml_fixtures import add_volume, content, mask_of, new_session, paint, paint_strokes
from harness.mrml_volumes import rotation
from harness.prompts_fixtures import some_prompts
from harness.scene_files import load_scene, new_scene, save_scene
from harness.scene_nodes import segments_by_name
from PromptSegLib.errors import PromptSegError
from PromptSegLib.scene import node_references, prompt_nodes, salvage, segment_tags, stored_results
from PromptSegLib.scene.roles import role_of, set_role
from PromptSegLib.scene.segment_list import add_background
from PromptSegLib.scene.segmentations import segments
from PromptSegLib.session import recovery as recovery_module
from PromptSegLib.session.recovery import Recovery

HERE = Path(__file__).parent


def a_scene(matrix=None):
    scene = new_scene()
    volume, reference = add_volume(scene, matrix=matrix)
    segmentation = node_references.new_segmentation(scene, volume, "A & B segmentation")
    node_references.remember(volume, segmentation)
    paint_strokes(segmentation, volume, reference)
    ids = segments_by_name(segmentation)
    set_role(segmentation, ids["rod"], "locked")
    segment_tags.set_tag(segmentation, ids["ball"], "Number", "4")
    segmentation.SetAttribute("PromptSeg.Numbers", "5")
    segmentation.GetSegmentation().AddEmptySegment("nothing", "nothing yet")
    stored_results.write_memory(segmentation, {"applied": reference, "strokes": reference * 2})
    prompts = prompt_nodes.add_prompts(scene, some_prompts("ball", "rod"), "prompts")
    prompt_nodes.link(segmentation, prompts)
    return scene, volume, segmentation


def a_session(scene, models, folder):
    return new_session(scene, models / "tiny0.safetensors", {"recovery": Recovery(folder)})


# A segmentation as bytes


@pytest.mark.parametrize("matrix", [None, [[0, -1, 0, 12], [1, 0, 0, -40], [0, 0, 1, 7], [0, 0, 0, 1]]])
def test_a_segmentation_comes_back_with_everything(matrix):
    scene, volume, segmentation = a_scene(matrix)
    taken = salvage.take(segmentation, volume, some_prompts("ball").to_bytes())
    names = list(segments_by_name(segmentation))
    masks = {name: mask_of(segmentation, volume, name) for name in names}
    read = salvage.Salvage.from_bytes(taken.to_bytes())
    other = new_scene()
    again, _ = add_volume(other, matrix=matrix)
    assert salvage.volume_for(other, read) is again
    node = salvage.put_back(other, read, again)
    assert node.GetName() == "A and B segmentation (recovered)" and node_references.remembered(again) is node
    assert list(segments_by_name(node)) == names
    for name in names:
        assert np.array_equal(mask_of(node, again, name), masks[name]), name
    before, after = (
        [(each.id, each.name, each.color, each.role, each.is_empty) for each in segments(one)]
        for one in (segmentation, node)
    )
    assert before == after and role_of(node, segments_by_name(node)["rod"]) == "locked"
    assert sorted(stored_results.read_memory(node).images) == ["applied", "strokes"]
    assert salvage.prompts_of(read).to_bytes() == some_prompts("ball").to_bytes()


def test_a_volume_of_the_same_name_elsewhere_is_another():
    _, volume, segmentation = a_scene()
    read = salvage.Salvage.from_bytes(salvage.take(segmentation, volume).to_bytes())
    other = new_scene()
    add_volume(other, shape=(20, 40, 50))
    add_volume(other, "MR")
    assert salvage.volume_for(other, read) is None
    assert segments(salvage.put_back(other, read))


@pytest.mark.parametrize("without", ["nothing", "the volume"])
def test_what_was_recovered_is_saved_voxel_by_voxel(tmp_path, without):
    """Also where the first segment is empty, whose axes count for all others."""
    scene = new_scene()
    volume, reference = add_volume(scene, direction=tuple(rotation(20, -35, 50).ravel()), spacing=(0.4, 0.4, 2.0))
    segmentation = node_references.new_segmentation(scene, volume, "painted")
    add_background(segmentation)
    thin = np.zeros(reference.GetSize()[::-1], np.uint8)
    thin[4, 10, 5:30] = thin[9, 5:30, 12] = 1
    paint(segmentation, volume, thin, {"ball": 1})
    read = salvage.Salvage.from_bytes(salvage.take(segmentation, volume).to_bytes())
    node = salvage.put_back(scene, read, volume if without == "nothing" else None)
    save_scene(scene, tmp_path / "a.mrb")
    opened = load_scene(tmp_path / "a.mrb")
    again = opened.GetFirstNodeByName(node.GetName())
    assert np.array_equal(mask_of(again, opened.GetFirstNodeByName("CT"), "ball"), thin > 0)


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.uint64, np.float32, np.float64])
def test_what_a_script_painted_with_other_numbers_comes_back(kind):
    """As ``slicer.util.updateSegmentBinaryLabelmapFromArray`` paints with any array."""
    scene, volume, segmentation = a_scene()
    voxels = np.zeros((4, 5, 6), kind)
    voxels[1:3, 2:4, 1:5], voxels[0, 0, 0] = 3, 4
    _, layer = mrml_segments.add_segment(segmentation, voxels, "odd", (2, 3, 4), mrml_segments.ijk_to_ras(volume), 3)
    mrml_segments.add_segment(segmentation, voxels, "other", value=4, layer=layer)
    read = salvage.Salvage.from_bytes(salvage.take(segmentation, volume).to_bytes())
    node = salvage.put_back(scene, read, volume)
    for name in segments_by_name(segmentation):
        assert np.array_equal(mask_of(node, volume, name), mask_of(segmentation, volume, name)), name
    assert mask_of(node, volume, "odd").sum() == 16 and mask_of(node, volume, "other").sum() == 1


def test_damaged_bytes_are_refused():
    _, volume, segmentation = a_scene()
    good = salvage.take(segmentation, volume).to_bytes()
    for bad in (b"", b"PK", good[:-30], good[: len(good) // 2], os.urandom(500), bytes(len(good))):
        with pytest.raises(PromptSegError, match="damaged"):
            salvage.Salvage.from_bytes(bad)


# The folder


def test_nothing_is_left_by_an_application_that_ends_as_it_should(tmp_path):
    one = Recovery(tmp_path)
    one.note("a", lambda: b"1")
    assert one.flush() and len(list(tmp_path.rglob("*.salvage"))) == 1
    one.close()
    assert not list(tmp_path.iterdir()) and Recovery(tmp_path).find() == []


def test_the_last_note_counts_and_what_is_saved_goes(tmp_path):
    one = Recovery(tmp_path)
    for text in (b"1", b"2", b"3"):
        one.note("a", lambda text=text: text)
    one.note("b", lambda: b"other")
    assert one.flush()
    assert sorted(path.read_bytes() for path in tmp_path.rglob("*.salvage")) == [b"3", b"other"]
    one.forget("b")
    assert [path.read_bytes() for path in tmp_path.rglob("*.salvage")] == [b"3"]
    one.forget()
    assert not list(tmp_path.rglob("*.salvage"))
    one.close()


def test_the_folder_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(recovery_module, "_MOST_BYTES", 1000)
    one = Recovery(tmp_path)
    for key in "abcd":
        one.note(key, lambda: bytes(400))
        assert one.flush()
    one.note("large", lambda: bytes(1001))
    assert one.flush()
    assert sorted(path.stem for path in tmp_path.rglob("*.salvage")) == ["c", "d"]
    one.close()


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    one = Recovery(tmp_path / "file" / "folder")
    one.note("a", lambda: b"1")
    assert one.flush() and one.find() == []
    one.close()


def kill_one(folder: Path, *texts: str) -> None:
    """An application that notes something and is killed."""
    code = (
        "import sys, time; from pathlib import Path; from PromptSegLib.session.recovery import Recovery\n"
        "one = Recovery(Path(sys.argv[1]))\n"
        "for n, text in enumerate(sys.argv[2:]): one.note(str(n), text.encode)\n"
        "assert one.flush(); print('noted', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder), *texts], cwd=HERE.parents[1], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "noted\n"
    assert Recovery(folder).find() == []  # it is in use
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_what_a_killed_application_leaves_is_found_once(tmp_path):
    kill_one(tmp_path, "first", "second")
    one, other = Recovery(tmp_path), Recovery(tmp_path)
    assert one.find() == [b"first", b"second"]
    assert other.find() == []  # two applications do not take the same
    one.done()
    assert Recovery(tmp_path).find() == [] and not list(tmp_path.rglob("*.salvage"))
    other.close()


def test_what_was_offered_is_not_offered_again(tmp_path):
    kill_one(tmp_path, "work")
    one = Recovery(tmp_path)
    assert one.find() == [b"work"]
    one.close()  # nobody took it
    assert Recovery(tmp_path).find() == []
    assert [path.read_bytes() for path in tmp_path.rglob("*.salvage")] == [b"work"]  # but it is there for a while


@pytest.mark.parametrize("jump", [-(10**9), 10**9])
def test_clocks_do_not_matter(tmp_path, jump):
    kill_one(tmp_path, "work")
    for path in [*tmp_path.rglob("*")]:
        os.utime(path, (time.time() + jump,) * 2)
    assert Recovery(tmp_path).find() == [b"work"]


def test_only_the_newest_folders_are_kept(tmp_path):
    for n in range(1, 8):
        folder = tmp_path / f"{n:09d}-x"
        folder.mkdir()
        (folder / "a.salvage").write_text(str(n))
    one = Recovery(tmp_path)
    assert one.find() == [b"7", b"6", b"5", b"4"]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 4
    one.done()


# The session


def leave(session) -> None:
    """As a kill: the lock goes, the files stay."""
    own = session.rescue._recovery._own
    own.unlock()
    session.rescue._recovery._own = None


def killed(models, folder) -> tuple:
    """What a session kept before it was killed; gives its scene, volume and segmentation."""
    scene, volume, segmentation = a_scene()
    session = a_session(scene, models, folder)
    session.inputs.choose_volume(volume)
    session.history.segmentation_changed()
    assert session.rescue._recovery.flush()
    leave(session)
    session.close()
    return scene, volume, segmentation


def test_a_session_keeps_strokes_and_puts_them_back(models, tmp_path):
    strokes = content(killed(models, tmp_path)[2])

    again = new_scene()
    other, _ = add_volume(again)
    session = a_session(again, models, tmp_path)
    assert "'A and B segmentation'" in session.view().recovery
    before = again.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    session.rescue.recover()
    assert session.view().notice.level == "info" and "(recovered)" in session.view().notice.text
    assert not session.view().recovery and again.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before + 1
    node = node_references.remembered(other)
    assert {each[0] for each in content(node).values()} == {each[0] for each in strokes.values()}
    assert prompt_nodes.prompts_of(prompt_nodes.linked(node)).names == ["ball", "rod"]
    # It is not saved yet: the next kill must not lose it.
    assert len(list(tmp_path.rglob("*.salvage"))) == 1
    save_scene(again, tmp_path / "saved.mrb")
    session.view()
    assert not list(tmp_path.rglob("*.salvage"))
    session.rescue.recover()
    assert session.view().notice.level == "error"
    session.close()


def test_recovered_segmentations_never_replace_what_is_there(models, tmp_path):
    scene, volume, segmentation = killed(models, tmp_path)
    before = content(segmentation)
    session = a_session(scene, models, tmp_path)  # the scene as it was saved
    session.rescue.recover()
    assert content(segmentation) == before and node_references.remembered(volume) is segmentation
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 2
    session.close()


@pytest.mark.parametrize("how", ["dismissed", "closed", "deleted", "scene closed"])
def test_what_is_not_wanted_goes(models, tmp_path, how):
    scene, volume, segmentation = a_scene()
    session = a_session(scene, models, tmp_path)
    session.inputs.choose_volume(volume)
    session.history.segmentation_changed()
    assert session.rescue._recovery.flush() and list(tmp_path.rglob("*.salvage"))
    if how == "dismissed":
        leave(session)
        session.close()
        session = a_session(new_scene(), models, tmp_path)
        session.rescue.dismiss()
        assert not session.view().recovery
    elif how == "closed":
        session.close()
    elif how == "deleted":
        scene.RemoveNode(segmentation)
    else:
        scene.Clear(0)
    assert not list(tmp_path.rglob("*.salvage"))
    session.close()


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(recovery_module.time, "monotonic", lambda: self.now)


def test_the_last_strokes_before_a_rest_are_kept(models, tmp_path, monkeypatch):
    """Only so often, so that painting stays quick; but what comes in between must not wait for a further stroke."""
    clock = Clock(monkeypatch)
    scene, volume, segmentation = a_scene()
    session = a_session(scene, models, tmp_path)
    session.inputs.choose_volume(volume)
    assert session.rescue.wait == float("inf")
    session.history.segmentation_changed()
    assert session.rescue.wait == float("inf")  # kept at once
    clock.now += 5
    ball = segmentation.GetSegmentation().GetSegment(segments_by_name(segmentation)["ball"])
    ball.SetName("renamed")
    session.history.segmentation_changed()
    assert session.rescue.wait == pytest.approx(15)
    clock.now += 14
    session.poll()
    assert session.rescue.wait == pytest.approx(1)
    clock.now += 2
    session.rescue.step()
    assert session.rescue.wait == float("inf") and session.rescue._recovery.flush()
    leave(session)
    session.close()
    found = Recovery(tmp_path).find()
    names = [each["name"] for each in salvage.Salvage.from_bytes(found[0]).described["segments"]]
    assert len(found) == 1 and "renamed" in names


@pytest.mark.parametrize("how", ["deleted", "scene closed"])
def test_what_is_due_goes_with_its_node(models, tmp_path, monkeypatch, how):
    clock = Clock(monkeypatch)
    scene, volume, segmentation = a_scene()
    session = a_session(scene, models, tmp_path)
    session.inputs.choose_volume(volume)
    session.history.segmentation_changed()
    clock.now += 1
    session.history.segmentation_changed()
    assert session.rescue.wait < float("inf")
    scene.RemoveNode(segmentation) if how == "deleted" else scene.Clear(False)
    clock.now += 60
    session.rescue.step()
    assert session.rescue.wait == float("inf") and session.rescue._recovery.flush()
    assert not list(tmp_path.rglob("*.salvage"))
    session.close()


def test_a_segmentation_that_was_left_out_of_a_saved_scene_stays_kept(models, tmp_path):
    """The application's dialog saves a scene without the files that the user does not tick."""
    scene, volume, segmentation = a_scene()
    session = a_session(scene, models, tmp_path / "recovery")
    session.inputs.choose_volume(volume)
    session.history.segmentation_changed()
    assert session.rescue._recovery.flush()
    scene.SetRootDirectory(str(tmp_path))
    assert scene.Commit(str(tmp_path / "scene.mrml"))
    session.view()
    assert len(list(tmp_path.rglob("*.salvage"))) == 1
    segmentation.AddDefaultStorageNode()
    segmentation.GetStorageNode().SetFileName(str(tmp_path / "strokes.seg.nrrd"))
    assert segmentation.GetStorageNode().WriteData(segmentation)
    assert scene.Commit(str(tmp_path / "scene.mrml"))
    session.view()
    assert not list(tmp_path.rglob("*.salvage"))
    session.close()
