"""Networks, data sets, training and evaluation. Imports nothing of the project."""
