"""Curves from how sure a search says it is to how often it is right, fitted on outcomes.

A curve takes a raw confidence in [0, 1] to a probability, and is fitted on pairs of a raw
confidence and whether that answer was right. There are two kinds. Platt's is a straight line
between log odds (Platt 1999, "Probabilistic Outputs for Support Vector Machines"), which few pairs
determine. Isotonic regression takes whichever non-decreasing steps fit best (Zadrozny and Elkan
2002, "Transforming Classifier Scores into Accurate Multiclass Probability Estimates"), which needs
more of them. `fit` takes the kind that tells better of pairs it wasn't fitted on.

What always holds: a curve never falls, stays within [0, 1], and of n pairs none claims a chance
beyond 1 / (n + 2) from either end, as Laplace's rule of succession has it. Pure: the same pairs
give the same curve.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import pairwise
from math import exp, isfinite, log, log1p
from typing import Any, TypeAlias

from planner.reliability import Pair, log_loss

_FOLDS = 5
_LEAST_BLOCK = 15
"""So many pairs at least are behind each step of an isotonic curve. On 6,000 outcomes of 15
strategies, told by curves of other questions, that is where their log loss was lowest."""
_CERTAIN = 1e-3
"""Raw confidences nearer to 0 or 1 have the log odds of this."""
_PRECISION = 1.0
"""Of the prior on Platt's slope, around 1: without it, pairs that a threshold separates would have
it infinite, and pairs of one confidence leave it open."""
_STEPS = 100


@dataclass(frozen=True, slots=True)
class Platt:
    """log odds = slope * raw log odds + offset, with slope >= 0, fitted on `count` pairs."""

    slope: float
    offset: float
    count: int

    def apply(self, raw: float) -> float:
        """How likely an answer of this confidence is right."""
        return _held_back(_sigmoid(self.slope * _log_odds(raw) + self.offset), self.count)


@dataclass(frozen=True, slots=True)
class Isotonic:
    """Straight lines between `points`, each a raw confidence and a chance; level beyond the ends.

    Both rise from point to point, the chances not always. Fitted on `count` pairs.
    """

    points: tuple[tuple[float, float], ...]
    count: int

    def apply(self, raw: float) -> float:
        """How likely an answer of this confidence is right."""
        above = bisect_left(self.points, raw, key=lambda point: point[0])
        if above == 0:
            return self.points[0][1]
        if above == len(self.points):
            return self.points[-1][1]
        (left, low), (right, high) = self.points[above - 1], self.points[above]
        return min(high, low + (high - low) * (raw - left) / (right - left))


Curve: TypeAlias = Platt | Isotonic


def curve_data(curve: Curve) -> dict[str, Any]:
    """The curve as JSON."""
    match curve:
        case Platt():
            return {"kind": "platt", **asdict(curve)}
        case Isotonic(points, count):
            return {"kind": "isotonic", "points": [list(point) for point in points], "count": count}


def read_curve(data: Any) -> Curve:
    """A curve from JSON. Raises ValueError for one that falls, or leaves [0, 1]."""
    try:
        match data["kind"]:
            case "platt":
                return _sound(Platt(float(data["slope"]), float(data["offset"]), _count(data)))
            case "isotonic":
                points = tuple((float(raw), float(chance)) for raw, chance in data["points"])
                return _sound(Isotonic(points, _count(data)))
            case other:
                raise ValueError(f"there is no kind of curve named {other!r}")
    except (KeyError, TypeError) as error:
        raise ValueError(f"it isn't a curve: {error!r} is amiss") from error


def fit(pairs: Sequence[Pair], groups: Sequence[Hashable] | None = None) -> Curve:
    """The curve that tells most of other pairs: by log loss on fifths it wasn't fitted on.

    Pairs of one group, answers to the same question say, are never parted. Raises ValueError
    without a pair.
    """
    right = [correct for _, correct in pairs]
    platt = held_out(pairs, groups, fit_platt)
    isotonic = held_out(pairs, groups, fit_isotonic)
    bent = log_loss(list(zip(isotonic, right, strict=True)))
    straight = log_loss(list(zip(platt, right, strict=True)))
    return fit_isotonic(pairs) if bent < straight else fit_platt(pairs)


def held_out(
    pairs: Sequence[Pair],
    groups: Sequence[Hashable] | None = None,
    fitted: Callable[[Sequence[Pair]], Curve] | None = None,
) -> list[float]:
    """What each pair is told by a curve fitted on the four fifths that it isn't in.

    `fitted` fits them; where none is given, `fit`. With fewer than two groups there is nothing to
    fit on, and a pair is told that it may be either.
    """
    names = list(range(len(pairs))) if groups is None else list(groups)
    folds = _folds(names)
    found = [0.5] * len(pairs)
    for fold in set(folds):
        kept = [place for place, other in enumerate(folds) if other != fold]
        if not kept:
            continue
        among = [pairs[place] for place in kept]
        curve = fitted(among) if fitted else fit(among, [names[place] for place in kept])
        for place, other in enumerate(folds):
            if other == fold:
                found[place] = curve.apply(pairs[place][0])
    return found


def fit_platt(pairs: Sequence[Pair]) -> Platt:
    """Platt scaling by Newton's method, with his targets, (n + 1) / (n + 2) and 1 / (n + 2).

    A prior holds the slope near 1, and one that would be negative is 0. Raises ValueError without
    a pair.
    """
    if not pairs:
        raise ValueError("a curve is fitted on one pair at least")
    right = sum(correct for _, correct in pairs)
    wrong = len(pairs) - right
    high, low = (right + 1) / (right + 2), 1 / (wrong + 2)
    targets = [(_log_odds(raw), high if correct else low) for raw, correct in pairs]
    slope, offset = _newton(targets, log((right + 1) / (wrong + 1)))
    if slope < 0:
        return Platt(0.0, log((right + 1) / (wrong + 1)), len(pairs))
    return Platt(slope, offset, len(pairs))


def fit_isotonic(pairs: Sequence[Pair]) -> Isotonic:
    """Isotonic regression of blocks large enough to say something, held back a little.

    Each block's chance is drawn to the share of all by the weight of two pairs. Raises ValueError
    without a pair.
    """
    if not pairs:
        raise ValueError("a curve is fitted on one pair at least")
    share = (sum(correct for _, correct in pairs) + 1) / (len(pairs) + 2)
    blocks = _blocks(pairs)
    chances = [(block.right + 2 * share) / (block.count + 2) for block in blocks]
    points = []
    highest = 0.0
    for block, chance in zip(blocks, chances, strict=True):
        # A small block is drawn further than its neighbours, which must not turn their order.
        highest = max(highest, _held_back(chance, len(pairs)))
        points.append((block.raw / block.count, highest))
    return Isotonic(tuple(points), len(pairs))


def pool_adjacent(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence nearest to `values` in weighted squares, by pooling violators.

    Pool adjacent violators (Ayer et al. 1955; Barlow et al. 1972, "Statistical Inference under
    Order Restrictions"), in linear time.
    """
    pooled: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        total, weighing, length = value * weight, weight, 1
        while pooled and pooled[-1][0] / pooled[-1][1] >= total / weighing:
            before, heavy, long = pooled.pop()
            total, weighing, length = total + before, weighing + heavy, length + long
        pooled.append((total, weighing, length))
    return [total / weighing for total, weighing, length in pooled for _ in range(length)]


