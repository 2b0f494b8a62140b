"""What programs may read: the content of each JSON file that the command writes, with its schema."""
