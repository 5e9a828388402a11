"""ClassInit a run with the weights of a backbone or of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import torch

from ..errors import PromptSegError
from ..models.backbone import load_model
from . import checkpoint
from .learner import Learner


def begin_with(learner: Learner, start: str, log: Callable[[str], None]) -> list[str]:
    """Copy body and prompts into ``learner``, prompts by the names of their classes.

    New classes stay as they are.

    :param start: a backbone (catalogue name or file) or the checkpoint of another run.
    :return: what was trained before, a line for each run, for the model card.
    :raises PromptSegError: neither of these, or of another architecture.
    """
    path = Path(start)
    if path.is_file() and checkpoint.is_checkpoint(path):
        tensors, state = checkpoint.averages(path)
        body = {name[len("net.") :]: tensor for name, tensor in tensors.items() if name.startswith("net.")}
        prompts = {n[len("prompts.") :]: tensor for n, tensor in tensors.items() if n.startswith("prompts.")}
        names = list(state["classes"])
        classes = {name: {key: tensor[index] for key, tensor in prompts.items()} for index, name in enumerate(names)}
        done = f"{state['step']} steps, {state['seconds'] / 3600:.2f} h, of the run {path.parent.name}"
        earlier = [*state.get("earlier", []), done]
    else:
        backbone = load_model(start, "cpu")
        body = backbone.net.state_dict()
        card = backbone.card
        done = f": {card['steps']} steps of batch {card['batch']}, {card['hours']} h" if "hours" in card else ""
        earlier = [*card.get("earlier", []), f"the backbone {backbone.name} (SHA-256 {backbone.sha256[:12]}...){done}"]
        shipped = backbone.shipped.active if backbone.shipped else ()
        classes = {
            each.info.name: {key.replace(".", ":"): torch.from_numpy(array) for key, array in each.tensors.items()}
            for each in shipped
        }
    try:
        learner.net.load_state_dict(body)
        taken = []
        with torch.no_grad():
            for index, name in enumerate(learner.recipe.class_names):
                for key, tensor in classes.get(name, {}).items():
                    learner.prompts[key][index] = tensor
                taken += [name] if name in classes else []
    except (RuntimeError, KeyError) as error:
        raise PromptSegError(
            '"start": {start} has another architecture than the recipe; change one of them.', start=start
        ) from error
    log(f"begins with {start}; prompts of {', '.join(taken) or 'no class'} are taken over")
    return earlier
