"""Rows through the `datasets` library: its objects, and datasets on the Hub by id.

A Hub id is `owner/name`, with or without `@revision`. Of several splits, `test` is read for a test
set, else `train`. Before anything is loaded the Hub is asked once, with a short wait, whether it
can be reached and knows the dataset; the library itself tries for half a minute before it says so.
With HF_HUB_OFFLINE set that question is skipped and the local cache is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nanodistill.data_files import HubDataset, Record, RecordOrProblem, with_label_names
from nanodistill.errors import DataError, InputError, Problem, RunIncompleteError
from nanodistill.events import Listener, Notice

SECONDS_TO_ANSWER = 10


def hub_records(name: str, *, what: str, on_event: Listener) -> Iterator[RecordOrProblem]:
    """The rows of a dataset on the Hub.

    Raises:
        DataError: the Hub can't be reached, or has no such dataset for us.
    """
    import datasets
    import httpx

    dataset = HubDataset.parse(name)
    _ask_hub(dataset)
    on_event(Notice(f"Loading {dataset} from the Hub."))
    try:
        with _no_bars(datasets):
            loaded = datasets.load_dataset(dataset.repo, revision=dataset.revision)
    except (
        OSError,
        ValueError,
        RuntimeError,
        httpx.HTTPError,
        datasets.exceptions.DatasetsError,
    ) as failed:
        raise _refused(dataset, f"can't be loaded: {_first_line(failed)}") from failed
    return split_records(loaded, what=what, on_event=on_event, called=str(dataset))


def split_records(
    loaded: Any, *, what: str, on_event: Listener, called: str | None = None
) -> Iterator[RecordOrProblem]:
    """The rows of a `datasets` object, of the split that is meant."""
    prefix = f"{called}: " if called else ""
    split = _meant_split(loaded, what, called or f"`{what}`", on_event)
    labels = _label_names(split.features or {})
    for number, row in enumerate(split, start=1):
        yield Record(f"{prefix}row {number}", with_label_names(row, labels))


def _label_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names behind numbered labels, by column; of lists of labels too."""
    from datasets import ClassLabel, List, Sequence

    inner = {
        column: feature.feature if isinstance(feature, List | Sequence) else feature
        for column, feature in features.items()
    }
    return {
        column: feature.names
        for column, feature in inner.items()
        if isinstance(feature, ClassLabel)
    }


def _meant_split(loaded: Any, what: str, called: str, on_event: Listener) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    wanted = "test" if what == "test" else "train"
    names = list(loaded)
    chosen = names[0] if len(names) == 1 else wanted
    if chosen not in loaded:
        problem = Problem(called, f"has the splits {', '.join(names)}, and none called {wanted}")
        raise DataError("It is not clear which rows are meant:", [problem])
    if len(names) > 1:
        on_event(Notice(f"{called}: taking split {chosen} of {', '.join(names)}."))
    return loaded[chosen]


def _ask_hub(dataset: HubDataset) -> None:
    from huggingface_hub import constants

    from nanodistill.hub.client import (
        Hub,
        RepositoryNotFoundError,
        RevisionNotFoundError,
        translate_errors,
    )

    if constants.HF_HUB_OFFLINE:
        return
    hub = Hub()
    try:
        with translate_errors(hub, dataset.repo, "dataset"):
            hub.api.dataset_info(dataset.repo, revision=dataset.revision, timeout=SECONDS_TO_ANSWER)
    except RepositoryNotFoundError as missing:
        what = "there is no such file, and no such dataset on the Hub (or it is private)"
        raise _refused(dataset, what) from missing
    except RevisionNotFoundError as missing:
        raise _refused(dataset, f"has no revision '{dataset.revision}'") from missing
    except InputError as wrong:
        raise _refused(dataset, wrong.message) from wrong
    except RunIncompleteError as failed:
        what = f"there is no such file, and the Hub can't be asked for it: {failed.message}"
        raise _refused(dataset, what) from failed


def _first_line(failed: Exception) -> str:
    return str(failed).strip().partition("\n")[0] or type(failed).__name__


def _refused(dataset: HubDataset, what: str) -> DataError:
    return DataError(
        "The rows can't be read:",
        [Problem(str(dataset), what)],
        next_step="Name an existing file, or look at the network, HF_TOKEN and HF_ENDPOINT.",
    )


@contextmanager
def _no_bars(datasets: Any) -> Iterator[None]:
    """Keep the library's progress bars off the terminal, which is not ours to write on."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
