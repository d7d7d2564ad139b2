"""Training: recipes, data, the fit, evaluation. Writes versions into the model repository; no server needs it."""
