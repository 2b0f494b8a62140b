"""What a torch network holds beside its state_dict, and whether one built anew computes the same."""
