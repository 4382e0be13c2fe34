"""`saaae explore`: a local page on which a trained model is tried by hand."""
