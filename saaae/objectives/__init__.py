"""Training objectives: likelihoods, the ELBO and beta schedules."""
