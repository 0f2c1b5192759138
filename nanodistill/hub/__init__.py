"""Sharing through the Hugging Face Hub: push and pull.

    push             a bundle becomes a commit and a tag; pushed again, nothing is sent
    pull             a dataset version or a model at a revision, checked, in a folder
    upload_bundle    what is pushed: files by their path in a repository, and a tag
    secret_scan      keys, local paths and addresses that must not leave this machine
    client           endpoint and token, and the Hub's refusals as our errors

huggingface_hub does the talking, so HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean here
what they mean there.
"""

from __future__ import annotations

from nanodistill.hub.client import Hub
from nanodistill.hub.pull import PullResult, fetch_dataset, pull
from nanodistill.hub.push import PushResult, push
from nanodistill.hub.secret_scan import Finding, scan
from nanodistill.hub.upload_bundle import UploadBundle, dataset_bundle

__all__ = [
    "Finding",
    "Hub",
    "PullResult",
    "PushResult",
    "UploadBundle",
    "dataset_bundle",
    "fetch_dataset",
    "pull",
    "push",
    "scan",
]
