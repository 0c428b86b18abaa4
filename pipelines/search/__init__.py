"""The search for better settings with Optuna, which no other wing knows."""
