"""Speed, exactness and memory of prediction on files: python benchmarks/predict.py <run> [side] [memory side]

On one CPU thread, on a synthetic float32 TIFF scene of that side: CPU seconds per megapixel of the whole command's work
and of the bare network on the same tiles, and their ratio (1: all time is the network's, and no bright place is seen
again); the largest difference between tiles and the whole image, in units of the full scale; the peak memory of a
process that predicts a scene of the memory side.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from saaae.inference.image_files import ImageFile
from saaae.inference.image_output import writing
from saaae.inference.model import load_model
from saaae.inference.predict import Predictor
from saaae.inference.tiled_model import Options

FULL_SCALE = 1.0


def write_scene(path, side):
    """Writes fields of different brightness under single-look speckle, with a few strong scatterers, row by row."""
    rng = np.random.default_rng(0)
    with writing(path, (side, side), np.dtype(np.float32)) as rows:
        for first in range(0, side, 64):
            count = min(64, side - first)
            fields = 0.02 + 0.1 * np.repeat(rng.random(side // 64 + 1), 64)[:side]
            intensity = fields * rng.exponential(size=(count, side))
            intensity[rng.random(intensity.shape) < 1e-5] = 25.0
            rows.write(np.sqrt(intensity))


def bare(predictor, path):
    """CPU seconds that the network takes for the tiles of an image, one at a time."""
    image = ImageFile(path)
    rows, columns = predictor.axes(image.height, image.width)
    pixels = torch.from_numpy(image.rows(0, image.height)[..., 0]).clamp_max(0.75)  # no second look at bright places
    seconds = 0.0
    for top in rows.starts:
        for left in columns.starts:
            tile = pixels[top : top + rows.size, left : left + columns.size]
            tile = torch.nn.functional.pad(tile, (0, columns.size - tile.shape[1], 0, rows.size - tile.shape[0]))
            start = time.process_time()
            predictor.run(tile[None, None])
            seconds += time.process_time() - start
    return seconds


def predict(run, path, out):
    """Predicts an image in a process of its own; gives the CPU seconds and the peak memory of the process in MB."""
    torch.set_num_threads(1)
    predictor = Predictor(load_model(Path(run)), Options(full_scale=FULL_SCALE))
    start = time.process_time()
    predictor.predict(path, out)
    seconds = time.process_time() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(work, *arguments):
    """The result of a function in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def main(run, side, memory_side):
    """Prints the three measurements."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "scene.tif"), Path(folder, "out.tif")
        write_scene(path, side)
        predictor = Predictor(load_model(Path(run)), Options(full_scale=FULL_SCALE))
        margin = predictor.margin
        rows, _ = predictor.axes(side, side)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            predictor.predict(path, out)
            seconds.append((time.process_time() - start, bare(predictor, path)))
        whole_command, network = (min(times) for times in zip(*seconds, strict=True))
        megapixels = side**2 / 1e6
        print(f"{side} x {side} pixels, {len(rows.starts) ** 2} tiles of {rows.size}, margin {margin}")
        print(f"CPU seconds per megapixel: {whole_command / megapixels:.2f}, network alone {network / megapixels:.2f}")
        print(f"ratio of network to prediction {network / whole_command:.3f}")

        tiles = ImageFile(out).rows(0, side)[..., 0] / FULL_SCALE
        options = Options(full_scale=FULL_SCALE, tile=-(-side // 64) * 64 if predictor.model.stride else None)
        Predictor(predictor.model, options).predict(path, out)
        whole = ImageFile(out).rows(0, side)[..., 0] / FULL_SCALE
        difference = np.abs(tiles - whole).max()
        print(f"largest difference of tiles and whole image {difference:.2e}, of values up to {whole.max():.2f}")

        write_scene(path, memory_side)
        seconds, peak = in_process(predict, run, path, out)
        print(f"peak memory for {memory_side} x {memory_side} pixels {peak:.0f} MB, {seconds:.0f} CPU seconds")


if __name__ == "__main__":
    sides = [int(word) for word in sys.argv[2:]]
    main(sys.argv[1], *(sides + [1024, 2048][len(sides) :]))
