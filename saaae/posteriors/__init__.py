"""One module per q(z|x): the heads and a distribution that owns sampling, density and KL together."""
