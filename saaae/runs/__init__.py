"""What happens around a model: validation, the run folder, fit, evaluate. The only place that imports Hydra.

What answers the command line imports no torch.
"""
