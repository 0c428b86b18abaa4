"""The seven stages of the method, one module each, as dvc.yaml and params.yaml name them."""
