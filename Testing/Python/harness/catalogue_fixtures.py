"""A catalogue with further models, and a model folder of one's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PromptSegLib.models import catalogue

BUNDLED = json.loads(catalogue.CATALOGUE.read_text(encoding="utf-8"))


WEIGHTS, PROMPTS = b"weights" * 1000, b"prompts" * 10


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def remote(name: str = "mr-knee", address: str = "https://example.org") -> dict:
    """An entry to be downloaded, as the catalogue has it."""
    return {
        "name": name,
        "title": "MR knee",
        "url": f"{address}/{name}.safetensors",
        "sha256": sha256(WEIGHTS),
        "size": len(WEIGHTS),
        "prompts": {"url": f"{address}/{name}.prompts", "sha256": sha256(PROMPTS), "size": len(PROMPTS)},
        "modality": "MR",
        "spacing": [3.0, 1.0, 1.0],
        "classes": ["femur", "tibia"],
        "licence": "CC0",
        "expected_seconds": {"gpu": 4},
    }


def set_up(monkeypatch, tmp_path: Path, *more: dict) -> Path:
    """The bundled catalogue with further entries, and a model folder of one's own; returns that folder."""
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({**BUNDLED, "models": [*BUNDLED["models"], *more]}))
    monkeypatch.setattr(catalogue, "CATALOGUE", path)
    monkeypatch.setenv("PROMPTSEG_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"
