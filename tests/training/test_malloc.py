import subprocess
import sys

import pytest

CODE = """
import resource, sys
from saaae.training.malloc import keep_freed_blocks
if sys.argv[1] == "keep":
    assert keep_freed_blocks()
import torch
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**23)
before = faults()
for _ in range(20):
    torch.ones(2**23)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_blocks_are_kept_without_new_page_faults():
    def page_faults(mode):
        return int(
            subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True).stdout
        )

    assert page_faults("keep") < page_faults("default") / 10
