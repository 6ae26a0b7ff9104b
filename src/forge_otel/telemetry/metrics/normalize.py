"""Normalization of collected metrics for the Prometheus exporter: unique names and series, no exponential histograms.

The exporter raises on an exponential histogram, prints a metric that two scopes record as two families, which
Prometheus refuses, and mixes up the labels of such families. All three occur on a meter provider that is shared with
the application. Pure functions, which report each change to a callback.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Final, TypeVar

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

__all__ = ["OnChange", "normalize"]

OnChange = Callable[[str, str], None]
"""Called with the reason of a change and the name of the metric."""

Point = TypeVar("Point", NumberDataPoint, HistogramDataPoint)

# Powers of two that a float can hold; smaller bounds become zero, larger ones infinite.
_MIN_POWER: Final = -1022
_MAX_POWER: Final = 1023
_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9]+")


def normalize(data: MetricsData, on_change: OnChange) -> MetricsData:
    """Return `data` with one metric for each name and unit, and explicit buckets in place of exponential ones.

    Args:
        on_change: called for each metric that loses information.
    """
    return MetricsData([_normalize_resource(resource, on_change) for resource in data.resource_metrics])


def _normalize_resource(resource: ResourceMetrics, on_change: OnChange) -> ResourceMetrics:
    families: dict[tuple[str, str], list[Metric]] = {}
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            name = _NOT_IN_NAMES.sub("_", metric.name)
            families.setdefault((name, metric.unit or ""), []).append(_with_explicit_buckets(metric, on_change))
    if not families:
        return resource
    metrics = [found[0] if len(found) == 1 else _merge(found, on_change) for found in families.values()]
    first = resource.scope_metrics[0]
    return replace(resource, scope_metrics=[ScopeMetrics(first.scope, metrics, first.schema_url)])


def _merge(metrics: Sequence[Metric], on_change: OnChange) -> Metric:
    """Return one metric for several of a name: of the type and description of the first, equal series added."""
    first = metrics[0]
    same_type = [metric for metric in metrics if _type_of(metric) == _type_of(first)]
    if len(same_type) < len(metrics):
        on_change("type_conflict", first.name)
    if isinstance(first.data, Sum):
        numbers = _series([_points(metric) for metric in same_type], _add_numbers)
        return replace(first, data=replace(first.data, data_points=numbers))
    if isinstance(first.data, Gauge):
        return replace(first, data=Gauge(_series([_points(metric) for metric in same_type], lambda _old, new: new)))

    def add(one: HistogramDataPoint, other: HistogramDataPoint) -> HistogramDataPoint:
        if list(one.explicit_bounds) == list(other.explicit_bounds):
            return _add_histograms(one, other)
        on_change("bounds_conflict", first.name)
        return one

    points = _series([_points(metric) for metric in same_type], add)
    return replace(first, data=Histogram(points, AggregationTemporality.CUMULATIVE))


def _type_of(metric: Metric) -> tuple[type, bool]:
    return type(metric.data), isinstance(metric.data, Sum) and metric.data.is_monotonic


def _points(metric: Metric) -> Sequence[Any]:
    return metric.data.data_points


def _series(groups: Iterable[Sequence[Point]], add: Callable[[Point, Point], Point]) -> list[Point]:
    found: dict[frozenset[tuple[str, str]], Point] = {}
    for group in groups:
        for point in group:
            labels = frozenset((_NOT_IN_NAMES.sub("_", key), _text(value)) for key, value in _labels(point))
            found[labels] = add(found[labels], point) if labels in found else point
    return list(found.values())


def _labels(point: NumberDataPoint | HistogramDataPoint) -> Iterable[tuple[str, object]]:
    return (point.attributes or {}).items()


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _add_numbers(one: NumberDataPoint, other: NumberDataPoint) -> NumberDataPoint:
    return replace(one, value=one.value + other.value, exemplars=[*one.exemplars, *other.exemplars])


def _add_histograms(one: HistogramDataPoint, other: HistogramDataPoint) -> HistogramDataPoint:
    return replace(
        one,
        count=one.count + other.count,
        sum=one.sum + other.sum,
        bucket_counts=[a + b for a, b in zip(one.bucket_counts, other.bucket_counts, strict=True)],
        min=min(one.min, other.min),
        max=max(one.max, other.max),
        exemplars=[*one.exemplars, *other.exemplars],
    )


def _with_explicit_buckets(metric: Metric, on_change: OnChange) -> Metric:
    if not isinstance(metric.data, ExponentialHistogram):
        return metric
    on_change("exponential", metric.name)
    points = [_explicit_point(point) for point in metric.data.data_points]
    return replace(metric, data=Histogram(points, metric.data.aggregation_temporality))


def _explicit_point(point: ExponentialHistogramDataPoint) -> HistogramDataPoint:
    """Return the point with explicit buckets that end at powers of two."""
    # Powers of two are bounds at every scale (or the scale is coarser), so that counts are exact, and the bounds stay
    # the same when the SDK changes the scale.
    counts: dict[float, int] = {0.0: point.zero_count + sum(point.negative.bucket_counts)}
    for index, count in enumerate(point.positive.bucket_counts):
        if count:
            bound = _power_of_two(math.ceil((point.positive.offset + index + 1) / 2.0**point.scale))
            counts[bound] = counts.get(bound, 0) + count
    # Quantiles interpolate from the bound below, which without this would be that of a distant bucket.
    for bound in [bound for bound in counts if 0 < bound < math.inf]:
        counts.setdefault(bound / 2, 0)
    bounds = sorted(bound for bound in counts if bound < math.inf)
    buckets = [counts[bound] for bound in bounds]
    return HistogramDataPoint(
        attributes=point.attributes,
        start_time_unix_nano=point.start_time_unix_nano,
        time_unix_nano=point.time_unix_nano,
        count=point.count,
        sum=point.sum,
        bucket_counts=[*buckets, point.count - list(accumulate(buckets))[-1]],
        explicit_bounds=bounds,
        min=point.min,
        max=point.max,
        exemplars=point.exemplars,
    )


def _power_of_two(power: int) -> float:
    if power < _MIN_POWER:
        return 0.0
    return math.inf if power > _MAX_POWER else math.ldexp(1.0, power)
