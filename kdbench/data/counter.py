r"""Counter-based randomness: a draw is a pure function of its key, on any device, in any batch, on any machine.

Keys are int64 tensors, hashed by the finaliser of SplitMix64 in wrapping 64-bit integer arithmetic. No generator holds
a state, so there is none to save, and adding a draw changes no other.

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators"; constants of Stafford's mix 13.
"""

import torch
from torch import Tensor

_GAMMA, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shift(words: Tensor, bits: int) -> Tensor:
    return (words >> bits) & ((1 << (64 - bits)) - 1)  # torch's own shift would drag the sign along


def _mix(words: Tensor) -> Tensor:
    words = (words ^ _shift(words, 30)) * _FIRST
    words = (words ^ _shift(words, 27)) * _SECOND
    return words ^ _shift(words, 31)


def fold(keys: Tensor, word: int | Tensor) -> Tensor:
    r"""A new key for each key and word: :math:`\mathrm{mix}(k + \gamma (w + 1))`.

    Args:
        keys: int64, any shape.
        word: Any integers in int64, broadcast against ``keys``.

    Returns:
        int64, uniform over all 64 bits for whoever does not know the key.
    """
    return _mix(keys + (torch.as_tensor(word) + 1) * _GAMMA)  # in tensors, where the product wraps


def sample_keys(seed: int, epoch: int, index: Tensor) -> Tensor:
    """The key of each sample in an epoch.

    Args:
        seed: Of the stream, in int64; see :func:`kdbench.core.seeds.derive_seed`.
        epoch: Counted from 0.
        index: Sample positions, `(B,)` int64.

    Returns:
        `(B,)` int64, on the device of ``index``.
    """
    stream = _mix(torch.tensor([seed], dtype=torch.int64, device=index.device))
    return fold(fold(stream, epoch), index)


def draw(keys: Tensor, number: int | Tensor, count: int | Tensor) -> Tensor:
    r"""One integer in ``0 .. count - 1`` per key, uniform up to a bias below ``count`` :math:`/ 2^{31}`.

    Args:
        keys: int64, any shape.
        number: Which draw of this key; draws of different numbers are independent. Several are made at once, which
            costs hardly more than one, by a tensor that is broadcast against ``keys``.
        count: Number of outcomes, at most :math:`2^{31}`; of each draw its own by a tensor as ``number``.

    Returns:
        int64, the shape of ``keys`` and ``number``.
    """
    return (_shift(fold(keys, number), 33) * count) >> 31


def uniform(keys: Tensor, number: int | Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    r"""One number in ``[low, high)`` per key, of :math:`2^{24}` equally likely ones: what float32 tells apart.

    Args:
        keys: int64, any shape.
        number: Which draw of this key, counted together with those of :func:`draw`; several by a tensor, as there.
        low: Smallest outcome.
        high: What no outcome exceeds.

    Returns:
        float32, the shape of ``keys`` and ``number``.
    """
    return low + (high - low) * (draw(keys, number, 2**24).float() / 2**24)


def shuffled(seed: int, epoch: int, index: Tensor) -> Tensor:
    """The permutation of ``index`` that belongs to an epoch: samples in the order of their keys.

    The order of two samples does not depend on which others there are.

    Returns:
        Positions into ``index``, `(B,)` int64.
    """
    return torch.argsort(sample_keys(seed, epoch, index), stable=True)
