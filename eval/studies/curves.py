"""Score against parallelism as one number and as a front: AUP, and which points no other one beats.

AUP, Accuracy Under Parallelism, is the metric of the d3LLM leaderboard (hao-ai-lab, blog post "AUP: when Accuracy
Meets Parallelism in Diffusion Language Models", December 2025; https://hao-ai-lab.github.io/blogs/text-diffusion/).
A method gives points (rho_i, y_i), rho_1 < ... < rho_m tokens per forward, y_i accuracy in percent. Points with
y_i < y_1 - 5 are left out. Then

    AUP = rho_1 y_1 + 1/2 sum_{i>=2} (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})),
    W(y) = min(exp(-3 (1 - y / y_max)), 1),

with y_max the highest accuracy that anything reaches on the task. So a method without a knob, and autoregressive
decoding, have rho_1 y_1; a curve that keeps its accuracy has the whole area under it, and accuracy that falls counts
for exponentially less. Tasks are averaged.
"""

import math
from collections.abc import Sequence

PENALTY = 3.0
TOLERANCE = 5.0  # points below the slowest setting's accuracy
Point = tuple[float, float]  # tokens per forward, accuracy in percent


def aup(points: Sequence[Point], best: float) -> float:
    """Accuracy Under Parallelism of one method on one task; of equally fast points the better one comes first.

    Args:
        points: in any order, at least one.
        best: highest accuracy on the task, in percent. Where nothing is right, the area is 0.
    """
    ordered = sorted(points, key=lambda point: (point[0], -point[1]))
    kept = [point for point in ordered if point[1] >= ordered[0][1] - TOLERANCE]
    area = kept[0][0] * kept[0][1]
    for (slow, above), (fast, below) in zip(kept, kept[1:]):
        area += (fast - slow) * (_weighted(above, best) + _weighted(below, best)) / 2
    return area


def _weighted(accuracy: float, best: float) -> float:
    return accuracy * min(math.exp(-PENALTY * (1 - accuracy / best)), 1.0) if best > 0 else 0.0


def front(points: Sequence[Point]) -> list[bool]:
    """Which points are on the Pareto front: no other is nowhere worse and somewhere better. Equals both are."""
    return [not any(_beats(other, point) for other in points) for point in points]


def _beats(a: Point, b: Point) -> bool:
    return a[0] >= b[0] and a[1] >= b[1] and a != b
