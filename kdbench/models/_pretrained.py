"""Are published weights at hand? Asked first, as libraries retry for most of a minute without a network."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

import torch

from kdbench.core.errors import ConfigError

TIMEOUT = 3.0  # seconds: a host that is slower than this will not send a network's weights


def hub_file(repository: str, filenames: Sequence[str]) -> Path | None:
    """The first of ``filenames`` that the local Hugging Face cache holds, else None; touches no network."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    for filename in filenames:
        found = try_to_load_from_cache(repository, filename, revision=revision or None)
        if isinstance(found, str):
            return Path(found)
    return None


def torch_file(url: str) -> Path | None:
    """The file of ``url`` in torch's own cache of downloads, else None."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    return path if path.is_file() else None


def require_hub(name: str) -> None:
    """Asserts that the Hugging Face hub may and can be reached.

    Raises:
        ConfigError: It is switched off, or does not answer; the message lists the ways to supply weights.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _unavailable(name, "HF_HUB_OFFLINE is set", constants.HF_HUB_CACHE, "HF_HOME")
    _require(name, constants.ENDPOINT, constants.HF_HUB_CACHE, "HF_HOME")


def require_url(name: str, url: str) -> None:
    """Asserts that the host of ``url`` can be reached.

    Raises:
        ConfigError: It does not answer; the message lists the ways to supply weights.
    """
    _require(name, url, torch.hub.get_dir(), "TORCH_HOME")


def _require(name: str, url: str, cache: str, variable: str) -> None:
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=TIMEOUT).close()
    except urllib.error.HTTPError:
        pass  # an answer, and so a network; what it says to the real request is the library's to handle
    except OSError as error:
        raise _unavailable(name, f"{urlparse(url).hostname} does not answer", cache, variable) from error


def _unavailable(name: str, why: str, cache: str, variable: str) -> ConfigError:
    return ConfigError(
        f"{name}: its pretrained weights are not in {cache} and {why}; copy them there from a machine that has them, "
        f"point {variable} at such a cache, or give a file with checkpoint=FILE"
    )
