"""Rows of a ranges file: statistics as JSON and back, checked."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from qfrewrite.calibration.histogram import DEFAULT_BINS, Histogram
from qfrewrite.calibration.observers import Detail, TensorStats
from qfrewrite.ir.dtypes import Float64
from qfrewrite.lower.fake_quant_ranges import Range

if TYPE_CHECKING:
    from qfrewrite.calibration.range_row import RangeRow

FORMAT = "qfrewrite-ranges-1"


def row_to_json(row: RangeRow) -> dict[str, Any]:
    """A row as JSON values, what people read first."""
    out: dict[str, Any] = {"range": list(row.range), "method": row.method}
    if row.whole:
        out["whole"] = True
    if row.moving is not None:
        out["moving"] = list(row.moving)
    if row.guessed_mean is not None:
        out["guessed_mean"] = row.guessed_mean.tolist()
    stats = row.stats
    if stats is None:
        return out
    if stats.range is not None:
        out["observed"] = list(stats.range)
    out |= {k: v for k, v in (("mean", stats.mean), ("std", stats.std)) if v is not None}
    out |= {"samples": stats.samples, "count": stats.count, "not_finite": stats.not_finite}
    out["channels"] = _channels_to_json(stats)
    histogram = stats.histogram
    if histogram is not None:
        out["histogram"] = {
            "bins": histogram.bins,
            "exponent": histogram.exponent,
            "first": histogram.first,
            "zeros": histogram.zeros,
            "counts": histogram.counts.tolist(),
        }
    return out


def row_from_json(entry: Any) -> dict[str, Any]:
    """The fields of a row but its name; raises KeyError, TypeError or ValueError."""
    if not isinstance(entry, dict):
        raise TypeError("is no object")
    low, high = _pair(entry["range"], "range")
    if low > high:
        raise ValueError(f"the range {low}..{high} is empty")
    method = entry.get("method", "manual")
    if not isinstance(method, str):
        raise TypeError("'method' is no text")
    return {
        "range": (min(low, 0.0), max(high, 0.0)),
        "method": method,
        "stats": _stats_from_json(entry) if "count" in entry else None,
        "whole": bool(entry.get("whole", False)),
        "moving": _pair(entry["moving"], "moving") if "moving" in entry else None,
        "guessed_mean": _mean(entry["guessed_mean"]) if "guessed_mean" in entry else None,
    }


def _stats_from_json(entry: dict[str, Any]) -> TensorStats:
    channels = _object(entry["channels"], "channels")
    stored = _object(entry["histogram"], "histogram") if "histogram" in entry else None
    sums, size = channels.get("sum"), int(channels["size"])
    if size < 1:
        raise ValueError("'channels' has no channels")
    bins = int(stored["bins"]) if stored is not None else DEFAULT_BINS
    detail = Detail(sums is not None, stored is not None, bins)
    stats = TensorStats(size, detail)
    stats.samples, stats.count, stats.not_finite = (
        int(entry[key]) for key in ("samples", "count", "not_finite")
    )
    if "observed" in entry:
        stats.low, stats.high = _pair(entry["observed"], "observed")
    if sums is not None:
        stats.sums[:] = [_numbers(channels[k], size, k) for k in ("sum", "sum_rest")]
    if "low" in channels:
        stats.ends[:] = [_numbers(channels[k], size, k) for k in ("low", "high")]
    if stored is not None and stats.range is not None:
        counts = _counts(stored["counts"])
        stats.histogram = Histogram.restore(
            bins, stats.low, stats.high, int(stored["exponent"]), int(stored["zeros"]), counts
        )
    return stats


def _channels_to_json(stats: TensorStats) -> dict[str, Any]:
    out: dict[str, Any] = {"size": stats.channels}
    if stats.channel_low is not None and stats.channel_high is not None:
        finite = np.isfinite(stats.channel_low)
        # A channel in which nothing finite was seen takes the tensor's own extremes.
        out["low"] = np.where(finite, stats.channel_low, stats.low).tolist()
        out["high"] = np.where(finite, stats.channel_high, stats.high).tolist()
    if stats.detail.channel_mean and stats.samples:
        # The exact sum is sum + sum_rest.
        out["sum"], out["sum_rest"] = stats.sums.tolist()
    return out


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"'{name}' is no object")
    return value


def _pair(value: Any, name: str) -> Range:
    if not isinstance(value, list) or len(value) != 2:
        raise TypeError(f"'{name}' is no pair of numbers")
    low, high = (float(v) for v in value)
    if not (isfinite(low) and isfinite(high)):
        raise ValueError(f"'{name}' is not finite")
    return low, high


def _numbers(value: Any, size: int, name: str) -> Float64:
    array = np.asarray(value, np.float64)
    if array.shape != (size,) or not np.isfinite(array).all():
        raise ValueError(f"'{name}' is not {size} finite numbers")
    return array


def _mean(value: Any) -> Float64:
    if not isinstance(value, list) or not value:
        raise TypeError("'guessed_mean' is no list of numbers")
    return _numbers(value, len(value), "guessed_mean")


def _counts(value: Any) -> Any:
    array = np.asarray(value)
    if array.ndim != 1 or array.dtype.kind != "i":
        raise TypeError("'histogram.counts' is no list of whole numbers")
    return array.astype(np.int64)
