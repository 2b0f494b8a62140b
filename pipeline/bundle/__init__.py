"""The edge bundle: a run's exported files with all that a device needs to run them and to check them."""
