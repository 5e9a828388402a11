"""What is fuzzed: each target makes an input from a seeded generator and gives it to what reads such things.

``leaves``: whether what it leaves in its folders is looked at. ``refuses``: the documented errors.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import random
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
from mutations import NUMBERS, TEXTS, bytes_of, changed, value

from PromptSegLib.errors import PromptSegError


def _prompts() -> list[bytes]:
    """Valid prompts files, small ones."""
    from harness.tiny_model import CLASSES, CONFIG, PREPROCESSING, example
    from PromptSegLib.annotation.classes import describe
    from PromptSegLib.annotation.strokes import Strokes, fingerprint
    from PromptSegLib.prompts.store import ClassPrompts, Prompts

    case = example()
    labels = np.full((20, 40, 48), -1, np.int16)
    labels[6, 12:17, 14] = 1
    found = []
    for method in ("punet", "dvpt", "ept"):
        shapes = CONFIG.prompt_shapes("decoder", method)
        classes = tuple(
            ClassPrompts(describe(name, number), {key: np.ones(shape, np.float32) for key, shape in shapes.items()})
            for name, number in CLASSES.items()
        )
        strokes = Strokes.pack(fingerprint(case.image), labels, list(CLASSES.values()))
        assert strokes is not None
        record = {"0": {"steps": 3, "seconds": 1.0, "seed": 0, "examples": [], "classes": {}}}
        prompts = Prompts(classes, "tiny0", "0" * 64, CONFIG, PREPROCESSING, "decoder", method, record, (strokes,))
        found.append(prompts.to_bytes())
    return found


def _with_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header, or the text inside it, is changed as JSON."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.7 and isinstance(header.get("__metadata__"), dict):
        key = next(iter(header["__metadata__"]))
        inner = json.loads(header["__metadata__"][key])
        header["__metadata__"][key] = _dumped(changed(inner, rng))
    else:
        header = changed(header, rng)
    text = _dumped(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + body


def _dumped(content: Any) -> str:
    try:
        return json.dumps(content)
    except RecursionError:
        return "[" * 3000 + "]" * 3000


class PromptsFiles:
    leaves, refuses = False, (PromptSegError,)

    def __init__(self, folder: Path):
        self.valid = _prompts()
        self.run(self.valid[0])

    def make(self, rng: random.Random) -> bytes:
        data = rng.choice(self.valid)
        return _with_header(data, rng) if rng.random() < 0.6 else bytes_of(data, rng, head=4000)

    def run(self, data: bytes) -> None:
        from PromptSegLib.cli.commands import _described
        from PromptSegLib.prompts.store import Prompts

        whole = len(data) % 2 == 0  # as a node and a message have them, or as a file
        prompts = Prompts.from_bytes(data, whole)
        again = Prompts.from_bytes(prompts.to_bytes(whole), whole)
        assert again.names == prompts.names and again.values == prompts.values
        _described(prompts, Path(__file__))
        prompts.groups(), prompts.fitted(), prompts.decoder_only()
        for strokes in prompts.strokes:
            with contextlib.suppress(ValueError):  # as documented: damaged strokes
                strokes.with_values({number: number for number in prompts.values.values()})
                if np.prod(strokes.shape, dtype=float) < 1e7:
                    strokes.unpack(list(prompts.values.values()))


class Catalogue:
    """Files in a model folder, and the catalogue itself."""

    leaves, refuses = False, (PromptSegError,)

    def __init__(self, folder: Path):
        from harness.tiny_model import CONFIG, PREPROCESSING
        from PromptSegLib.models import catalogue

        self.models = folder / "models"
        self.models.mkdir(exist_ok=True)
        self.copy = folder / "catalogue.json"
        self.catalogue: Any = catalogue  # a module, one of whose names is put in place of another
        self.items = json.loads(catalogue.CATALOGUE.read_text(encoding="utf-8"))
        header = {
            "format": 1,
            "name": "mine",
            "network": CONFIG.to_dict(),
            "preprocessing": PREPROCESSING.to_dict(),
            "tile": [16, 32, 32],
            "card": {"classes": ["a"], "title": "Mine", "modality": "CT", "licence": "none"},
        }
        text = json.dumps(
            {
                "__metadata__": {"promptseg-backbone": json.dumps(header)},
                "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            }
        ).encode()
        self.valid = struct.pack("<Q", len(text)) + text + b"\0" * 4

    def make(self, rng: random.Random) -> Any:
        if rng.random() < 0.3:
            content = changed(self.items, rng)
            text = _dumped(content).encode("utf-8", "surrogatepass")
            return "catalogue", text if rng.random() < 0.8 else bytes_of(text, rng)
        data = _with_header(self.valid, rng) if rng.random() < 0.7 else bytes_of(self.valid, rng)
        return rng.choice(("mine.safetensors", "MINE.SAFETENSORS", "mine.prompts.safetensors", " .safetensors")), data

    def run(self, given: Any) -> None:
        name, data = given
        catalogue = self.catalogue
        bundled = name == "catalogue"
        path = self.copy if bundled else self.models / name
        path.write_bytes(data)
        before, catalogue.CATALOGUE = catalogue.CATALOGUE, path if bundled else catalogue.CATALOGUE
        try:
            for entry in catalogue.entries():
                json.dumps(entry.to_dict())
            catalogue.find_sha256("0" * 64)
            catalogue.find_known(None if bundled else str(path))
            if not bundled:
                from PromptSegLib.models.backbone import load_model

                load_model(str(path), "cpu")
        finally:
            catalogue.CATALOGUE = before
            path.unlink()
            for known in (catalogue._HASHES, catalogue._OWN):  # not those of the bundled files
                for file in [file for file in known if file.path.parent == self.models]:
                    known.pop(file)
            catalogue._items.cache_clear()


class Messages:
    """Bytes as they come from the other side, in both directions."""

    leaves = False

    def __init__(self, folder: Path):
        from PromptSegLib.worker.messages import Channel, ProtocolError

        self.refuses = (ProtocolError,)
        self.folder = folder / "shared"
        self.folder.mkdir(exist_ok=True)
        self.channel = Channel
        grid = {"size": [4, 3, 2], "spacing": [1, 1, 1], "origin": [0, 0, 0], "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
        voxels = np.zeros((2, 3, 4), np.int16)
        example = {"image": "a", "name": "CT", "grid": grid, "background": 7, "complete": False, "barred": {"3": 1}}
        tune = {"job": 1, "name": "tune", "keep": ["a"], "model": "", "device": "cpu", "settings": {"steps": 1}}
        info = {"name": "liver", "value": 1, "color": [0.1, 0.2, 0.3], "terminology": ""}
        self.valid: list[tuple[str, dict[str, Any], dict[str, np.ndarray]]] = [
            ("image", {"key": "a", "grid": grid}, {"voxels": voxels}),
            ("job", {**tune, "classes": {"liver": 1}, "examples": [example]}, {"annotation0": voxels}),
            ("cancel", {"job": 1}, {}),
            ("hello", {"version": 1, "python": "3.9", "pid": 5}, {}),
            ("report", {"job": 1, "stage": "tuning", "share": 0.5, "figures": {"loss": 1.0}}, {}),
            (
                "done",
                {"job": 1, "grid": grid, "classes": [info], "places": [[0, 0, 0]], "map_grid": grid},
                {"labels": voxels.astype(np.uint8), "map": voxels.astype(np.uint8)},
            ),
            ("failed", {"job": 1, "message": "x", "memory": True}, {}),
        ]

    def make(self, rng: random.Random) -> bytes:
        parts = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            kind, values, arrays = rng.choice(self.valid)
            stream = io.BytesIO()
            self.channel(io.BytesIO(), stream).send(kind, arrays, **values)
            data = stream.getvalue()
            if rng.random() < 0.7:
                (length,) = struct.unpack(">I", data[:4])
                text = _dumped(changed(json.loads(data[4 : 4 + length]), rng)).encode("utf-8", "surrogatepass")
                data = struct.pack(">I", len(text)) + text + data[4 + length :]
            parts.append(data)
        data = b"".join(parts)
        return bytes_of(data, rng) if rng.random() < 0.5 else data

    def run(self, data: bytes) -> None:
        channel = self.channel(io.BytesIO(data), io.BytesIO(), self.folder)
        while True:
            message = channel.receive()
            if message is None:
                return
            # What is inside is looked at by the job, or by the session, which turn whatever goes wrong into a sentence.
            with contextlib.suppress(Exception):
                self._looked_at(message)

    def _looked_at(self, message: Any) -> None:
        from PromptSegLib.session.engine import map_of, reply_of
        from PromptSegLib.worker.client import Event
        from PromptSegLib.worker.contract import request_of
        from PromptSegLib.worker.jobs import JobHandlers

        event = Event(message.kind, message.job, message.values, message.arrays)
        if message.kind == "image":
            jobs = JobHandlers()
            jobs.add_image(message)
            jobs.kept.image(str(message.values["key"]))
        elif message.kind == "job":
            request_of(message.values["name"], message.values, message.arrays)
        elif message.kind == "done":
            reply_of(event), map_of(event)


class Scene:
    """Attributes, tags, references and texts of nodes, as any scene may bring them."""

    leaves, refuses = False, (PromptSegError,)

    def __init__(self, folder: Path):
        import SimpleITK as sitk
        import slicer

        from harness.mrml_fixtures import add_volume, paint_strokes
        from harness.scene_files import new_scene
        from harness.tiny_model import tiny_backbone
        from PromptSegLib.scene import node_references, prompt_nodes, stored_results

        del slicer
        self.scene = new_scene()
        self.volume, reference = add_volume(self.scene)
        self.segmentation = node_references.new_segmentation(self.scene, self.volume, "painted")
        node_references.remember(self.volume, self.segmentation)
        paint_strokes(self.segmentation, self.volume, reference)
        tiny_backbone(folder)
        self.model = str(folder / "tiny0.safetensors")
        self.text = base64.b64encode(_prompts()[0]).decode()
        self.node = prompt_nodes.add_prompts(self.scene, _loaded(_prompts()[0]), "mine")
        prompt_nodes.link(self.segmentation, self.node)
        image = sitk.Image([4, 4, 4], sitk.sitkUInt8)
        stored_results.write_memory(self.segmentation, {"applied": image + 1, "strokes": image})
        self.memory = [
            self.segmentation.GetNthNodeReference(stored_results.MEMORY_ROLE, n)
            for n in range(self.segmentation.GetNumberOfNodeReferences(stored_results.MEMORY_ROLE))
        ]
        self.ids = list(self.segmentation.GetSegmentation().GetSegmentIDs())
        self.run([])

    def make(self, rng: random.Random) -> list[tuple]:
        return [self._change(rng) for _ in range(rng.choice((1, 2, 3, 5)))]

    def _change(self, rng: random.Random) -> tuple:
        text = rng.choice(TEXTS) if rng.random() < 0.6 else _dumped(value(rng))[:2000]
        text = text.encode("utf-8", "replace").decode()  # an XML file holds nothing else
        kind = rng.randrange(7)
        if kind <= 1:
            key = rng.choice(("Role", "Applied", "Number", "Class"))
            return "tag", rng.randrange(len(self.ids)), key, text
        if kind == 2:
            key = rng.choice(("PromptSeg.Memory", "PromptSeg.Numbers", "PromptSeg.MemoryKey"))
            return "attribute", rng.randrange(3), key, text
        if kind == 3:
            key = rng.choice(("Prompts", "Backbone", "BackboneSHA256", "Classes"))
            return "prompts", f"PromptSeg.{key}", rng.choice((text, "1"))
        if kind == 4:
            data = self.text
            if rng.random() < 0.5:
                data = base64.b64encode(_with_header(base64.b64decode(self.text), rng)).decode()
            return "text", data[: rng.randrange(len(data))] if rng.random() < 0.3 else rng.choice((data, text))
        if kind == 5:
            roles = (
                "PromptSegSegmentation",
                "PromptSegPrompts",
                "PromptSegMemory",
                "PromptSegMemoryOf",
                "PromptSegOwner",
            )
            return "reference", rng.randrange(4), rng.choice(roles), rng.randrange(5)
        shape = tuple(rng.choice((0, 1, 2, 4)) for _ in range(3))
        return (
            "memory",
            rng.randrange(2),
            shape,
            rng.choice(("u1", "f4", "i8", "none")),
            rng.choice((1, 3)),
            rng.choice(NUMBERS),
        )

    def _apply(self, change: tuple) -> None:
        from PromptSegLib.scene import segment_tags

        nodes = [self.volume, self.segmentation, self.node, *self.memory]
        kind = change[0]
        if kind == "tag":
            segment_tags.set_tag(self.segmentation, self.ids[change[1]], change[2], change[3])
        elif kind == "attribute":
            nodes = [self.segmentation, *self.memory]
            nodes[change[1] % len(nodes)].SetAttribute(change[2], change[3])
        elif kind == "prompts":
            self.node.SetAttribute(change[1], change[2])
        elif kind == "text":
            self.node.SetText(change[1])
        elif kind == "reference":
            one, other = (nodes[change[place] % len(nodes)] for place in (1, 3))
            one.SetNodeReferenceID(change[2], other.GetID())
        else:
            self._odd_memory(*change[1:])

    def _odd_memory(self, which: int, shape: tuple, dtype: str, components: int, origin: float) -> None:
        import vtk
        from vtk.util.numpy_support import numpy_to_vtk

        if not self.memory:  # it is an attribute now; nodes are those of scenes of earlier versions
            odd = f"{dtype}{shape}{components}.{'x' * components}"
            self.segmentation.SetAttribute(f"PromptSeg.Memory.{('applied', 'strokes')[which % 2]}", odd)
            return
        data = vtk.vtkImageData()
        data.SetDimensions(shape)
        if dtype != "none":
            voxels = np.zeros((int(np.prod(shape)), components), dtype)
            data.GetPointData().SetScalars(numpy_to_vtk(voxels, deep=True))
        self.memory[which].SetOrigin(float(origin), 0.0, 0.0)
        self.memory[which].SetAndObserveImageData(data)

    def run(self, changes: list[tuple]) -> None:
        for change in changes:
            self._apply(change)
        try:
            for read in self._readers():
                with contextlib.suppress(PromptSegError):  # each refuses by itself
                    read()
        finally:
            self._restored()

    def _readers(self) -> list:
        from PromptSegLib.scene import node_references, prompt_nodes, stored_results
        from PromptSegLib.scene.roles import role_of
        from PromptSegLib.scene.segmentations import segments
        from PromptSegLib.session import applied
        from PromptSegLib.session import prompts as prompts_list

        segmentation = self.segmentation
        return [
            *(lambda each=each: role_of(segmentation, each) for each in self.ids),
            lambda: segments(segmentation),
            lambda: node_references.remembered(self.volume),
            lambda: node_references.same_place(self.volume, segmentation),
            lambda: stored_results.read_memory(segmentation),
            lambda: prompt_nodes.linked(segmentation),
            lambda: prompt_nodes.prompts_of(self.node),
            lambda: prompts_list.rows(self.scene, self.model, segmentation),
            lambda: prompts_list.current(segmentation),
            lambda: applied.current_tag(segmentation),
            lambda: applied.numbers(segmentation),
            lambda: applied.note_numbers(segmentation, [1]),
            lambda: applied.AppliedResults().of(segmentation),
        ]

    def _restored(self) -> None:
        from PromptSegLib.scene import stored_results

        segmentation = self.segmentation
        for each in self.ids:
            segment = segmentation.GetSegmentation().GetSegment(each)
            for tag in ("Role", "Applied", "Number", "Class"):
                segment.RemoveTag(f"PromptSeg.{tag}")
        for node in (segmentation, *self.memory, self.node):
            for key in list(node.GetAttributeNames() or ()):
                if key.startswith("PromptSeg"):
                    node.RemoveAttribute(key)
        for key, node in zip(("applied", "strokes"), self.memory):
            node.SetAttribute("PromptSeg.MemoryKey", key)
            node.SetNodeReferenceID("PromptSegMemoryOf", segmentation.GetID())
            self._odd_memory(self.memory.index(node), (4, 4, 4), "u1", 1, 0.0)
        self.node.SetAttribute("PromptSeg.Prompts", "1")
        self.node.SetText(self.text)
        for node in (self.volume, segmentation, self.node):
            for role in ("PromptSegPrompts", "PromptSegMemory", "PromptSegMemoryOf", "PromptSegOwner"):
                node.RemoveNodeReferenceIDs(role)
        self.volume.SetNodeReferenceID("PromptSegSegmentation", segmentation.GetID())
        segmentation.SetNodeReferenceID("PromptSegPrompts", self.node.GetID())
        for node in self.memory:
            segmentation.AddNodeReferenceID(stored_results.MEMORY_ROLE, node.GetID())


def _loaded(data: bytes) -> Any:
    from PromptSegLib.prompts.store import Prompts

    return Prompts.from_bytes(data)


class Refused(Exception):
    """The command ended with one sentence and exit code 2."""


class CommandLine:
    """Arguments, and the files that they name."""

    leaves, refuses = True, (Refused,)

    def __init__(self, folder: Path):
        import requests  # noqa: F401, looks for IPv6 while it is imported, which opens no connection
        import SimpleITK as sitk

        from harness.tiny_model import example, tiny_backbone

        self.folder = folder
        tiny_backbone(folder, shipped=True)
        case = example()
        self.files: dict[str, bytes] = {}
        for suffix in (".nrrd", ".nii.gz", ".nii", ".mha", ".seg.nrrd"):
            for name, image in (("image", case.image), ("strokes", sitk.Cast(case.annotation, sitk.sitkUInt8))):
                path = folder / f"{name}{suffix}"
                sitk.WriteImage(image, str(path), useCompression=suffix != ".mha")
                self.files[path.name] = path.read_bytes()
        self.files["prompts.safetensors"] = (folder / "tiny0.prompts.safetensors").read_bytes()
        self.run((["info", "prompts.safetensors"], {"prompts.safetensors": self.files["prompts.safetensors"]}))

    def make(self, rng: random.Random) -> tuple[list[str], dict[str, bytes]]:
        names = rng.sample(list(self.files), 3)
        image = rng.choice([each for each in self.files if each.startswith("image")])
        strokes = rng.choice([each for each in self.files if each.startswith("strokes")])
        names = list(dict.fromkeys([*names, image, strokes, "prompts.safetensors"]))
        files = {name: self.files[name] for name in names}
        for name in names:
            if rng.random() < 0.35:
                data = files[name]
                safe = name.endswith(".safetensors") and rng.random() < 0.6
                files[name] = _with_header(data, rng) if safe else bytes_of(data, rng, head=400)
        command = rng.choice(("info", "info", "score", "score", "segment", "tune", "models", "other"))
        words = {
            "info": ["info", "prompts.safetensors", "--json"],
            "score": ["score", strokes, rng.choice(names), "--classes", "ball=5", "rod=9"],
            "segment": ["segment", "prompts.safetensors", image, "-o", rng.choice(("out.nrrd", "folder", "a/b/c"))],
            "tune": ["tune", "--example", image, strokes, "--classes", "ball=5", "rod=9", "--background", "7"],
            "models": ["models", "--json"],
            "other": [str(rng.choice(TEXTS)) for _ in range(rng.randrange(4))],
        }[command]
        if command == "tune":
            words += ["--steps", "0", "-o", "new.safetensors"]
        if command == "segment" and rng.random() < 0.5:
            words += rng.choice((["--strokes", strokes], ["--probabilities", "shares"], ["--uncertainty", "map.nrrd"]))
        if command in ("tune", "segment"):
            words += ["--model", str(self.folder / "tiny0.safetensors"), "--device", "cpu"]
        for _ in range(rng.choice((0, 1, 1, 2))):
            at = rng.randrange(len(words) + 1)
            action = rng.randrange(3)
            if action == 0 and words:
                words[min(at, len(words) - 1)] = str(rng.choice((*TEXTS, *names)))
            elif action == 1:
                words.insert(at, str(rng.choice((*TEXTS, *map(str, NUMBERS), "--region", "--seed", "-o", "--start"))))
            elif words:
                words.pop(min(at, len(words) - 1))
        # Never what trains for hours, serves forever, or asks the network.
        words = [word for word in words if word not in ("worker", "pretrain", "--download", "--delete")]
        return words, files

    def run(self, given: tuple[list[str], dict[str, bytes]]) -> None:
        from PromptSegLib.cli.main import main

        words, files = given
        for name, data in files.items():
            Path(name).write_bytes(data)
        errors = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
                code = main(words)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            for name in files:
                with contextlib.suppress(OSError):
                    os.unlink(name)
        said = errors.getvalue()
        assert "Traceback" not in said, said
        assert code in (0, 2), f"exit code {code}"
        if code == 2:
            # Of several images, each is named as its turn comes.
            lines = [line for line in said.strip().splitlines() if not re.match(r"\d+ of \d+: ", line)]
            assert len(lines) == 1 and lines[0].startswith("promptseg") and lines[0].endswith("."), said
            if len(said.strip().splitlines()) > 1 and any(Path().rglob("*.seg.nrrd")):
                return  # the results of the images before stay
            raise Refused


TARGETS = {
    "prompts": PromptsFiles,
    "catalogue": Catalogue,
    "messages": Messages,
    "scene": Scene,
    "cli": CommandLine,
}
