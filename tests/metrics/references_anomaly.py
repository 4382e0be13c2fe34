"""Independent float64 references of the detection metrics: scikit-learn, scipy and plain loops."""

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score


def auroc(scores, labels, weights=None):
    """Area under the ROC curve."""
    return roc_auc_score(labels, np.asarray(scores, np.float64), sample_weight=weights)


def average_precision(scores, labels, weights=None):
    """Area under the steps of precision over recall."""
    return average_precision_score(labels, np.asarray(scores, np.float64), sample_weight=weights)


def best_f1(scores, labels, weights=None):
    """The largest F1 over all thresholds."""
    precision, recall, _ = precision_recall_curve(labels, np.asarray(scores, np.float64), sample_weight=weights)
    total = precision + recall
    return np.max(2 * precision * recall / np.where(total > 0, total, 1))


def bootstrap_interval(metric, scores, labels, groups, num_resamples, seed):
    """95 % percentile interval of one of the references above, with explicit loops over resamples and items."""
    names = np.unique(groups)
    draws = np.random.default_rng(seed).integers(len(names), size=(num_resamples, len(names)))
    values = []
    for draw in draws:
        items = np.concatenate([np.flatnonzero(groups == names[number]) for number in draw])
        if 0 < labels[items].sum() < len(items):
            values.append(metric(scores[items], labels[items]))
    return np.percentile(values, [2.5, 97.5])


def regions(mask):
    """Pixels of each 8-connected region of ones, by flood fill."""
    left = set(zip(*np.nonzero(mask == 1), strict=True))
    found = []
    while left:
        region, front = [], [left.pop()]
        while front:
            y, x = front.pop()
            region.append((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            front += near
        found.append(region)
    return found


def aupro(maps, masks, limit):
    """Area under the per-region overlap up to a false positive rate, in a loop over thresholds."""
    overlaps = [
        np.array([m[p] for p in region], np.float64) for m, k in zip(maps, masks, strict=True) for region in regions(k)
    ]
    sound = np.concatenate([m[k == 0].astype(np.float64) for m, k in zip(maps, masks, strict=True)])
    x, y, area = 0.0, 0.0, 0.0
    for threshold in np.unique(np.concatenate([sound, *overlaps]))[::-1]:
        x_next = np.mean(sound >= threshold)
        y_next = np.mean([np.mean(values >= threshold) for values in overlaps])
        if x_next >= limit:
            at_limit = y_next if x_next == x else y + (y_next - y) * (limit - x) / (x_next - x)
            return (area + (limit - x) * (y + at_limit) / 2) / limit
        area += (x_next - x) * (y + y_next) / 2
        x, y = x_next, y_next
    raise AssertionError("the last threshold takes in all sound pixels")


def pixels(maps, masks):
    """All known pixels as scores (N,) and labels (N,)."""
    known = [(m[k != 255].astype(np.float64), (k[k != 255] == 1).astype(int)) for m, k in zip(maps, masks, strict=True)]
    scores, labels = zip(*known, strict=True)
    return np.concatenate(scores), np.concatenate(labels)


def pixel_detection(maps, masks):
    """The metrics of `PixelDetection` for maps (H, W) and masks (H, W), without binning."""
    scores, labels = pixels(maps, masks)
    return {
        "pixel_auroc": auroc(scores, labels),
        "pixel_ap": average_precision(scores, labels),
        "pixel_f1": best_f1(scores, labels),
        "aupro_30": aupro(maps, masks, 0.3),
        "aupro_05": aupro(maps, masks, 0.05),
    }


def smooth(image, sigma):
    """Gaussian smoothing of an image (H, W)."""
    return gaussian_filter(np.asarray(image, np.float64), sigma, mode="mirror", truncate=4.0)
