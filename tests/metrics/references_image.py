"""Independent float64 references of the image metrics, one image at a time."""

import numpy as np
from scipy.ndimage import correlate1d
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, section 3.2


def ssim_and_contrast(x, y):
    """SSIM with a reflected border, and its contrast term without a border: 11-tap Gaussian window, sigma 1.5."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def blur(image):
        return correlate1d(correlate1d(image, taps, 0, mode="mirror"), taps, 1, mode="mirror")

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    contrast = (2 * cov + c2) / (vx + vy + c2)
    whole = (2 * mx * my + c1) / (mx**2 + my**2 + c1) * contrast
    return np.mean(whole), np.mean(contrast[5:-5, 5:-5])


def ssim(x, y):
    """SSIM of float64 images (H, W), with the border included in the mean."""
    return ssim_and_contrast(x, y)[0]


def cropped_ssim(x, y):
    """SSIM of scikit-image, which excludes a border of the window from the mean."""
    return structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0)


def ms_ssim(x, y):
    """MS-SSIM over five scales, downsampled by 2x2 means (Wang et al. 2003, eq. 7)."""
    product = 1.0
    for scale, weight in enumerate(MS_SSIM_WEIGHTS):
        whole, contrast = ssim_and_contrast(x, y)
        product *= max(0.0, whole if scale == 4 else contrast) ** weight
        x, y = (z.reshape(z.shape[0] // 2, 2, z.shape[1] // 2, 2).mean((1, 3)) for z in (x, y))
    return product


def mse(x, y):
    """MSE of scikit-image."""
    return mean_squared_error(x, y)


def psnr(x, y):
    """PSNR of scikit-image, peak 1."""
    return peak_signal_noise_ratio(y, x, data_range=1.0)
