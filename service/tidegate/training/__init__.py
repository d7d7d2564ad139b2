"""Training: recipes, data, the fit, evaluation. Writes versions into the model repository; the server does not need it."""
