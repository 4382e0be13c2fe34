import pytest

from saaae.callbacks.metrics_csv import HEADER, MetricsCSV
from saaae.errors import UserError


def test_a_continued_curve_is_truncated_to_the_step_of_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    MetricsCSV(path, 0).log_metrics({"loss": 1.5}, 0)
    MetricsCSV(path, 1).log_metrics({"loss": 1.0}, 1)
    MetricsCSV(path, 1)
    assert path.read_text().splitlines() == [",".join(HEADER), "0,0,loss,1.5"]


def test_a_damaged_curve_is_reported_and_kept(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,epoch,metric,value\r\n\xff\xfe,0,loss,1\r\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"metrics.csv: not readable \(.*can't decode byte 0xff"):
        MetricsCSV(path, 5)
    assert path.read_bytes() == before
