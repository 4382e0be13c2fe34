"""The real size of latents: quantised, entropy-coded and decoded again."""

from typing import NamedTuple

import constriction
import numpy as np

SMALLEST_RANGE = 64
"""Symbols up to this absolute value can always be coded."""
NARROWEST = 0.05
"""Smallest standard deviation of a symbol, in steps: narrower ones cost almost nothing."""


class CodeModel(NamedTuple):
    """A factorised Gaussian of quantised latents: a mean and a standard deviation for each dimension, in steps.

    It is part of the decoder, as its weights are, and not counted.

    Attributes:
        mean: (D,), float64.
        std: (D,), float64.
        largest: Largest absolute symbol; larger ones are clipped to it. Each symbol in the range costs the others a
            little, so it is only twice the largest one of the data that the model was fitted on.
        classes: Number of classes K whose labels are coded too, at log2 K bits each; 1 for none.
    """

    mean: np.ndarray
    std: np.ndarray
    largest: int
    classes: int

    @staticmethod
    def fit(symbols: np.ndarray, classes: int) -> "CodeModel":
        """The model of symbols (N, D), which must not be those that it is tested on."""
        largest = max(SMALLEST_RANGE, 2 * int(np.abs(symbols).max()))
        return CodeModel(symbols.mean(0), np.maximum(symbols.std(0), NARROWEST), largest, classes)

    def _parameters(self, count: int) -> tuple[constriction.stream.model.QuantizedGaussian, np.ndarray, np.ndarray]:
        family = constriction.stream.model.QuantizedGaussian(-self.largest, self.largest)
        return family, np.tile(self.mean, count), np.tile(self.std, count)

    def encode(self, symbols: np.ndarray, labels: np.ndarray) -> bytes:
        """Compresses symbols (N, D) and labels (N,), int32, with a range coder (Martin 1979)."""
        coder = constriction.stream.queue.RangeEncoder()
        symbols = symbols.clip(-self.largest, self.largest)
        coder.encode(symbols.reshape(-1), *self._parameters(len(symbols)))
        if self.classes > 1:
            coder.encode(labels, constriction.stream.model.Uniform(self.classes))
        return coder.get_compressed().tobytes()

    def decode(self, content: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The symbols (count, D) and labels (count,), int32; labels are 0 where there are no classes."""
        coder = constriction.stream.queue.RangeDecoder(np.frombuffer(content, np.uint32))
        symbols = coder.decode(*self._parameters(count)).reshape(count, -1)
        if self.classes == 1:
            return symbols, np.zeros(count, np.int32)
        return symbols, coder.decode(constriction.stream.model.Uniform(self.classes), count)


def quantise(latents: np.ndarray, step: float) -> np.ndarray:
    """Symbols (N, D), int32, of latents (N, D): the nearest multiple of a step, in steps."""
    return np.rint(latents / step).astype(np.int32)
