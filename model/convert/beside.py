"""What lies beside the weights: index, config.json, tokenizer, template, generation config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model.convert.files import write_json, write_whole
from model.convert.journal import RECORD
from model.convert.plan import ConversionPlan
from model.safetensors_files import INDEX

_CONFIG = "config.json"
_COPIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
_TEXT_ONLY = ("vision_config",)


def write_beside(plan: ConversionPlan, target: Path) -> None:
    """Writes all of it, config.json last: without it the folder is no checkpoint."""
    for path in copied_files(plan.source.folder):
        write_whole(target / path.name, path.read_bytes())
    write_json(target / INDEX, _index(plan))
    write_json(target / _CONFIG, converted_config(plan))


def copied_files(folder: Path) -> list[Path]:
    """The files of a checkpoint that are taken as they are."""
    found = {path for pattern in _COPIED for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name not in (_CONFIG, INDEX, RECORD))


def converted_config(plan: ConversionPlan) -> dict[str, Any]:
    """config.json of the source with the format of every tensor, and without what was dropped."""
    folder = plan.source.folder
    config: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    for key in ("quantization", "quantization_config"):
        config.pop(key, None)
    text = config.get("text_config", config)
    if "vision" in plan.dropped:
        for key in _TEXT_ONLY:
            config.pop(key, None)
    if "mtp" in plan.dropped and "mtp_num_hidden_layers" in text:
        text["mtp_num_hidden_layers"] = 0
    section = plan.recipe.config_section(plan.quantized())
    if section is not None:
        config |= {"quantization": section, "quantization_config": section}
    return config


def _index(plan: ConversionPlan) -> dict[str, Any]:
    data = sum(output.nbytes for output in plan.outputs)
    values = sum(o.tensor.row_values * o.tensor.shape[0] for o in plan.outputs)
    metadata = {"total_size": data, "total_parameters": values}
    return {"metadata": metadata, "weight_map": plan.weight_map()}
