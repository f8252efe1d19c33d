"""The keys of ``cache``: what is wrong with them, and what of them belongs to a network's identity."""

from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.core.errors import nearest
from kdbench.data.view_options import mixes_of

KINDS = ("none", "teacher")
DTYPES = ("float32", "float16")


def cache_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a job's cache, one line each."""
    cache, classes = config["cache"], config["dataset"]["num_classes"]
    if cache["kind"] not in KINDS:
        yield f"cache.kind={cache['kind']}: unknown{nearest(str(cache['kind']), KINDS)}"
    if cache["kind"] != "teacher":
        return
    if isinstance(config["dataset"]["augment"], Mapping) and (mixes := mixes_of(config["dataset"]["augment"])):
        yield f"cache=teacher: {', '.join(mixes)} makes images that come only once; leave it out, or take cache=none"
    if cache["dtype"] not in DTYPES:
        yield f"cache.dtype={cache['dtype']}: unknown{nearest(str(cache['dtype']), DTYPES)}"
    if cache["check"] < 0:
        yield f"cache.check={cache['check']}: must be at least 0"
    if cache["views"] is not None and cache["views"] < 1:
        yield f"cache.views={cache['views']}: must be at least 1, or null for a fresh view in every epoch"
    if cache["top_k"] is not None and not 1 <= cache["top_k"] < (classes or cache["top_k"] + 1):
        yield f"cache.top_k={cache['top_k']}: must be in [1, {classes - 1}], or null for the logits of all classes"


def teaching_of(hop: Mapping[str, Any]) -> dict[str, Any]:
    """How teachers answer, as far as it changes what they say: an exact cache is part of no network's identity."""
    own, cache = hop["trainer"]["teacher_precision"], hop["cache"]
    found = {} if own in (None, hop["trainer"]["precision"]) else {"precision": own}
    if cache["kind"] == "none":
        return found
    if cache["views"] is not None and "none" not in hop["dataset"]["augment"]:
        found |= {"views": cache["views"]} if cache["views"] < hop["trainer"]["max_epochs"] else {}
    return found | {key: cache[key] for key, exact in (("dtype", "float32"), ("top_k", None)) if cache[key] != exact}
