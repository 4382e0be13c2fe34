"""What is done with a trained model: loading, predicting, exporting."""
