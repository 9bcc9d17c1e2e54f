"""The formats that a random checkpoint can be written in: which module is stored how.

Each is one that real converters write: the recipes of model/convert/recipe.py (mlx-lm's uniform
ones among them), nvfp4, and the original layout. Knows module names, no arrays.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .config import QuantSpec
from .convert.recipe import NVFP4, RECIPES, Recipe, uniform


@dataclass(frozen=True, slots=True)
class StorageFormat:
    """A way to store a checkpoint: by a recipe, or in the original layout."""

    name: str
    recipe: Recipe = RECIPES["bf16"]
    original: bool = False

    @property
    def default(self) -> QuantSpec | None:
        """The top level of the quantization map."""
        return self.recipe.header

    def spec(self, module: str) -> QuantSpec | None:
        """How a matrix is stored; None is bfloat16."""
        return self.recipe.spec(module)

    def config_section(self, modules: Iterable[str]) -> dict[str, Any] | None:
        """The `quantization` section of config.json: the default, and the modules that differ."""
        return self.recipe.config_section(modules)


FORMATS = {
    each.name: each
    for each in (
        *(StorageFormat(f"mlx-{name}", recipe) for name, recipe in RECIPES.items()),
        StorageFormat("mlx-nvfp4", uniform("nvfp4", "every matrix in nvfp4", NVFP4)),
        StorageFormat("original", original=True),
    )
}
