"""Dynamic prior knowledge, reconstructed: Qiu et al. 2023."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from kdbench.core.errors import ConfigError
from kdbench.core.types import Batch, DataSpec, ModelOutput, NetworkSpec
from kdbench.criteria._features import FeatureCriterion, full_precision, paired, paired_shapes, pool_alike
from kdbench.criteria._options import check_choice, check_number, check_whole

_MASKS = ("cka", "fixed", "random")


def _hsic(k: Tensor, m: Tensor, *, unbiased: bool) -> Tensor:
    """Hilbert-Schmidt independence criterion of two Gram matrices `(B, B)`, up to a factor that cancels in CKA."""
    size = len(k)
    if not unbiased:
        centre = torch.eye(size, dtype=k.dtype, device=k.device) - 1 / size
        return (centre @ k @ centre * m).sum()
    k, m = (each - each.diag().diag() for each in (k, m))
    across = k.sum() * m.sum() / ((size - 1) * (size - 2)) - 2 / (size - 2) * (k.sum(0) @ m.sum(0))
    return (k * m).sum() + across


@full_precision
def linear_cka(student: Tensor, teacher: Tensor, *, unbiased: bool) -> Tensor:
    r"""Centred kernel alignment of two representations of a batch.

    .. math:: \mathrm{HSIC}(K, M) / \sqrt{\mathrm{HSIC}(K, K) \, \mathrm{HSIC}(M, M)}, \quad
        K = X X^\top, \; M = Y Y^\top

    Args:
        student: :math:`X`, `(B, D)`; at least 4 samples where unbiased.
        teacher: :math:`Y`, `(B, D')`.
        unbiased: Whether HSIC is estimated without bias. With it unrelated features have 0 in the mean; without, 0.985
            at B = 64, D = 4096.

    Returns:
        Scalar in [0, 1]; negative estimates are cut off.

    Source: Kornblith et al. 2019, arXiv:1905.00414; unbiased HSIC of Song et al. 2012, JMLR 13, Eq. 5.
    """
    k, m = student @ student.T, teacher @ teacher.T
    own, other = (_hsic(each, each, unbiased=unbiased) for each in (k, m))
    tiny = torch.finfo(k.dtype).tiny  # an unbiased estimate may be negative, also of features with themselves
    return (_hsic(k, m, unbiased=unbiased) / (own.clamp_min(tiny).sqrt() * other.clamp_min(tiny).sqrt())).clamp(0, 1)


@full_precision
def _normalize_channels(maps: Tensor) -> Tensor:
    """Each pixel's channels with mean 0 and variance 1; trained scales would let the target shrink."""
    return F.layer_norm(maps.movedim(1, -1), maps.shape[1:2]).movedim(-1, 1)


class _Blocks(nn.Module):
    """Transformer blocks over tokens `(B, N, D)` with learned positions."""

    def __init__(self, tokens: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True)
              for _ in range(depth))
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        return self.blocks(tokens + self.position)


class _Encoder(nn.Module):
    """Patches of a map as tokens, `(B, C, H, W)` to `(B, N, D)`."""

    def __init__(self, channels: int, patch: int, tokens: int, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch, bias=False)
        self.blocks = _Blocks(tokens, width, heads, depth)

    def forward(self, maps: Tensor) -> Tensor:
        return self.blocks(self.embed(maps).flatten(2).transpose(1, 2))


