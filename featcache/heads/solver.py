"""Linear models fitted exactly, from rows that are read in blocks: preconditioned L-BFGS.

Minimised is ``1/n Σ s_i loss(y_i, x_i W + b) + λ/2 ‖W‖²`` with weights s of rows, an intercept b that is not penalised,
and features x that are centred and scaled as they are read. The loss is softmax, a sigmoid for each output, or the
squared hinge of one output against the rest. With the Gram matrix ``G`` of the features and ``B = c/n G + λI = LLᵀ``,
where c is about the loss's curvature, the search is in ``V = LᵀW``, in which all directions curve alike; L-BFGS
(Nocedal 1980: Updating Quasi-Newton Matrices with Limited Storage) then needs 10 to 50 passes over the rows. Several
problems on the same rows, such as the folds of a cross-validation, share each pass.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.linalg import LinAlgError, cholesky, eigh, solve_triangular

from featcache.heads.gram import moments, products
from featcache.heads.rows import BLOCK_BYTES, Array, Float32s, Floats, Ints, Rows
from featcache.system.cpus import count

Loss = Literal["softmax", "sigmoid", "squared_hinge"]

CURVATURE: dict[str, float] = {"softmax": 0.25, "sigmoid": 0.25, "squared_hinge": 1.0}
"""About how much a loss curves along one output, at most."""
WIDE = 8192
"""Features, or rows, of which a square matrix is factored; beyond both, only the diagonal is used."""
SUMMED = 4096
"""How many products are added up in float32 before float64 takes over."""
EXACT = 2**21
"""Values of a matrix that is multiplied in float64."""
SMALL = 2**20
"""Values of a matrix that one thread multiplies as fast as several."""
_ARMIJO = 1e-4
"""Part of the descent that a step must reach."""
_IDLE = 10
"""Steps without descent after which rounding is taken to hide it."""
HISTORY_BYTES = 2**29
"""Memory of one problem's steps and gradients."""


@dataclass(eq=False)
class Problem:
    """One model to fit on the rows of a `Design`.

    `target` are class numbers (n,), or for the sigmoid loss 0 and 1 of each output (n, outputs). `weights` (n,) are 0
    for rows that are left out. `penalty` is λ; `count` divides the sum of losses.
    """

    loss: Loss
    target: Array
    weights: Float32s
    outputs: int
    penalty: float
    count: float


@dataclass(eq=False)
class Solution:
    """A fitted model, for centred and scaled features: `coef` (d, outputs) and `intercept` (outputs,)."""

    coef: Floats
    intercept: Floats
    objective: float
    gradient: float
    passes: int
    converged: bool


