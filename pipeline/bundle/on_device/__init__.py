"""Code that ships in a bundle as plain files: Python's standard library, numpy and one runtime, nothing else."""
