"""Training: recipes, data, the fit, evaluation. Writes versions into the model repository; the server imports none."""