class HybridLevel(nn.Module):
    r"""One level: tokens of both networks are mixed, and the teacher's map is rebuilt from the mixture.

    .. math:: H = (1 - M) \odot E^S + M \odot E^T, \qquad \hat F = \mathrm{decode}(H)

    Args:
        channels: Of the student's and of the teacher's map.
        side: Height and width of both maps.
        grid: Tokens down and across.
        width: Of a token.
        heads: Of attention.
        depths: Blocks of each encoder and of the decoder.
    """

    def __init__(self, channels: tuple[int, int], side: tuple[int, int], grid: tuple[int, int], *, width: int,
                 heads: int, depths: tuple[int, int]) -> None:  # fmt: skip
        super().__init__()
        self.grid, self.patch, tokens = grid, side[0] // grid[0], grid[0] * grid[1]
        self.student, self.teacher = (_Encoder(c, self.patch, tokens, width, heads, depths[0]) for c in channels)
        self.decoder = _Blocks(tokens, width, heads, depths[1])
        self.outward = nn.Linear(width, channels[1] * self.patch**2, bias=False)

    def decode(self, tokens: Tensor) -> Tensor:
        """The teacher's map `(B, C', H, W)` as rebuilt from `(B, N, D)`."""
        patches = self.outward(self.decoder(tokens)).transpose(1, 2).unflatten(2, self.grid)
        return F.pixel_shuffle(patches, self.patch)


