from saaae.callbacks.pictures import ReconstructionPictures


def test_a_long_run_has_a_few_dozen_pictures():
    pictures = ReconstructionPictures(every=None, epochs=[], count=1)
    drawn = [epoch for epoch in range(1, 2402) if pictures.wants(epoch)]
    assert drawn[:17] == [*range(1, 16), 16, 18]
    assert len(drawn) < 80