@dataclass(slots=True)
class _Block:
    """Pairs side by side that share a chance: the sum of their confidences, and of those right."""

    raw: float
    right: float
    count: int

    @property
    def accuracy(self) -> float:
        return self.right / self.count

    def take(self, other: _Block) -> None:
        self.raw += other.raw
        self.right += other.right
        self.count += other.count


def _blocks(pairs: Sequence[Pair]) -> list[_Block]:
    """Those of isotonic regression, in order, the small ones joined to the more alike neighbour."""
    alike: dict[float, _Block] = {}
    for raw, correct in sorted(pairs):
        alike.setdefault(raw, _Block(0.0, 0.0, 0)).take(_Block(raw, float(correct), 1))
    levels = pool_adjacent(
        [one.accuracy for one in alike.values()], [one.count for one in alike.values()]
    )
    blocks: list[_Block] = []
    before: float | None = None
    for level, block in zip(levels, alike.values(), strict=True):
        if level == before:
            blocks[-1].take(block)
        else:
            blocks.append(block)
        before = level
    while len(blocks) > 1:
        place = min(range(len(blocks)), key=lambda one: blocks[one].count)
        if blocks[place].count >= _LEAST_BLOCK:
            break
        left = _left_of(blocks, place)
        blocks[left].take(blocks.pop(left + 1))
    return blocks


