"""The programs of bundles of any other task than classifying images, which lie in this folder of a bundle too."""
