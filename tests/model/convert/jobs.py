"""Conversions as tests begin them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.convert.job import Job
from model.convert.plan import plan_conversion
from model.convert.recipe import RECIPES
from model.convert.source import open_source


def job_of(source: Path, target: Path, recipe: str = "ud-mxfp8", **options: Any) -> Job:
    plan = plan_conversion(open_source(source), RECIPES[recipe], **options)
    return Job(plan, target, None, "auto", "test")
