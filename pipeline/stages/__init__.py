"""The stages of a recipe: one file each."""
