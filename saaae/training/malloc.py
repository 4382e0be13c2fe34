"""A setting of the C library's allocator that speeds up CPU training."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h

KEEP_BYTES = 1 << 30


def keep_freed_blocks() -> bool:
    """Tells glibc to keep big freed blocks for the next allocation.

    By default it returns every freed activation of some megabytes to the kernel, which hands it back zeroed, page by
    page, at the next step. Call it before the first big allocation.

    Returns:
        Whether the C library took both settings; False where it is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(M_MMAP_THRESHOLD, KEEP_BYTES), mallopt(M_TRIM_THRESHOLD, KEEP_BYTES)])
