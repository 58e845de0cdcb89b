"""How Griffe reads the house's docstrings: `Example:` is its section Examples."""

import re
from typing import Any

import griffe

__all__ = ["HouseStyle"]


class HouseStyle(griffe.Extension):
    """Gives the sections of docstrings the names that Griffe knows."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring is not None:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