class DPK(FeatureCriterion):
    r"""The teacher's maps are rebuilt from the student's, with a part of the teacher's as prior knowledge.

    .. math:: \sum_j \mathrm{MSE}\bigl(\mathrm{decode}_j((1 - M_j) \odot E^S_j + M_j \odot E^T_j), F^T_j\bigr), \qquad
        P(M_j = 1) = \pi_j = 1 - \mathrm{CKA}(E^S_j, E^T_j)

    :math:`E` are tokens of both networks, each with an encoder of its own, and :math:`M` says at which places the
    teacher's stand in: more of them, the less alike both are. Maps enter, and are compared, with normalised channels;
    of maps of different side, the larger one is average-pooled. A token of the deepest level is ``patch`` pixels wide;
    shallower levels have as many tokens, of more pixels. Nothing of it is deployed.

    A reconstruction: there is no released code. Fixed by the paper are the mixture, its direction, the sum over stages.

    Args:
        mask: The teacher's share :math:`\pi`: ``cka`` as above; ``fixed``; ``random``, drawn anew at each step.
        share: :math:`\pi` where it is fixed, in (0, 1).
        mask_scope: One mask for the ``batch``, or one per ``sample``.
        cka: ``unbiased``, or ``biased``, which takes unrelated features for alike in small batches.
        ema: Weight of the past in the average of CKA over steps, in [0, 1); the average starts at 1/2.
        patch: Side of a token in pixels of the deepest level.
        width: Of a token.
        heads: Of attention.
        enc_blocks: Blocks of each encoder.
        dec_blocks: Blocks of the decoder.

    Raises:
        ConfigError: An option has a value that does not exist or is out of range.

    Source: Qiu et al. 2023, arXiv:2206.06067, abstract and second-hand accounts.
    Differs from: the paper in ways unknown: sizes of encoders and tokens, estimator of CKA, weight, further terms.
    """

    terms: ClassVar[tuple[str, ...]] = ("dpk", "dpk_student", "dpk_share")
    rank: ClassVar[int | None] = 3
    similarity: Tensor

    def __init__(
        self,
        *,
        mask: str = "cka",
        share: float = 0.55,
        mask_scope: str = "batch",
        cka: str = "unbiased",
        ema: float = 0.9,
        patch: int = 1,
        width: int = 64,
        heads: int = 4,
        enc_blocks: int = 1,
        dec_blocks: int = 1,
    ) -> None:
        super().__init__()
        check_choice("dpk.mask", mask, _MASKS)
        check_number("dpk.share", share, above=0, below=1)
        check_choice("dpk.mask_scope", mask_scope, ("batch", "sample"))
        check_choice("dpk.cka", cka, ("biased", "unbiased"))
        check_number("dpk.ema", ema, above=-1e-9, below=1)
        sizes = {"patch": patch, "width": width, "heads": heads, "enc_blocks": enc_blocks, "dec_blocks": dec_blocks}
        for name, size in sizes.items():
            check_whole(f"dpk.{name}", size, least=1)
        if width % heads:
            raise ConfigError(f"dpk.width={width}: it must be a multiple of dpk.heads={heads}")
        self.mask, self.share, self.mask_scope = mask, share, mask_scope
        self.unbiased, self.ema = cka == "unbiased", ema
        self.patch, self.width, self.heads, self.depths = patch, width, heads, (enc_blocks, dec_blocks)

    def setup(self, student: NetworkSpec, teachers: Sequence[NetworkSpec], data: DataSpec) -> None:
        """Creates encoders and decoders.

        Raises:
            ConfigError: A tap carries no map, or a map cannot be cut into the tokens that the deepest level has.
        """
        super().setup(student, teachers, data)
        pairs = paired_shapes(student, teachers[0])
        sides = [tuple(map(min, own[1:], other[1:])) for own, other in pairs]
        down, across = (side // self.patch for side in sides[-1])
        for height, width in sides:
            if not (down and across) or height % down or width % across or height // down != width // across:
                raise ConfigError(
                    f"DPK cannot cut a {height}x{width} map into {down}x{across} square tokens, which method.patch="
                    f"{self.patch} makes of the deepest; choose another patch or taps"
                )
        self.levels = nn.ModuleList(
            HybridLevel((own[0], other[0]), (side[0], side[1]), (down, across), width=self.width, heads=self.heads,
                        depths=self.depths)
            for (own, other), side in zip(pairs, sides, strict=True)
        )  # fmt: skip
        self.register_buffer("similarity", torch.full((len(pairs),), 0.5))

    def forward(self, student: ModelOutput, teachers: Sequence[ModelOutput], batch: Batch) -> dict[str, Tensor]:
        """The terms ``dpk``, ``dpk_student`` and ``dpk_share``.

        The first is the error summed over levels, the second the same at the student's tokens alone, the third the
        teacher's part of the tokens, in [0, 1], without gradient. The last two tell whether the student is needed: a
        decoder that sees the teacher alone asks nothing of it.
        """
        losses, at_student, shares = [], [], []
        for number, (level, pair) in enumerate(zip(self.levels, paired(student, teachers[0]), strict=True)):
            assert isinstance(level, HybridLevel)
            own, other = map(_normalize_channels, pool_alike(*pair))
            tokens, guide = level.student(own), level.teacher(other)
            mask = self._draw(number, tokens, guide)
            error = self._error(level, torch.where(mask, guide, tokens), other)
            losses.append(error.mean())
            at_student.append((error * ~mask).sum() / (~mask).expand_as(error).sum().clamp_min(1))
            shares.append(mask.to(error.dtype).mean())
        return {
            "dpk": torch.stack(losses).sum(),
            "dpk_student": torch.stack(at_student).sum(),
            "dpk_share": torch.stack(shares).mean(),
        }

    def _error(self, level: HybridLevel, tokens: Tensor, other: Tensor) -> Tensor:
        """Mean squared error at each token, `(B, N, 1)`."""
        squares = (level.decode(tokens).to(other.dtype) - other).square().mean(1, keepdim=True)
        return F.avg_pool2d(squares, level.patch).flatten(2).transpose(1, 2)

    @torch.no_grad()
    def _draw(self, number: int, tokens: Tensor, guide: Tensor) -> Tensor:
        """Where the teacher's tokens stand in, `(1, N, 1)` or `(B, N, 1)` bool."""
        rows = 1 if self.mask_scope == "batch" else len(tokens)
        chance = torch.rand(rows, tokens.shape[1], 1, device=tokens.device)
        if self.mask == "fixed":
            return chance < self.share
        if self.mask == "random":
            return chance < torch.rand((), device=tokens.device)
        if len(tokens) > 3:  # a shorter last batch says nothing about likeness
            now = linear_cka(tokens.flatten(1), guide.flatten(1), unbiased=self.unbiased)
            self.similarity[number].lerp_(now.to(self.similarity.dtype), 1 - self.ema)
        return chance >= self.similarity[number]