class Design:
    """The rows of X as problems see them, with what makes all directions alike.

    With fewer rows than features, and not too many of them, problems are solved in the space of the rows: an
    eigendecomposition of ``XXᵀ`` gives n features with the same inner products, of which the Gram matrix is diagonal.
    """

    def __init__(self, rows: Rows, *, standardize: bool = True, dtype: Any = None) -> None:
        n, d = rows.shape
        self.dtype = np.dtype((np.float64 if n * min(n, d) <= EXACT else np.float32) if dtype is None else dtype)
        self.rows, self.n, self._turn = rows, n, None
        self._pool: ThreadPoolExecutor | None = None
        self._gram: Floats | None = None
        self._diagonal: Floats | None = None
        if n < d and n <= WIDE:
            self.moments = moments(rows, standardize=standardize)
            values, vectors = eigh(products(rows, self.moments))
            kept = values > max(values[-1], 0) * n * np.finfo(np.float32).eps
            roots = np.sqrt(values[kept])
            self._turn = vectors[:, kept] / roots  # of rows: their mixture is a direction
            self._values = np.asarray(vectors[:, kept] * roots, self.dtype)
            self._mean, self._scale = np.zeros(len(roots)), np.ones(len(roots))
            self._diagonal = values[kept]
        else:
            self.moments = moments(rows, standardize=standardize, gram=d <= WIDE)
            self._mean, self._scale = self.moments.mean - self.moments.shift, self.moments.scale
            self._gram = self.moments.gram
            if self._gram is None:
                self._diagonal = np.full(d, float(n)) if standardize else n * self.moments.variance
        self.width = len(self._scale)

    def preconditioner(self, curvature: float, penalty: float) -> Preconditioner:
        """Return the change of variables for a loss of about this curvature."""
        if self._gram is None:
            assert self._diagonal is not None
            return Diagonal(np.sqrt(curvature / self.n * self._diagonal + penalty))
        return Triangular.of(curvature / self.n * self._gram, penalty)

    def blocks(self) -> Any:
        """Yield (which rows, their features less the shift) for all rows."""
        if self._turn is not None:
            size = max(1, min(SUMMED, BLOCK_BYTES // (4 * max(self.width, 1))))
            for start in range(0, self.n, size):
                yield slice(start, min(start + size, self.n)), self._values[start : start + size]
            return
        size = min(SUMMED, self.rows.block_rows)  # as much as stays in a processor's cache for the second product
        for start in range(0, self.n, size):
            part = slice(start, min(start + size, self.n))
            values = self.rows[part]
            if self.moments.shifts:
                values = values - self.moments.shift.astype(np.float32)
            yield part, values.astype(self.dtype, copy=False)

    def _mapped(self, piece: Callable[[slice, Array], Any]) -> Iterator[Any]:
        """Yield what a function makes of each block, in order; several threads work on blocks of their own."""
        if self.n * self.width <= SMALL or (workers := count()) == 1:
            yield from (piece(part, values) for part, values in self.blocks())
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(workers)
        waiting: collections.deque[Any] = collections.deque()
        for part, values in self.blocks():
            waiting.append(self._pool.submit(piece, part, values))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    @property
    def direct(self) -> bool:
        """Whether coefficients are for features, not for mixtures of the rows."""
        return self._turn is None

    def held_scores(self, solutions: Sequence[Solution], fold: Ints) -> Float32s:
        """Return scores (n, outputs) of each row by the model of its fold; 0 in rows of no fold (-1)."""
        kernel, offset = self._folded([one.coef for one in solutions], [one.intercept for one in solutions])
        outputs = solutions[0].coef.shape[1]

        def piece(part: slice, values: Array) -> tuple[slice, Array]:
            scores = (values @ kernel + offset).reshape(len(values), len(solutions), outputs)
            own = scores[np.arange(len(values)), np.maximum(fold[part], 0)]
            own[fold[part] < 0] = 0
            return part, own

        found = np.empty((self.n, outputs), np.float32)
        for part, own in self._mapped(piece):
            found[part] = own
        return found

    def original(self, solution: Solution) -> tuple[Floats, Floats]:
        """Return coefficients (outputs, d) and intercepts (outputs,) for features as they are."""
        coef = solution.coef
        if self._turn is not None:
            mixture = self._turn @ coef
            coef = np.zeros((self.rows.shape[1], coef.shape[1]))
            for part, values in self.rows.blocks():
                coef += ((values - self.moments.mean) / self.moments.scale).T @ mixture[part]
        coef = coef / self.moments.scale[:, None]
        return coef.T, solution.intercept - self.moments.mean @ coef

    def _folded(self, coefs: Sequence[Floats], intercepts: Sequence[Floats]) -> tuple[Array, Array]:
        """Return kernel (d, outputs) and offset (outputs,) of models side by side, for features as blocks have them."""
        kernel = np.concatenate(coefs, axis=1) / self._scale[:, None]
        return kernel.astype(self.dtype), (np.concatenate(intercepts) - self._mean @ kernel).astype(self.dtype)

    def evaluate(self, points: Sequence[tuple[Problem, Floats, Floats]]) -> list[tuple[float, Floats, Floats]]:
        """Return objective, gradient (d, outputs) and that of intercepts (outputs,) of each point, in one pass.

        A point is a problem with coefficients (d, outputs) and intercepts (outputs,), for centred and scaled features.
        """
        kernel, offset = self._folded([one[1] for one in points], [one[2] for one in points])
        ends = np.cumsum([0, *(problem.outputs for problem, _, _ in points)]).tolist()

        def piece(part: slice, values: Array) -> tuple[Floats, Array, Floats]:
            scores = values @ kernel
            scores += offset
            losses = np.empty(len(points))
            for number, (problem, _, _) in enumerate(points):
                own = scores[:, ends[number] : ends[number + 1]]
                losses[number] = _LOSSES[problem.loss](own, problem.target[part], problem.weights[part])
            return (
                losses,
                scores.T @ values,
                scores.sum(axis=0, dtype=np.float64),
            )  # this way round it is a third faster

        total, slopes, sums = np.zeros(len(points)), np.zeros(kernel.shape[::-1]), np.zeros(kernel.shape[1])
        for losses, of_rows, added in self._mapped(piece):
            total += losses
            slopes += of_rows
            sums += added
        slopes = (slopes.T - np.outer(self._mean, sums)) / self._scale[:, None]
        found = []
        for number, (problem, coef, _) in enumerate(points):
            own = slice(ends[number], ends[number + 1])
            value = total[number] / problem.count + problem.penalty / 2 * float(np.vdot(coef, coef))
            found.append((value, slopes[:, own] / problem.count + problem.penalty * coef, sums[own] / problem.count))
        return found


def _total(losses: Array, weights: Float32s) -> float:
    """Return the weighted sum, added up in float64: steps are judged by its last digits."""
    return float(np.dot(weights.astype(np.float64), losses.astype(np.float64)))


def _softmax(scores: Array, target: Ints, weights: Float32s) -> float:
    """Return the weighted sum of losses, and put their slopes in place of the scores; so do the others."""
    places = np.arange(len(scores))
    scores -= scores.max(axis=1, keepdims=True)
    own = scores[places, target].copy()
    np.exp(scores, out=scores)
    sums = scores.sum(axis=1, keepdims=True)
    loss = _total(np.log(sums[:, 0]) - own, weights)
    scores /= sums
    scores[places, target] -= 1
    scores *= weights[:, None]
    return loss


def _sigmoid(scores: Array, target: Array, weights: Float32s) -> float:
    truth = target.reshape(scores.shape).astype(scores.dtype, copy=False)
    falling = np.exp(-np.abs(scores))
    losses = np.maximum(scores, 0) + np.log1p(falling) - truth * scores
    loss = _total(losses.sum(axis=1), weights)
    np.divide(np.where(scores >= 0, 1, falling), 1 + falling, out=scores)
    scores -= truth
    scores *= weights[:, None]
    return loss


def _squared_hinge(scores: Array, target: Ints, weights: Float32s) -> float:
    if scores.shape[1] == 1:
        signs = (2 * target - 1).astype(scores.dtype)[:, None]
    else:
        signs = np.full(scores.shape, -1, scores.dtype)
        signs[np.arange(len(scores)), target] = 1
    lacking = np.maximum(1 - signs * scores, 0)
    loss = _total(np.einsum("ij,ij->i", lacking, lacking), weights)
    np.multiply(signs, lacking, out=scores)
    scores *= -2 * weights[:, None]
    return loss


_LOSSES: dict[str, Callable[[Array, Array, Float32s], float]] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "squared_hinge": _squared_hinge,
}


class Preconditioner:
    """A change of variables from coefficients W to V, in which a problem curves alike in all directions."""

    def to_coef(self, v: Floats) -> Floats:
        """Return W of V."""
        raise NotImplementedError

    def from_coef(self, w: Floats) -> Floats:
        """Return V of W."""
        raise NotImplementedError

    def slope(self, gradient: Floats) -> Floats:
        """Return the gradient for V of that for W."""
        raise NotImplementedError


class Diagonal(Preconditioner):
    """Each direction on a scale of its own."""

    def __init__(self, roots: Floats) -> None:
        self._roots = roots[:, None]

    def to_coef(self, v: Floats) -> Floats:
        """Return W of V."""
        return np.asarray(v / self._roots)

    def from_coef(self, w: Floats) -> Floats:
        """Return V of W."""
        return np.asarray(w * self._roots)

    def slope(self, gradient: Floats) -> Floats:
        """Return the gradient for V of that for W."""
        return np.asarray(gradient / self._roots)


class Triangular(Preconditioner):
    """``V = LᵀW`` with a lower triangular L."""

    def __init__(self, lower: Floats) -> None:
        self._lower = lower

    @classmethod
    def of(cls, gram: Floats, penalty: float) -> Triangular:
        """Return the one of ``gram + penalty I``; where rounding has made that indefinite, of a little more."""
        least = float(gram.trace()) / len(gram) * 1e-9
        for more in (penalty, *(penalty + least * 100**step for step in range(6))):
            matrix = gram.copy()
            matrix.flat[:: len(gram) + 1] += more
            try:
                return cls(cholesky(matrix, lower=True, overwrite_a=True, check_finite=False))
            except LinAlgError:
                continue
        return cls(np.eye(len(gram)) * math.sqrt(max(least * 1e9, penalty)))

    def to_coef(self, v: Floats) -> Floats:
        """Return W of V."""
        return np.asarray(solve_triangular(self._lower, v, lower=True, trans=1, check_finite=False))

    def from_coef(self, w: Floats) -> Floats:
        """Return V of W."""
        return np.asarray(self._lower.T @ w)

    def slope(self, gradient: Floats) -> Floats:
        """Return the gradient for V of that for W."""
        return np.asarray(solve_triangular(self._lower, gradient, lower=True, check_finite=False))


def solve(
    design: Design,
    problems: Sequence[Problem],
    *,
    starts: Sequence[Solution | None] = (),
    tol: float = 1e-4,
    max_iter: int = 1000,
    intercept: bool = True,
) -> list[Solution]:
    """Fit problems with the same penalty and loss, each pass over the rows for all that are not done.

    A problem is done when no derivative of its objective, for V and for intercepts on the same scale, is above `tol`;
    or, not converged, after `max_iter` steps, or where rounding hides any further descent.
    """
    first = problems[0]
    curvature = CURVATURE[first.loss]
    change = design.preconditioner(curvature, first.penalty)
    root, rounding = math.sqrt(curvature), 0.1 * float(np.finfo(design.dtype).eps)
    states: list[Solution | None] = [None] * len(problems)
    searches, asked = [], []
    for problem, start in zip(problems, [*starts] or [None] * len(problems), strict=True):
        point = np.zeros((design.width + intercept, problem.outputs))
        if start is not None:
            point[: design.width] = change.from_coef(start.coef)
            point[design.width :] = start.intercept * root if intercept else 0
        size = max(3, min(20, HISTORY_BYTES // (16 * point.size)))
        search = _descend(point, tol=tol, max_iter=max_iter, history=size, rounding=rounding)
        searches.append(search)
        asked.append(next(search))
    active = list(range(len(problems)))
    while active:
        turned = change.to_coef(np.concatenate([asked[i][: design.width] for i in active], axis=1))
        coefs = np.split(turned, np.cumsum([problems[i].outputs for i in active])[:-1], axis=1)
        offsets = [asked[i][design.width] / root if intercept else np.zeros(problems[i].outputs) for i in active]
        found = design.evaluate([(problems[i], coef, b) for i, coef, b in zip(active, coefs, offsets, strict=True)])
        slopes = change.slope(np.concatenate([gradient for _, gradient, _ in found], axis=1))
        own = np.split(slopes, np.cumsum([problems[i].outputs for i in active])[:-1], axis=1)
        left = []
        for place, i in enumerate(active):
            value, _, of_intercept = found[place]
            gradient = np.concatenate([own[place], of_intercept[None] / root]) if intercept else own[place]
            try:
                asked[i] = searches[i].send((value, gradient))
                left.append(i)
            except StopIteration as done:
                end = done.value
                coef = change.to_coef(end.point[: design.width])
                b = end.point[design.width] / root if intercept else np.zeros(problems[i].outputs)
                states[i] = Solution(coef, b, end.value, end.gradient, end.passes, end.converged)
        active = left
    return [state for state in states if state is not None]


@dataclass
class _End:
    point: Floats
    value: float
    gradient: float
    passes: int
    converged: bool


def _descend(
    point: Floats, *, tol: float, max_iter: int, history: int, rounding: float
) -> Generator[Floats, tuple[float, Floats], _End]:
    """Minimise a function by L-BFGS: yields points, and is sent the value and the gradient there."""
    value, gradient = yield point
    passes = 1
    steps: list[tuple[Floats, Floats, float]] = []
    lowest, smallest, idle = math.inf, math.inf, 0
    for _ in range(max_iter):
        largest = float(np.abs(gradient).max(initial=0))
        if largest <= tol:
            return _End(point, value, largest, passes, True)
        idle = 0 if value < lowest - rounding * abs(value) or largest < 0.9 * smallest else idle + 1
        lowest, smallest = min(lowest, value), min(smallest, largest)
        if idle == _IDLE:
            return _End(point, value, largest, passes, False)
        direction = _direction(gradient, steps)
        slope = float(np.vdot(gradient, direction))
        if slope >= 0:  # rounding has spoiled what was learned
            steps.clear()
            direction, slope = -gradient, -float(np.vdot(gradient, gradient))
        length = 1.0
        for _ in range(20):
            there = point + length * direction
            new_value, new_gradient = yield there
            passes += 1
            if new_value <= value + _ARMIJO * length * slope:
                break
            if new_value <= value + rounding * abs(value) and float(np.vdot(new_gradient, direction)) <= -slope / 2:
                break  # too near to tell by values; by slopes it is no overshoot
            bend = new_value - value - length * slope
            length *= min(0.5, max(0.1, -length * slope / (2 * bend) if bend > 0 and math.isfinite(bend) else 0.1))
        else:
            if not steps:
                return _End(point, value, largest, passes, False)
            steps.clear()
            continue
        step, turn = there - point, new_gradient - gradient
        product = float(np.vdot(step, turn))
        if product > 1e-12 * float(np.vdot(turn, turn)):
            steps.append((step, turn, product))
            del steps[:-history]
        point, value, gradient = there, new_value, new_gradient
    largest = float(np.abs(gradient).max(initial=0))
    return _End(point, value, largest, passes, largest <= tol)


def _direction(gradient: Floats, steps: Sequence[tuple[Floats, Floats, float]]) -> Floats:
    """Return the step that the last steps and their changes of the gradient suggest (the two-loop recursion)."""
    direction = -gradient
    shares = []
    for step, turn, product in reversed(steps):
        share = float(np.vdot(step, direction)) / product
        direction -= share * turn
        shares.append(share)
    if steps:
        _, turn, product = steps[-1]
        direction *= product / float(np.vdot(turn, turn))
    for (step, turn, product), share in zip(steps, reversed(shares), strict=True):
        direction += (share - float(np.vdot(turn, direction)) / product) * step
    return direction


def memory_bytes(n: int, d: int, outputs: int, folds: int = 0) -> int:
    """Return about how many bytes `solve` takes beside the rows, with so many folds at a time."""
    models = max(1, folds)
    history = models * min(HISTORY_BYTES, 16 * 20 * d * outputs)
    pieces = 6 * BLOCK_BYTES + 8 * models * SUMMED * outputs
    if n < d and n <= WIDE:
        return 8 * 4 * n * n + history + pieces
    return (8 * 3 * d * d if d <= WIDE else 0) + history + pieces
