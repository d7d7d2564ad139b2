"""Training: recipes, data, the fit, evaluation. Writes versions into the model repository; the server needs none of it."""
