"""Where trained networks live: each under the digest of its recipe, written once, checked whenever it is read.

Layout below the root, each entry appearing by one rename and read-only from then on::

    ab/abcdef.../     last.safetensors [best.safetensors] recipe.json metrics.json history.csv env.json checksums.json
    .drafts/abcdef... what a training has written so far, its checkpoint included; outlives a crash
    .locks/           kernel file locks that make racing processes train once

Weights are safetensors and the rest is text: nothing is ever unpickled, so a store can never run code.
"""

from kdbench.store.draft import CHECKPOINT, Draft, Owner
from kdbench.store.entry import BrokenEntryError, Entry, Which
from kdbench.store.store import Garbage, Store

__all__ = ["CHECKPOINT", "BrokenEntryError", "Draft", "Entry", "Garbage", "Owner", "Store", "Which"]
