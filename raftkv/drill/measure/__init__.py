"""From what was seen to figures, objections, a verdict and a drawing. Pure."""
