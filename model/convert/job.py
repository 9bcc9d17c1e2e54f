"""One conversion as asked for: what makes it this one and no other, and its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from model.convert import journal as journals
from model.convert.awq import in_words, plan_prescaling
from model.convert.convert import UNIT_VALUES, Influence, Progress, check_room, convert
from model.convert.files import sha256
from model.convert.imatrix import read_imatrix
from model.convert.journal import Journal
from model.convert.plan import ConversionPlan
from model.convert.report import size_text, summary
from model.errors import CheckpointError

_TOLD_EVERY = 10  # norms
FORMAT = 1  # of what is written; a change of it makes an unfinished conversion another one

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Job:
    """A plan with where it goes and what weighs it. awq: auto or off."""

    plan: ConversionPlan
    target: Path
    imatrix: Path | None
    awq: str
    version: str

    def identity(self) -> dict[str, Any]:
        """What two runs must share for one to go on where the other stopped."""
        specs = self.plan.quantized()
        return {
            "format": FORMAT,
            "source": self.plan.source.fingerprint,
            "recipe": self.plan.recipe.name,
            "decisions": journals.digest({name: asdict(spec) for name, spec in specs.items()}),
            "files": [[file.name, file.size] for file in self.plan.files],
            "drop": sorted(self.plan.dropped),
            "imatrix": _sha256(self.imatrix),
            "awq": self.awq if self.imatrix else "off",
            "unit": UNIT_VALUES,
        }

    def is_finished(self) -> bool:
        """Whether the target holds just this, whole."""
        return journals.finished_job(self.target) == journals.digest(self.identity())

    def run(
        self, progress: Progress | None, *, say: Say = lambda text: None, workers: int | None = None
    ) -> dict[str, Any]:
        """Converts, or goes on; returns the record that is written as conversion.json. Raises
        CheckpointError."""
        self._check_apart()
        check_room(self.plan, self.target)
        journal = Journal(self.target, self.identity())
        try:
            if journal.done:
                say("going on with an unfinished conversion")
            influence = self._influence(say)
            record = self._record(influence)
            whole = convert(
                self.plan, self.target, journal, influence, record, progress=progress,
                workers=workers,
            )  # fmt: skip
        finally:
            journal.close()
        for name, count in whole["infinities"].items():
            say(f"{name}: {count} infinities became the largest number of their group")
        say(f"{self.target}: {size_text(self.plan.nbytes)}, {self.plan.recipe.name}")
        return whole

    def _check_apart(self) -> None:
        source, target = self.plan.source.folder.resolve(), self.target.resolve()
        if source == target or source in target.parents or target in source.parents:
            raise CheckpointError(f"{self.target}: expected a folder apart from the source")

    def _influence(self, say: Say) -> Influence:
        if self.imatrix is None:
            return Influence()
        config = self.plan.source.config
        imatrix = read_imatrix(self.imatrix, config)
        missing = imatrix.missing(config)
        if missing:
            say(f"imatrix: nothing of {len(missing)} matrices, such as {missing[0]}")
        importance = imatrix.importance()
        if self.awq == "off":
            return Influence(importance=importance)
        saved = journals.saved_prescaling(self.target)
        if saved is None:
            say("AWQ: measuring where scaling lowers the error")

            def told(done: int, total: int) -> None:
                if done % _TOLD_EVERY == 0 and done < total:
                    say(f"AWQ: {done} of {total} norms")

            found = plan_prescaling(self.plan.source, self.plan.recipe, importance, progress=told)
            saved = found.scalings, found.report
            journals.save_prescaling(self.target, *saved)
        scalings, report = saved
        for line in in_words(report):
            say(line)
        return Influence(scalings, importance, report)

    def _record(self, influence: Influence) -> dict[str, Any]:
        figures = summary(self.plan)
        return {
            "mxserve": self.version,
            "job": journals.digest(self.identity()),
            "recipe": figures["recipe"],
            "source": {"name": figures["source"], "fingerprint": self.plan.source.fingerprint},
            "dropped": figures["dropped"],
            "imatrix": _sha256(self.imatrix),
            "awq": {
                "mode": self.awq if self.imatrix else "off: no imatrix",
                "scaled": sorted(influence.prescaling),
                "report": influence.report,
            },
            "bytes": figures["bytes"],
            "parameters": figures["parameters"],
            "bits_per_weight": figures["bits_per_weight"],
            "bytes_per_token": figures["bytes_per_token"]["weights"],
        }


def _sha256(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return sha256(file)
    except OSError as error:
        raise CheckpointError(
            f"{file}: expected an imatrix, found none: {error.strerror}"
        ) from None
