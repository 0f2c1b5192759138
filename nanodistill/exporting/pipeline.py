"""export(): from a training run to files that were scored before they count.

    source → a form to try → files → the parity gate → in place, or the next form

What is there already stays until its successor has passed. Exporting the same again finds the work
done.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanodistill.config import DeliverySettings, DistillationConfig
from nanodistill.errors import InputError, VerificationError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.exporting.export_manifest import ExportManifest, read_manifest
from nanodistill.exporting.mlx_folder import atomic_replace, repair
from nanodistill.exporting.parity import Parity, ParityCheck
from nanodistill.exporting.targets import Options, Target, To, target_for
from nanodistill.exporting.trained_adapter import TrainedAdapter, find_trained_adapter
from nanodistill.exporting.worker import Form
from nanodistill.hub.pull import open_dataset
from nanodistill.run_dir import RunFolder

NON_IDENTITY_FIELDS = ("eval_batch_size", "allow_out_of_range")


@dataclass(frozen=True)
class ExportResult:
    """What an export made. `path` is the model's folder, or the GGUF file.

    `form` is how the weights are saved, `parity` None where there were no rows
    to score by, `reused` whether it was there already. `size` is in bytes.
    """

    to: To
    path: Path
    form: str
    run: str
    dataset: str
    parity: Parity | None
    size: int
    reused: bool

    def to_json(self) -> dict[str, Any]:
        shown = {"path": str(self.path), "parity": self.parity.to_json() if self.parity else None}
        return {**vars(self), **shown}

    def summary(self) -> str:
        done = "was there already" if self.reused else "exported"
        lines = [f"{self.path} ({self.size / 1e6:,.0f} MB, {self.form}): {done}"]
        if self.parity:
            lines.append(f"Parity: {self.parity}")
        return "\n".join(lines)

    def next_command(self, name: str) -> str | None:
        """What to run now, where it is a single command."""
        return f"ollama create {name} -f {self.path}" if self.to == "ollama" else None


def export(
    config: DistillationConfig,
    run: RunFolder,
    *,
    to: To,
    options: Options | None = None,
    run_id: str | None = None,
    dataset: str | Path | None = None,
    on_event: Listener = ignore,
) -> ExportResult:
    """Export a training run's student: the latest one's, unless `run_id` names another.

    Args:
        dataset: the version to score by; unset, the one that the run was trained on.

    Raises:
        VerificationError: no form of it is as good as the adapter; what was there stays.
        InputError: there is nothing to export, or it can't be written in this format.
        RunLockedError: another export of this run is on.
    """
    with run.locked("export"):
        version = None if dataset is None else open_dataset(dataset, run)
        source = find_trained_adapter(config, run, run_id, version, on_event)
        target = target_for(to, config, run, source, options or Options(), on_event)
        work = ExportRun(config, run, source, target, on_event)
        repair(target.place)
        there = work.already_there()
        if there is None:
            return work.result(work.make(), reused=False)
        on_event(Notice(f"{target.result} is exported already; nothing is left to do"))
        return work.result(there, reused=True)


@dataclass(frozen=True)
class ExportRun:
    """One export on its way."""

    config: DistillationConfig
    run: RunFolder
    source: TrainedAdapter
    target: Target
    on_event: Listener

    @property
    def key(self) -> str:
        """A hash of all that decides what comes of this export."""
        settings = self.config.hash_of(DeliverySettings, leave_out=NON_IDENTITY_FIELDS)
        return self.source.key(to=self.target.to, how=self.target.how, settings=settings)

    def already_there(self) -> ExportManifest | None:
        there = read_manifest(self.target.place)
        if there is None or there.key != self.key or not self.target.result.exists():
            return None
        return there

    def make(self) -> ExportManifest:
        """Build the first form that holds and put it in its place.

        Raises:
            VerificationError: none holds.
        """
        gate = self._gate()
        failed: list[tuple[Form, Parity]] = []
        for form in self.target.forms if gate else self.target.forms[-1:]:
            self.on_event(Notice(f"making {self.target.result.name} ({form})"))
            with _work_folder(self.target.place) as folder:
                self.target.build(form, folder)
                parity = self.target.score(gate, folder) if gate else None
                if parity is None or parity.holds:
                    manifest = self._manifest(form, parity)
                    manifest.write(folder)
                    atomic_replace(folder, self.target.place)
                    return manifest
            failed.append((form, parity))
            self.on_event(Notice(f"{form}: {parity}; that is too much", "warning"))
        raise self._refused(failed)

    def result(self, manifest: ExportManifest, *, reused: bool) -> ExportResult:
        return ExportResult(
            to=self.target.to,
            path=self.target.result,
            form=manifest.form,
            run=manifest.lineage.run,
            dataset=manifest.lineage.dataset,
            parity=Parity.from_json(manifest.parity) if manifest.parity else None,
            size=sum(file.stat().st_size for file in self.target.place.iterdir()),
            reused=reused,
        )

    def _gate(self) -> ParityCheck | None:
        """The gate, None where the dataset has no rows to score by: then the form is taken that
        loses nothing."""
        try:
            return ParityCheck(self.config, self.run, self.source, self.on_event)
        except InputError as no_rows:
            self.on_event(Notice(f"the export can't be scored: {no_rows.message}", "warning"))
            return None

    def _manifest(self, form: Form, parity: Parity | None) -> ExportManifest:
        return ExportManifest.of(
            self.config,
            self.source,
            to=self.target.to,
            form=form,
            key=self.key,
            baked=self.target.options.bake_instruction,
            parity=parity,
        )

    def _refused(self, failed: list[tuple[Form, Parity]]) -> VerificationError:
        tried = "\n".join(f"  {form}: {parity}" for form, parity in failed)
        there = self.target.place.exists()
        kept = f"{self.target.place} was left as it was." if there else "Nothing was written."
        return VerificationError(
            f"The exported model is worse than the adapter by more than export_tolerance "
            f"({self.config.export_tolerance:g} points). Tried:\n{tried}\n{kept}",
            next_step=f"{self._way_out()}, or, if that loss will do, raise it: "
            "--set export_tolerance=POINTS",
        )

    def _way_out(self) -> str:
        if self.target.to != "mlx" and self.target.options.gguf_type == "q8_0":
            return "Export with --gguf-type f16"
        return "Train on a base that is not quantized"


@contextmanager
def _work_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside `place`, gone afterwards unless it was put in place."""
    folder = place.with_name(f".{place.name}.making")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
