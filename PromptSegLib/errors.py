"""The one exception that carries a sentence for the user, and sentences that can be translated."""

from __future__ import annotations

import errno
from typing import Any, Mapping


class Sentence(str):
    """A sentence in English that remembers of what it was made, so that the panel can say it in another language.

    :ivar template: the sentence with named fields, as the code has it.
    :ivar fields: what they were filled with.

    Example::

        Sentence("{name} has {count} values per voxel.", name="CT", count=3)
    """

    template: str
    fields: dict[str, Any]

    def __new__(cls, template: str, /, **fields: Any) -> Sentence:
        made = super().__new__(cls, template.format(**fields) if fields else template)
        made.template, made.fields = template, fields
        return made

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> str:
        """Undo :meth:`to_dict`; what is no sentence with fields is a plain text."""
        text = str(values.get("message", ""))
        try:
            made = cls(values["template"], **values["fields"])
        except (KeyError, TypeError, ValueError, LookupError, AttributeError):
            return text
        return made if made == text else text

    def renamed(self, names: Mapping[str, str]) -> Sentence:
        """The sentence with names in its fields, alone or in a list with commas, replaced: old name -> new."""

        def now(value: Any) -> Any:
            if not isinstance(value, str):
                return value
            return names.get(value) or ", ".join(names.get(each, each) for each in value.split(", "))

        return Sentence(self.template, **{key: now(value) for key, value in self.fields.items()})

    def to_dict(self) -> dict[str, Any]:
        """For JSON; fields that it does not know become text, numpy's numbers plain ones."""
        plain = {key: value.item() if hasattr(value, "item") else value for key, value in self.fields.items()}
        fields = {key: value if isinstance(value, (int, float)) else str(value) for key, value in plain.items()}
        return {"message": str(self), "template": self.template, "fields": fields}

    def __str__(self) -> str:
        """Itself: whoever turns an error into text keeps of what that was made."""
        return self


class PromptSegError(ValueError):
    """Bad input: the message is one sentence that says what is wrong and what to do.

    :param template: the sentence, with named fields.
    :param fields: what to fill them with.
    """

    def __init__(self, template: str, /, **fields: Any) -> None:
        super().__init__(Sentence(template, **fields) if fields or not isinstance(template, Sentence) else template)

    @property
    def message(self) -> Sentence:
        """The sentence."""
        return self.args[0]


_TOLD = (
    "out of memory",
    "allocate memory",  # torch on the CPU, ITK, and errno 12 in whatever wraps it
    "bad_alloc",
    "bad allocation",
    "not enough memory",
    "alloc_failed",  # cuBLAS, cuDNN
    "allocation_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the machine or on its GPU; libraries say so in errors of many types."""
    if isinstance(error, PromptSegError):
        return False
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    said = str(error).lower()
    return isinstance(error, Exception) and any(each in said for each in _TOLD)