def _left_of(blocks: Sequence[_Block], place: int) -> int:
    """The left one of the two that become one: the block there, and the neighbour most like it."""
    if place == 0:
        return 0
    if place == len(blocks) - 1:
        return place - 1
    here = blocks[place].accuracy
    down, up = here - blocks[place - 1].accuracy, blocks[place + 1].accuracy - here
    return place - 1 if down <= up else place


def _newton(targets: Sequence[tuple[float, float]], start: float) -> tuple[float, float]:
    """The slope and the offset of the least loss: Newton's method with steps halved as needed."""
    slope, offset = 0.0, start
    loss = _platt_loss(targets, slope, offset)
    for _ in range(_STEPS):
        g0, g1 = _PRECISION * (slope - 1), 0.0
        h0, h1, h2 = _PRECISION, 0.0, 1e-12
        for odds, target in targets:
            chance = _sigmoid(slope * odds + offset)
            weight = chance * (1 - chance)
            g0, g1 = g0 + (chance - target) * odds, g1 + chance - target
            h0, h1, h2 = h0 + weight * odds * odds, h1 + weight * odds, h2 + weight
        scale = h0 * h2 - h1 * h1
        down, across = (h2 * g0 - h1 * g1) / scale, (h0 * g1 - h1 * g0) / scale
        step = 1.0
        while (
            after := _platt_loss(targets, slope - step * down, offset - step * across)
        ) > loss and step > 1e-10:
            step /= 2
        if loss - after < 1e-10:
            break
        slope, offset, loss = slope - step * down, offset - step * across, after
    return slope, offset


def _platt_loss(targets: Iterable[tuple[float, float]], slope: float, offset: float) -> float:
    """The negative log of likelihood and prior, up to a constant."""
    total = _PRECISION * (slope - 1) ** 2 / 2
    for odds, target in targets:
        z = slope * odds + offset
        total += max(z, 0.0) + log1p(exp(-abs(z))) - target * z
    return total


def _folds(groups: Sequence[Hashable]) -> list[int]:
    """A fifth for each, alike for all of a group, and of equal numbers of groups, to one."""
    # By a hash of their names: pairs in the order of their confidence mustn't be parted along it.
    ordered = sorted(dict.fromkeys(groups), key=lambda one: blake2b(repr(one).encode()).digest())
    fold_of = {group: place % _FOLDS for place, group in enumerate(ordered)}
    return [fold_of[group] for group in groups]


def _held_back(chance: float, count: int) -> float:
    end = 1 / (count + 2)
    return min(1 - end, max(end, chance))


def _log_odds(chance: float) -> float:
    held = min(1 - _CERTAIN, max(_CERTAIN, chance))
    return log(held / (1 - held))


def _sigmoid(z: float) -> float:
    return 1 / (1 + exp(-z)) if z >= 0 else exp(z) / (1 + exp(z))


def _sound(curve: Curve) -> Curve:
    """The curve, if it is one. Raises ValueError."""
    match curve:
        case Platt(slope, offset, _):
            if not (isfinite(slope) and isfinite(offset) and slope >= 0):
                raise ValueError("Platt's slope must be 0 or more, and all of it finite")
        case Isotonic(points, _):
            raws, chances = [raw for raw, _ in points], [chance for _, chance in points]
            if not points or not all(0 <= one <= 1 for one in (*raws, *chances)):
                raise ValueError("an isotonic curve has points, all of them from 0 to 1")
            if any(a >= b for a, b in pairwise(raws)) or chances != sorted(chances):
                raise ValueError("an isotonic curve must not fall")
    return curve


def _count(data: Mapping[str, Any]) -> int:
    count = int(data["count"])
    if count < 0:
        raise ValueError("a count of pairs is 0 or more")
    return count
