"""What happens around a model: validation, the run folder, fit, evaluate. The only place that imports Hydra.

Everything that answers the command line (`door`, `validate`, `folder`, `train`) stays free of torch.
"""
