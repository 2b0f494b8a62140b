"""What a network's file costs at other widths: probe files, their measured times, and the model fitted to them."""
