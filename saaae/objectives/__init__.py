"""The number that is minimised: likelihoods, the ELBO and beta schedules."""
